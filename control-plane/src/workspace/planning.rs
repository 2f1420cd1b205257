//! The whole decision over whole trees: one tree, both sides change it, and plan, shuffle, apply run until nothing
//! is left to do. The agent's part is [`shared::plan`] over plain maps; the database's is the real draft and resolver.

use super::memory::Memory;
use super::types::{Op, Origin, PodBatch, PodOp, Precondition};
use bytes::Bytes;
use proptest::prelude::*;
use shared::id::{BatchId, Revision};
use shared::ignore::Ignore;
use shared::link::sync::OpResult;
use shared::path::WorkspacePath;
use shared::plan::{Action, decide};
use shared::tree::{Entry, Hash, Item, Kind, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// Rounds of plan, shuffle, apply, by which everything is at rest.
const ROUNDS: usize = 8;

/// One change of a tree.
#[derive(Clone, Debug)]
enum Change {
    Write(WorkspacePath, u8),
    Mkdir(WorkspacePath),
    Link(WorkspacePath),
    Rename(WorkspacePath, WorkspacePath),
    Remove(WorkspacePath),
    Chmod(WorkspacePath, bool),
    /// A file becomes a folder, or a folder a file.
    Retype(WorkspacePath, u8),
}

fn some_path() -> impl Strategy<Value = WorkspacePath> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(name, 1..4).prop_map(|parts| WorkspacePath::new(parts.join("/")).unwrap())
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => (some_path(), any::<u8>()).prop_map(|(path, n)| Change::Write(path, n)),
        1 => some_path().prop_map(Change::Mkdir),
        1 => some_path().prop_map(Change::Link),
        3 => (some_path(), some_path()).prop_map(|(from, to)| Change::Rename(from, to)),
        3 => some_path().prop_map(Change::Remove),
        1 => (some_path(), any::<bool>()).prop_map(|(path, x)| Change::Chmod(path, x)),
        1 => (some_path(), any::<u8>()).prop_map(|(path, n)| Change::Retype(path, n)),
    ]
}

fn changes(most: usize) -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(change(), 0..most)
}

/// Texts whose lines can be merged where different ones are changed.
fn text(n: u8, side: &str) -> Bytes {
    let mut lines: Vec<String> = (0..4).map(|line| format!("line {line}")).collect();
    lines[usize::from(n % 4)] = format!("{} of {side}", n / 4 % 8);
    format!("{}\n", lines.join("\n")).into()
}

/// A tree that programs change; its contents are kept.
#[derive(Clone, Debug, Default)]
struct Pod {
    tree: Tree,
    contents: BTreeMap<Hash, Bytes>,
}

impl Pod {
    fn make_parents(&mut self, path: &WorkspacePath) -> bool {
        for above in path.ancestors() {
            if self.tree.entry(above).or_insert(Entry::dir(0o755)).kind != Kind::Dir {
                return false;
            }
        }
        true
    }

    fn below(&self, folder: &WorkspacePath) -> Vec<WorkspacePath> {
        self.tree.keys().filter(|path| path.is_below(folder)).cloned().collect()
    }

    fn put(&mut self, path: &WorkspacePath, bytes: Bytes, mode: u32) {
        let entry = Entry::file(mode, bytes.len() as u64, Hash::of(&bytes));
        self.contents.insert(entry.hash, bytes);
        self.tree.insert(path.clone(), entry);
    }

    fn remove(&mut self, path: &WorkspacePath) {
        for inner in self.below(path) {
            self.tree.remove(&inner);
        }
        self.tree.remove(path);
    }

    fn change(&mut self, change: &Change, side: &str) {
        match change {
            Change::Write(path, n) => {
                let mode = match self.tree.get(path) {
                    Some(old) if old.kind == Kind::File => old.mode,
                    Some(_) => return,
                    None => 0o644,
                };
                if self.make_parents(path) {
                    self.put(path, text(*n, side), mode);
                }
            }
            Change::Mkdir(path) => {
                if !self.tree.contains_key(path) && self.make_parents(path) {
                    self.tree.insert(path.clone(), Entry::dir(0o755));
                }
            }
            Change::Link(path) => {
                if !self.tree.contains_key(path) && self.make_parents(path) {
                    let entry = Entry::symlink("target");
                    self.contents.insert(entry.hash, Bytes::from_static(b"target"));
                    self.tree.insert(path.clone(), entry);
                }
            }
            Change::Rename(from, to) => {
                let taken = self.tree.contains_key(to) || to.is_below(from) || from == to;
                if taken || !self.tree.contains_key(from) || !self.make_parents(to) {
                    return;
                }
                for old in self.below(from).into_iter().chain([from.clone()]) {
                    if let (Some(entry), Some(Ok(new))) = (self.tree.remove(&old), old.rebase(from, to)) {
                        self.tree.insert(new, entry);
                    }
                }
            }
            Change::Remove(path) => self.remove(path),
            Change::Chmod(path, x) => {
                if let Some(entry) = self.tree.get_mut(path).filter(|entry| entry.kind != Kind::Symlink) {
                    entry.mode = if *x { 0o755 } else { 0o600 };
                }
            }
            Change::Retype(path, n) => match self.tree.get(path).map(|entry| entry.kind) {
                Some(Kind::Dir) => {
                    self.remove(path);
                    self.put(path, text(*n, side), 0o644);
                }
                Some(_) => drop(self.tree.insert(path.clone(), Entry::dir(0o755))),
                None => {}
            },
        }
    }
}

