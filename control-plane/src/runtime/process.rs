//! Processes of this machine, found in `/proc` and ended with all they started.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How often to look whether ended processes are gone.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Rounds of killing what is left and what came anew: a fork bomb outruns one, hardly any outruns all.
const KILL_ROUNDS: u32 = 200;

/// A process, told apart from a later one of the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    /// Its number.
    pub pid: i32,
    started: u64,
}

#[derive(Clone, Copy)]
struct Stat {
    parent: i32,
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
        started: fields.get(19)?.parse().ok()?,
    })
}

fn all() -> BTreeMap<i32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .filter(|(_, stat)| !stat.zombie)
        .collect()
}

/// A process's arguments.
fn arguments(pid: i32) -> Vec<Vec<u8>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

/// The state folder that a process serves as an agent, if it is one: told by its arguments, which hold also
/// where its environment may not be read.
fn agent_of(pid: i32) -> Option<Vec<u8>> {
    let arguments = arguments(pid);
    if arguments.get(1).map(Vec::as_slice) != Some(b"agent") {
        return None;
    }
    let at = arguments.iter().position(|argument| argument == b"--state")?;
    arguments.get(at + 1).cloned()
}

/// Every agent that runs on this machine, with the state folder it serves.
pub(super) fn agents() -> Vec<(Process, Vec<u8>)> {
    all()
        .into_iter()
        .filter_map(|(pid, stat)| Some((Process { pid, started: stat.started }, agent_of(pid)?)))
        .collect()
}

/// The agent that serves `state`, if it runs.
pub(super) fn agent(state: &Path) -> Option<Process> {
    use std::os::unix::ffi::OsStrExt;
    agents()
        .into_iter()
        .find(|(_, serves)| serves == state.as_os_str().as_bytes())
        .map(|(process, _)| process)
}

fn carries(pid: i32, variable: &[u8]) -> bool {
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|found| found == variable))
}

/// What `leader` started, itself among it, and all that carries `variable` in its environment, however it was
/// orphaned.
pub(super) fn family(leader: Option<Process>, variable: &str) -> Vec<Process> {
    let all = all();
    let me = std::process::id() as i32;
    let descends = |mut pid: i32| {
        // Bounded: a parent's number may be reused while we look, and make a circle.
        for _ in 0..1000 {
            if leader.is_some_and(|leader| leader.pid == pid) {
                return true;
            }
            match all.get(&pid) {
                Some(stat) if stat.parent > 1 && stat.parent != pid => pid = stat.parent,
                _ => return false,
            }
        }
        false
    };
    all.iter()
        .filter(|(pid, _)| **pid != me && **pid != 1)
        .filter(|(pid, _)| descends(**pid) || carries(**pid, variable.as_bytes()))
        .map(|(pid, stat)| Process { pid: *pid, started: stat.started })
        .collect()
}

impl Process {
    /// Whether it still runs; a zombie doesn't.
    pub(super) fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|now| now.started == self.started && !now.zombie)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_alive()) {
            // It may have ended just now, which is what is wanted.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Ends `leader` politely within `grace`, then kills whatever is left of its family. Answers whether all are gone.
pub(super) async fn end(leader: Option<Process>, variable: &str, grace: Duration) -> bool {
    let known = family(leader, variable);
    if let Some(leader) = leader {
        leader.signal(Signal::TERM);
        let deadline = Instant::now() + grace;
        while leader.is_alive() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    for _ in 0..KILL_ROUNDS {
        let mut left: Vec<Process> = known.iter().copied().filter(Process::is_alive).collect();
        left.extend(family(leader.filter(Process::is_alive), variable));
        left.sort_unstable();
        left.dedup();
        if left.is_empty() {
            return true;
        }
        for process in &left {
            process.signal(Signal::KILL);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    false
}
