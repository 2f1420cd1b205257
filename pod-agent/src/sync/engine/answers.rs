//! What became of what was sent: agreed on, overruled by the database, refused, or to be looked at again.

use super::sending::{Flight, Sent};
use super::{Engine, RETRY, Target};
use crate::sync::disk::{Agreed, Disk};
use shared::id::BatchId;
use shared::link::Failure;
use shared::link::sync::{CONTENT_MISSING, Committed, OpResult};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Kind};

/// Whether something is less than it was.
pub(super) fn frees(old: Option<&Entry>, new: Option<&Entry>) -> bool {
    old.is_some_and(|old| new.is_none_or(|new| new.size < old.size))
}

impl<D: Disk> Engine<D> {
    /// The batch in flight, if this is the one that is answered.
    fn answered(&mut self, batch: BatchId) -> Option<Flight> {
        let flight = self.flight.take_if(|flight| flight.batch == batch)?;
        if !self.base.unsure.is_empty() {
            for (path, _) in flight.changes() {
                self.base.unsure.remove(&path);
            }
        }
        Some(flight)
    }

    pub(super) fn committed(&mut self, committed: Committed) {
        let Some(flight) = self.answered(committed.batch) else { return };
        self.committed = self.committed.max(committed.rev);
        let now = self.now;
        let mut again = false;
        for (Sent { path, new, from, pre }, result) in flight.sent.into_iter().zip(committed.results) {
            let agreed = |item| new.map(|(entry, stamp)| Agreed { entry, item, stamp: Some(stamp) });
            match result {
                OpResult::Applied { item } => {
                    // A batch that was read before the commit may still be on its way.
                    let newer = committed.rev > self.received;
                    if let Some(from) = from {
                        let moved = self.base.tree.get(&from).and_then(|known| known.item);
                        self.base.set(&from, None);
                        self.again(from.clone(), flight.asked);
                        // Another item that the database has there by now stays wanted.
                        let target = self.wanted.get(&from).copied().flatten();
                        if target.is_none_or(|target| moved.is_some() && target.item == moved) {
                            self.wanted.remove(&from);
                        }
                        if let (true, Some(moved)) = (newer, moved) {
                            self.own.insert(from, (committed.rev, Some(moved)));
                        }
                    }
                    self.hot.remove(&path);
                    if frees(pre.as_ref(), new.map(|(entry, _)| entry).as_ref()) {
                        self.room_made();
                    }
                    self.base.set(&path, agreed(item));
                    if new.is_none() {
                        // It may be back; while the base held it, that was no news.
                        self.again(path.clone(), flight.asked);
                    }
                    new.inspect(|(entry, _)| self.large.let_go(entry.hash));
                    self.wanted.remove(&path);
                    self.cleared(&path);
                    self.own.extend(newer.then_some((path, (committed.rev, None))));
                }
                OpResult::Superseded { now: stands, .. } => {
                    if self.base.entry(&path) == pre.as_ref() {
                        // The pod's state counts as agreed, so that the database's comes over it. What became of
                        // the place that it left is told by what comes.
                        self.dirty.extend(from.map(|from| (from, now)));
                        let before =
                            self.base.tree.get(&path).or(self.overruled.get(&path).and_then(Option::as_ref));
                        let still = before.filter(|before| Some(before.entry) == stands).cloned();
                        self.base.set(&path, agreed(None));
                        self.overruled.insert(path.clone(), still);
                    } else {
                        // Something came before the answer, and was brought in over what was sent: what the pod
                        // holds by now is based on that.
                        for path in from.into_iter().chain([path.clone()]) {
                            self.again(path, flight.asked);
                        }
                    }
                    let wanted = self.wanted.get(&path).map(|target| target.map(|target| target.entry));
                    if wanted != Some(stands) {
                        // What needs a content comes with the next batch.
                        if stands.is_none_or(|stands| stands.kind == Kind::Dir) {
                            self.wanted.insert(path, stands.map(|entry| Target { entry, item: None }));
                        } else {
                            self.wanted.remove(&path);
                        }
                    }
                    again = true;
                }
                OpResult::Refused(failure) if failure.code == CONTENT_MISSING => {
                    let missing = new.map(|(entry, _)| entry.hash);
                    self.unknown.extend(missing);
                    missing.inspect(|hash| self.large.let_go(*hash));
                    for path in from.into_iter().chain([path]) {
                        self.again(path, flight.asked);
                    }
                }
                OpResult::Refused(failure) => {
                    self.dirty.extend(from.map(|from| (from, now)));
                    self.problem(&path, &failure.code, &failure.message);
                    self.stuck.insert(path.clone());
                    self.refused.insert(path, agreed(None), now);
                }
            }
        }
        if again || !self.wanted.is_empty() {
            self.apply_wanted();
        }
    }

    pub(super) fn batch_refused(&mut self, batch: BatchId, failure: Failure, retry: bool) {
        tracing::info!(code = failure.code, retry, "a batch was refused");
        if retry && self.flight.as_ref().is_some_and(|flight| flight.batch == batch) {
            // Perhaps it was committed all the same, and only the answer was lost on its way from the database: a new
            // stream tells.
            return self.unlinked();
        }
        let Some(flight) = self.answered(batch) else { return };
        for Sent { path, new, from, .. } in flight.sent {
            if let Some(from) = from {
                self.again(from, flight.asked);
            }
            self.problem(&path, &failure.code, &failure.message);
            let refused = new.map(|(entry, stamp)| Agreed { entry, item: None, stamp: Some(stamp) });
            self.refused.insert(path.clone(), refused, self.now);
            self.again(path, flight.asked);
        }
        self.push_at = Some(self.now + RETRY);
    }

    /// What was refused may have room now.
    pub(super) fn room_made(&mut self) {
        if let Some(at) = self.refused.room_made(self.now) {
            self.sweep_at = self.sweep_at.min(at);
        }
    }

    /// What a batch did not settle is looked at again, and whoever waited for the batch waits for that.
    fn again(&mut self, path: WorkspacePath, asked: Option<u64>) {
        if let Some(asked) = asked {
            self.waited.entry(path.clone()).or_insert(asked);
        }
        self.dirty.insert(path, self.now);
    }
}
