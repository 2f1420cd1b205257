//! Tests of file sync against an agent that the test plays, over a real link and a real database.

use crate::agents::fixtures::{Harbour, Linked, SOON, until};
use crate::agents::{AgentEvent, Link};
use crate::workspace::{Author, Op as EditorOp, Precondition};
use bytes::Bytes;
use sea_orm::ConnectionTrait;
use shared::batch::{self, Op};
use shared::id::{BatchId, LinkEpoch, Revision, SessionId, VolumeId};
use shared::limits::SyncLimits;
use shared::link::mux::LinkStream;
use shared::link::sync::{
    Assembled, Assembly, Batch, Begin, CHUNK_BYTES, Committed, End, FromAgent, FromControlPlane, Hello,
    OpResult, Problem, Standing, State, Whole,
};
use shared::link::{Open, frame};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Tree, digest};
use std::collections::HashMap;

mod large;

fn path(text: &str) -> WorkspacePath {
    WorkspacePath::new(text).unwrap()
}

fn file(bytes: &[u8]) -> Entry {
    Entry::file(0o644, bytes.len() as u64, Hash::of(bytes))
}

fn put(at: &str, bytes: &[u8], pre: Option<&[u8]>) -> Op {
    Op::Put { path: path(at), item: None, entry: file(bytes), pre: pre.map(file) }
}

/// An agent with its sync stream.
struct Peer {
    _linked: Linked,
    stream: LinkStream,
    rev: Revision,
    base: Standing,
}

/// A batch as the agent gets it.
struct Got {
    begin: Begin,
    ops: Vec<Op>,
    contents: HashMap<Hash, Vec<u8>>,
}

impl Got {
    /// Paths and the contents they now have; none for what is deleted, and for contents left out.
    fn files(&self) -> Vec<(String, Option<String>)> {
        let text = |op: &Op| {
            let bytes = self.contents.get(&op.content()?)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let mut files: Vec<_> = self.ops.iter().map(|op| (op.path().to_string(), text(op))).collect();
        files.sort();
        files
    }
}

impl Peer {
    async fn join(linked: Linked, base: Revision, tree: &Tree, volume: VolumeId) -> Self {
        let hello = Hello { epoch: linked.accepted.epoch, base_rev: base, base_digest: digest(tree), volume };
        let mut stream = linked.dialled.opener.open().await.unwrap();
        frame::write(&mut stream, &Open::Sync(hello)).await.unwrap();
        let mut peer = Self { _linked: linked, stream, rev: Revision::ZERO, base: Standing::Current };
        let FromControlPlane::Welcome { rev, base } = peer.told().await else { panic!("no welcome") };
        (peer.rev, peer.base) = (rev, base);
        peer
    }

    /// A fresh agent's.
    async fn fresh(linked: Linked) -> Self {
        Self::join(linked, Revision::ZERO, &Tree::new(), VolumeId::random()).await
    }

    async fn told(&mut self) -> FromControlPlane {
        tokio::time::timeout(SOON, frame::expect(&mut self.stream)).await.unwrap().unwrap()
    }

    async fn say(&mut self, message: FromAgent) {
        frame::write(&mut self.stream, &message).await.unwrap();
    }

    /// The next batch, put together and taken apart by the same code as the agent's.
    async fn batch(&mut self) -> Got {
        let (mut assembly, limits) = (Assembly::default(), SyncLimits::default());
        let whole = loop {
            let FromControlPlane::Batch(part) = self.told().await else { panic!("no batch") };
            match assembly.take(part, &limits).unwrap() {
                None => {}
                Some(Assembled::Whole(whole)) => break whole,
                Some(Assembled::TooLarge(batch)) => panic!("{batch:?} is too large"),
            }
        };
        let mut contents = HashMap::new();
        let ops = batch::decode(&whole.data[..], whole.claims(), &limits, |hash, bytes| {
            contents.insert(hash, bytes);
            Ok(())
        });
        Got { begin: whole.begin, ops: ops.unwrap(), contents }
    }

