//! From the database to the pod: batches are taken apart, staged, and brought into the workspace as far as that can
//! be, then shown.

use super::answers::frees;
use super::looking::AWAY;
use super::unkept::{NO_ROOM, Unkept};
use super::{Engine, RETRY, Target};
use crate::sync::disk::{Agreed, Applied, Disk, Seen};
use shared::batch::{self, Op};
use shared::chunk::is_large;
use shared::id::{ItemId, Revision};
use shared::limits::SyncLimits;
use shared::link::sync::{FromAgent, State, Whole};
use shared::path::WorkspacePath;
use shared::plan::{Action, decide};
use shared::tree::{Entry, Hash, Kind};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;

/// Items that one batch of the control plane may have: it gathers by its own measure.
const BATCH_ITEMS: u64 = 50_000;
/// Bytes that one may have before compression; it gathers half of that.
const BATCH_BYTES: u64 = 32 << 20;
/// Bytes that no file has.
const FILE_BYTES: u64 = 1 << 40;
/// Hashes asked for in one message.
const NEED_HASHES: usize = 4_000;

impl<D: Disk> Engine<D> {
    pub(super) fn take_batch(&mut self, whole: &Whole) {
        let Some(limits) = self.link.map(|link| link.limits) else { return };
        let begin = &whole.begin;
        let limits = of_control_plane(limits);
        let mut unkept = None;
        let (disk, large) = (&mut self.disk, &mut self.large);
        let ops = batch::decode(&whole.data[..], whole.claims(), &limits, |hash, bytes| {
            // The others may well fit, and what the batch says stands all the same.
            unkept = disk.stage(hash, &bytes).err().or(unkept.take());
            large.came(hash);
            Ok(())
        });
        let ops = match ops {
            Ok(ops) => ops,
            Err(why) => {
                tracing::warn!(%why, "a batch from the control plane cannot be used");
                return self.unlinked();
            }
        };
        if let Some(why) = unkept {
            self.unkept = Some(Unkept::of(&why));
        }
        if begin.full {
            let naming = self.naming.get_or_insert_default();
            naming.extend(ops.iter().map(|op| op.path().clone()));
        }
        for op in ops {
            let (path, target) = match op {
                Op::Put { path, entry, item, .. } => (path, Some(Target { entry, item })),
                Op::Delete { path, .. } => (path, None),
                Op::Rename { from, to, entry, item, .. } => {
                    self.wanted.insert(from, None);
                    (to, Some(Target { entry, item }))
                }
            };
            if is_stale(&self.own, &path, target.as_ref(), begin.target_rev) {
                continue;
            }
            if let Some(sent) = self.base.unsure.remove(&path)
                && sent == target.map(|target| target.entry)
            {
                // The last link's batch was committed: what the pod did since is based on that.
                let agreed = target.map(|Target { entry, item }| Agreed { entry, item, stamp: None });
                self.base.set(&path, agreed);
            }
            self.stuck.remove(&path);
            if let Some(target) = target {
                self.large.named(target.entry.hash);
            }
            self.wanted.insert(path, target);
        }
        if begin.last {
            if let Some(named) = self.naming.take() {
                // What an earlier telling named and could not be brought may be gone since.
                self.wanted.retain(|path, _| named.contains(path));
                let unnamed = self.base.tree.keys().filter(|path| {
                    !named.contains(*path) && !is_stale(&self.own, path, None, begin.target_rev)
                });
                let unnamed: Vec<_> = unnamed.cloned().collect();
                self.wanted.extend(unnamed.into_iter().map(|path| (path, None)));
            }
            self.received = self.received.max(begin.target_rev);
            self.own.retain(|_, (committed, _)| *committed > begin.target_rev);
        }
        if self.naming.is_none() {
            self.apply_wanted();
            if begin.last && !self.caught_up {
                self.caught_up();
            }
        }
    }

