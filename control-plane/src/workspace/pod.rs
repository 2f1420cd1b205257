//! What becomes of a batch from the pod, path by path. No I/O: the tree and the texts that merges need are loaded
//! before.
//!
//! The agent says what it did and what its base held there (`pre`). Where the database still holds that, the
//! change is applied; where it holds the same result, nothing is left to do; otherwise contents and modes are
//! merged apart, or the database's stays and the pod's bytes become a version.

use self::renames::Arrived;
use super::draft::{Draft, Totals, new_item};
use super::merge::{MERGE_BYTES, merge};
use super::types::PodOp;
use super::{Error, Result};
use bytes::Bytes;
use shared::id::{ItemId, Revision};
use shared::limits::SyncLimits;
use shared::link::Failure;
use shared::link::sync::OpResult;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Item, Kind};
use std::collections::{HashMap, HashSet};

mod renames;

/// The contents that deciding a batch may need: those that both sides' versions of contested texts have, and
/// those they came of. At most 64 texts; the rest are conflicts.
pub(super) fn texts_needed(draft: &Draft, ops: &[PodOp]) -> HashSet<Hash> {
    let mut needed = HashSet::new();
    for op in ops {
        let (place, entry, pre) = match op {
            PodOp::Put { path, entry, pre: Some(pre) } => {
                let place =
                    if draft.get(path).is_some() { Some(path.clone()) } else { draft.moved_from(path) };
                (place, entry, pre)
            }
            PodOp::Rename { from, item, entry, pre: Some(pre), .. } => {
                (item.and_then(|id| draft.find(id)).or_else(|| Some(from.clone())), entry, pre)
            }
            _ => continue,
        };
        let Some(ours) = place.and_then(|place| draft.get(&place)).map(|item| item.entry) else { continue };
        let files = [&ours, entry, pre].iter().all(|e| e.kind == Kind::File && e.size <= MERGE_BYTES);
        if files && !ours.same_content(pre) && !ours.same_content(entry) && needed.len() < 128 {
            needed.extend([ours.hash, pre.hash, entry.hash]);
        }
    }
    needed
}

/// Decides a batch.
pub(super) struct Resolver<'a> {
    draft: &'a mut Draft,
    /// The revision of the agent's base: it knows what was last changed up to there.
    base_rev: Revision,
    arrived: Arrived,
    limits: &'a SyncLimits,
    /// Contents that are stored or come with the batch.
    known: &'a HashSet<Hash>,
    /// Those at hand for merging.
    texts: &'a HashMap<Hash, Bytes>,
    /// What merging made.
    merged: Vec<Bytes>,
}

impl<'a> Resolver<'a> {
    /// Over a draft that holds all that `ops` touch.
    pub(super) fn new(
        draft: &'a mut Draft,
        base_rev: Revision,
        limits: &'a SyncLimits,
        known: &'a HashSet<Hash>,
        texts: &'a HashMap<Hash, Bytes>,
    ) -> Self {
        Self { draft, base_rev, arrived: Arrived::new(), limits, known, texts, merged: Vec::new() }
    }

    /// Each operation's answer, in their order, and the contents that merging made.
    ///
    /// Whatever the order they came in: deletes make room first, the deepest first; then renames, with the new
    /// folders that they go into; then deletes of folders whose contents a rename took away; then what is new or
    /// changed, folders before what they hold.
    pub(super) fn resolve(mut self, ops: &[PodOp]) -> (Vec<OpResult>, Vec<Bytes>) {
        let mut results: Vec<Option<OpResult>> = vec![None; ops.len()];
        let mut order: Vec<usize> = (0..ops.len()).collect();
        order.sort_by(|a, b| ops[*a].path().cmp(ops[*b].path()));

        for index in order.iter().rev() {
            if let PodOp::Delete { path, pre } = &ops[*index] {
                results[*index] = self.delete(path, pre.as_ref());
            }
        }
        self.renames(ops, &mut results, |this, results| {
            // With the modes that the pod gave them, before renames into them make them by the way; also where a
            // file was, which would be in the renames' way.
            for index in &order {
                if let PodOp::Put { path, entry, pre } = &ops[*index]
                    && entry.kind == Kind::Dir
                    && this.draft.get(path).is_none_or(|here| here.entry.kind != Kind::Dir)
                    && this.draft.blocked_by(path).is_none()
                {
                    results[*index] =
                        Some(this.bounded(entry, path, |this| this.put(path, *entry, pre.as_ref())));
                }
            }
        });
        for index in order.iter().rev() {
            if let (PodOp::Delete { path, pre }, None) = (&ops[*index], &results[*index]) {
                results[*index] = self.delete(path, pre.as_ref());
            }
        }
        for index in &order {
            if let (PodOp::Put { path, entry, pre }, None) = (&ops[*index], &results[*index]) {
                results[*index] =
                    Some(self.bounded(entry, path, |this| this.put(path, *entry, pre.as_ref())));
            }
        }
        let answers = results
            .into_iter()
            .zip(ops)
            // A folder that something is still in stays.
            .map(|(result, op)| result.unwrap_or_else(|| self.stays(op.path())))
            .collect();
        (answers, self.merged)
    }