    /// Sends a batch, cut into parts or not, and answers what it is told.
    async fn send(&mut self, id: BatchId, ops: &[Op], contents: &[&[u8]], parts: bool) -> FromControlPlane {
        let contents: HashMap<_, _> =
            contents.iter().map(|bytes| (Hash::of(bytes), bytes.to_vec())).collect();
        let encoded = batch::encode(ops, |hash| Ok(contents.get(&hash).map(|bytes| &bytes[..]))).unwrap();
        let begin = Begin {
            batch: id,
            base_rev: self.rev,
            target_rev: Revision::ZERO,
            items: encoded.items,
            bytes: encoded.bytes,
            removal: None,
            full: false,
            last: true,
        };
        let end = End { tar_hash: encoded.tar_hash };
        if parts {
            self.say(FromAgent::Batch(Batch::Begin(begin))).await;
            for chunk in encoded.data.chunks(CHUNK_BYTES) {
                self.say(FromAgent::Batch(Batch::Chunk(Bytes::copy_from_slice(chunk)))).await;
            }
            self.say(FromAgent::Batch(Batch::End(end))).await;
        } else {
            self.say(FromAgent::Batch(Batch::Whole(Whole { begin, data: encoded.data.into(), end }))).await;
        }
        self.told().await
    }

    async fn commit(&mut self, ops: &[Op], contents: &[&[u8]]) -> Committed {
        match self.send(BatchId::random(), ops, contents, false).await {
            FromControlPlane::Committed(committed) => committed,
            other => panic!("{other:?}"),
        }
    }
}

async fn save(harbour: &Harbour, session: SessionId, at: &str, text: &str) -> Revision {
    let author = Author::editor("test");
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    harbour.store.save_file(session, &path(at), bytes, None, Precondition::Any, &author).await.unwrap().rev
}

async fn start() -> (Harbour, SessionId, Linked, Link) {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let linked = harbour.link(&credential).await;
    let link = harbour.agents.get(session).unwrap();
    (harbour, session, linked, link)
}

fn some(files: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
    files.iter().map(|(path, text)| ((*path).to_owned(), Some((*text).to_owned()))).collect()
}

#[tokio::test]
async fn a_fresh_agent_is_sent_the_whole_tree_with_its_contents() {
    let (harbour, session, linked, _) = start().await;
    save(&harbour, session, "a.txt", "one").await;
    let rev = save(&harbour, session, "b.txt", "two").await;
    let mut peer = Peer::fresh(linked).await;
    assert_eq!((peer.rev, peer.base), (rev, Standing::Outdated));
    let got = peer.batch().await;
    assert!(got.begin.full && got.begin.last);
    assert_eq!(got.begin.target_rev, rev);
    assert_eq!(got.files(), some(&[("a.txt", "one"), ("b.txt", "two")]));
}

#[tokio::test]
async fn a_save_reaches_the_agent_and_is_visible_when_the_agent_says_so() {
    let (harbour, session, linked, link) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let rev = save(&harbour, session, "main.py", "print(1)").await;
    let got = peer.batch().await;
    assert_eq!((got.begin.base_rev, got.begin.target_rev), (Revision::ZERO, rev));
    assert_eq!(got.files(), some(&[("main.py", "print(1)")]));
    assert_eq!(link.sync().visible(), Revision::ZERO);
    peer.say(FromAgent::Visible { rev }).await;
    assert!(link.sync().wait_visible(rev, SOON).await);
}

#[tokio::test]
async fn a_deletion_reaches_the_agent() {
    let (harbour, session, linked, _) = start().await;
    save(&harbour, session, "a.txt", "one").await;
    let mut peer = Peer::fresh(linked).await;
    peer.batch().await;
    let delete = EditorOp::Delete { path: path("a.txt"), precondition: Precondition::Any };
    harbour.store.batch(session, vec![delete], &Author::editor("test")).await.unwrap();
    let got = peer.batch().await;
    assert!(matches!(&got.ops[..], [Op::Delete { path: gone, .. }] if *gone == path("a.txt")));
}

#[tokio::test]
async fn a_damaged_content_is_told_of_and_holds_up_nothing_else() {
    let (harbour, session, linked, _) = start().await;
    let text = "damaged ".repeat(100);
    save(&harbour, session, "a.txt", &text).await;
    save(&harbour, session, "b.txt", "whole").await;
    let damage = "UPDATE blobs SET data = x'00' WHERE size = 800";
    harbour.store.database().writer().execute_unprepared(damage).await.unwrap();
    let mut peer = Peer::fresh(linked).await;
    assert_eq!(peer.batch().await.files(), [("a.txt".into(), None), ("b.txt".into(), Some("whole".into()))]);
    let lost = vec![Hash::of(text.as_bytes())];
    assert_eq!(peer.told().await, FromControlPlane::Unavailable { hashes: lost });
    let done = peer.send(BatchId::random(), &[put("c.txt", b"pod's", None)], &[b"pod's"], false).await;
    assert!(matches!(done, FromControlPlane::Committed(_)), "{done:?}");
}

#[tokio::test]
async fn what_moved_comes_without_its_content_until_that_is_asked_for() {
    let (harbour, session, linked, _) = start().await;
    save(&harbour, session, "old/a.txt", "one").await;
    let mut peer = Peer::fresh(linked).await;
    peer.batch().await;
    let rename = EditorOp::Move {
        from: path("old"),
        to: path("new"),
        overwrite: false,
        precondition: Precondition::Any,
    };
    harbour.store.batch(session, vec![rename], &Author::editor("test")).await.unwrap();
    let got = peer.batch().await;
    assert_eq!((got.ops.len(), got.contents.len()), (4, 0), "two go, two come: {:?}", got.ops);
    peer.say(FromAgent::Need { hashes: vec![Hash::of(b"one")] }).await;
    assert_eq!(peer.batch().await.files(), some(&[("new/a.txt", "one")]));
}

#[tokio::test]
async fn the_pods_change_is_committed_and_not_sent_back_but_its_revision_is_told() {
    let (harbour, session, linked, _) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let committed = peer.commit(&[put("out.txt", b"made here", None)], &[b"made here"]).await;
    assert!(matches!(committed.results[..], [OpResult::Applied { .. }]));
    let (_, bytes) = harbour.store.read_file(session, &path("out.txt")).await.unwrap();
    assert_eq!(&bytes[..], b"made here");
    let got = peer.batch().await;
    assert_eq!((got.ops.len(), got.begin.target_rev), (0, committed.rev));
}

#[tokio::test]
async fn a_batch_in_parts_is_committed_like_a_whole_one_and_only_once() {
    let (harbour, session, linked, _) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let noise: Vec<u8> = (0..300_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let (id, ops) = (BatchId::random(), [put("noise", &noise, None)]);
    let first = peer.send(id, &ops, &[&noise], true).await;
    assert!(matches!(first, FromControlPlane::Committed(_)), "{first:?}");
    peer.batch().await;
    let again = peer.send(id, &ops, &[&noise], true).await;
    assert_eq!(again, first);
    assert_eq!(&harbour.store.read_file(session, &path("noise")).await.unwrap().1[..], &noise[..]);
}

#[tokio::test]
async fn after_a_conflict_the_databases_own_is_sent_and_the_pods_is_kept() {
    let (harbour, session, linked, _) = start().await;
    save(&harbour, session, "f", "base\n").await;
    let mut peer = Peer::fresh(linked).await;
    peer.batch().await;
    let rev = save(&harbour, session, "f", "editor\n").await;
    let committed =
        peer.send(BatchId::random(), &[put("f", b"pod\n", Some(b"base\n"))], &[b"pod\n"], false).await;
    // The save's batch may come before the answer, or after it.
    let (committed, got) = match committed {
        FromControlPlane::Batch(Batch::Whole(Whole { begin, .. })) => {
            assert_eq!(begin.target_rev, rev);
            (peer.told().await, None)
        }
        other => (other, Some(peer.batch().await)),
    };
    let FromControlPlane::Committed(committed) = committed else { panic!("{committed:?}") };
    assert_eq!(committed.results, [OpResult::Superseded { conflict: true, now: Some(file(b"editor\n")) }]);
    if let Some(got) = got {
        assert_eq!(got.files(), some(&[("f", "editor\n")]));
    }
    let (_, bytes) = harbour.store.read_file(session, &path("f")).await.unwrap();
    assert_eq!(&bytes[..], b"editor\n");
    assert!(harbour.store.blob(session, Hash::of(b"pod\n")).await.unwrap().is_some());
}

#[tokio::test]
async fn saves_and_the_pods_changes_at_once_end_with_everything_sent() {
    let (harbour, session, linked, _) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let mut last = Revision::ZERO;
    for n in 0..20 {
        last = save(&harbour, session, &format!("e{n}"), &format!("editor {n}")).await;
    }
    let mut seen = Vec::new();
    loop {
        let got = peer.batch().await;
        seen.extend(got.files());
        if got.begin.target_rev == last && got.begin.last {
            break;
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 20);
}

#[tokio::test]
async fn an_agent_that_returns_with_the_same_tree_is_sent_nothing() {
    let (harbour, session, linked, _) = start().await;
    let rev = save(&harbour, session, "a.txt", "one").await;
    let volume = VolumeId::random();
    drop(Peer::join(linked, Revision::ZERO, &Tree::new(), volume).await);
    let (_, credential) = (session, harbour.credential(session).await);
    let tree = Tree::from([(path("a.txt"), file(b"one"))]);
    let mut peer = Peer::join(harbour.link(&credential).await, rev, &tree, volume).await;
    assert_eq!((peer.rev, peer.base), (rev, Standing::Current));
    // What comes next is what changes next.
    let next = save(&harbour, session, "b.txt", "two").await;
    let got = peer.batch().await;
    assert_eq!((got.begin.base_rev, got.begin.target_rev), (rev, next));
    assert_eq!(got.files(), some(&[("b.txt", "two")]));
}

#[tokio::test]
async fn an_agent_that_returns_is_sent_what_it_missed() {
    let (harbour, session, linked, _) = start().await;
    let rev = save(&harbour, session, "a.txt", "one").await;
    let volume = VolumeId::random();
    drop(Peer::join(linked, Revision::ZERO, &Tree::new(), volume).await);
    let next = save(&harbour, session, "b.txt", "two").await;
    let tree = Tree::from([(path("a.txt"), file(b"one"))]);
    let credential = harbour.credential(session).await;
    let mut peer = Peer::join(harbour.link(&credential).await, rev, &tree, volume).await;
    assert_eq!(peer.base, Standing::Current);
    let got = peer.batch().await;
    assert_eq!((got.begin.target_rev, got.begin.full), (next, false));
    assert_eq!(got.files(), some(&[("b.txt", "two")]));
}

#[tokio::test]
async fn a_base_that_is_not_the_databases_gets_the_tree_without_contents_and_then_what_it_asks_for() {
    let (harbour, session, linked, _) = start().await;
    save(&harbour, session, "a.txt", "one").await;
    let rev = save(&harbour, session, "b.txt", "two").await;
    let tampered = Tree::from([(path("a.txt"), file(b"other"))]);
    let mut peer = Peer::join(linked, rev, &tampered, VolumeId::random()).await;
    assert_eq!(peer.base, Standing::Foreign);
    let got = peer.batch().await;
    assert!(got.begin.full && got.contents.is_empty() && got.ops.len() == 2);
    peer.say(FromAgent::Need { hashes: vec![Hash::of(b"two"), Hash::of(b"two")] }).await;
    assert_eq!(peer.batch().await.files(), some(&[("b.txt", "two")]));
}

#[tokio::test]
async fn a_batch_that_lies_is_refused_for_good_and_the_next_one_is_taken() {
    let (_harbour, _, linked, _) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let begin = |items, bytes| Begin {
        batch: BatchId::random(),
        base_rev: Revision::ZERO,
        target_rev: Revision::ZERO,
        items,
        bytes,
        removal: None,
        full: false,
        last: true,
    };
    let end = End { tar_hash: Hash::of(b"") };
    let lies = [begin(1, 1024), begin(u64::MAX, 1), begin(1, u64::MAX)];
    for lie in lies {
        let batch = lie.batch;
        let data = Bytes::from_static(b"no zstd");
        peer.say(FromAgent::Batch(Batch::Whole(Whole { begin: lie, data, end: end.clone() }))).await;
        let FromControlPlane::Refused { batch: refused, retry, .. } = peer.told().await else { panic!() };
        assert_eq!((refused, retry), (batch, false));
    }
    let endless = begin(1, 1024);
    let batch = endless.batch;
    peer.say(FromAgent::Batch(Batch::Begin(endless))).await;
    for _ in 0..400 {
        peer.say(FromAgent::Batch(Batch::Chunk(Bytes::from(vec![0; CHUNK_BYTES])))).await;
    }
    peer.say(FromAgent::Batch(Batch::End(end))).await;
    let FromControlPlane::Refused { batch: refused, failure, .. } = peer.told().await else { panic!() };
    assert_eq!((refused, failure.code.as_str()), (batch, "batch_too_large"));
    peer.commit(&[put("fine", b"fine", None)], &[b"fine"]).await;
}

#[tokio::test]
async fn a_superseded_agents_batch_is_refused() {
    let (harbour, session, linked, _) = start().await;
    let mut peer = Peer::fresh(linked).await;
    // Another replica took the session over: only the database knows.
    harbour
        .store
        .link_up(session, "other", "elsewhere", shared::id::InstanceId::random(), 1000)
        .await
        .unwrap();
    let answer = peer.send(BatchId::random(), &[put("f", b"x", None)], &[b"x"], false).await;
    let FromControlPlane::Refused { failure, retry, .. } = answer else { panic!("{answer:?}") };
    assert_eq!((failure.code.as_str(), retry), ("superseded", false));
    assert!(harbour.store.item(session, &path("f")).await.is_err());
}

#[tokio::test]
async fn a_stream_with_another_links_epoch_is_not_served() {
    let (_harbour, _, linked, _) = start().await;
    let epoch = LinkEpoch(linked.accepted.epoch.0 + 1);
    let hello = Hello {
        epoch,
        base_rev: Revision::ZERO,
        base_digest: digest(&Tree::new()),
        volume: VolumeId::random(),
    };
    let mut stream = linked.dialled.opener.open().await.unwrap();
    frame::write(&mut stream, &Open::Sync(hello)).await.unwrap();
    let answer = tokio::time::timeout(SOON, frame::expect::<_, FromControlPlane>(&mut stream)).await.unwrap();
    assert!(answer.is_err());
}

#[tokio::test]
async fn what_the_engine_says_of_itself_is_kept_and_told() {
    let (harbour, session, linked, link) = start().await;
    let mut events = harbour.agents.events();
    let mut peer = Peer::fresh(linked).await;
    peer.say(FromAgent::State(State::Full)).await;
    assert_eq!(events.recv().await.unwrap(), AgentEvent::Sync { session });
    let problem = Problem { path: "p".repeat(10_000), code: "special_file".into(), message: "a pipe".into() };
    peer.say(FromAgent::Problems { problems: vec![problem], more: 3 }).await;
    until("the problems are known", async || link.sync().status().more_problems == 3).await;
    let status = link.sync().status();
    assert_eq!(status.state, Some(State::Full));
    assert_eq!((status.problems.len(), status.problems[0].path.len()), (1, 4096));
}

#[tokio::test]
async fn a_held_mass_delete_waits_for_a_decision_and_gets_it() {
    let (_harbour, _, linked, link) = start().await;
    let mut peer = Peer::fresh(linked).await;
    assert_eq!(link.sync().decide_mass_delete(true).unwrap_err().code(), "nothing_held");
    peer.say(FromAgent::MassDelete { items: 50, paths: vec![path("src")] }).await;
    until("it is known", async || link.sync().status().mass_delete.is_some()).await;
    link.sync().decide_mass_delete(true).unwrap();
    assert_eq!(peer.told().await, FromControlPlane::MassDeleteDecision { delete: true });
    peer.say(FromAgent::State(State::Live)).await;
    until("nothing is held", async || link.sync().status().mass_delete.is_none()).await;
}

#[tokio::test]
async fn settling_answers_the_agents_revision_and_gives_up_in_time() {
    let (_harbour, _, linked, link) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let asking = tokio::spawn({
        let link = link.clone();
        async move { link.sync().settle(SOON).await }
    });
    let FromControlPlane::Settle { token } = peer.told().await else { panic!() };
    peer.say(FromAgent::Settled { token, rev: Revision(9) }).await;
    assert_eq!(asking.await.unwrap().unwrap(), Revision(9));
    let silent = link.sync().settle(std::time::Duration::from_millis(50)).await;
    assert_eq!(silent.unwrap_err().code(), "agent_timeout");
}
