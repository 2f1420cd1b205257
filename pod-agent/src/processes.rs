//! Finding and ending all that a shell or command started, however it tried to get away.
//!
//! `kill` on a shell reaches one process; `setsid`, `nohup` and double forks survive it. What something started
//! is found three ways, together: by parentage, by session, and by a variable ([`TAG`]) that it inherited.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The variable that marks whatever a terminal or command starts; its value is that one's id.
pub const TAG: &str = "BERTH_JOB";
/// How long the politely ended may take before they are killed.
pub const POLITENESS: Duration = Duration::from_secs(2);
/// How often to look whether they are gone.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often at most what is left is looked for and killed: a fork bomb outruns one pass, limits on processes
/// hold up the rest.
const PASSES: u32 = 200;

/// Held while something is started: descriptors of a new terminal are marked close-on-exec only after they were
/// opened, and a start in between would inherit them, so that the terminal never ends.
static STARTING: Mutex<()> = Mutex::new(());

/// Waits until nothing else is being started, and keeps it so.
pub fn start_alone() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process, told apart from a later one of the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pid: i32,
    started: u64,
}

#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: i32,
    session: i32,
    started: u64,
    zombie: bool,
}

/// Reads `/proc/<pid>/stat`, whose second field may hold anything, parentheses too.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn all() -> BTreeMap<i32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect()
}

fn is_tagged(pid: i32, tag: &[u8]) -> bool {
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|b| *b == 0).any(|variable| variable == tag))
}

/// Everything alive that `leader` started, itself among it, and all that carries `tag` as its [`TAG`].
///
/// A leader that `ended` is looked for by its session only: its number may be another process' by now, but not
/// while its session lives.
pub fn family(leader: i32, ended: bool, tag: &str) -> Vec<Process> {
    let tag = format!("{TAG}={tag}").into_bytes();
    let all = all();
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    let reused = ended && all.contains_key(&leader);
    let descends = |mut pid: i32| {
        // Bounded: a parent's number may be reused while we look, and make a circle.
        for _ in 0..1000 {
            if pid == leader {
                return true;
            }
            match all.get(&pid) {
                Some(stat) if stat.parent > 1 && stat.parent != pid => pid = stat.parent,
                _ => return false,
            }
        }
        false
    };
    let is_of_it = |pid: i32, stat: &Stat| {
        (stat.session == leader && !reused) || (!ended && descends(pid)) || is_tagged(pid, &tag)
    };
    all.iter()
        .filter(|(pid, stat)| **pid != me && **pid != 1 && !stat.zombie && is_of_it(**pid, stat))
        .map(|(pid, stat)| Process { pid: *pid, started: stat.started })
        .collect()
}

/// [`family`] off the threads that serve terminals: it reads a file or two of every process.
async fn find(leader: i32, ended: bool, tag: &str) -> Vec<Process> {
    let tag = tag.to_owned();
    tokio::task::spawn_blocking(move || family(leader, ended, &tag)).await.unwrap_or_default()
}

fn is_alive(process: &Process) -> bool {
    stat(process.pid).is_some_and(|now| now.started == process.started && !now.zombie)
}

fn signal(processes: &[Process], signal: Signal) {
    for process in processes.iter().filter(|p| is_alive(p)) {
        if let Some(pid) = Pid::from_raw(process.pid) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Ends a family: if `polite`, hangs it up, wakes the stopped so that they notice, and waits [`POLITENESS`]; then
/// kills what is left, newcomers included. Returns when all are gone or no longer ours to end. See [`family`] for
/// `ended`.
pub async fn end(leader: i32, ended: bool, tag: &str, polite: bool) {
    let known = find(leader, ended, tag).await;
    if polite {
        signal(&known, Signal::HUP);
        signal(&known, Signal::CONT);
        let deadline = Instant::now() + POLITENESS;
        while known.iter().any(is_alive) && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    for _ in 0..PASSES {
        let mut left: Vec<Process> = known.iter().copied().filter(is_alive).collect();
        // Once the leader is dead, its number may be another's.
        let leads = known.iter().any(|p| p.pid == leader && is_alive(p));
        left.extend(find(leader, !leads, tag).await);
        left.sort();
        left.dedup();
        if left.is_empty() {
            return;
        }
        signal(&left, Signal::KILL);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tracing::warn!(leader, "some processes could not be ended");
}