    /// Brings what is wanted into the workspace as far as it can be.
    pub(super) fn apply_wanted(&mut self) {
        self.fill_from_workspace();
        // The base may come to know paths that wait to be looked at.
        self.movable = None;
        let mut lacking = HashSet::new();
        let (mut full, mut waits) = (false, false);
        for _ in 0..3 {
            // Folders, then files, then what goes, the deepest first.
            let (mut folders, mut files, mut gone) = (Vec::new(), Vec::new(), Vec::new());
            for (path, target) in &self.wanted {
                match target {
                    Some(target) if target.entry.kind == Kind::Dir => folders.push(path.clone()),
                    Some(_) => files.push(path.clone()),
                    None => gone.push(path.clone()),
                }
            }
            gone.reverse();
            let before = self.wanted.len();
            for path in folders.into_iter().chain(files).chain(gone) {
                match self.bring(&path) {
                    Applied::Done | Applied::Changed => {}
                    Applied::Lacking if self.is_unavailable(&path) => {
                        let message = "its content in the database is damaged: save the file anew, or restore an earlier version";
                        self.problem(&path, "content_damaged", message);
                        self.stuck.insert(path);
                    }
                    Applied::Lacking if self.unkept.is_none() && self.has_room_for(&path) => {
                        let wanted = self.wanted.get(&path).copied().flatten().map(|it| it.entry);
                        if wanted.is_some_and(|entry| self.large.has_come(entry.hash)) {
                            self.unkept = Some(Unkept::lost());
                        }
                        lacking.extend(wanted);
                        waits |= self.unkept.is_some();
                    }
                    applied @ (Applied::Lacking | Applied::NoSpace) => {
                        let unkept = self.unkept.clone().filter(|_| applied == Applied::Lacking);
                        let Unkept { code, message } = unkept.unwrap_or_else(Unkept::no_room);
                        full |= code == NO_ROOM;
                        waits = true;
                        self.problem(&path, code, &message);
                    }
                    Applied::Failed(code, message) => {
                        self.problem(&path, code, &message);
                        self.stuck.insert(path);
                    }
                }
            }
            if self.wanted.is_empty() || self.wanted.len() == before {
                break;
            }
        }
        self.overruled.retain(|path, _| self.wanted.contains_key(path));
        self.retry_at = waits.then(|| self.now + self.retry_after);
        self.enter(match full {
            true => State::Full,
            false if self.caught_up && !waits => State::Live,
            false => State::CatchingUp,
        });
        // Asked for once: what comes of it takes its time, and other batches may come before it.
        let mut is_coming = |entry: &Entry| self.disk.is_staged(entry.hash) || self.large.ask(entry.hash);
        lacking.retain(|entry| !is_coming(entry));
        let lacking: BTreeSet<Hash> = lacking.into_iter().map(|entry| entry.hash).collect();
        let lacking: Vec<Hash> = lacking.into_iter().collect();
        for hashes in lacking.chunks(NEED_HASHES) {
            self.say(FromAgent::Need { hashes: hashes.to_vec() });
        }
        self.show();
    }

    fn is_unavailable(&self, path: &WorkspacePath) -> bool {
        let wanted = self.wanted.get(path).copied().flatten();
        wanted.is_some_and(|target| self.unavailable.contains(&target.entry.hash))
    }

    /// Stages what is wanted, came without its content, and lies somewhere in the workspace: what moved need not
    /// travel. Before anything is applied, since that may take the source away.
    fn fill_from_workspace(&mut self) {
        let files = self.wanted.iter().filter_map(|(path, target)| Some((path, target.as_ref()?.entry)));
        let lacking: HashSet<Hash> = files
            .filter(|(path, entry)| {
                let here = self.base.entry(path).is_some_and(|old| old.same_content(entry));
                entry.kind == Kind::File && !here && !self.disk.is_staged(entry.hash)
            })
            .map(|(_, entry)| entry.hash)
            .collect();
        if lacking.is_empty() {
            return;
        }
        let known = self.base.tree.iter().filter(|(_, known)| lacking.contains(&known.entry.hash));
        let sources: BTreeMap<Hash, WorkspacePath> =
            known.map(|(path, known)| (known.entry.hash, path.clone())).collect();
        for (hash, path) in sources {
            if self.base.entry(&path).is_some_and(|entry| is_large(entry.size)) {
                let _ = self.stage_large(&path, hash);
                continue;
            }
            let mut bytes = Vec::new();
            let read =
                self.disk.read(&path, Kind::File).and_then(|mut content| content.read_to_end(&mut bytes));
            if read.is_ok() && Hash::of(&bytes) == hash {
                // Without room it is lacking, and asked for.
                let _ = self.disk.stage(hash, &bytes);
            }
        }
    }

