//! A watcher that loses: events are dropped, come late, or overflow; and watches run out.

use pod_agent::sync::disk::Taken;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shared::path::WorkspacePath;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// When a mark is due after its event.
const DUE: Duration = Duration::from_millis(3);
/// The same for an event that comes late.
const LATE: Duration = Duration::from_millis(700);

/// Chances in a thousand of what may befall an event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    pub dropped: u32,
    pub late: u32,
    pub overflow: u32,
}

/// Which folders are watched, and what is marked.
pub struct Watcher {
    pub losses: Losses,
    /// So many folders can be watched.
    pub most: usize,
    /// What happened to events: dropped, late, overflows.
    pub lost: [u64; 3],
    /// By inode, as the kernel does it, with the path that it had when it was last watched.
    folders: BTreeMap<u64, Option<WorkspacePath>>,
    marks: BTreeMap<WorkspacePath, Instant>,
    all: bool,
    blind: bool,
    origin: Instant,
    rng: StdRng,
}

impl Watcher {
    pub fn new(origin: Instant) -> Self {
        Self {
            losses: Losses::default(),
            most: usize::MAX,
            lost: [0; 3],
            folders: BTreeMap::new(),
            marks: BTreeMap::new(),
            all: false,
            blind: false,
            origin,
            rng: StdRng::seed_from_u64(0),
        }
    }

    pub fn seed(&mut self, seed: u64) {
        self.rng = StdRng::seed_from_u64(seed);
    }

    /// Begins anew, with an agent.
    pub fn start(&mut self) {
        self.folders.clear();
        self.marks.clear();
        (self.all, self.blind) = (false, false);
    }

    pub fn watch(&mut self, ino: u64, path: Option<&WorkspacePath>) {
        if self.folders.len() >= self.most && !self.folders.contains_key(&ino) {
            self.blind = true;
        } else {
            self.folders.insert(ino, path.cloned());
        }
    }

    /// A folder is gone, and its watch with it.
    pub fn gone(&mut self, ino: u64) {
        self.folders.remove(&ino);
    }

    /// Something happened to a name in the folder `ino`.
    pub fn event(&mut self, ino: &Option<u64>, path: &WorkspacePath, now: Duration) {
        let Some(folder) = ino.and_then(|ino| self.folders.get(&ino)) else { return };
        let named = match folder {
            Some(folder) => folder.join(path.name()),
            None => WorkspacePath::new(path.name()),
        };
        let Ok(named) = named else { return };
        let chance = self.rng.random_range(0..1_000);
        let Losses { dropped, late, overflow } = self.losses;
        let mut wait = DUE;
        if chance < dropped {
            self.lost[0] += 1;
            return;
        } else if chance < dropped + late {
            self.lost[1] += 1;
            wait = LATE;
        } else if chance < dropped + late + overflow {
            self.lost[2] += 1;
            self.all = true;
            return;
        }
        self.marks.insert(named, self.origin + now + wait);
    }

    pub fn is_blind(&self) -> bool {
        self.blind
    }

    pub fn next(&self) -> Option<Instant> {
        if self.all { Some(self.origin) } else { self.marks.values().min().copied() }
    }

    pub fn is_unmarked(&self) -> bool {
        !self.all && self.marks.is_empty()
    }

    pub fn take(&mut self, now: Instant) -> Taken {
        if std::mem::take(&mut self.all) {
            self.marks.clear();
            return Taken { all: true, ..Taken::default() };
        }
        let due: Vec<_> =
            self.marks.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone()).collect();
        self.marks.retain(|_, at| *at > now);
        Taken { paths: due, all: false }
    }
}
