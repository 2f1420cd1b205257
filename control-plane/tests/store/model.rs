//! Random operations against a simple model, and against what must hold whatever happens.

use crate::harness::{Fixture, author, path};
use crate::on_each_database;
use bytes::Bytes;
use control_plane::workspace::{HistoryQuery, Op, PodBatch, PodOp, Precondition, Snapshot};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use shared::id::{BatchId, InstanceId, LinkEpoch, Revision};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Item, Kind};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What the model knows of a path: a file's text, or that it is a folder.
type Model = BTreeMap<WorkspacePath, Option<String>>;

#[derive(Clone, Debug)]
enum Step {
    /// A batch of the API.
    Batch(Vec<Small>),
    /// The pod does the same things to what it last saw, and only then hears of the rest.
    Pod(Vec<Small>),
    /// The pod sees all.
    Sync,
    /// Back to a revision, counted from the newest.
    Restore(u8, Option<WorkspacePath>),
    /// The last change at a path.
    Undo(WorkspacePath),
}

#[derive(Clone, Debug)]
enum Small {
    Write(WorkspacePath, u8),
    Mkdir(WorkspacePath),
    Move(WorkspacePath, WorkspacePath),
    Delete(WorkspacePath),
}

fn some_path() -> impl Strategy<Value = WorkspacePath> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|parts| path(&parts.join("/")))
}

fn small() -> impl Strategy<Value = Small> {
    prop_oneof![
        4 => (some_path(), 0u8..20).prop_map(|(at, n)| Small::Write(at, n)),
        1 => some_path().prop_map(Small::Mkdir),
        2 => (some_path(), some_path()).prop_map(|(from, to)| Small::Move(from, to)),
        2 => some_path().prop_map(Small::Delete),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => prop::collection::vec(small(), 1..4).prop_map(Step::Batch),
        3 => prop::collection::vec(small(), 1..6).prop_map(Step::Pod),
        2 => Just(Step::Sync),
        1 => (0u8..6, prop::option::of(some_path())).prop_map(|(back, at)| Step::Restore(back, at)),
        1 => some_path().prop_map(Step::Undo),
    ]
}

fn text(n: u8) -> String {
    format!("line one\ntext {n}\nline three\n")
}

fn blocked(model: &Model, at: &WorkspacePath) -> bool {
    at.ancestors().any(|above| matches!(model.get(&above), Some(Some(_))))
}

fn make_parents(model: &mut Model, at: &WorkspacePath) {
    for above in at.ancestors() {
        model.entry(above).or_insert(None);
    }
}

/// The API's rules, as a reader of its documentation would write them down. None if the operation is refused.
fn apply(model: &Model, op: &Small) -> Option<Model> {
    let mut next = model.clone();
    match op {
        Small::Write(at, n) => {
            if blocked(model, at) || matches!(model.get(at), Some(None)) {
                return None;
            }
            make_parents(&mut next, at);
            next.insert(at.clone(), Some(text(*n)));
        }
        Small::Mkdir(at) => {
            if blocked(model, at) || model.contains_key(at) {
                return None;
            }
            make_parents(&mut next, at);
            next.insert(at.clone(), None);
        }
        Small::Move(from, to) => {
            model.get(from)?;
            if from == to {
                return Some(next);
            }
            if to.is_below(from) || model.contains_key(to) || blocked(model, to) {
                return None;
            }
            make_parents(&mut next, to);
            for (at, what) in model.iter().filter(|(at, _)| *at == from || at.is_below(from)) {
                next.remove(at);
                next.insert(at.rebase(from, to)?.ok()?, what.clone());
            }
        }
        Small::Delete(at) => {
            model.get(at)?;
            next.retain(|other, _| other != at && !other.is_below(at));
        }
    }
    Some(next)
}

