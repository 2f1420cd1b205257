//! What users, programs and fate do, one thing after another.

use super::files::{Backup, Body};
use super::watcher::Losses;
use super::world::World;
use crate::workspace::{Op, Origin, Precondition, VersionOp};
use bytes::Bytes;
use rand::Rng;
use rand::seq::IndexedRandom;
use shared::chunk::{LARGE_BYTES, is_large};
use shared::limits::SyncLimits;
use shared::link::sync::FromControlPlane;
use shared::path::WorkspacePath;
use shared::tree::{Hash, Kind};
use std::time::Duration;

/// Names of files and folders alike, so that they meet.
const NAMES: &[&str] = &["a", "b", "c", "d.txt", "e"];

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub users: bool,
    pub programs: bool,
    /// Faults of the link, the watcher, the database, the disk; all but accidents that take data back.
    pub faults: bool,
    /// Power cuts, kills, other volumes, damaged bases.
    pub accidents: bool,
    pub actions: u32,
    /// The longest pause between two actions.
    pub pause: Duration,
    /// Whether some of the files are so large that they go in parts.
    pub large: bool,
}

impl Plan {
    pub fn draw(world: &mut World) -> Self {
        let rng = &mut world.rng;
        let sides = rng.random_range(0..4);
        Self {
            users: sides != 0,
            programs: sides != 1,
            faults: rng.random_ratio(3, 4),
            accidents: rng.random(),
            actions: rng.random_range(5..50),
            pause: Duration::from_millis(*[5, 100, 1_500, 4_000].choose(rng).unwrap_or(&100)),
            large: rng.random_ratio(1, 8),
        }
    }

    /// Whether only one side works and nothing takes its work back: then there is nothing to be in conflict with.
    pub fn is_one_sided(&self) -> bool {
        self.users != self.programs && !self.accidents
    }

    /// Whether nothing is in the way of what happens: then both sides meet at once, and nothing waits for a sweep.
    pub fn is_undisturbed(&self) -> bool {
        !self.faults && !self.accidents
    }
}

/// The texts that are written: each is new, and most are an edit of what stands there.
struct Words<'a>(&'a mut World);

impl Words<'_> {
    fn some(&mut self, plan: &Plan, old: Option<&Bytes>) -> Bytes {
        if plan.large && self.0.rng.random_ratio(1, 3) {
            return self.large(old);
        }
        self.text(old.filter(|old| !is_large(old.len() as u64)))
    }

    /// A large content: of parts that nobody has, or of those that stand there but for a few.
    fn large(&mut self, old: Option<&Bytes>) -> Bytes {
        self.0.count("large contents written");
        let n = self.0.counts.get("large contents written").copied().unwrap_or_default();
        let rng = &mut self.0.rng;
        let mut bytes = match old.filter(|old| is_large(old.len() as u64) && rng.random_ratio(2, 3)) {
            Some(old) => old.to_vec(),
            None => {
                let mut bytes = vec![0; LARGE_BYTES as usize + rng.random_range(1..400_000)];
                rng.fill(&mut bytes[..]);
                bytes
            }
        };
        let at = rng.random_range(0..LARGE_BYTES as usize - 100);
        let word = format!("large {n} ");
        if rng.random() {
            bytes[at..at + word.len()].copy_from_slice(word.as_bytes());
        } else {
            bytes.splice(at..at, word.into_bytes());
        }
        bytes.into()
    }

    fn text(&mut self, old: Option<&Bytes>) -> Bytes {
        self.0.count("contents written");
        let n = self.0.counts.get("contents written").copied().unwrap_or_default();
        let rng = &mut self.0.rng;
        if rng.random_ratio(1, 80) {
            let mut large = vec![0; 150_000];
            rng.fill(&mut large[..]);
            return large.into();
        }
        if rng.random_ratio(1, 10) {
            return Bytes::from_static(b"the same everywhere\n");
        }
        let old = old.and_then(|old| std::str::from_utf8(old).ok()).unwrap_or("1\n2\n3\n4\n5\n6\n");
        let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
        let at = rng.random_range(0..=lines.len().min(8));
        match lines.get_mut(at) {
            Some(line) => *line = format!("word {n}"),
            None => lines.push(format!("word {n}")),
        }
        format!("{}\n", lines.join("\n")).into()
    }
}

