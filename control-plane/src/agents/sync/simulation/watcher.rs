//! A watcher that loses: events are dropped, come late, or overflow; and watches run out. It knows what it watches
//! as the library over inotify does: by inode, under the path that a folder had when it was watched last, and forgets
//! a path, and all below it, once it hears that it went from its folder. What moves is told by its own name alone.

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
    /// What the kernel watches, by inode, with the path under which it was last watched.
    folders: BTreeMap<u64, Option<WorkspacePath>>,
    /// Which inode was last watched under a path.
    watched: BTreeMap<WorkspacePath, u64>,
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
            watched: BTreeMap::new(),
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
        self.watched.clear();
        self.marks.clear();
        (self.all, self.blind) = (false, false);
    }

    pub fn watch(&mut self, ino: u64, path: Option<&WorkspacePath>) {
        if self.folders.len() >= self.most && !self.folders.contains_key(&ino) {
            self.blind = true;
        } else {
            self.folders.insert(ino, path.cloned());
            self.watched.extend(path.map(|path| (path.clone(), ino)));
        }
    }

    /// A folder is gone, and its watch with it.
    pub fn gone(&mut self, ino: u64) {
        self.folders.remove(&ino);
    }

    /// Something came to a name in the folder `ino`, or happened to what is there.
    pub fn event(&mut self, ino: &Option<u64>, path: &WorkspacePath, now: Duration) {
        if let Some(named) = self.named(ino, path) {
            self.mark(named, now);
        }
    }

    /// What was at a name in the folder `ino` is gone from there, or moved.
    pub fn left(&mut self, ino: &Option<u64>, path: &WorkspacePath, now: Duration) {
        let Some(named) = self.named(ino, path) else { return };
        if !self.mark(named.clone(), now) {
            return;
        }
        if let Some(ino) = self.watched.remove(&named) {
            self.folders.remove(&ino);
            self.folders.retain(|_, path| path.as_ref().is_none_or(|path| !path.is_below(&named)));
            self.watched.retain(|path, _| !path.is_below(&named));
        }
    }

    /// The folder `ino` itself was moved, whoever watches what is above it.
    pub fn moved(&mut self, ino: u64, now: Duration) {
        if let Some(Some(path)) = self.folders.get(&ino).cloned() {
            self.mark(path, now);
        }
    }

    fn named(&self, ino: &Option<u64>, path: &WorkspacePath) -> Option<WorkspacePath> {
        match ino.and_then(|ino| self.folders.get(&ino))? {
            Some(folder) => folder.join(path.name()),
            None => WorkspacePath::new(path.name()),
        }
        .ok()
    }

    /// Answers whether the event arrives, be it late.
    fn mark(&mut self, named: WorkspacePath, now: Duration) -> bool {
        let chance = self.rng.random_range(0..1_000);
        let Losses { dropped, late, overflow } = self.losses;
        let mut wait = DUE;
        if chance < dropped {
            self.lost[0] += 1;
            return false;
        } else if chance < dropped + late {
            self.lost[1] += 1;
            wait = LATE;
        } else if chance < dropped + late + overflow {
            self.lost[2] += 1;
            self.all = true;
            return false;
        }
        self.marks.insert(named, self.origin + now + wait);
        true
    }

    pub fn is_blind(&self) -> bool {
        self.blind
    }

    pub fn next(&self) -> Option<Instant> {
        if self.all { Some(self.origin) } else { self.marks.values().min().copied() }
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
