//! From the pod to the database: what changed is looked at, put into batches, and sent.

use super::{Engine, RETRY};
use crate::sync::disk::{Disk, Seen, Stamp};
use shared::batch::{self, BatchError, Encoded, Op};
use shared::chunk::is_large;
use shared::id::{BatchId, Revision};
use shared::link::sync::{Begin, End, FromAgent, Whole};
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
/// How long after a batch of what is gone the next one counts as the same removal.
const REMOVAL: Duration = Duration::from_secs(2);
/// The same if there is more to tell already, however long the database takes.
const REMOVAL_MOST: Duration = Duration::from_secs(60);
/// Bytes of contents from which it is worth going through the base for those that need not travel.
const WORTH_A_SEARCH: u64 = 64 * 1024;

/// One change of a batch.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) path: WorkspacePath,
    /// What is there now.
    pub(super) new: Option<(Entry, Stamp)>,
    /// Where it was before, if it moved.
    pub(super) from: Option<WorkspacePath>,
    /// What the base held there when it was sent.
    pub(super) pre: Option<Entry>,
}

/// What is gone, told in one batch or several.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removal {
    /// The first of them.
    first: BatchId,
    /// Until then the next one may go on with it.
    until: Instant,
}

/// A batch that is sent and not answered.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) batch: BatchId,
    pub(super) sent: Vec<Sent>,
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
        if !self.gone.is_empty() && self.held.is_none() || self.large.is_next_due() {
            return Some(self.burst_over().unwrap_or(self.now));
        }
        // Not before a burst is over.
        self.dirty.next(self.now).map(|at| self.burst_over().map_or(at, |over| at.max(over)))
    }

    /// Sends the next batch, if any is due.
    pub(super) fn push(&mut self) {
        while self.can_push() {
            self.upload_next();
            if !self.push_one() {
                break;
            }
        }
    }

    /// Answers whether to go on at once.
    fn push_one(&mut self) -> bool {
        let now = self.now;
        let Some(limits) = self.link.map(|link| link.limits) else { return false };
        let most = limits.batch_items.min(BATCH_ITEMS);
        // One more content, which is not large, still fits.
        let most_bytes = BATCH_BYTES.min(limits.batch_bytes / 2);
        let due: Vec<_> = self.dirty.due(now).take(2 * BATCH_ITEMS as usize).cloned().collect();
        let mut more = due.len() as u64 == 2 * BATCH_ITEMS;
        let (mut there, mut replaced) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let mut consider = false;
        self.begin_moves();
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
            if self.is_left_out(&path) {
                // The rules came after the mark.
                self.waited.remove(&path);
                continue;
            }
            let known = self.base.tree.get(&path);
            let old = known.map(|known| known.entry);
            // Of what was refused the base knows nothing, and it need not be read again for that.
            let read = self.refused.read(&path).or(known);
            let is_new = |size: &u64| read.is_none_or(|read| read.entry.size != *size);
            if self.disk.size(&path).filter(is_new).is_some_and(|size| size > limits.file_bytes) {
                self.is_too_large(path);
                continue;
            }
            let seen = self.disk.look(&path, read);
            match &seen {
                Seen::Hot => {
                    self.is_hot(path);
                    continue;
                }
                Seen::Problem(code, message) => {
                    self.problem(&path, code, message);
                    self.set_aside(path);
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
                Action::Commit | Action::Contest if self.is_refused(&path, here.as_ref()) => {
                    self.waited.remove(&path);
                }
                Action::Commit | Action::Contest => match seen {
                    Seen::Entry(entry, _) if entry.size > limits.file_bytes => self.is_too_large(path),
                    Seen::Entry(entry, stamp) => {
                        if let Some(above) = self.untold_folder(&path, &there) {
                            self.dirty.insert(above, now);
                            self.dirty.insert(path, now + RETRY);
                            continue;
                        }
                        self.gone.remove(&path);
                        let large = entry.kind == Kind::File && is_large(entry.size);
                        // A large one that the database lacks is uploaded, wherever it was.
                        let may_move = old.is_none() && !(large && self.unknown.contains(&entry.hash));
                        let from = if may_move { self.moved_from(&entry, &stamp) } else { None };
                        if large && from.is_none() && !self.has_content(entry.hash) {
                            self.upload(path, entry, stamp);
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

    /// Whether the database does not take this, or what it would be in.
    pub(super) fn is_refused(&self, path: &WorkspacePath, here: Option<&Entry>) -> bool {
        let no_folder = |above: &WorkspacePath| {
            self.refused.is_at(above) && self.base.entry(above).is_none_or(|known| known.kind != Kind::Dir)
        };
        !self.refused.is_empty()
            && (self.refused.is(path, here) || path.ancestors().any(|above| no_folder(&above)))
    }

    /// A folder above, in whose place the base still knows something else, and which this batch does not tell: to the
    /// database, what is in it would be in no folder.
    fn untold_folder(&self, path: &WorkspacePath, there: &[Sent]) -> Option<WorkspacePath> {
        let is_other =
            |above: &WorkspacePath| self.base.entry(above).is_some_and(|known| known.kind != Kind::Dir);
        let above = path.ancestors().find(is_other)?;
        (!there.iter().any(|sent| sent.path == above)).then_some(above)
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
        self.movable = None;
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
            removal: self.goes_on_removing(batch, &sent),
            full: false,
            last: true,
        };
        let end = End { tar_hash: encoded.tar_hash };
        let paths = sent.iter().flat_map(|sent| sent.from.iter().chain([&sent.path]));
        let asked = paths.filter_map(|path| self.waited.remove(path)).min();
        self.flight = Some(Flight { batch, sent, asked });
        self.base.unsaved = true;
        for message in (Whole { begin, data: encoded.data.into(), end }).into_messages() {
            self.say(FromAgent::Batch(message));
        }
    }

    /// Which batch began to tell as gone what this one goes on with: a tree that a program removes is seen to go bit by
    /// bit, and is more than one batch takes.
    fn goes_on_removing(&mut self, batch: BatchId, sent: &[Sent]) -> Option<BatchId> {
        if sent.iter().all(|sent| sent.new.is_some()) {
            return None;
        }
        let first = self.removal.filter(|before| self.now < before.until).map(|before| before.first);
        let rest = if self.gone.is_empty() { REMOVAL } else { REMOVAL_MOST };
        self.removal = Some(Removal { first: first.unwrap_or(batch), until: self.now + rest });
        first
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

    fn is_too_large(&mut self, path: WorkspacePath) {
        self.problem(&path, "too_large", "the file is larger than this server takes");
        self.set_aside(path);
    }

    /// What is at a path can be sent no more than what is wanted there can be brought: nobody waits for either.
    pub(super) fn set_aside(&mut self, path: WorkspacePath) {
        self.waited.remove(&path);
        let is_wanted = self.wanted.contains_key(&path);
        self.stuck.insert(path);
        if is_wanted {
            self.show();
        }
    }

    /// It changed while it was read. Nobody waits longer for one that keeps doing so, which is listed.
    pub(super) fn is_hot(&mut self, path: WorkspacePath) {
        let pause = self.hot.get(&path).map_or(HOT.0, |pause| (*pause * 2).min(HOT.1));
        self.hot.insert(path.clone(), pause);
        let soon = if pause == HOT.0 { WARM } else { pause };
        if pause > HOT.0 {
            self.waited.remove(&path);
            self.problem(&path, "hot_file", "the file changes while it is read; it is read again");
        }
        self.dirty.insert(path, self.now + soon);
    }
}