fn op(small: &Small) -> Op {
    let precondition = Precondition::Any;
    match small.clone() {
        Small::Write(path, n) => Op::Write { path, bytes: text(n).into(), mode: None, precondition },
        Small::Mkdir(path) => Op::Mkdir { path, mode: None },
        Small::Move(from, to) => Op::Move { from, to, overwrite: false, precondition },
        Small::Delete(path) => Op::Delete { path, precondition },
    }
}

fn model_of(snapshot: &Snapshot, texts: &HashMap<Hash, String>) -> Model {
    let text = |item: &Item| texts.get(&item.entry.hash).cloned().unwrap_or_default();
    let what = |item: &Item| (item.entry.kind == Kind::File).then(|| text(item));
    snapshot.items.iter().map(|(at, item)| (at.clone(), what(item))).collect()
}

/// What the pod would send that last saw `base` and now has `pod`.
fn difference(base: &BTreeMap<WorkspacePath, Item>, pod: &Model) -> Vec<PodOp> {
    let entry = |what: &Option<String>| match what {
        Some(text) => Entry::file(0o644, text.len() as u64, Hash::of(text.as_bytes())),
        None => Entry::dir(0o755),
    };
    let mut ops = Vec::new();
    for (path, item) in base {
        if !pod.contains_key(path) {
            ops.push(PodOp::Delete { path: path.clone(), pre: Some(item.entry) });
        }
    }
    for (path, what) in pod {
        let pre = base.get(path).map(|item| item.entry);
        if pre != Some(entry(what)) {
            ops.push(PodOp::Put { path: path.clone(), entry: entry(what), pre });
        }
    }
    ops
}

/// One workspace, what it must be, and what a pod and a follower of changes have seen of it.
struct World {
    it: Fixture,
    epoch: LinkEpoch,
    /// Every text that was ever committed or sent by the pod.
    texts: HashMap<Hash, String>,
    /// The tree at each revision seen.
    seen: BTreeMap<u64, Vec<(WorkspacePath, Entry)>>,
    base: BTreeMap<WorkspacePath, Item>,
    followed: (Revision, BTreeMap<WorkspacePath, Item>),
}