/// The same change by a user, through the API; one that is refused is none.
fn user(memory: &mut Memory, change: &Change) {
    let precondition = Precondition::Any;
    let ops = match change.clone() {
        Change::Write(path, n) => {
            vec![Op::Write { path, bytes: text(n, "the page"), mode: None, precondition }]
        }
        Change::Mkdir(path) => vec![Op::Mkdir { path, mode: None }],
        Change::Link(path) => vec![Op::Symlink { path, target: "target".into() }],
        Change::Rename(from, to) => vec![Op::Move { from, to, overwrite: false, precondition }],
        Change::Remove(path) => vec![Op::Delete { path, precondition }],
        Change::Chmod(path, x) => vec![Op::Chmod { path, mode: if x { 0o755 } else { 0o600 } }],
        Change::Retype(path, n) => {
            let is_dir = memory.item(&path).is_some_and(|item| item.entry.kind == Kind::Dir);
            let delete = Op::Delete { path: path.clone(), precondition };
            let bytes = text(n, "the page");
            let make = match is_dir {
                true => Op::Write { path, bytes, mode: None, precondition },
                false => Op::Mkdir { path, mode: None },
            };
            vec![delete, make]
        }
    };
    let _ = memory.batch(&ops, Origin::Editor);
}

/// Any order, given by a number.
fn shuffle<T>(items: &mut [T], order: u64) {
    let mut state = order | 1;
    for n in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(n, (state >> 33) as usize % (n + 1));
    }
}

/// Both sides and what they last agreed on.
struct Sides {
    memory: Memory,
    pod: Pod,
    base: BTreeMap<WorkspacePath, (Entry, Option<Item>)>,
    base_rev: Revision,
    ignore: Ignore,
}

impl Sides {
    /// In step, with `start` on both.
    fn new(start: &[Change]) -> Self {
        let mut sides = Self {
            memory: Memory::default(),
            pod: Pod::default(),
            base: BTreeMap::new(),
            base_rev: Revision::ZERO,
            ignore: Ignore::default(),
        };
        for change in start {
            sides.pod.change(change, "both");
        }
        sides.settle(7);
        sides
    }

    /// What is to be done now, path by path.
    fn plan(&self) -> Vec<(WorkspacePath, Action)> {
        let database = self.memory.tree();
        let known: BTreeSet<_> =
            database.keys().chain(self.base.keys()).chain(self.pod.tree.keys()).collect();
        let mut plan = Vec::new();
        for path in known {
            let (d, b) = (database.get(path), self.base.get(path).map(|(entry, _)| entry));
            let is_dir = self.pod.tree.get(path).is_some_and(|entry| entry.kind == Kind::Dir);
            if d.is_none() && b.is_none() && self.ignore.is_ignored(path, is_dir) {
                continue;
            }
            match decide(d, b, self.pod.tree.get(path)) {
                Action::None => {}
                action => plan.push((path.clone(), action)),
            }
        }
        plan
    }

    /// Plan, shuffle, apply, until nothing is left to do.
    fn settle(&mut self, order: u64) {
        for round in 0..ROUNDS {
            let mut plan = self.plan();
            if plan.is_empty() {
                return;
            }
            shuffle(&mut plan, order.wrapping_add(round as u64));
            self.apply(&plan);
            self.commit(&plan);
        }
        panic!("it does not come to rest: {:?}", self.plan());
    }

    /// The agent's part, again and again as long as something comes of it: a file waits for its folder, and a
    /// folder goes when it is empty.
    fn apply(&mut self, plan: &[(WorkspacePath, Action)]) {
        let database = self.memory.tree();
        let mut left: Vec<&WorkspacePath> = plan
            .iter()
            .filter(|(_, action)| matches!(action, Action::Apply | Action::Advance))
            .map(|(path, _)| path)
            .collect();
        loop {
            let before = left.len();
            left.retain(|path| !self.apply_one(path, database.get(*path).copied()));
            if left.is_empty() || left.len() == before {
                break;
            }
        }
        // What has all news is at the database's revision.
        if left.is_empty() {
            self.base_rev = self.memory.rev;
        }
    }