fn some_path(world: &mut World) -> WorkspacePath {
    let depth = *[1, 1, 1, 2, 2, 3].choose(&mut world.rng).unwrap_or(&1);
    let mut parts: Vec<&str> = (0..depth).map(|_| *NAMES.choose(&mut world.rng).unwrap_or(&"a")).collect();
    if world.rng.random_ratio(1, 30) {
        parts.insert(0, "node_modules");
    }
    WorkspacePath::new(parts.join("/")).unwrap()
}

fn pod_path(world: &mut World) -> WorkspacePath {
    let paths = world.files.borrow().paths();
    match paths.choose(&mut world.rng) {
        Some(path) if world.rng.random_ratio(3, 4) => path.clone(),
        _ => some_path(world),
    }
}

fn database_path(world: &mut World) -> WorkspacePath {
    let tree = world.server.memory.tree();
    let paths: Vec<_> = tree.keys().cloned().collect();
    match paths.choose(&mut world.rng) {
        Some(path) if world.rng.random_ratio(3, 4) => path.clone(),
        _ => some_path(world),
    }
}

/// One thing happens.
pub fn act(world: &mut World, plan: &Plan, backup: &mut Option<Backup>) {
    let mut choices = Vec::new();
    if plan.users {
        choices.extend([0; 6]);
    }
    if plan.programs {
        choices.extend([1; 8]);
    }
    if plan.faults {
        choices.extend([2; 3]);
    }
    if plan.accidents {
        choices.push(3);
    }
    match choices.choose(&mut world.rng) {
        Some(0) => user(world, plan),
        Some(1) => program(world, plan),
        Some(2) => fault(world, plan),
        _ => accident(world, backup),
    }
}

fn user(world: &mut World, plan: &Plan) {
    if world.server.database_down {
        return;
    }
    let path = database_path(world);
    let precondition = Precondition::Any;
    let stands = world.server.memory.item(&path);
    let mut origin = Origin::Editor;
    let op = match world.rng.random_range(0..20) {
        0..9 => {
            let old = stands.and_then(|item| world.server.memory.contents.get(&item.entry.hash).cloned());
            let bytes = Words(world).some(plan, old.as_ref());
            let precondition = stands.map_or(Precondition::NotExists, |item| Precondition::Rev(item.rev));
            Op::Write { path, bytes, mode: None, precondition }
        }
        9 => Op::Mkdir { path, mode: None },
        10..13 => Op::Move { from: path, to: some_path(world), overwrite: world.rng.random(), precondition },
        13..16 => Op::Delete { path, precondition },
        16 => Op::Chmod { path, mode: if world.rng.random() { 0o755 } else { 0o600 } },
        17 => Op::Symlink {
            path,
            target: (*["a", "b/c", "../up", "/etc"].choose(&mut world.rng).unwrap()).into(),
        },
        18 => {
            // Back to an older version.
            let files =
                world.server.memory.versions.iter().filter(|version| version.entry.kind == Kind::File);
            let old: Vec<_> = files.cloned().collect();
            let Some(old) = old.choose(&mut world.rng) else { return };
            origin = Origin::Restore;
            let bytes = world.server.memory.contents[&old.entry.hash].clone();
            Op::Write { path: old.path.clone(), bytes, mode: Some(old.entry.mode), precondition }
        }
        _ => return ask(world),
    };
    let before = world.server.memory.rev;
    if world.server.memory.batch(std::slice::from_ref(&op), origin).is_ok() {
        world.note(|| format!("user: {}", told(&op)));
        world.count("changes by users");
        if let Op::Write { bytes, .. } = &op {
            world.server.acknowledged.push(Hash::of(bytes));
        }
        world.committed(before);
    }
}

/// A user waits until everything written in the pod is committed, or decides about a mass delete.
fn ask(world: &mut World) {
    if world.server.held {
        let delete = world.rng.random();
        world.note(|| format!("user: the held mass delete is decided, delete {delete}"));
        world.count("mass deletes decided");
        world.server_says(vec![FromControlPlane::MassDeleteDecision { delete }]);
    } else if world.is_linked() {
        world.count("questions");
        let token = world.counts["questions"];
        world.note(|| format!("user: settle, question {token}"));
        world.server_says(vec![FromControlPlane::Settle { token }]);
    }
}

