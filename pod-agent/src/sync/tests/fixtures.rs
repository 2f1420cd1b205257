//! A folder with its agent, and a small database that speaks the real protocol with it.

use super::large;
use crate::sync::{Sync, SyncSettings};
use shared::batch::{self, Op};
use shared::id::{BatchId, ItemId, LinkEpoch, Revision, SessionId, VolumeId};
use shared::limits::SyncLimits;
use shared::link::hello::Accepted;
use shared::link::sync::{
    Assembled, Assembly, Begin, CONTENT_MISSING, Committed, End, FromAgent, FromControlPlane, Hello,
    OpResult, Problem, Standing, Whole,
};
use shared::link::{Failure, Open, frame};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::io::DuplexStream;

/// How long anything may take to come about.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Whose files these are.
pub(super) static SESSION: LazyLock<SessionId> = LazyLock::new(SessionId::random);

pub(super) fn path(text: &str) -> WorkspacePath {
    WorkspacePath::new(text).unwrap()
}

/// A workspace folder, and the agent's beside it.
pub(super) struct Folder {
    pub(super) dir: tempfile::TempDir,
    pub(super) volume: VolumeId,
}

impl Folder {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("app")).unwrap();
        std::fs::create_dir(dir.path().join(".berth")).unwrap();
        Self { dir, volume: VolumeId::random() }
    }

    pub(super) fn app(&self, path: &str) -> PathBuf {
        self.dir.path().join("app").join(path)
    }

    pub(super) fn settings(&self) -> SyncSettings {
        let (workspace, state) = (self.app(""), self.dir.path().join(".berth"));
        SyncSettings { workspace, state, volume: self.volume, sweep: PATIENCE }
    }

    pub(super) fn start(&self) -> Sync {
        Sync::start(self.settings()).unwrap()
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        if let Some(parent) = self.app(path).parent() {
            std::fs::create_dir_all(parent).unwrap();
        }
        std::fs::write(self.app(path), text).unwrap();
    }

    pub(super) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.app(path)).ok()
    }
}

/// The database: a tree, its contents, and what lost.
#[derive(Default)]
pub(super) struct Database {
    pub(super) rev: u64,
    pub(super) tree: BTreeMap<WorkspacePath, Entry>,
    pub(super) contents: HashMap<Hash, Vec<u8>>,
    pub(super) lost: Vec<Hash>,
    pub(super) problems: Vec<Problem>,
    /// Bytes of contents that came.
    pub(super) received: usize,
    /// From where to where files were moved.
    pub(super) renamed: Vec<(String, String)>,
    /// Contents that the agent asked for.
    pub(super) needed: Vec<Hash>,
    /// The batches that told something as gone, each with the one that it went on with.
    pub(super) removals: Vec<(BatchId, Option<BatchId>)>,
    pub(super) visible: u64,
    pub(super) settled: u64,
    pub(super) held: u64,
    pub(super) large: large::Side,
}

impl Database {
    pub(super) fn save(&mut self, at: &str, text: &str) -> Op {
        let entry = Entry::file(0o644, text.len() as u64, Hash::of(text.as_bytes()));
        self.contents.insert(entry.hash, text.as_bytes().to_vec());
        self.rev += 1;
        self.tree.insert(path(at), entry);
        Op::Put { path: path(at), item: None, entry, pre: None }
    }

    pub(super) fn delete(&mut self, at: &str) -> Op {
        self.rev += 1;
        self.tree.remove(&path(at));
        Op::Delete { path: path(at), item: None, pre: None }
    }

    pub(super) fn text(&self, at: &str) -> Option<String> {
        let entry = self.tree.get(&path(at))?;
        Some(String::from_utf8(self.contents.get(&entry.hash)?.clone()).unwrap())
    }

    pub(super) fn commit(&mut self, batch: BatchId, ops: Vec<Op>) -> Committed {
        self.rev += 1;
        let mut results = Vec::new();
        for op in ops {
            let at = op.path().clone();
            if let Some(hash) = op.content().filter(|hash| !self.contents.contains_key(hash)) {
                let failure = Failure::new(CONTENT_MISSING, hash.to_string());
                results.push(OpResult::Refused(failure));
                continue;
            }
            let (new, pre) = match op {
                Op::Put { entry, pre, .. } => (Some(entry), pre),
                Op::Rename { from, entry, pre, .. } => {
                    assert_eq!(self.tree.remove(&from), pre);
                    self.renamed.push((from.to_string(), at.to_string()));
                    (Some(entry), None)
                }
                Op::Delete { pre, .. } => (None, pre),
            };
            let here = self.tree.get(&at).copied();
            results.push(if here == pre || here == new || here.is_none() {
                match new {
                    Some(entry) => drop(self.tree.insert(at, entry)),
                    None => drop(self.tree.remove(&at)),
                }
                OpResult::Applied { item: Some(ItemId::random()) }
            } else {
                self.lost.extend(new.map(|entry| entry.hash));
                OpResult::Superseded { conflict: true, now: here }
            });
        }
        Committed { batch, rev: Revision(self.rev), results }
    }
}

