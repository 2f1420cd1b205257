//! Files that turn up elsewhere: the database is told that they moved, and keeps them the same items.

use super::Engine;
use crate::sync::disk::{Disk, Seen, Stamp};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Kind};
use std::collections::HashMap;

/// Where the base knows what may have moved, by its number on the file system; none if that must be gathered anew.
/// What is in it may be out of date, and is looked at before it is believed.
pub(super) type Movable = Option<HashMap<(u64, u64), WorkspacePath>>;

impl<D: Disk> Engine<D> {
    /// A batch begins: gathers what may have moved only if there may be more of it. Otherwise a hundred thousand new
    /// files, of which none moved, would be gone through for each of a hundred batches.
    pub(super) fn begin_moves(&mut self) {
        if self.dirty.take_grown() {
            self.movable = None;
        }
    }

    /// Where the base knows a file that turned up elsewhere: the same one by its number on the file system and its
    /// content, and gone from there.
    pub(super) fn moved_from(&mut self, entry: &Entry, stamp: &Stamp) -> Option<WorkspacePath> {
        if entry.kind != Kind::File || self.held.is_some() {
            return None;
        }
        let movable = self.movable.get_or_insert_with(|| {
            let changed = self.dirty.paths().chain(&self.gone);
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
}
