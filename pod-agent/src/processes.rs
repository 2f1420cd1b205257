//! Finding and ending all that a shell or command started, however it tried to get away.
//!
//! `kill` on a shell reaches one process; `setsid`, `nohup` and double forks survive it. What something started
//! is found three ways, together: by parentage, by session, and by a variable that it inherited, such as [`TAG`].
//! The local runtime ends whole agents with the same.

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

impl Process {
    /// The process that has this number now, unless it is a zombie.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid).filter(|stat| !stat.zombie)?;
        Some(Self { pid, started: stat.started })
    }

    #[cfg(test)]
    pub(crate) fn invented(pid: i32, started: u64) -> Self {
        Self { pid, started }
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it still runs; a zombie doesn't.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|now| now.started == self.started && !now.zombie)
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_alive()) {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: i32,
    session: i32,
    started: u64,
    /// Clock ticks of processor, its ended children's included.
    ticks: u64,
    zombie: bool,
}

/// Reads `/proc/<pid>/stat`, whose second field may hold anything, parentheses too.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        ticks: fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum(),
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

/// All that run, zombies aside.
pub fn running() -> Vec<Process> {
    let running = all().into_iter().filter(|(_, stat)| !stat.zombie);
    running.map(|(pid, stat)| Process { pid, started: stat.started }).collect()
}

/// Clock ticks of processor that a process and all below it have used.
pub fn ticks_below(leader: i32) -> u64 {
    let all = all();
    let descends = |mut pid: i32| {
        // Bounded, as a parent's number may be reused while we look.
        for _ in 0..1000 {
            if pid == leader {
                return true;
            }
            match all.get(&pid) {
                Some(stat) if stat.parent > 0 && stat.parent != pid => pid = stat.parent,
                _ => return false,
            }
        }
        false
    };
    all.iter().filter(|(pid, _)| descends(**pid)).map(|(_, stat)| stat.ticks).sum()
}

/// The number of a process' session, which is that of the process that leads it.
pub fn session(pid: i32) -> Option<i32> {
    stat(pid).map(|stat| stat.session)
}

/// The value of a variable in the environment that a process was started with.
pub fn variable(pid: i32, name: &str) -> Option<String> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value =
        environ.split(|b| *b == 0).find_map(|v| v.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

/// What belongs together because one process started it.
#[derive(Clone, Copy, Debug)]
pub struct Family<'a> {
    /// The number of the process from which all descend, and whose session is theirs.
    pub leader: Option<i32>,
    /// Whether that one ended: then its number may be another process' by now, but not while its session lives.
    pub ended: bool,
    /// The name and the value of a variable that all inherit.
    pub variable: (&'a str, &'a str),
}

impl<'a> Family<'a> {
    /// What a terminal's shell or a command started, marked by its [`TAG`].
    pub fn of_job(leader: i32, ended: bool, tag: &'a str) -> Self {
        Self { leader: Some(leader), ended, variable: (TAG, tag) }
    }

    /// Everything alive that belongs to it, the leader among it; never this process, nor process 1.
    pub fn members(&self) -> Vec<Process> {
        let all = all();
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        let reused = self.ended && self.leader.is_some_and(|leader| all.contains_key(&leader));
        let descends = |mut pid: i32| {
            // Bounded: a parent's number may be reused while we look, and make a circle.
            for _ in 0..1000 {
                if self.leader == Some(pid) {
                    return true;
                }
                match all.get(&pid) {
                    Some(stat) if stat.parent > 1 && stat.parent != pid => pid = stat.parent,
                    _ => return false,
                }
            }
            false
        };
        let (name, value) = self.variable;
        let is_of_it = |pid: i32, stat: &Stat| {
            (self.leader == Some(stat.session) && !reused)
                || (!self.ended && descends(pid))
                || variable(pid, name).as_deref() == Some(value)
        };
        all.iter()
            .filter(|(pid, stat)| **pid != me && **pid != 1 && !stat.zombie && is_of_it(**pid, stat))
            .map(|(pid, stat)| Process { pid: *pid, started: stat.started })
            .collect()
    }

    /// [`Self::members`] off the threads that serve terminals: it reads a file or two of every process.
    pub async fn find(&self) -> Vec<Process> {
        let (leader, ended) = (self.leader, self.ended);
        let (name, value) = (self.variable.0.to_owned(), self.variable.1.to_owned());
        let find = move || Family { leader, ended, variable: (&name, &value) }.members();
        tokio::task::spawn_blocking(find).await.unwrap_or_default()
    }

    /// Kills `known` and whatever else belongs to it, newcomers included. Answers whether all are gone; some may be
    /// no longer ours to end.
    pub async fn kill(&self, known: &[Process]) -> bool {
        for _ in 0..PASSES {
            let mut left: Vec<Process> = known.iter().copied().filter(Process::is_alive).collect();
            // Once the leader is dead, its number may be another's.
            let leads = known.iter().any(|p| Some(p.pid) == self.leader && p.is_alive());
            left.extend(Family { ended: !leads, ..*self }.find().await);
            left.sort();
            left.dedup();
            if left.is_empty() {
                return true;
            }
            left.iter().for_each(|process| process.signal(Signal::KILL));
            tokio::time::sleep(LOOK_EVERY).await;
        }
        false
    }
}

/// Waits until none of these runs, at most so long.
pub async fn wait_until_gone(processes: &[Process], patience: Duration) {
    let deadline = Instant::now() + patience;
    while processes.iter().any(Process::is_alive) && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Ends a family: if `polite`, hangs it up, wakes the stopped so that they notice, and waits [`POLITENESS`]; then
/// kills what is left. Returns when all are gone or no longer ours to end.
pub async fn end(family: Family<'_>, polite: bool) {
    let known = family.find().await;
    if polite {
        for signal in [Signal::HUP, Signal::CONT] {
            known.iter().for_each(|process| process.signal(signal));
        }
        wait_until_gone(&known, POLITENESS).await;
    }
    if !family.kill(&known).await {
        tracing::warn!(leader = family.leader, "some processes could not be ended");
    }
}
