//! A file system in memory, as programs and a power cut see it.

mod disk;

use super::watcher::Watcher;
use bytes::Bytes;
pub use disk::SimDisk;
use rand::Rng;
use rand::rngs::StdRng;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The file system's clock at the simulation's start, in nanoseconds since 1970.
const CLOCK_NS: i64 = 1_700_000_000_000_000_000;
/// How coarsely that clock stamps files.
const TICK_NS: i64 = 4_000_000;
/// States since the last sync that a power cut may go back to.
const STATES: usize = 48;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    File(Bytes),
    Dir,
    Symlink(String),
    /// A FIFO, a socket, a device.
    Special,
}

#[derive(Clone, Debug)]
struct Node {
    ino: u64,
    body: Body,
    /// Of a file's content. Known once, for files may be large.
    hash: Hash,
    mode: u32,
    mtime_ns: i64,
    ctime_ns: i64,
    /// Whether its content would outlast a power cut.
    synced: bool,
}

type Nodes = BTreeMap<WorkspacePath, Node>;

/// The file system.
pub struct Files {
    pub watcher: Watcher,
    pub now: Duration,
    pub clock_offset_ns: i64,
    /// No room: nothing can be staged or stored.
    pub full: bool,
    /// Nothing can be staged, for another reason.
    pub stage_fails: bool,
    pub unreadable: BTreeSet<WorkspacePath>,
    /// Files that change whenever they are read.
    pub hot: BTreeSet<WorkspacePath>,
    /// When a program last changed what is at a path.
    pub touched: BTreeMap<WorkspacePath, Duration>,
    /// All contents that were ever in the workspace.
    pub held: BTreeSet<Hash>,
    /// Contents that the agent took out of the workspace.
    pub displaced: Vec<(WorkspacePath, Hash)>,
    /// Chance in a thousand that a program writes between a look and what follows it.
    pub races: u32,
    pub raced: u64,
    pub base: Option<Vec<u8>>,
    older_base: Option<Vec<u8>>,
    nodes: Nodes,
    outside: Option<Outside>,
    next_ino: u64,
    stage: BTreeMap<Hash, Bytes>,
    states: Vec<Nodes>,
    rng: StdRng,
}

/// What programs keep beside the workspace for a while.
struct Outside {
    was: WorkspacePath,
    nodes: Nodes,
}

/// All that a copy of the volume holds.
pub struct Backup(Nodes, Option<Vec<u8>>);

impl Files {
    pub fn new(origin: Instant, rng: StdRng) -> Self {
        Self {
            watcher: Watcher::new(origin),
            now: Duration::ZERO,
            clock_offset_ns: 0,
            full: false,
            stage_fails: false,
            unreadable: BTreeSet::new(),
            hot: BTreeSet::new(),
            touched: BTreeMap::new(),
            held: BTreeSet::new(),
            displaced: Vec::new(),
            races: 0,
            raced: 0,
            base: None,
            older_base: None,
            nodes: Nodes::new(),
            outside: None,
            next_ino: 1,
            stage: BTreeMap::new(),
            states: Vec::new(),
            rng,
        }
    }

    // --- what anybody sees ---

    pub fn body(&self, path: &WorkspacePath) -> Option<&Body> {
        self.nodes.get(path).map(|node| &node.body)
    }

    pub fn paths(&self) -> Vec<WorkspacePath> {
        self.nodes.keys().cloned().collect()
    }

    pub fn entry(&self, path: &WorkspacePath) -> Option<Entry> {
        self.nodes.get(path).and_then(entry_of)
    }

    /// All that could be kept in step.
    pub fn tree(&self) -> Tree {
        self.nodes.iter().filter_map(|(path, node)| Some((path.clone(), entry_of(node)?))).collect()
    }

    pub fn below(&self, folder: &WorkspacePath) -> Vec<WorkspacePath> {
        self.nodes.keys().filter(|path| path.is_below(folder)).cloned().collect()
    }

    // --- what programs do; each answers whether it could ---

    /// Writes a file in place, making the folders above it.
    pub fn write(&mut self, path: &WorkspacePath, bytes: Bytes, seen: bool) -> bool {
        if !self.make_parents(path) || !matches!(self.body(path), None | Some(Body::File(_))) {
            return false;
        }
        let ino = self.nodes.get(path).map(|node| node.ino);
        let mode = self.nodes.get(path).map_or(0o644, |node| node.mode);
        self.put(path, Body::File(bytes), mode, ino);
        if seen {
            self.watcher.event(&self.parent_ino(path), path, self.now);
        }
        self.program_changed(path)
    }