    /// Brings one wanted path.
    fn bring(&mut self, path: &WorkspacePath) -> Applied {
        let Some(target) = self.wanted.get(path).copied() else { return Applied::Done };
        let wanted = target.map(|target| target.entry);
        if self.away {
            return Applied::Failed(AWAY.0, AWAY.1.to_owned());
        }
        let known = self.base.tree.get(path);
        let old = known.map(|known| known.entry);
        let seen = self.disk.look(path, known);
        let here = match &seen {
            Seen::Nothing => None,
            Seen::Entry(entry, _) => Some(*entry),
            Seen::Hot => {
                self.look_again(path);
                return Applied::Changed;
            }
            Seen::Problem(code, message) => return Applied::Failed(code, message.clone()),
        };
        match decide(wanted.as_ref(), old.as_ref(), here.as_ref()) {
            Action::None | Action::Advance => {
                self.agree(path, &seen);
                Applied::Done
            }
            Action::Apply => {
                let applied = self.disk.apply(path, here.as_ref(), wanted.as_ref());
                match applied {
                    Applied::Done => {
                        if wanted.is_some_and(|entry| entry.kind == Kind::Dir) {
                            self.disk.watch(Some(path));
                            if here.is_none() {
                                // What came into it before the watch.
                                self.scan_folder(Some(path));
                            }
                        }
                        let agreed = target.map(|Target { entry, item }| Agreed {
                            entry,
                            item,
                            stamp: self.disk.stamp(path, &entry),
                        });
                        if frees(old.as_ref(), wanted.as_ref()) {
                            self.room_made();
                        }
                        self.base.set(path, agreed);
                        self.wanted.remove(path);
                        self.cleared(path);
                    }
                    Applied::Changed => self.mark(path.clone(), self.now),
                    _ => {}
                }
                applied
            }
            Action::Commit | Action::Contest if self.is_refused(path, here.as_ref()) => {
                // Nobody waits for it until the pod holds something else.
                self.stuck.insert(path.clone());
                Applied::Changed
            }
            Action::Commit | Action::Contest => {
                self.look_again(path);
                Applied::Changed
            }
        }
    }

    /// The pod holds something else there, which is to be sent first: looked at when that is due anyway, or now.
    /// Nothing was heard of what is below, and to look at that, too, could have this brought again, and so on.
    fn look_again(&mut self, path: &WorkspacePath) {
        self.stuck.remove(path);
        self.dirty.insert_new(path.clone(), self.now);
    }

    /// Database and pod hold the same there.
    pub(super) fn agree(&mut self, path: &WorkspacePath, seen: &Seen) {
        let known = self.base.tree.get(path);
        let agreed = match seen {
            Seen::Entry(entry, stamp) => {
                let told = self.wanted.get(path).copied().flatten().and_then(|target| target.item);
                let kept = known.filter(|known| known.entry.kind == entry.kind).and_then(|known| known.item);
                Some(Agreed { entry: *entry, item: told.or(kept), stamp: Some(*stamp) })
            }
            _ => None,
        };
        if known.is_none() && agreed.as_ref().is_some_and(|agreed| agreed.entry.kind == Kind::Dir) {
            // It was ignored before, perhaps, and not watched.
            self.disk.watch(Some(path));
        }
        if known != agreed.as_ref() {
            self.base.set(path, agreed);
        }
        self.waited.remove(path);
        self.wanted.remove(path);
        self.hot.remove(path);
        self.cleared(path);
    }

    /// Bytes of the smallest file that waits for room.
    pub(super) fn least_wanted(&self) -> u64 {
        let files = self.wanted.values().flatten().filter(|target| target.entry.kind != Kind::Dir);
        files.map(|target| target.entry.size).min().unwrap_or(0)
    }

    /// Tells what the workspace shows, if everything received is in it.
    pub(super) fn show(&mut self) {
        let waiting = self.wanted.keys().any(|path| !self.stuck.contains(path));
        if waiting || self.naming.is_some() {
            return;
        }
        if self.wanted.is_empty() {
            self.retry_after = RETRY;
            if self.received > self.base.rev {
                self.base.rev = self.received;
                self.base.unsaved = true;
            }
            self.disk.clear_stage();
            self.large.forget();
        }
        self.visible = self.received;
        self.say(FromAgent::Visible { rev: self.received });
    }
}

/// What a batch of the control plane's may be. That is more than what it takes: what is stored may be of before its
/// limits were lowered.
pub fn of_control_plane(limits: SyncLimits) -> SyncLimits {
    SyncLimits {
        batch_items: limits.batch_items.max(BATCH_ITEMS),
        batch_bytes: limits.batch_bytes.max(BATCH_BYTES),
        file_bytes: FILE_BYTES,
        ..limits
    }
}

/// Whether news of a path up to `rev` are older than what this link committed there: they were read before, and came
/// after the answer.
fn is_stale(
    own: &BTreeMap<WorkspacePath, (Revision, Option<ItemId>)>,
    path: &WorkspacePath,
    target: Option<&Target>,
    rev: Revision,
) -> bool {
    own.get(path).is_some_and(|(committed, moved)| {
        let same = target.is_none_or(|target| moved.is_none() || target.item == *moved);
        *committed > rev && same
    })
}
