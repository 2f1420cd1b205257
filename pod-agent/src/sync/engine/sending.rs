//! From the pod to the database: what changed is looked at, put into batches, sent, and agreed on once committed.

use super::{Engine, RETRY, Target};
use crate::sync::disk::{Agreed, Disk, Seen, Stamp};
use shared::batch::{self, BatchError, Encoded, Op};
use shared::chunk::is_large;
use shared::id::{BatchId, Revision};
use shared::link::Failure;
use shared::link::sync::{Batch, Begin, CHUNK_BYTES, CONTENT_MISSING, Committed, End, FromAgent, OpResult};
use shared::path::WorkspacePath;
use shared::plan::{Action, decide};
use shared::tree::{Entry, Hash, Kind};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// First and longest pause before a file that changed while it was read is read again.
const HOT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// The pause before it is read again for the first time: most files are written for a moment only.
const WARM: Duration = Duration::from_millis(20);
/// Bytes of contents that one batch gathers.
const BATCH_BYTES: u64 = 8 << 20;
/// Items that one batch gathers.
const BATCH_ITEMS: u64 = 1_000;
/// Bytes of contents from which it is worth going through the base for those that need not travel.
const WORTH_A_SEARCH: u64 = 64 * 1024;

/// One change of a batch.
#[derive(Debug)]
struct Sent {
    path: WorkspacePath,
    /// What is there now.
    new: Option<(Entry, Stamp)>,
    /// Where it was before, if it moved.
    from: Option<WorkspacePath>,
    /// What the base held there when it was sent.
    pre: Option<Entry>,
}

/// A batch that is sent and not answered.
#[derive(Debug)]
pub(super) struct Flight {
    batch: BatchId,
    sent: Vec<Sent>,
    /// The earliest question that waits for it.
    pub(super) asked: Option<u64>,
}

impl Flight {
    /// All paths that it changes.
    pub(super) fn into_paths(self) -> impl Iterator<Item = WorkspacePath> {
        self.sent.into_iter().flat_map(|sent| sent.from.into_iter().chain([sent.path]))
    }

    /// The same, with what it says is there.
    pub(super) fn changes(&self) -> impl Iterator<Item = (WorkspacePath, Option<Entry>)> {
        self.sent.iter().flat_map(|Sent { path, new, from, .. }| {
            let left = from.clone().map(|from| (from, None));
            left.into_iter().chain([(path.clone(), new.map(|(entry, _)| entry))])
        })
    }
}

impl<D: Disk> Engine<D> {
    pub(super) fn can_push(&self) -> bool {
        self.link.is_some() && self.caught_up && !self.away && self.flight.is_none() && self.push_at.is_none()
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
        // One more content, which is not large, still fits.
        let most_bytes = BATCH_BYTES.min(limits.batch_bytes / 2);
        let due = self.dirty.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone());
        let due: Vec<_> = due.take(2 * BATCH_ITEMS as usize).collect();
        let mut more = due.len() as u64 == 2 * BATCH_ITEMS;
        let (mut there, mut replaced) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let mut consider = false;
        let mut movable = None;
        for path in due {
            if there.len() as u64 >= most || bytes > most_bytes {
                more = true;
                break;
            }
            let was_hot = self.hot.contains_key(&path);
            if was_hot && !there.is_empty() {
                // One that keeps changing goes by itself: it must not spoil a batch of others.
                more = true;
                continue;
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
                    self.waited.remove(&path);
                    self.stuck.insert(path);
                    continue;
                }
                Seen::Entry(entry, _) if entry.size > limits.file_bytes => {
                    self.problem(&path, "too_large", "the file is larger than this server takes");
                    self.waited.remove(&path);
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
                Action::Apply => {
                    self.waited.remove(&path);
                    consider = true;
                }
                Action::Commit | Action::Contest if self.refused.get(&path) == Some(&here) => {
                    self.waited.remove(&path);
                }
                Action::Commit | Action::Contest => match seen {
                    Seen::Entry(entry, stamp) => {
                        self.gone.remove(&path);
                        let large = entry.kind == Kind::File && is_large(entry.size);
                        // A large one that the database lacks is uploaded, wherever it was.
                        let may_move = old.is_none() && !(large && self.unknown.contains(&entry.hash));
                        let from =
                            if may_move { self.moved_from(&entry, &stamp, &mut movable) } else { None };
                        if large && from.is_none() && !self.has_content(entry.hash) {
                            self.upload(path, entry);
                            continue;
                        }
                        bytes += if from.is_some() || large { 0 } else { entry.size };
                        let sent = Sent { path, new: Some((entry, stamp)), from, pre: old };
                        match old {
                            // Not before all that the folder held is told gone.
                            Some(old) if old.kind == Kind::Dir && entry.kind != Kind::Dir => {
                                self.all_below_is_gone(&sent.path);
                                replaced.push(sent);
                            }
                            _ => there.push(sent),
                        }
                        if was_hot && !there.is_empty() {
                            more = true;
                            break;
                        }
                    }
                    _ => {
                        // What is held waits for somebody's decision, and is not waited for.
                        if self.held.is_some() {
                            self.waited.remove(&path);
                        }
                        if old.is_some_and(|old| old.kind == Kind::Dir) {
                            self.all_below_is_gone(&path);
                        }
                        self.gone.insert(path);
                    }
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
                if let Some(pre) = self.base.entry(&path).copied() {
                    sent.push(Sent { path, new: None, from: None, pre: Some(pre) });
                } else {
                    self.waited.remove(&path);
                }
            } else {
                self.dirty.insert(path, self.now);
            }
        }
    }