impl World {
    async fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let before = self.it.snapshot().await;
        let model = model_of(&before, &self.texts);
        match step {
            Step::Batch(smalls) => {
                let expected = smalls.iter().try_fold(model.clone(), |model, small| apply(&model, small));
                let done = self.it.batch(smalls.iter().map(op).collect()).await;
                prop_assert_eq!(done.is_ok(), expected.is_some(), "{:?}", done);
                let after = model_of(&self.it.snapshot().await, &self.texts);
                prop_assert_eq!(after, expected.unwrap_or(model));
            }
            Step::Pod(smalls) => {
                let held = Snapshot {
                    rev: before.rev,
                    items: self.base.iter().map(|(at, item)| (at.clone(), *item)).collect(),
                };
                let mut pod = model_of(&held, &self.texts);
                for small in smalls {
                    pod = apply(&pod, small).unwrap_or(pod);
                }
                let contents: HashMap<Hash, Bytes> =
                    pod.values().flatten().map(|t| (Hash::of(t.as_bytes()), t.clone().into())).collect();
                let ops = difference(&self.base, &pod);
                let (id, base_rev) = (BatchId::random(), Revision::ZERO);
                let batch = PodBatch { id, epoch: self.epoch, base_rev, removal: None, ops, contents };
                let done = self.it.store.commit_pod_batch(self.it.session, batch.clone()).await.unwrap();
                let refused =
                    done.results.iter().any(|r| matches!(r, shared::link::sync::OpResult::Refused(_)));
                prop_assert!(!refused, "{:?}", done.results);
                let again = self.it.store.commit_pod_batch(self.it.session, batch).await.unwrap();
                prop_assert_eq!(&again.results.len(), &done.results.len());
                self.sync().await;
            }
            Step::Sync => self.sync().await,
            Step::Restore(back, at) => {
                let to = before.rev.0.saturating_sub(u64::from(*back));
                let restored =
                    self.it.store.restore(self.it.session, at.as_ref(), Revision(to), &author()).await;
                if let (None, Some(then)) = (at, self.seen.get(&to)) {
                    restored.unwrap();
                    prop_assert_eq!(&entries(&self.it.snapshot().await), then, "restored to {}", to);
                }
            }
            Step::Undo(at) => {
                let _ = self.it.store.undo(self.it.session, at, &author()).await;
            }
        }
        self.check().await
    }

    async fn sync(&mut self) {
        self.base = self.it.snapshot().await.items.into_iter().collect();
    }

    /// What holds whatever happened.
    async fn check(&mut self) -> Result<(), TestCaseError> {
        self.it.assert_totals().await;
        let now = self.it.snapshot().await;
        let tree: BTreeMap<_, _> = now.items.iter().cloned().collect();
        for (at, _) in &now.items {
            for above in at.ancestors() {
                let kind = tree.get(&above).map(|item| item.entry.kind);
                prop_assert_eq!(kind, Some(Kind::Dir), "{:?} above {:?}", above, at);
            }
        }
        let ids: HashSet<_> = now.items.iter().map(|(_, item)| item.id).collect();
        prop_assert_eq!(ids.len(), now.items.len(), "each item is in one place");
        self.seen.entry(now.rev.0).or_insert_with(|| entries(&now));

        // Who follows the changes has the tree.
        let mut cursor = None;
        loop {
            let since = self.followed.0;
            let page = self.it.store.changes_since(self.it.session, since, cursor.as_ref(), 7).await.unwrap();
            for change in page.changes {
                if change.deleted {
                    self.followed.1.remove(&change.path);
                } else {
                    self.followed.1.insert(change.path, change.item);
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                self.followed.0 = page.rev;
                break;
            }
        }
        prop_assert_eq!(&self.followed.1, &tree);
        Ok(())
    }

    /// Every text that ever stood in the tree is in the history, with its bytes.
    async fn nothing_is_lost(&self) -> Result<(), TestCaseError> {
        let query = HistoryQuery { limit: 1_000, ..HistoryQuery::default() };
        let versions = self.it.store.history(self.it.session, &query).await.unwrap();
        let kept: HashSet<Hash> = versions.iter().map(|version| version.hash).collect();
        for (at, entry) in self.seen.values().flatten().filter(|(_, entry)| entry.kind == Kind::File) {
            prop_assert!(kept.contains(&entry.hash), "{:?} of {:?}", entry.hash, at);
        }
        let hashes: Vec<Hash> = kept.into_iter().filter(|hash| *hash != Hash::of(b"")).collect();
        let stored = self.it.store.blobs(self.it.session, &hashes).await.unwrap();
        prop_assert_eq!(stored.len(), hashes.len());
        for (hash, bytes) in stored {
            prop_assert_eq!(Hash::of(&bytes), hash);
        }
        Ok(())
    }
}

fn entries(snapshot: &Snapshot) -> Vec<(WorkspacePath, Entry)> {
    snapshot.items.iter().map(|(at, item)| (at.clone(), item.entry)).collect()
}

async fn run(it: &Fixture, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let it = it.sibling().await;
    let link = it.store.link_up(it.session, "r1", "127.0.0.1:1", InstanceId::random(), 60_000).await;
    let texts = (0..20).map(|n| (Hash::of(text(n).as_bytes()), text(n))).collect();
    let mut world = World {
        it,
        epoch: link.unwrap(),
        texts,
        seen: BTreeMap::new(),
        base: BTreeMap::new(),
        followed: (Revision::ZERO, BTreeMap::new()),
    };
    for step in &steps {
        world.step(step).await?;
    }
    world.nothing_is_lost().await
}

on_each_database!(random_operations_match_the_model_and_lose_no_byte, |it| {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        let steps = prop::collection::vec(step(), 1..14);
        TestRunner::new(config)
            .run(&steps, |steps| runtime.block_on(run(&it, steps)))
            .unwrap_or_else(|failed| panic!("{failed}"));
    });
});