    /// Does `change` unless the limits or a missing content forbid it; a refusal names its reason.
    fn bounded(
        &mut self,
        entry: &Entry,
        path: &WorkspacePath,
        change: impl FnOnce(&mut Self) -> OpResult,
    ) -> OpResult {
        let old = self.draft.get(path).map(|item| item.entry);
        match self.admit(entry, path, old) {
            Ok(()) => change(self),
            Err(error) => OpResult::Refused(Failure::from(&error)),
        }
    }

    /// Whether `entry` may take the place of `old`.
    fn admit(&self, entry: &Entry, path: &WorkspacePath, old: Option<Entry>) -> Result<()> {
        if entry.size > self.limits.file_bytes {
            return Err(Error::FileTooLarge {
                path: path.clone(),
                size: entry.size,
                limit: self.limits.file_bytes,
            });
        }
        if entry.kind != Kind::Dir && !self.known.contains(&entry.hash) {
            return Err(Error::ContentMissing(path.clone()));
        }
        let Totals { items, bytes } = self.draft.totals();
        let grows = entry.size.saturating_sub(old.map_or(0, |old| old.size));
        if grows > 0 && bytes + grows > self.limits.workspace_bytes {
            return Err(Error::WorkspaceFull { limit: self.limits.workspace_bytes });
        }
        if old.is_none() && items + 1 > self.limits.workspace_items {
            return Err(Error::TooManyItems { limit: self.limits.workspace_items });
        }
        Ok(())
    }

    /// None if the folder isn't empty (yet).
    fn delete(&mut self, path: &WorkspacePath, pre: Option<&Entry>) -> Option<OpResult> {
        let Some(item) = self.draft.get(path).copied() else { return Some(OpResult::Applied { item: None }) };
        let unchanged = match (pre, item.entry.kind) {
            (Some(pre), Kind::Dir) => pre.kind == Kind::Dir,
            (Some(pre), _) => *pre == item.entry,
            (None, _) => false,
        };
        if !unchanged {
            // Changed here, deleted there: it comes back.
            return Some(self.stays(path));
        }
        if item.entry.kind == Kind::Dir && self.draft.below(path).next().is_some() {
            return None;
        }
        self.draft.set(path, None);
        Some(OpResult::Applied { item: None })
    }

    fn put(&mut self, path: &WorkspacePath, new: Entry, pre: Option<&Entry>) -> OpResult {
        let Some(here) = self.draft.get(path).copied() else {
            return self.put_where_nothing_is(path, new, pre);
        };
        let arrived = self.known_of_arrived(&here);
        let pre = pre.or(arrived.as_ref());
        if here.entry == new {
            return OpResult::Applied { item: Some(here.id) };
        }
        if pre == Some(&here.entry) {
            return self.replace(path, here, new);
        }
        if here.entry.kind == new.kind {
            return self.reconcile(path, here, new, pre);
        }
        match pre {
            // Only the mode is another than the agent knew.
            Some(pre) if pre.same_content(&here.entry) => self.replace(path, here, new),
            // Only the mode is another than it was; the database's change of type is the greater one.
            Some(pre) if pre.same_content(&new) => self.stays(path),
            _ => self.lose(path, here.id, here.rev, new),
        }
    }

