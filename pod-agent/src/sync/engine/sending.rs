//! From the pod to the database: what changed is looked at, put into batches, sent, and agreed on once committed.

use super::{Engine, RETRY, Target};
use crate::sync::disk::{Agreed, Disk, Seen, Stamp};
use shared::batch::{self, BatchError, Op};
use shared::id::{BatchId, Revision};
use shared::link::Failure;
use shared::link::sync::{Batch, Begin, CHUNK_BYTES, Committed, End, FromAgent, OpResult};
use shared::path::WorkspacePath;
use shared::plan::{Action, decide};
use shared::tree::{Entry, Hash, Kind};
use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// First and longest pause before a file that changed while it was read is read again.
const HOT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// The pause before it is read again for the first time: most files are written for a moment only.
const WARM: Duration = Duration::from_millis(20);
/// Bytes of contents that one batch gathers.
const BATCH_BYTES: u64 = 8 << 20;
/// Items that one batch gathers.
const BATCH_ITEMS: u64 = 1_000;

/// One change of a batch.
#[derive(Debug)]
struct Sent {
    path: WorkspacePath,
    /// What is there now.
    new: Option<(Entry, Stamp)>,
}

/// A batch that is sent and not answered.
#[derive(Debug)]
pub(super) struct Flight {
    batch: BatchId,
    sent: Vec<Sent>,
}

impl Flight {
    /// All paths that it changes.
    pub(super) fn into_paths(self) -> impl Iterator<Item = WorkspacePath> {
        self.sent.into_iter().map(|sent| sent.path)
    }
}

impl<D: Disk> Engine<D> {
    pub(super) fn can_push(&self) -> bool {
        self.link.is_some() && self.caught_up && self.flight.is_none() && self.retry_at.is_none()
    }

    /// When something is to be sent.
    pub(super) fn next_push(&self) -> Option<Instant> {
        if !self.can_push() {
            return None;
        }
        if !self.gone.is_empty() && self.held.is_none() {
            return Some(self.burst_over().unwrap_or(self.now));
        }
        let mut next: Option<Instant> = None;
        for at in self.dirty.values() {
            next = Some(next.map_or(*at, |next| next.min(*at)));
            if *at <= self.now {
                break;
            }
        }
        // Not before a burst is over.
        next.map(|at| self.burst_over().map_or(at, |over| at.max(over)))
    }

    /// Sends the next batch, if any is due.
    pub(super) fn push(&mut self) {
        while self.can_push() && self.push_one() {}
    }

