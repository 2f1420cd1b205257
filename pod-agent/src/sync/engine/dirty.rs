//! Paths that are to be looked at, each with the time from which on.

use shared::path::WorkspacePath;
use std::collections::BTreeMap;
use std::time::Instant;

/// Paths whose looks are due, or will be.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    due: BTreeMap<WorkspacePath, Instant>,
    grew: bool,
}

impl Dirty {
    /// Looks at a path from then on, whatever was said of it before.
    pub(super) fn insert(&mut self, path: WorkspacePath, due: Instant) {
        self.grew |= self.due.insert(path, due).is_none();
    }

    /// The same for many.
    pub(super) fn extend(&mut self, paths: impl IntoIterator<Item = (WorkspacePath, Instant)>) {
        for (path, due) in paths {
            self.insert(path, due);
        }
    }

    /// Looks at a path from then on, if nothing was said of it before.
    pub(super) fn insert_new(&mut self, path: WorkspacePath, due: Instant) {
        if !self.contains(&path) {
            self.insert(path, due);
        }
    }

    /// It need not be looked at any more.
    pub(super) fn remove(&mut self, path: &WorkspacePath) {
        self.due.remove(path);
    }

    /// Whether it is to be looked at.
    pub(super) fn contains(&self, path: &WorkspacePath) -> bool {
        self.due.contains_key(path)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// All paths, in order.
    pub(super) fn paths(&self) -> impl Iterator<Item = &WorkspacePath> {
        self.due.keys()
    }

    /// Those that are due, in order.
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = &WorkspacePath> {
        self.due.iter().filter(move |(_, at)| **at <= now).map(|(path, _)| path)
    }

    /// When the first is due. Any time before `now` is as good as another.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for at in self.due.values() {
            next = Some(next.map_or(*at, |next| next.min(*at)));
            if *at <= now {
                break;
            }
        }
        next
    }

    /// Whether paths were added since this was last asked.
    pub(super) fn take_grown(&mut self) -> bool {
        std::mem::take(&mut self.grew)
    }
}