    fn apply_one(&mut self, path: &WorkspacePath, wanted: Option<Entry>) -> bool {
        let here = self.pod.tree.get(path).copied();
        if here != wanted {
            let full = here.is_some_and(|here| here.kind == Kind::Dir) && !self.pod.below(path).is_empty();
            let above = path.parent().and_then(|parent| self.pod.tree.get(&parent));
            let homeless = path.depth() > 1 && above.is_none_or(|above| above.kind != Kind::Dir);
            let stays_folder = wanted.is_some_and(|wanted| wanted.kind == Kind::Dir);
            if (full && !stays_folder) || (homeless && wanted.is_some()) {
                return false;
            }
            match wanted {
                Some(wanted) => {
                    if wanted.kind != Kind::Dir {
                        let bytes = self.memory.contents[&wanted.hash].clone();
                        self.pod.contents.insert(wanted.hash, bytes);
                    }
                    self.pod.tree.insert(path.clone(), wanted);
                }
                None => drop(self.pod.tree.remove(path)),
            }
        }
        self.agree(path, wanted);
        true
    }

    fn agree(&mut self, path: &WorkspacePath, entry: Option<Entry>) {
        match entry {
            Some(entry) => drop(self.base.insert(path.clone(), (entry, self.memory.item(path)))),
            None => drop(self.base.remove(path)),
        }
    }

    /// The database's part.
    fn commit(&mut self, plan: &[(WorkspacePath, Action)]) {
        let mut ops = Vec::new();
        let mut contents = std::collections::HashMap::new();
        for (path, action) in plan {
            if !matches!(action, Action::Commit | Action::Contest) {
                continue;
            }
            let (path, pre) = (path.clone(), self.base.get(path).map(|(entry, _)| *entry));
            ops.push(match self.pod.tree.get(&path).copied() {
                Some(entry) => {
                    if entry.kind != Kind::Dir {
                        contents.insert(entry.hash, self.pod.contents[&entry.hash].clone());
                    }
                    PodOp::Put { path, entry, pre }
                }
                None => PodOp::Delete { path, pre },
            });
        }
        if ops.is_empty() {
            return;
        }
        let epoch = self.memory.epoch;
        let batch = PodBatch {
            id: BatchId::random(),
            epoch,
            base_rev: self.base_rev,
            removal: None,
            ops: ops.clone(),
            contents,
        };
        let committed = self.memory.commit_pod_batch(batch).unwrap();
        for (op, result) in ops.iter().zip(committed.results) {
            let sent = match op {
                PodOp::Put { entry, .. } => Some(*entry),
                _ => None,
            };
            match result {
                // What is there counts as agreed, so that the database's comes over it.
                OpResult::Applied { .. } | OpResult::Superseded { .. } => self.agree(op.path(), sent),
                OpResult::Refused(failure) => panic!("{op:?} is refused: {failure:?}"),
            }
        }
    }

    fn is_in_step(&self) {
        let database = self.memory.tree();
        let base: Tree = self.base.iter().map(|(path, (entry, _))| (path.clone(), *entry)).collect();
        assert_eq!(database, self.pod.tree, "database and pod differ");
        assert_eq!(database, base, "the base is another");
        assert!(self.plan().is_empty());
    }

    fn conflicts(&self) -> usize {
        self.memory.versions.iter().filter(|version| version.open_conflict).count()
    }
}