    /// A folder is none any more. What was in it may have come into the base only since that was noticed.
    fn all_below_is_gone(&mut self, path: &WorkspacePath) {
        let below: Vec<_> = self.base.below(path).cloned().collect();
        self.gone.extend(below);
    }

    /// Where the base knows a file that turned up elsewhere: the same one by its number on the file system and its
    /// content, and gone from there. `movable` is what is looked through, found at the first need.
    fn moved_from(
        &mut self,
        entry: &Entry,
        stamp: &Stamp,
        movable: &mut Option<HashMap<(u64, u64), WorkspacePath>>,
    ) -> Option<WorkspacePath> {
        if entry.kind != Kind::File || self.held.is_some() {
            return None;
        }
        let movable = movable.get_or_insert_with(|| {
            let changed = self.dirty.keys().chain(&self.gone);
            let known = changed.filter_map(|path| Some((path, self.base.tree.get(path)?.stamp?)));
            known.map(|(path, stamp)| ((stamp.dev, stamp.ino), path.clone())).collect()
        });
        let from = movable.remove(&(stamp.dev, stamp.ino))?;
        let known = self.base.tree.get(&from)?;
        let same = known.entry.same_content(entry) && !self.wanted.contains_key(&from);
        if !same || self.disk.look(&from, Some(known)) != Seen::Nothing {
            return None;
        }
        self.dirty.remove(&from);
        self.gone.remove(&from);
        Some(from)
    }

    /// Which of these contents need not travel: the base has them, so the database does.
    fn known_contents(&self, sent: &[Sent]) -> HashSet<Hash> {
        let files = || sent.iter().filter_map(|sent| Some((sent, sent.new?.0)));
        let stays = |(sent, entry): (&Sent, Entry)| {
            let old = self.base.entry(sent.from.as_ref().unwrap_or(&sent.path));
            old.is_some_and(|old| old.same_content(&entry)).then_some(entry.hash)
        };
        let mut known: HashSet<Hash> = files().filter_map(stays).collect();
        let others = || files().map(|(_, entry)| entry).filter(|entry| entry.kind == Kind::File);
        if others().map(|entry| entry.size).sum::<u64>() > WORTH_A_SEARCH {
            let copies: HashSet<Hash> = others().map(|entry| entry.hash).collect();
            let held = self.base.tree.values().map(|known| known.entry.hash);
            known.extend(held.filter(|hash| copies.contains(hash)));
        }
        known.retain(|hash| !self.unknown.contains(hash));
        known.extend(files().map(|(_, entry)| entry.hash).filter(|hash| self.large.is_stored(*hash)));
        known
    }

    /// Whether the database has a content, as far as is known here.
    fn has_content(&self, hash: Hash) -> bool {
        let agreed = || self.base.tree.values().any(|known| known.entry.hash == hash);
        self.large.is_stored(hash) || !self.unknown.contains(&hash) && agreed()
    }