    /// Writes another file and renames it over, as editors do.
    pub fn replace(&mut self, path: &WorkspacePath, bytes: Bytes) -> bool {
        let Ok(temporary) = WorkspacePath::new(format!("{path}.tmp")) else { return false };
        self.write(&temporary, bytes, true) && (self.rename(&temporary, path) || self.remove(&temporary))
    }

    pub fn make(&mut self, path: &WorkspacePath, body: Body) -> bool {
        if self.nodes.contains_key(path) || !self.make_parents(path) {
            return false;
        }
        let mode = if body == Body::Dir { 0o755 } else { 0o777 };
        self.put(path, body, mode, None);
        self.watcher.event(&self.parent_ino(path), path, self.now);
        self.program_changed(path)
    }

    pub fn remove(&mut self, path: &WorkspacePath) -> bool {
        if !self.nodes.contains_key(path) {
            return false;
        }
        for inner in self.below(path).into_iter().rev() {
            self.take(&inner);
            self.program_changed(&inner);
        }
        self.take(path);
        self.program_changed(path)
    }

    pub fn rename(&mut self, from: &WorkspacePath, to: &WorkspacePath) -> bool {
        let Some(moving) = self.nodes.get(from).cloned() else { return false };
        if from == to || to.is_below(from) || from.is_below(to) || !self.make_parents(to) {
            return false;
        }
        match (self.body(to), &moving.body) {
            (Some(Body::Dir), Body::Dir) if self.below(to).is_empty() => {}
            (Some(Body::Dir), _) | (Some(_), Body::Dir) => return false,
            _ => {}
        }
        let (from_ino, to_ino) = (self.parent_ino(from), self.parent_ino(to));
        if let Some(replaced) = self.nodes.remove(to) {
            self.watcher.gone(replaced.ino);
        }
        let ctime_ns = self.stamped_ns();
        for (path, mut node) in self.take_subtree(from) {
            if let Some(Ok(new)) = path.rebase(from, to) {
                if new == *to {
                    node.ctime_ns = ctime_ns;
                }
                self.touched.insert(new.clone(), self.now);
                self.nodes.insert(new, node);
            }
        }
        self.watcher.left(&from_ino, from, self.now);
        self.watcher.event(&to_ino, to, self.now);
        self.watcher.moved(moving.ino, self.now);
        self.program_changed(from);
        self.program_changed(to)
    }

    /// Moves what is at a path out of the workspace; what was there before is lost.
    pub fn move_out(&mut self, path: &WorkspacePath) -> bool {
        let Some(ino) = self.nodes.get(path).map(|node| node.ino) else { return false };
        let parent = self.parent_ino(path);
        let nodes = self.take_subtree(path);
        self.outside = Some(Outside { was: path.clone(), nodes });
        self.watcher.left(&parent, path, self.now);
        self.watcher.moved(ino, self.now);
        self.program_changed(path)
    }

    /// Moves what was moved out last back to where it was, or to `to`, if nothing is there.
    pub fn move_in(&mut self, to: Option<&WorkspacePath>) -> bool {
        let Some(Outside { was, nodes }) = self.outside.take() else { return false };
        let to = to.unwrap_or(&was);
        if self.nodes.contains_key(to) || !self.make_parents(to) {
            return false;
        }
        let ctime_ns = self.stamped_ns();
        for (path, mut node) in nodes {
            let Some(Ok(new)) = path.rebase(&was, to) else { continue };
            if new == *to {
                node.ctime_ns = ctime_ns;
            }
            self.touched.insert(new.clone(), self.now);
            self.nodes.insert(new, node);
        }
        self.watcher.event(&self.parent_ino(to), to, self.now);
        self.program_changed(to)
    }

    /// Takes a path with all below it, without a word to anybody.
    fn take_subtree(&mut self, path: &WorkspacePath) -> Nodes {
        let mut paths = self.below(path);
        paths.push(path.clone());
        let mut nodes = Nodes::new();
        for path in paths {
            self.touched.insert(path.clone(), self.now);
            nodes.extend(self.nodes.remove_entry(&path));
        }
        nodes
    }

    pub fn chmod(&mut self, path: &WorkspacePath, mode: u32) -> bool {
        let ctime_ns = self.stamped_ns();
        let Some(node) = self.nodes.get_mut(path).filter(|node| !matches!(node.body, Body::Symlink(_)))
        else {
            return false;
        };
        (node.mode, node.ctime_ns) = (mode, ctime_ns);
        self.watcher.event(&self.parent_ino(path), path, self.now);
        self.program_changed(path)
    }

    /// Nobody writes to it any more; up to now somebody did.
    pub fn cools(&mut self, path: &WorkspacePath) {
        self.hot.remove(path);
        self.touched.insert(path.clone(), self.now);
    }

    /// Its mode allows reading from now on.
    pub fn becomes_readable(&mut self, path: &WorkspacePath) {
        self.unreadable.remove(path);
        self.touched.insert(path.clone(), self.now);
    }

