//! The control plane's end: the real codec, ledger, grouping, draft and resolver, over rows in memory.

use super::super::codec::{self, Encoded};
use super::super::ledger::{Lacking, LeaveOut, Ledger, Own, in_batch, take_group};
use super::super::pull;
use super::large::Transfers;
use crate::workspace::memory::Memory;
use crate::workspace::{Changed, PodBatch, PodOp};
use bytes::Bytes;
use shared::id::{BatchId, ItemId, LinkEpoch, Revision};
use shared::link::Failure;
use shared::link::sync::{
    Assembled, Assembly, Begin, FromAgent, FromControlPlane, Hello, OpResult, Problem, Standing, State, Whole,
};
use shared::path::WorkspacePath;
use shared::tree::{Hash, Kind, digest};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

/// What a stream is to push next; the same steps as the control plane's own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Welcome,
    All { bare: bool },
    Changes,
    Nothing,
}

/// Changes on their way, group by group.
struct Pushing {
    groups: VecDeque<Vec<Changed>>,
    since: Revision,
    target: Revision,
    full: bool,
    bare: bool,
    /// Items that were elsewhere before.
    moved: HashSet<ItemId>,
}

/// One link's sync stream.
struct Stream {
    hello: Hello,
    ledger: Ledger,
    due: Due,
    sent: Revision,
    lacking: Lacking,
    pushing: Option<Pushing>,
    assembly: Assembly,
    transfers: Transfers,
}

/// The control plane, as far as one workspace's sync knows it.
#[derive(Default)]
pub struct Server {
    pub memory: Memory,
    pub database_down: bool,
    /// So many batches of agents, the next ones, are committed, but the database's answer is lost.
    pub lost_answers: u32,
    /// So many batches of agents, the next ones, are refused for good.
    pub refusals: u32,
    /// The last that was: the same batch again is refused again.
    refused: Option<BatchId>,
    /// What the agent last listed.
    pub problems: Vec<Problem>,
    /// Whether a mass delete waits for a decision.
    pub held: bool,
    pub visible: Revision,
    /// The revision at which the whole tree was last told.
    pub told_all_at: Revision,
    /// Questions answered, with their revisions.
    pub settled: Vec<(u64, Revision)>,
    /// Where the pod's own state stands, with the revision that took it.
    pub own: BTreeMap<WorkspacePath, Revision>,
    /// Contents whose commit was answered.
    pub acknowledged: Vec<Hash>,
    /// Batches of agents that were committed.
    pub batches: u64,
    /// Bases that were checked.
    pub checks: u64,
    /// Whether the database was put back to an earlier state: else no base is another than it agreed on.
    pub put_back: bool,
    streams: BTreeMap<LinkEpoch, Stream>,
}

impl Server {
    /// A new link: batches of older ones are refused from now on.
    pub fn link_up(&mut self) -> LinkEpoch {
        self.memory.epoch = LinkEpoch(self.memory.epoch.0 + 1);
        self.memory.epoch
    }

    pub fn begin(&mut self, hello: Hello) {
        let sent = hello.base_rev;
        self.held = false;
        self.streams.insert(
            hello.epoch,
            Stream {
                hello,
                ledger: Ledger::default(),
                due: Due::Welcome,
                sent,
                lacking: Lacking::default(),
                pushing: None,
                assembly: Assembly::default(),
                transfers: Transfers::new(),
            },
        );
    }

    pub fn end(&mut self, epoch: LinkEpoch) {
        self.streams.remove(&epoch);
    }

    /// All streams end with the process; the database stays.
    pub fn restart(&mut self) {
        self.streams.clear();
    }

    /// Wakes streams that a commit may concern.
    pub fn told(&mut self) {
        let rev = self.memory.rev;
        for stream in self.streams.values_mut() {
            if stream.due == Due::Nothing && rev > stream.sent {
                stream.due = Due::Changes;
            }
        }
    }

    /// Whether a stream has something to do.
    pub fn is_due(&self, epoch: LinkEpoch) -> bool {
        self.streams.get(&epoch).is_some_and(|stream| {
            stream.due != Due::Nothing || stream.pushing.is_some() || stream.transfers.download.is_due()
        })
    }