    fn send(&mut self, mut sent: Vec<Sent>) {
        let encoded = loop {
            let (others, changed) = match self.encode(&sent) {
                Ok(encoded) => break encoded,
                Err(Some(changed)) => sent.into_iter().partition(|sent: &Sent| sent.path != changed),
                Err(None) => {
                    let paths = Flight { batch: BatchId::random(), sent, asked: None }.into_paths();
                    self.dirty.extend(paths.map(|path| (path, self.now)));
                    self.push_at = Some(self.now + RETRY);
                    return;
                }
            };
            // It changed since it was looked at, and is looked at again; the others need not wait for it.
            for Sent { path, from, .. } in changed {
                self.dirty.extend(from.map(|from| (from, self.now)));
                self.is_hot(path);
            }
            sent = others;
            if sent.is_empty() {
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
        let paths = sent.iter().flat_map(|sent| sent.from.iter().chain([&sent.path]));
        let asked = paths.filter_map(|path| self.waited.remove(path)).min();
        self.flight = Some(Flight { batch, sent, asked });
        self.base.unsaved = true;
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

    /// Makes a batch. An error names the file that is not what it was when it was looked at, if that is why.
    fn encode(&self, sent: &[Sent]) -> Result<Encoded, Option<WorkspacePath>> {
        let known = self.known_contents(sent);
        let mut ops = Vec::with_capacity(sent.len());
        let mut places = HashMap::new();
        for Sent { path, new, from, .. } in sent {
            let old = self.base.tree.get(from.as_ref().unwrap_or(path));
            let (item, pre) = (old.and_then(|old| old.item), old.map(|old| old.entry));
            let path = path.clone();
            // A folder has no content, though the hash of none.
            let content = new.filter(|(entry, _)| entry.kind != Kind::Dir && !known.contains(&entry.hash));
            if let Some((entry, _)) = content {
                places.entry(entry.hash).or_insert_with(|| (path.clone(), entry.kind));
            }
            ops.push(match (*new, from.clone()) {
                (Some((entry, _)), Some(from)) => Op::Rename { from, to: path, item, entry, pre },
                (Some((entry, _)), None) => Op::Put { path, item, entry, pre },
                (None, _) => Op::Delete { path, item, pre },
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
        encoded.map_err(|why| {
            if !matches!(why, BatchError::WrongHash | BatchError::Io(_)) {
                tracing::warn!(%why, "a batch could not be made");
            }
            reading.get().and_then(|hash| places.remove(&hash)).map(|(path, _)| path)
        })
    }

    pub(super) fn is_hot(&mut self, path: WorkspacePath) {
        self.waited.remove(&path);
        let pause = self.hot.get(&path).map_or(HOT.0, |pause| (*pause * 2).min(HOT.1));
        self.hot.insert(path.clone(), pause);
        let soon = if pause == HOT.0 { WARM } else { pause };
        if pause > HOT.0 {
            self.problem(&path, "hot_file", "the file changes while it is read; it is read again");
        }
        self.dirty.insert(path, self.now + soon);
    }

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
                OpResult::Superseded { now: stands @ Some(_), .. }
                    if pre != stands && self.base.entry(&path) == stands.as_ref() =>
                {
                    // What stands came before the answer and was brought in over what was sent: what the pod holds
                    // by now is news again, on top of that.
                    for path in from.into_iter().chain([path]) {
                        self.again(path, flight.asked);
                    }
                }
                OpResult::Superseded { now: stands, .. } => {
                    // What became of the place that it left is told by what comes.
                    self.dirty.extend(from.map(|from| (from, now)));
                    // The pod's state counts as agreed, so that the database's comes over it.
                    self.base.set(&path, agreed(None));
                    self.overruled.insert(path.clone());
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
                    self.refused.insert(path, new.map(|(entry, _)| entry));
                }
            }
        }
        if again || !self.wanted.is_empty() {
            self.apply_wanted();
        }
    }

    pub(super) fn batch_refused(&mut self, batch: BatchId, failure: Failure, retry: bool) {
        let Some(flight) = self.answered(batch) else { return };
        tracing::info!(code = failure.code, retry, "a batch was refused");
        for Sent { path, new, from, .. } in flight.sent {
            if let Some(from) = from {
                self.again(from, flight.asked);
            }
            if !retry {
                self.problem(&path, &failure.code, &failure.message);
                self.refused.insert(path.clone(), new.map(|(entry, _)| entry));
            }
            self.again(path, flight.asked);
        }
        self.push_at = Some(self.now + RETRY);
    }

    /// What a batch did not settle is looked at again, and whoever waited for the batch waits for that.
    fn again(&mut self, path: WorkspacePath, asked: Option<u64>) {
        if let Some(asked) = asked {
            self.waited.entry(path.clone()).or_insert(asked);
        }
        self.dirty.insert(path, self.now);
    }
}