    fn put_where_nothing_is(&mut self, path: &WorkspacePath, new: Entry, pre: Option<&Entry>) -> OpResult {
        if let (Some(pre), Some(place)) = (pre, self.draft.moved_from(path)) {
            // Renamed here, edited there: the edit lands at the new path.
            if let Some(here) = self.draft.get(&place).copied().filter(|here| here.entry.kind == new.kind) {
                if pre.same_content(&here.entry) {
                    self.replace(&place, here, Entry { mode: here.entry.mode, ..new });
                } else {
                    self.reconcile(&place, here, new, Some(pre));
                }
                return self.stays(path);
            }
        }
        if let Some((_, blocker)) = self.draft.blocked_by(path) {
            return self.lose(path, ItemId::random(), blocker.rev, new);
        }
        let item = new_item(new);
        match self.draft.make_parents(path) {
            Ok(()) => {
                self.draft.set(path, Some(item));
                OpResult::Applied { item: Some(item.id) }
            }
            Err(error) => OpResult::Refused(Failure::from(&error)),
        }
    }

    /// The pod's is taken.
    fn replace(&mut self, path: &WorkspacePath, here: Item, new: Entry) -> OpResult {
        if here.entry.kind == new.kind {
            self.draft.set(path, Some(Item { entry: new, ..here }));
            return OpResult::Applied { item: Some(here.id) };
        }
        if here.entry.kind == Kind::Dir && self.draft.below(path).next().is_some() {
            // Something in the folder is new or changed: it stays, and so does the folder.
            return self.lose(path, here.id, here.rev, new);
        }
        let item = new_item(new);
        self.draft.set(path, Some(item));
        OpResult::Applied { item: Some(item.id) }
    }

    /// Both changed it, and it is of the same kind on both sides: content and mode apart.
    fn reconcile(&mut self, path: &WorkspacePath, here: Item, new: Entry, pre: Option<&Entry>) -> OpResult {
        let old = here.entry;
        let mode = match pre {
            Some(pre) if pre.mode == old.mode => new.mode,
            _ => old.mode,
        };
        let unchanged_here = pre.is_some_and(|pre| pre.same_content(&old));
        let unchanged_there = pre.is_some_and(|pre| pre.same_content(&new));
        if old.same_content(&new) || unchanged_there {
            return self.settle(path, here, Entry { mode, ..old }, new);
        }
        if unchanged_here {
            return self.settle(path, here, Entry { mode, ..new }, new);
        }
        match pre.and_then(|pre| self.merge(pre, &old, &new)) {
            Some(bytes) => {
                let merged = Entry::file(mode, bytes.len() as u64, Hash::of(&bytes));
                // One parent is the version that stood; the other is the pod's.
                self.draft.keep_loser(path, here.id, new, here.rev, false);
                self.draft.mark_merged(here.id);
                self.merged.push(bytes);
                self.settle(path, here, merged, new)
            }
            None => {
                if mode != old.mode {
                    self.draft.set(path, Some(Item { entry: Entry { mode, ..old }, ..here }));
                }
                self.lose(path, here.id, here.rev, new)
            }
        }
    }

    fn merge(&self, pre: &Entry, ours: &Entry, theirs: &Entry) -> Option<Bytes> {
        if [pre, ours, theirs].iter().any(|entry| entry.kind != Kind::File) {
            return None;
        }
        let text = |entry: &Entry| self.texts.get(&entry.hash);
        let merged = merge(text(pre)?, text(ours)?, text(theirs)?)?;
        (merged.len() as u64 <= self.limits.file_bytes).then_some(merged)
    }

    /// `result` stands from now on; the pod has `theirs`.
    fn settle(&mut self, path: &WorkspacePath, here: Item, result: Entry, theirs: Entry) -> OpResult {
        if result != here.entry {
            self.draft.set(path, Some(Item { entry: result, ..here }));
        }
        if result == theirs {
            OpResult::Applied { item: Some(here.id) }
        } else {
            OpResult::Superseded { conflict: false, now: Some(result) }
        }
    }

    /// The database's stays, and the pod's bytes go to the history.
    fn lose(&mut self, path: &WorkspacePath, item: ItemId, instead: Revision, new: Entry) -> OpResult {
        if new.kind != Kind::Dir {
            self.draft.keep_loser(path, item, new, instead, true);
        }
        OpResult::Superseded { conflict: true, now: self.draft.get(path).map(|item| item.entry) }
    }

    fn stays(&self, path: &WorkspacePath) -> OpResult {
        OpResult::Superseded { conflict: false, now: self.draft.get(path).map(|item| item.entry) }
    }
}