    /// Answers whether to go on at once.
    fn push_one(&mut self) -> bool {
        let now = self.now;
        let Some(limits) = self.link.map(|link| link.limits) else { return false };
        let most = limits.batch_items.min(BATCH_ITEMS);
        let due = self.dirty.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone());
        let due: Vec<_> = due.take(2 * BATCH_ITEMS as usize).collect();
        let mut more = due.len() as u64 == 2 * BATCH_ITEMS;
        let (mut there, mut replaced) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let mut consider = false;
        for path in due {
            if there.len() as u64 >= most || bytes > BATCH_BYTES {
                more = true;
                break;
            }
            self.dirty.remove(&path);
            let known = self.base.tree.get(&path);
            let old = known.map(|known| known.entry);
            let seen = self.disk.look(&path, known);
            match &seen {
                Seen::Hot => {
                    self.is_hot(path);
                    continue;
                }
                Seen::Problem(code, message) => {
                    self.problem(&path, code, message);
                    self.stuck.insert(path);
                    continue;
                }
                Seen::Entry(entry, _) if entry.size > limits.file_bytes => {
                    self.problem(&path, "too_large", "the file is larger than this server takes");
                    self.stuck.insert(path);
                    continue;
                }
                _ => {}
            }
            let here = match &seen {
                Seen::Entry(entry, _) => Some(*entry),
                _ => None,
            };
            let wanted = match self.wanted.get(&path) {
                Some(target) => target.map(|target| target.entry),
                None => old,
            };
            match decide(wanted.as_ref(), old.as_ref(), here.as_ref()) {
                Action::None | Action::Advance => self.agree(&path, &seen),
                Action::Apply => consider = true,
                Action::Commit | Action::Contest if self.refused.get(&path) == Some(&here) => {}
                Action::Commit | Action::Contest => match seen {
                    Seen::Entry(entry, stamp) => {
                        self.hot.remove(&path);
                        self.gone.remove(&path);
                        bytes += entry.size;
                        let sent = Sent { path, new: Some((entry, stamp)) };
                        match old {
                            // Not before all that the folder held is told gone.
                            Some(old) if old.kind == Kind::Dir && entry.kind != Kind::Dir => {
                                replaced.push(sent)
                            }
                            _ => there.push(sent),
                        }
                    }
                    _ => drop(self.gone.insert(path)),
                },
            }
        }
        if consider && !self.wanted.is_empty() && self.retry_at.is_none() {
            self.apply_wanted();
        }
        let mut sent = there;
        if more && sent.is_empty() && replaced.is_empty() {
            return true;
        }
        if more {
            self.dirty.extend(replaced.into_iter().map(|sent| (sent.path, now)));
        } else {
            self.take_gone(&mut sent, most);
            if self.gone.is_empty() || self.held.is_some() {
                sent.extend(replaced);
            } else {
                self.dirty.extend(replaced.into_iter().map(|sent| (sent.path, now)));
            }
        }
        if sent.is_empty() {
            return false;
        }
        self.send(sent);
        false
    }

    /// Adds what is gone, the deepest first, as far as there is room: a folder goes after what was in it, also when
    /// that takes several batches.
    fn take_gone(&mut self, sent: &mut Vec<Sent>, most: u64) {
        if self.held.is_some() {
            return;
        }
        while (sent.len() as u64) < most
            && let Some(path) = self.gone.pop_last()
        {
            // Looked at again: it may have waited for long.
            if self.disk.look(&path, self.base.tree.get(&path)) == Seen::Nothing {
                if self.base.tree.contains_key(&path) {
                    sent.push(Sent { path, new: None });
                }
            } else {
                self.dirty.insert(path, self.now);
            }
        }
    }

    fn send(&mut self, sent: Vec<Sent>) {
        let mut ops = Vec::with_capacity(sent.len());
        let mut places = HashMap::new();
        for Sent { path, new } in &sent {
            let known = self.base.tree.get(path);
            let (path, item, pre) =
                (path.clone(), known.and_then(|known| known.item), known.map(|known| known.entry));
            ops.push(match new {
                Some((entry, _)) => {
                    places.entry(entry.hash).or_insert_with(|| (path.clone(), entry.kind));
                    Op::Put { path, item, entry: *entry, pre }
                }
                None => Op::Delete { path, item, pre },
            });
        }
        let reading: Cell<Option<Hash>> = Cell::new(None);
        let disk = &self.disk;
        let encoded = batch::encode(&ops, |hash| {
            reading.set(Some(hash));
            match places.get(&hash) {
                Some((path, kind)) => disk.read(path, *kind).map(Some),
                None => Ok(None),
            }
        });
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(why) => {
                let now = self.now;
                let culprit = reading.get().and_then(|hash| places.remove(&hash)).map(|(path, _)| path);
                if !matches!(why, BatchError::WrongHash | BatchError::Io(_)) {
                    tracing::warn!(%why, "a batch could not be made");
                }
                self.dirty.extend(sent.into_iter().map(|sent| (sent.path, now)));
                match culprit {
                    Some(path) => self.is_hot(path),
                    None => self.retry_at = Some(now + RETRY),
                }
                return;
            }
        };
        let batch = BatchId::random();
        let begin = Begin {
            batch,
            base_rev: self.base.rev,
            target_rev: Revision::ZERO,
            items: encoded.items,
            bytes: encoded.bytes,
            full: false,
            last: true,
        };
        let end = End { tar_hash: encoded.tar_hash };
        self.flight = Some(Flight { batch, sent });
        if encoded.data.len() <= CHUNK_BYTES {
            return self.say(FromAgent::Batch(Batch::Whole { begin, data: encoded.data.into(), end }));
        }
        self.say(FromAgent::Batch(Batch::Begin(begin)));
        let data = bytes::Bytes::from(encoded.data);
        for at in (0..data.len()).step_by(CHUNK_BYTES) {
            let chunk = data.slice(at..data.len().min(at + CHUNK_BYTES));
            self.say(FromAgent::Batch(Batch::Chunk(chunk)));
        }
        self.say(FromAgent::Batch(Batch::End(end)));
    }

    fn is_hot(&mut self, path: WorkspacePath) {
        let pause = self.hot.get(&path).map_or(HOT.0, |pause| (*pause * 2).min(HOT.1));
        self.hot.insert(path.clone(), pause);
        let soon = if pause == HOT.0 { WARM } else { pause };
        if pause > HOT.0 {
            self.problem(&path, "hot_file", "the file changes while it is read; it is read again");
        }
        self.dirty.insert(path, self.now + soon);
    }

    pub(super) fn committed(&mut self, committed: Committed) {
        let Some(flight) = self.flight.take_if(|flight| flight.batch == committed.batch) else { return };
        self.committed = self.committed.max(committed.rev);
        let mut again = false;
        for (Sent { path, new }, result) in flight.sent.into_iter().zip(committed.results) {
            let agreed = |item| new.map(|(entry, stamp)| Agreed { entry, item, stamp: Some(stamp) });
            match result {
                OpResult::Applied { item } => {
                    self.base.set(&path, agreed(item));
                    self.wanted.remove(&path);
                    self.cleared(&path);
                }
                OpResult::Superseded { now, .. } => {
                    // The pod's state counts as agreed, so that the database's comes over it.
                    self.base.set(&path, agreed(None));
                    let stands = self.wanted.get(&path).map(|target| target.map(|target| target.entry));
                    if stands != Some(now) {
                        // What needs a content comes with the next batch.
                        if now.is_none_or(|now| now.kind == Kind::Dir) {
                            self.wanted.insert(path, now.map(|entry| Target { entry, item: None }));
                        } else {
                            self.wanted.remove(&path);
                        }
                    }
                    again = true;
                }
                OpResult::Refused(failure) => {
                    self.problem(&path, &failure.code, &failure.message);
                    self.stuck.insert(path.clone());
                    self.refused.insert(path, new.map(|(entry, _)| entry));
                }
            }
        }
        if again || !self.wanted.is_empty() {
            self.apply_wanted();
        }
    }

    pub(super) fn batch_refused(&mut self, batch: BatchId, failure: Failure, retry: bool) {
        let Some(flight) = self.flight.take_if(|flight| flight.batch == batch) else { return };
        tracing::info!(code = failure.code, retry, "a batch was refused");
        let now = self.now;
        for Sent { path, new } in flight.sent {
            if !retry {
                self.problem(&path, &failure.code, &failure.message);
                self.refused.insert(path.clone(), new.map(|(entry, _)| entry));
            }
            self.dirty.insert(path, now);
        }
        self.retry_at = Some(now + RETRY);
    }
}