    /// Takes a message of an agent's. An error ends the stream.
    pub fn hear(&mut self, epoch: LinkEpoch, said: FromAgent) -> Result<Vec<FromControlPlane>, String> {
        let Some(stream) = self.streams.get_mut(&epoch) else { return Ok(Vec::new()) };
        match said {
            FromAgent::Batch(part) => {
                match stream.assembly.take(part, &self.memory.limits).map_err(|why| why.to_string())? {
                    Some(assembled) => Ok(vec![self.commit(epoch, assembled)]),
                    None => Ok(Vec::new()),
                }
            }
            FromAgent::Need { hashes } => {
                let (mut changes, large): (VecDeque<Changed>, VecDeque<Changed>) =
                    stream.lacking.needed(hashes).into_iter().partition(in_batch);
                let sent = stream.sent;
                let mut said = Vec::new();
                for change in large {
                    said.extend(stream.transfers.recipe(&mut self.memory, change.item.entry.hash));
                }
                while !changes.is_empty() {
                    let group = take_group(&mut changes);
                    let last = changes.is_empty();
                    let begin = head(sent, sent, false, last);
                    said.extend(self.encoded(group, begin, LeaveOut::Nothing));
                }
                Ok(said)
            }
            FromAgent::Offer(page) => {
                Ok(stream.transfers.offered(&mut self.memory, self.database_down, page))
            }
            FromAgent::Part(data) => Ok(stream.transfers.part(&mut self.memory, self.database_down, data)),
            FromAgent::NeedParts { content, parts } => {
                stream
                    .transfers
                    .download
                    .want(content, &parts)
                    .map_err(|_| "too many parts are asked for")?;
                Ok(Vec::new())
            }
            FromAgent::Visible { rev } => {
                self.visible = self.visible.max(rev);
                Ok(Vec::new())
            }
            FromAgent::Problems { problems, .. } => {
                self.problems = problems;
                Ok(Vec::new())
            }
            FromAgent::Check { rev, digest } => {
                let other = self.holds_other(rev, digest);
                assert!(self.put_back || !other, "the base at {rev} is not what the database holds");
                self.checks += 1;
                if other {
                    Err(format!("the base is not what the database holds at {rev}"))
                } else {
                    Ok(Vec::new())
                }
            }
            FromAgent::State(state) => {
                self.held &= state == State::Held;
                Ok(Vec::new())
            }
            FromAgent::MassDelete { .. } => {
                self.held = true;
                Ok(Vec::new())
            }
            FromAgent::Settled { token, rev } => {
                self.settled.push((token, rev));
                Ok(Vec::new())
            }
        }
    }

    fn commit(&mut self, epoch: LinkEpoch, assembled: Assembled) -> FromControlPlane {
        let whole = match assembled {
            Assembled::Whole(whole) => whole,
            Assembled::TooLarge(batch) => return pull::too_large(batch),
        };
        let batch = whole.begin.batch;
        if self.refusals > 0 && self.refused != Some(batch) {
            self.refusals -= 1;
            self.refused = Some(batch);
        }
        if self.refused == Some(batch) {
            let failure = Failure::new("batch_malformed", "nobody knows why");
            return FromControlPlane::Refused { batch, failure, retry: false };
        }
        let decoded = match codec::decode(&whole, &self.memory.limits) {
            Ok(decoded) => decoded,
            Err(failure) => return FromControlPlane::Refused { batch, failure, retry: false },
        };
        if self.database_down {
            let failure = Failure::new("database_unavailable", "the database is away");
            return FromControlPlane::Refused { batch, failure, retry: true };
        }
        let ops = decoded.ops.clone();
        let pod_batch = PodBatch {
            id: batch,
            epoch,
            base_rev: whole.begin.base_rev,
            removal: whole.begin.removal,
            ops: decoded.ops,
            contents: decoded.contents,
        };
        match self.memory.commit_pod_batch(pod_batch) {
            Ok(committed) => {
                self.batches += 1;
                let lost = self.lost_answers > 0;
                self.lost_answers = self.lost_answers.saturating_sub(1);
                for (op, result) in ops.iter().zip(&committed.results) {
                    if let OpResult::Applied { .. } = result {
                        self.own.insert(op.path().clone(), committed.rev);
                        if let PodOp::Rename { from, .. } = op {
                            self.own.insert(from.clone(), committed.rev);
                        }
                        if let Some(stream) = self.streams.get_mut(&epoch).filter(|_| !lost) {
                            stream.ledger.note(Own::of(op), committed.rev);
                        }
                    }
                    if let (PodOp::Put { entry, .. } | PodOp::Rename { entry, .. }, true) =
                        (op, !matches!(result, OpResult::Refused(_)))
                        && entry.kind != Kind::Dir
                        && !lost
                    {
                        self.acknowledged.push(entry.hash);
                    }
                }
                if lost {
                    let failure =
                        Failure::new("database_unavailable", "whether it was committed is not known");
                    return FromControlPlane::Refused { batch, failure, retry: true };
                }
                FromControlPlane::Committed(committed)
            }
            Err(why) => {
                FromControlPlane::Refused { batch, failure: Failure::from(&why), retry: why.is_transient() }
            }
        }
    }

    /// One step of a stream's pushing.
    pub fn step(&mut self, epoch: LinkEpoch) -> Vec<FromControlPlane> {
        if self.database_down {
            return Vec::new();
        }
        let Some(mut stream) = self.streams.remove(&epoch) else { return Vec::new() };
        let said = self.stream_step(&mut stream);
        self.streams.insert(epoch, stream);
        said
    }