/// One link, seen from the database's end.
pub(super) struct Link {
    pub(super) stream: DuplexStream,
    pub(super) hello: Hello,
    pub(super) assembly: Assembly,
    pub(super) serving: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Link {
    pub(super) async fn up(sync: &Sync, epoch: u64) -> Self {
        let (theirs, mut stream) = tokio::io::duplex(1 << 20);
        let accepted = Accepted {
            version: 1,
            session: *SESSION,
            epoch: LinkEpoch(epoch),
            environment: Default::default(),
            limits: SyncLimits::default(),
            credential: None,
        };
        let sync = sync.clone();
        let serving = tokio::spawn(async move { sync.serve(theirs, &accepted).await });
        let Open::Sync(hello) = frame::expect(&mut stream).await.unwrap() else { panic!("another stream") };
        Self { stream, hello, assembly: Assembly::default(), serving }
    }

    /// A link that is up and told what the database has.
    pub(super) async fn welcomed(sync: &Sync, epoch: u64, database: &Database) -> Self {
        let mut link = Self::up(sync, epoch).await;
        link.welcome(database).await;
        link
    }

    pub(super) async fn say(&mut self, message: FromControlPlane) {
        frame::write(&mut self.stream, &message).await.unwrap();
    }

    pub(super) async fn welcome(&mut self, database: &Database) {
        let full = self.hello.base_rev.0 == 0 && database.rev > 0;
        let base = if full { Standing::Outdated } else { Standing::Current };
        self.say(FromControlPlane::Welcome { rev: Revision(database.rev), base }).await;
        if full {
            let all = database.tree.iter();
            let all =
                all.map(|(at, entry)| Op::Put { path: at.clone(), item: None, entry: *entry, pre: None });
            self.push(database, all.collect(), true).await;
        }
    }

    pub(super) async fn push(&mut self, database: &Database, ops: Vec<Op>, full: bool) {
        self.push_with(&database.contents, database.rev, ops, full).await;
    }

    /// Sends a batch with those of its contents that are given.
    pub(super) async fn push_with(
        &mut self,
        contents: &HashMap<Hash, Vec<u8>>,
        rev: u64,
        ops: Vec<Op>,
        full: bool,
    ) {
        let encoded = batch::encode(&ops, |hash| Ok(contents.get(&hash).map(|bytes| &bytes[..]))).unwrap();
        let begin = Begin {
            batch: BatchId::random(),
            base_rev: Revision::ZERO,
            target_rev: Revision(rev),
            items: encoded.items,
            bytes: encoded.bytes,
            removal: None,
            full,
            last: true,
        };
        let end = End { tar_hash: encoded.tar_hash };
        for message in (Whole { begin, data: encoded.data.into(), end }).into_messages() {
            self.say(FromControlPlane::Batch(message)).await;
        }
    }

    /// Serves the agent until `done` holds.
    pub(super) async fn until(
        &mut self,
        database: &mut Database,
        what: &str,
        done: impl Fn(&Database) -> bool,
    ) {
        let serving = async {
            while !done(database) {
                let message = frame::expect(&mut self.stream).await.unwrap();
                self.hear(database, message).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, serving).await.is_ok();
        assert!(in_time, "{what}; the database has {:?}", database.tree.keys());
    }

    pub(super) async fn hear(&mut self, database: &mut Database, message: FromAgent) {
        let whole = match message {
            FromAgent::Batch(part) => self.assembly.take(part, &SyncLimits::default()).unwrap(),
            FromAgent::Visible { rev } => {
                database.visible = rev.0;
                None
            }
            FromAgent::Need { hashes } => {
                database.needed.extend(hashes);
                None
            }
            FromAgent::Problems { problems, .. } => {
                database.problems = problems;
                None
            }
            FromAgent::MassDelete { items, .. } => {
                database.held = items;
                None
            }
            FromAgent::Settled { token, .. } => {
                database.settled = token;
                None
            }
            other => {
                self.hear_of_large(database, other).await;
                None
            }
        };
        let whole = match whole {
            None => return,
            Some(Assembled::Whole(whole)) => whole,
            Some(Assembled::TooLarge(batch)) => panic!("{batch:?} is too large"),
        };
        let (contents, received) = (&mut database.contents, &mut database.received);
        let ops = batch::decode(&whole.data[..], whole.claims(), &SyncLimits::default(), |hash, bytes| {
            *received += bytes.len();
            contents.insert(hash, bytes);
            Ok(())
        });
        let ops = ops.unwrap();
        if ops.iter().any(|op| matches!(op, Op::Delete { .. })) {
            database.removals.push((whole.begin.batch, whole.begin.removal));
        }
        let committed = database.commit(whole.begin.batch, ops);
        self.say(FromControlPlane::Committed(committed)).await;
    }
}