/// The rule table, as its reader would apply it: what must stand where neither side moved anything or changed a type.
fn follows_the_rules(start: &[Change], page: &[Change], pod: &[Change], met: &Sides) {
    let moves = |change: &Change| matches!(change, Change::Rename(..) | Change::Retype(..));
    if page.iter().chain(pod).any(moves) {
        return;
    }
    let mut apart = Sides::new(start);
    let base = apart.pod.tree.clone();
    page.iter().for_each(|change| user(&mut apart.memory, change));
    pod.iter().for_each(|change| apart.pod.change(change, "the pod"));
    let (database, pod) = (apart.memory.tree(), &apart.pod.tree);
    let kind = |tree: &Tree, path: &WorkspacePath| tree.get(path).map(|entry| entry.kind);
    let is_file = |tree: &Tree, path: &WorkspacePath| kind(tree, path).is_none_or(|kind| kind == Kind::File);
    let met_tree = met.memory.tree();
    for path in base.keys().chain(database.keys()).chain(pod.keys()) {
        // A folder on one side and a file on the other, here or above, is another rule's.
        let plain = [&base, &database, pod].iter().all(|tree| {
            is_file(tree, path)
                && path.ancestors().all(|above| kind(tree, &above).is_none_or(|kind| kind == Kind::Dir))
        });
        let (b, d, p) = (base.get(path), database.get(path), pod.get(path));
        if !plain {
            continue;
        }
        let stands = met_tree.get(path);
        match (d == b, p == b, d, p) {
            _ if d == p => assert_eq!(stands, d, "{path:?}: both made it the same"),
            (true, ..) => assert_eq!(stands, p, "{path:?}: only the pod changed it"),
            (_, true, ..) => assert_eq!(stands, d, "{path:?}: only the page changed it"),
            (_, _, None, _) => assert_eq!(stands, p, "{path:?}: the pod's edit wins over the delete"),
            (_, _, _, None) => assert_eq!(stands, d, "{path:?}: the page's edit wins over the delete"),
            (_, _, Some(d), Some(p)) => {
                let stands = stands.unwrap();
                let merged = met.memory.versions.iter().any(|v| v.entry.hash == p.hash && !v.open_conflict);
                let both = d.hash == p.hash || b.is_some_and(|b| b.hash == d.hash || b.hash == p.hash);
                let database_stands = stands.hash == d.hash;
                assert!(
                    database_stands || merged || both,
                    "{path:?}: the page's {d:?} was overwritten by the pod's {p:?}, and {stands:?} stands"
                );
            }
        }
    }
}

/// Both sides change `start`, and meet in the order given.
fn met(start: &[Change], page: &[Change], pod: &[Change], order: u64) -> (Sides, BTreeSet<Hash>) {
    let mut sides = Sides::new(start);
    sides.is_in_step();
    let mut written: BTreeSet<Hash> = BTreeSet::new();
    for change in page {
        user(&mut sides.memory, change);
        written.extend(sides.memory.tree().values().filter(|e| e.kind != Kind::Dir).map(|e| e.hash));
    }
    for change in pod {
        sides.pod.change(change, "the pod");
    }
    written.extend(sides.pod.tree.values().filter(|e| e.kind != Kind::Dir).map(|e| e.hash));
    sides.settle(order);
    (sides, written)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, max_shrink_iters: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn two_changed_trees_meet_whatever_the_order_and_every_leaf_stays(
        start in changes(10), page in changes(6), pod in changes(6), orders in any::<(u64, u64)>(),
    ) {
        let (sides, written) = met(&start, &page, &pod, orders.0);
        sides.is_in_step();
        let kept = sides.memory.kept();
        for hash in &written {
            prop_assert!(kept.contains(hash), "{hash:?} is in no tree and not in the history");
        }
        follows_the_rules(&start, &page, &pod, &sides);
        let (other, _) = met(&start, &page, &pod, orders.1);
        prop_assert_eq!(sides.memory.tree(), other.memory.tree(), "the order of a batch made a difference");
        prop_assert_eq!(sides.memory.kept(), other.memory.kept());
    }

    #[test]
    fn what_only_one_side_changed_comes_over_whole_and_without_a_conflict(
        start in changes(10), changed in changes(8), by_page in any::<bool>(), order in any::<u64>(),
    ) {
        let (page, pod) = if by_page { (&changed[..], &[][..]) } else { (&[][..], &changed[..]) };
        let mut wanted = Sides::new(&start);
        for change in page {
            user(&mut wanted.memory, change);
        }
        for change in pod {
            wanted.pod.change(change, "the pod");
        }
        let wanted = if by_page { wanted.memory.tree() } else { wanted.pod.tree };
        let (sides, _) = met(&start, page, pod, order);
        sides.is_in_step();
        prop_assert_eq!(sides.memory.tree(), wanted);
        prop_assert_eq!(sides.conflicts(), 0);
    }

    #[test]
    fn equal_trees_need_nothing_and_ignored_paths_stay_where_they_are(start in changes(10), page in changes(4)) {
        let mut sides = Sides::new(&start);
        let rev = sides.memory.rev;
        sides.settle(1);
        prop_assert_eq!(sides.memory.rev, rev);
        let ignored = WorkspacePath::new("node_modules/x").unwrap();
        prop_assert!(sides.pod.make_parents(&ignored));
        sides.pod.put(&ignored, Bytes::from_static(b"of a tool"), 0o644);
        for change in &page {
            user(&mut sides.memory, change);
        }
        sides.settle(2);
        prop_assert!(sides.pod.tree.contains_key(&ignored));
        prop_assert!(sides.memory.tree().keys().all(|path| !path.as_str().starts_with("node_modules")));
    }
}