fn program(world: &mut World, plan: &Plan) {
    let path = pod_path(world);
    let old = match world.files.borrow().body(&path) {
        Some(Body::File(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    let what = world.rng.random_range(0..28);
    let (done, did) = match what {
        0..7 => {
            let bytes = Words(world).some(plan, old.as_ref());
            (world.files.borrow_mut().write(&path, bytes, true), "wrote")
        }
        7..10 => {
            let bytes = Words(world).some(plan, old.as_ref());
            (world.files.borrow_mut().replace(&path, bytes), "replaced")
        }
        10 => {
            let bytes = Words(world).some(plan, old.as_ref());
            let seen = old.is_none() || plan.is_undisturbed();
            (world.files.borrow_mut().write(&path, bytes, seen), "wrote through a map")
        }
        11..15 => (world.files.borrow_mut().remove(&path), "removed"),
        15..19 => {
            let to = some_path(world);
            world.note(|| format!("  to {to:?}"));
            (world.files.borrow_mut().rename(&path, &to), "renamed")
        }
        19 => {
            let mode = if world.rng.random() { 0o755 } else { 0o640 };
            (world.files.borrow_mut().chmod(&path, mode), "changed the mode of")
        }
        20 => (world.files.borrow_mut().make(&path, Body::Dir), "made the folder"),
        21 => {
            let target =
                (*["a", "b/c", "../../out", "/etc/passwd"].choose(&mut world.rng).unwrap()).to_owned();
            (world.files.borrow_mut().make(&path, Body::Symlink(target)), "linked")
        }
        22 => (world.files.borrow_mut().make(&path, Body::Special), "made the FIFO"),
        23 | 24 => (world.files.borrow_mut().move_out(&path), "moved out"),
        25 | 26 => {
            let elsewhere = world.rng.random_ratio(1, 3).then_some(&path);
            (world.files.borrow_mut().move_in(elsewhere), "moved in, to where it was or to")
        }
        // Another type at the same path.
        _ => {
            let body = if old.is_some() { Body::Dir } else { Body::File(Words(world).some(plan, None)) };
            let mut files = world.files.borrow_mut();
            (files.remove(&path) && files.make(&path, body), "changed the type of")
        }
    };
    if done {
        world.note(|| format!("program: {did} {path:?}"));
        world.count("changes by programs");
    }
}

/// What happens to machines and networks, and loses nothing.
fn fault(world: &mut World, plan: &Plan) {
    match world.rng.random_range(0..21) {
        0..4 => {
            world.count("links cut");
            world.cut();
        }
        4 => {
            world.count("control plane restarts");
            world.restart_server();
        }
        // Without room its last state could not be written.
        5 if !world.files.borrow().full => {
            world.count("agents ended properly");
            let pause = Duration::from_millis(world.rng.random_range(0..3_000));
            // What is unsaved of the base is saved, so that nobody's own work is strange to them.
            world.stop_agent(true, pause);
        }
        6 if world.rng.random() => {
            world.count("commits of which the answer is lost");
            world.server.lost_answers = 1;
        }
        6 => {
            world.count("database outages");
            world.server.database_down = !world.server.database_down;
        }
        7 => {
            world.count("volumes full");
            let mut files = world.files.borrow_mut();
            files.full = !files.full;
        }
        8 if plan.programs => {
            world.count("files unreadable");
            let path = pod_path(world);
            let mut files = world.files.borrow_mut();
            if !files.unreadable.insert(path.clone()) {
                files.becomes_readable(&path);
            }
        }
        9 if plan.programs => {
            world.count("files hot");
            let path = pod_path(world);
            let mut files = world.files.borrow_mut();
            if !files.hot.insert(path.clone()) {
                files.cools(&path);
            }
        }
        10 | 11 => {
            world.count("watchers turned lossy");
            let (dropped, late, overflow) = (
                world.rng.random_range(0..300),
                world.rng.random_range(0..300),
                world.rng.random_range(0..100),
            );
            world.files.borrow_mut().watcher.losses = Losses { dropped, late, overflow };
        }
        12 => {
            world.count("watches ran out");
            let most = world.rng.random_range(1..4);
            world.files.borrow_mut().watcher.most = most;
        }
        13 => {
            world.count("clock steps");
            let hours = world.rng.random_range(-48..=48);
            world.files.borrow_mut().clock_offset_ns = hours * 3_600_000_000_000;
        }
        14 => {
            world.count("links repeating messages");
            world.repeats = 200;
        }
        15 if plan.programs => {
            world.count("programs racing the agent");
            world.files.borrow_mut().races = 100;
        }
        17 => {
            world.count("limits changed");
            let usual = SyncLimits::default();
            world.server.memory.limits = match world.rng.random_range(0..4) {
                0 => SyncLimits { file_bytes: 100_000, ..usual },
                1 => SyncLimits { workspace_bytes: 300_000, ..usual },
                2 => SyncLimits { workspace_items: 6, ..usual },
                _ => usual,
            };
            world.restart_server();
        }
        16 => {
            world.count("batches refused");
            world.server.refusals += 1;
        }
        19 => {
            world.count("agents' own folders unwritable");
            let mut files = world.files.borrow_mut();
            files.stage_fails = !files.stage_fails;
        }
        20 => {
            world.count("agents' own folders emptied");
            world.files.borrow_mut().empty_stage();
        }
        _ => {
            world.count("tombstones pruned");
            world.server.memory.prune();
        }
    }
}

/// What takes back what was there.
fn accident(world: &mut World, backup: &mut Option<Backup>) {
    let pause = Duration::from_millis(world.rng.random_range(0..5_000));
    match world.rng.random_range(0..8) {
        0..2 => {
            world.count("agents killed");
            world.stop_agent(false, pause);
        }
        2..4 => {
            world.count("power cuts");
            world.note(|| "the power is cut".to_owned());
            world.stop_agent(false, pause);
            let mut rng = world.rng.clone();
            world.files.borrow_mut().power_cut(&mut rng);
        }
        4 => {
            world.count("bases damaged");
            world.note(|| "the base is damaged".to_owned());
            world.stop_agent(false, pause);
            let at = world.rng.random_range(0..1_000);
            let mut files = world.files.borrow_mut();
            match &mut files.base {
                Some(base) if !base.is_empty() && at > 100 => {
                    let at = at % base.len();
                    base[at] ^= 0x10;
                }
                base => *base = None,
            }
        }
        5 => {
            world.count("volumes replaced");
            world.note(|| "the volume is replaced by an empty one".to_owned());
            world.stop_agent(false, pause);
            world.files.borrow_mut().wipe();
            world.volume = shared::id::VolumeId(uuid::Uuid::from_u128(world.rng.random()));
        }
        6 => {
            world.count("backups taken");
            *backup = Some(world.files.borrow().back_up());
        }
        _ => {
            let Some(backup) = backup.take() else { return };
            world.count("backups put back");
            world.note(|| "a backup of the volume is put back".to_owned());
            world.stop_agent(false, pause);
            world.files.borrow_mut().restore(backup);
        }
    }
}

/// All faults are over.
pub fn heal(world: &mut World) {
    world.note(|| "all faults are over".to_owned());
    world.server.database_down = false;
    world.server.refusals = 0;
    world.server.lost_answers = 0;
    // They may stay: then what they do not allow stays listed.
    if world.server.memory.limits != SyncLimits::default() && world.rng.random() {
        world.server.memory.limits = SyncLimits::default();
        world.restart_server();
    }
    world.repeats = 0;
    {
        let mut files = world.files.borrow_mut();
        files.full = false;
        files.stage_fails = false;
        files.races = 0;
        for path in files.unreadable.clone() {
            files.becomes_readable(&path);
        }
        for path in files.hot.clone() {
            files.cools(&path);
        }
        files.watcher.losses = Losses::default();
        files.watcher.most = usize::MAX;
    }
    world.start_now();
}

/// A user who sees a held mass delete decides.
pub fn decide(world: &mut World) {
    if world.server.held {
        ask(world);
    }
}

fn told(op: &Op) -> String {
    match op {
        Op::Write { path, bytes, .. } => format!("saves {path:?}, {:?}", Hash::of(bytes)),
        other => format!("{other:?}"),
    }
}

/// Counts what the history tells of how changes met.
pub fn count_meetings(world: &mut World) {
    let losers = world.server.memory.versions.iter().filter(|version| version.op == VersionOp::Loser);
    let (open, merged): (Vec<_>, Vec<_>) = losers.partition(|version| version.open_conflict);
    let (open, merged) = (open.len() as u64, merged.len() as u64);
    *world.counts.entry("conflicts kept in the history").or_default() += open;
    *world.counts.entry("clean merges").or_default() += merged;
}
