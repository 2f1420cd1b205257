//! What the control plane does not take: it is not sent again until it is another, or the time has come to ask again.

use crate::sync::disk::Agreed;
use shared::limits::SyncLimits;
use shared::path::WorkspacePath;
use shared::tree::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// When what was refused is sent again at the earliest, since there may be room by now. Doubles to [`PAUSE_MOST`]
/// while the same is refused again: what does not fit may be a gigabyte.
const PAUSE: Duration = Duration::from_secs(50);
/// The longest pause.
const PAUSE_MOST: Duration = Duration::from_secs(15 * 60);
/// Which part of the pause is left when something went and made room.
const ROOM: u32 = 10;

/// What was refused, by its path.
#[derive(Debug)]
pub(super) struct Refused {
    paths: BTreeMap<WorkspacePath, Option<Agreed>>,
    /// What is sent again, and neither taken nor refused yet.
    asked: BTreeSet<WorkspacePath>,
    again_at: Instant,
    pause: Duration,
    /// The pause if something of what is asked is refused again.
    pause_then: Duration,
    limits: Option<SyncLimits>,
}

impl Refused {
    pub(super) fn new(now: Instant) -> Self {
        let (paths, asked) = (BTreeMap::new(), BTreeSet::new());
        Self { paths, asked, again_at: now, pause: PAUSE, pause_then: PAUSE, limits: None }
    }

    /// This is refused at a path; none if that is that nothing is there.
    pub(super) fn insert(&mut self, path: WorkspacePath, what: Option<Agreed>, now: Instant) {
        let again = self.asked.remove(&path);
        if again {
            self.pause = self.pause_then;
        }
        if again || self.paths.is_empty() {
            self.again_at = now + self.pause;
        }
        self.paths.insert(path, what);
    }

    /// Both sides hold the same there.
    pub(super) fn remove(&mut self, path: &WorkspacePath) {
        self.paths.remove(path);
        self.asked.remove(path);
    }

    /// What was refused there, so that it need not be read again to be known.
    pub(super) fn read(&self, path: &WorkspacePath) -> Option<&Agreed> {
        self.paths.get(path)?.as_ref()
    }

    /// Whether anything was refused there.
    pub(super) fn is_at(&self, path: &WorkspacePath) -> bool {
        self.paths.contains_key(path)
    }

    /// Whether just this was refused there.
    pub(super) fn is(&self, path: &WorkspacePath, here: Option<&Entry>) -> bool {
        self.paths.get(path).is_some_and(|refused| refused.as_ref().map(|refused| &refused.entry) == here)
    }

    /// At how many paths something was refused.
    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether nothing was refused.
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Something went, in the pod or in the database. Answers when to ask again, if that is to be asked sooner now.
    pub(super) fn room_made(&mut self, now: Instant) -> Option<Instant> {
        let soon = now + self.pause / ROOM;
        if self.paths.is_empty() || soon >= self.again_at {
            return None;
        }
        self.again_at = soon;
        Some(soon)
    }

    /// Takes everything, if the time has come to ask again.
    pub(super) fn take_due(&mut self, now: Instant) -> BTreeMap<WorkspacePath, Option<Agreed>> {
        if now < self.again_at {
            return BTreeMap::new();
        }
        (self.pause, self.pause_then) = (PAUSE, (self.pause * 2).min(PAUSE_MOST));
        self.asked = self.paths.keys().cloned().collect();
        std::mem::take(&mut self.paths)
    }

    /// The control plane's limits. Answers whether they are others than before, so that it is asked anew.
    pub(super) fn under(&mut self, limits: SyncLimits, now: Instant) -> bool {
        let others = self.limits.replace(limits).is_some_and(|before| before != limits);
        if others {
            (self.again_at, self.pause) = (now, PAUSE);
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> WorkspacePath {
        WorkspacePath::new(text).unwrap()
    }

    /// How long until something is asked again.
    fn pause(refused: &mut Refused, now: &mut Instant) -> Duration {
        let begun = *now;
        while refused.take_due(*now).is_empty() {
            *now += Duration::from_secs(1);
        }
        *now - begun
    }

    #[test]
    fn only_what_is_refused_again_is_sent_less_and_less_often() {
        let mut now = Instant::now();
        let mut refused = Refused::new(now);
        let mut pauses = Vec::new();
        for at in ["a", "a", "a", "b", "b"] {
            refused.insert(path("new"), None, now);
            refused.insert(path(at), None, now);
            pauses.push(pause(&mut refused, &mut now));
            // It had gone by then.
            refused.remove(&path("new"));
        }
        assert_eq!(pauses, [PAUSE, PAUSE * 2, PAUSE * 4, PAUSE, PAUSE * 2]);
    }
}