    // --- what befalls a disk ---

    /// Somebody removes what the agent keeps beside the workspace until it is in it.
    pub fn empty_stage(&mut self) {
        self.stage.clear();
    }

    /// The power goes: some state since the last sync is left, and files not yet synced may be empty.
    pub fn power_cut(&mut self, rng: &mut StdRng) {
        self.state();
        let state = rng.random_range(0..self.states.len());
        self.nodes = self.states.swap_remove(state);
        for node in self.nodes.values_mut() {
            if let Body::File(bytes) = &mut node.body
                && !node.synced
                && rng.random()
            {
                (*bytes, node.hash) = (Bytes::new(), Hash::of(b""));
                self.held.insert(node.hash);
            }
            node.synced = true;
        }
        if rng.random_ratio(1, 3) {
            self.base = self.older_base.clone();
        }
        self.after_accident();
    }

    pub fn back_up(&self) -> Backup {
        Backup(self.nodes.clone(), self.base.clone())
    }

    pub fn restore(&mut self, backup: Backup) {
        (self.nodes, self.base) = (backup.0, backup.1);
        self.after_accident();
    }

    /// Another, empty volume.
    pub fn wipe(&mut self) {
        self.nodes.clear();
        self.base = None;
        self.after_accident();
    }

    fn after_accident(&mut self) {
        self.states.clear();
        self.outside = None;
        self.older_base = self.base.clone();
        let paths: BTreeSet<_> = self.nodes.keys().chain(self.touched.keys()).cloned().collect();
        self.touched = paths.into_iter().map(|path| (path, self.now)).collect();
        self.unreadable.clear();
        self.hot.clear();
    }

    // --- how it is done ---

    fn now_ns(&self) -> i64 {
        CLOCK_NS + self.now.as_nanos() as i64 + self.clock_offset_ns
    }

    fn stamped_ns(&self) -> i64 {
        self.now_ns() / TICK_NS * TICK_NS
    }

    fn parent_ino(&self, path: &WorkspacePath) -> Option<u64> {
        path.parent().map_or(Some(0), |parent| self.nodes.get(&parent).map(|node| node.ino))
    }

    fn make_parents(&mut self, path: &WorkspacePath) -> bool {
        for folder in path.ancestors() {
            match self.body(&folder) {
                Some(Body::Dir) => {}
                Some(_) => return false,
                None => {
                    self.put(&folder, Body::Dir, 0o755, None);
                    self.watcher.event(&self.parent_ino(&folder), &folder, self.now);
                    self.program_changed(&folder);
                }
            }
        }
        true
    }

    fn put(&mut self, path: &WorkspacePath, body: Body, mode: u32, ino: Option<u64>) {
        let ino = ino.unwrap_or_else(|| {
            self.next_ino += 1;
            self.next_ino
        });
        let ns = self.stamped_ns();
        let hash = match &body {
            Body::File(bytes) => Hash::of(bytes),
            _ => Hash::of(b""),
        };
        if matches!(body, Body::File(_)) {
            self.held.insert(hash);
        }
        let node = Node { ino, body, hash, mode, mtime_ns: ns, ctime_ns: ns, synced: false };
        self.nodes.insert(path.clone(), node);
        self.state();
    }

    fn take(&mut self, path: &WorkspacePath) {
        let parent = self.parent_ino(path);
        if let Some(node) = self.nodes.remove(path) {
            self.watcher.gone(node.ino);
        }
        self.watcher.left(&parent, path, self.now);
        self.state();
    }

    fn program_changed(&mut self, path: &WorkspacePath) -> bool {
        self.touched.insert(path.clone(), self.now);
        self.state();
        true
    }

    fn state(&mut self) {
        if self.states.len() == STATES {
            let lost = self.rng.random_range(1..STATES);
            self.states.swap_remove(lost);
        }
        self.states.push(self.nodes.clone());
    }

    /// A program writes at this very moment, if one does.
    fn race(&mut self, path: &WorkspacePath) {
        if self.races == 0 || !self.rng.random_ratio(self.races, 1_000) {
            return;
        }
        self.raced += 1;
        let text = format!("raced {}\n", self.raced);
        match self.rng.random_range(0..3) {
            0 => drop(self.remove(path)),
            _ => drop(self.write(path, text.into(), true)),
        }
    }
}

fn entry_of(node: &Node) -> Option<Entry> {
    Some(match &node.body {
        Body::File(bytes) => Entry::file(node.mode, bytes.len() as u64, node.hash),
        Body::Dir => Entry::dir(node.mode),
        Body::Symlink(target) => Entry::symlink(target),
        Body::Special => return None,
    })
}