    fn stream_step(&mut self, stream: &mut Stream) -> Vec<FromControlPlane> {
        if let Some(pushing) = &mut stream.pushing {
            let group = pushing.groups.pop_front().unwrap_or_default();
            let last = pushing.groups.is_empty();
            let begin = head(pushing.since, pushing.target, pushing.full, last);
            let leave_out = if pushing.bare { LeaveOut::All } else { LeaveOut::Moved(&pushing.moved) };
            stream.lacking.note(&group, leave_out);
            let said = self.encoded(group, begin, leave_out);
            if last {
                stream.ledger.forget_through(pushing.target);
                stream.sent = pushing.target;
                stream.pushing = None;
            }
            return said;
        }
        match stream.due {
            Due::Welcome => {
                let base = self.judge(&stream.hello);
                let bare = stream.hello.base_rev != Revision::ZERO;
                assert!(
                    self.put_back || base != Standing::Foreign,
                    "the base at {} is none that was agreed on",
                    stream.hello.base_rev
                );
                stream.due = if base == Standing::Current { Due::Changes } else { Due::All { bare } };
                return vec![FromControlPlane::Welcome { rev: self.memory.rev, base }];
            }
            Due::All { bare } => {
                let snapshot = self.memory.snapshot();
                self.told_all_at = snapshot.rev;
                let changes = snapshot.items.into_iter().map(|(path, item)| Changed {
                    path,
                    item,
                    deleted: false,
                    moved_to: None,
                });
                stream.pushing = Some(pushing(changes, Revision::ZERO, snapshot.rev, true, bare));
                stream.lacking.clear();
                stream.due = Due::Changes;
            }
            Due::Changes => match self.memory.changes_since(stream.sent) {
                None => stream.due = Due::All { bare: true },
                Some(_) if self.memory.rev <= stream.sent => stream.due = Due::Nothing,
                Some(changes) => {
                    stream.lacking.forget(&changes);
                    let news = changes.into_iter().filter(|change| !stream.ledger.has(change));
                    stream.pushing = Some(pushing(news, stream.sent, self.memory.rev, false, false));
                }
            },
            // Last of all, as what is long.
            Due::Nothing => return stream.transfers.parts(&self.memory),
        }
        Vec::new()
    }

    /// What an agent's base is worth.
    fn judge(&mut self, hello: &Hello) -> Standing {
        let other_volume = self.memory.see_volume(hello.volume);
        let (rev, base) = (self.memory.rev, hello.base_rev);
        if base == Revision::ZERO {
            if rev > base { Standing::Outdated } else { Standing::Current }
        } else if base > rev || self.holds_other(base, hello.base_digest) {
            Standing::Foreign
        } else if other_volume || self.memory.changes_since(base).is_none() {
            Standing::Outdated
        } else {
            Standing::Current
        }
    }

    /// Whether it is at a revision and holds something else there than a digest tells.
    fn holds_other(&self, rev: Revision, told: Hash) -> bool {
        self.memory.rev == rev && digest(&self.memory.tree()) != told
    }

    fn encoded(
        &self,
        group: Vec<Changed>,
        mut begin: Begin,
        leave_out: LeaveOut<'_>,
    ) -> Vec<FromControlPlane> {
        let mut contents: HashMap<Hash, Bytes> = HashMap::new();
        for change in group.iter().filter(|change| leave_out.travels(change)) {
            let hash = change.item.entry.hash;
            contents.insert(hash, self.memory.contents[&hash].clone());
        }
        let Encoded { items, bytes, data, end } = codec::encode(&group, &contents).unwrap();
        (begin.items, begin.bytes) = (items, bytes);
        Whole { begin, data, end }.into_messages().into_iter().map(FromControlPlane::Batch).collect()
    }
}

fn head(base_rev: Revision, target_rev: Revision, full: bool, last: bool) -> Begin {
    Begin { batch: BatchId::random(), base_rev, target_rev, items: 0, bytes: 0, removal: None, full, last }
}

fn pushing(
    changes: impl Iterator<Item = Changed>,
    since: Revision,
    target: Revision,
    full: bool,
    bare: bool,
) -> Pushing {
    let mut changes: VecDeque<_> = changes.collect();
    let moved = changes.iter().filter_map(|change| change.moved_to).collect();
    let mut groups = VecDeque::new();
    loop {
        // The last one goes also when it is empty: it tells the revision.
        groups.push_back(take_group(&mut changes));
        if changes.is_empty() {
            return Pushing { groups, since, target, full, bare, moved };
        }
    }
}

/// How long a stream may take to its next step.
pub const STEP: Duration = Duration::from_millis(20);
