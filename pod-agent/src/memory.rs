//! Ends the session's largest program before the kernel ends the session.
//!
//! In a pod, running out of memory ends every process of the container, shells and agent included. So the agent
//! watches its control group ([`crate::cgroup`]), and shortly before the limit ends the one process that holds most,
//! and says so where it ran. [`Watch`] and [`largest`] decide, without I/O; [`Watching`] carries out.

use crate::cgroup::{Group, Reading};
use crate::events::Events;
use crate::processes::Process;
use crate::reaper;
use crate::terminal::Terminals;
use rustix::process::Signal;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The share of the limit that is kept free, and its bounds in bytes: what a fast program takes between two looks.
const KEPT_FREE: u64 = 20;
const KEPT_FREE_BYTES: (u64, u64) = (16 << 20, 128 << 20);
/// Bytes a second that memory may fill at: huge pages on a fast machine. It says how soon to look again.
const FILLS_AT: u64 = 4 << 30;
/// The shortest and the longest pause between two looks.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How long an ended program may take to give its memory back before another one is ended.
const GIVES_BACK: Duration = Duration::from_secs(2);
/// The share of the limit that programs must hold together. Where it is less, files in memory fill it, and ending
/// programs would help nobody.
const HELD_BY_PROGRAMS: u64 = 4;
/// The pause between two looks while ending programs would help nobody.
const HELPLESS: Duration = Duration::from_millis(100);
/// The events' kinds, for the timeline.
const OOM_KILL: &str = "oom_kill";
const MEMORY_FULL: &str = "memory_full";
/// What is told where no program holds what fills the memory.
const FULL: &str = "the session's memory is full of what no program holds, such as shared segments and files in /dev/shm. \
     Programs that start now are ended by the system. Stop and start the session to have its memory back; files are safe";

/// A program that may be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub process: Process,
    /// Its name, at most 15 bytes. From the session: text only.
    pub name: String,
    /// Bytes that its end gives back.
    pub bytes: u64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until it is looked again after this.
    Look(Duration),
    /// End the largest.
    End,
}

/// Decides when a program must end.
#[derive(Debug, Default)]
pub struct Watch {
    /// When the last one was ended.
    ended: Option<Instant>,
}

/// Bytes kept free of a limit.
fn kept_free(limit: u64) -> u64 {
    (limit / KEPT_FREE).clamp(KEPT_FREE_BYTES.0, KEPT_FREE_BYTES.1).min(limit / 4)
}

/// Bytes that are left before those that are kept free; none where these are in use.
fn left(reading: Reading) -> Option<u64> {
    let threshold = reading.limit - kept_free(reading.limit);
    threshold.checked_sub(reading.used).filter(|left| *left > 0)
}

impl Watch {
    /// What follows from a look at the memory. `going` is whether the last that was ended is not gone yet.
    pub fn step(&self, reading: Reading, going: bool, now: Instant) -> Step {
        if let Some(left) = left(reading) {
            let fills_in = Duration::from_millis(left * 1000 / FILLS_AT);
            return Step::Look(fills_in.clamp(LOOK_EVERY.0, LOOK_EVERY.1));
        }
        let waits = going && self.ended.is_some_and(|ended| now < ended + GIVES_BACK);
        if waits { Step::Look(LOOK_EVERY.0) } else { Step::End }
    }

    /// One was ended.
    pub fn ended(&mut self, now: Instant) {
        self.ended = Some(now);
    }
}

/// The one to end: the largest, and of equals the youngest. None where programs hold too little for it to help.
pub fn largest(candidates: &[Candidate], limit: u64) -> Option<&Candidate> {
    let held: u64 = candidates.iter().map(|c| c.bytes).sum();
    let largest = candidates.iter().max_by_key(|c| (c.bytes, c.process));
    largest.filter(|_| held >= limit / HELD_BY_PROGRAMS)
}

/// The watch, for as long as this lives. On a thread of its own: it must be quick when everything else waits for
/// memory.
#[derive(Debug)]
pub struct Watching {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Watches the group that this agent has to itself, as in a pod. Nothing where it has none, or no limit.
    pub fn own(terminals: &Terminals, events: &Events) -> Option<Self> {
        let group = Group::own()?;
        let limit = group.read()?.limit;
        let me = i32::try_from(std::process::id()).ok()?;
        // Where others are in it, too, such as the server of a local runtime, it is not this session's.
        let ours = |pid: i32| pid == me || (pid == 1 && reaper::is_ours());
        if !group.members().into_iter().all(ours) {
            return None;
        }
        tracing::info!(limit, "memory is watched");
        Some(Self::start(group, terminals.clone(), events.clone()))
    }

    /// Watches a group: every process in it but this one and process 1 may be ended.
    pub fn start(group: Group, terminals: Terminals, events: Events) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("memory".into())
            .spawn(move || watch(&group, &terminals, &events, &stopped));
        if let Err(why) = &thread {
            tracing::warn!(%why, "memory is not watched");
        }
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(group: &Group, terminals: &Terminals, events: &Events, stopped: &mpsc::Receiver<()>) {
    let mut watch = Watch::default();
    let mut last: Option<Process> = None;
    let mut kernel_kills = None;
    let mut told_full = false;
    loop {
        let now = Instant::now();
        let pause = match group.read() {
            None => LOOK_EVERY.1,
            Some(reading) => {
                let known = kernel_kills.replace(reading.kernel_kills).unwrap_or(reading.kernel_kills);
                if reading.kernel_kills > known {
                    events.tell(OOM_KILL, "a program was ended by the system: the session's memory ran out");
                }
                match watch.step(reading, last.is_some_and(|p| p.is_alive()), now) {
                    Step::Look(pause) => {
                        told_full &= left(reading).is_none();
                        pause
                    }
                    Step::End => match end_largest(group, reading, terminals, events) {
                        Some(ended) => {
                            last = Some(ended);
                            watch.ended(now);
                            LOOK_EVERY.0
                        }
                        None => {
                            if !told_full {
                                tracing::warn!(FULL);
                                events.tell(MEMORY_FULL, FULL);
                            }
                            told_full = true;
                            HELPLESS
                        }
                    },
                }
            }
        };
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn end_largest(group: &Group, reading: Reading, terminals: &Terminals, events: &Events) -> Option<Process> {
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    let members = group.members().into_iter().filter(|pid| *pid != me && *pid != 1);
    let candidates: Vec<Candidate> = members.filter_map(candidate).collect();
    let victim = largest(&candidates, reading.limit)?;
    let message = format!(
        "{} was ended: it used {} MB of the session's {} MB; files are safe",
        victim.name,
        victim.bytes >> 20,
        reading.limit >> 20
    );
    // First said, so that it stands above what the shell says of it.
    if let Some(terminal) = terminals.of_process(victim.process.pid()) {
        terminal.say(&message);
    }
    victim.process.signal(Signal::KILL);
    tracing::warn!(message);
    events.tell(OOM_KILL, &message);
    Some(victim.process)
}

fn candidate(pid: i32) -> Option<Candidate> {
    let process = Process::of(pid)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim())
    };
    let kib = |name: &str| line(name).and_then(|v| v.strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0);
    let name: String = line("Name")?.chars().filter(|c| !c.is_control()).collect();
    Some(Candidate { process, name, bytes: (kib("RssAnon") + kib("RssShmem")) * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u64 = 512 << 20;

    fn reading(used: u64) -> Reading {
        Reading { used, limit: LIMIT, kernel_kills: 0 }
    }

    fn program(pid: i32, mib: u64) -> Candidate {
        Candidate {
            process: Process::invented(pid, u64::from(pid.unsigned_abs())),
            name: "x".into(),
            bytes: mib << 20,
        }
    }

    #[test]
    fn it_looks_the_sooner_the_less_is_free_and_ends_one_before_the_limit() {
        let (watch, now) = (Watch::default(), Instant::now());
        assert_eq!(watch.step(reading(100 << 20), false, now), Step::Look(Duration::from_millis(94)));
        assert_eq!(watch.step(reading(480 << 20), false, now), Step::Look(LOOK_EVERY.0));
        assert_eq!(watch.step(reading(488 << 20), false, now), Step::End);
        assert_eq!(watch.step(reading(LIMIT + 1), false, now), Step::End);
    }

    #[test]
    fn one_that_is_ended_has_time_to_give_its_memory_back() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        watch.ended(now);
        assert_eq!(watch.step(reading(LIMIT), true, now + GIVES_BACK / 2), Step::Look(LOOK_EVERY.0));
        assert_eq!(watch.step(reading(LIMIT), true, now + GIVES_BACK), Step::End, "it does not go");
        assert_eq!(watch.step(reading(LIMIT), false, now), Step::End, "it went, and that was not enough");
    }

    #[test]
    fn the_largest_is_ended_unless_files_in_memory_are_what_fills_it() {
        let programs = [program(10, 3), program(11, 300), program(12, 20), program(13, 300)];
        assert_eq!(largest(&programs, LIMIT), Some(&programs[3]));
        assert_eq!(largest(&programs[..1], LIMIT), None);
        assert_eq!(largest(&[], LIMIT), None);
    }

    proptest! {
        #[test]
        fn any_limit_leaves_room_for_programs_and_never_sleeps_through_its_filling(
            limit in 1u64..(1 << 50), used in any::<prop::sample::Index>(),
        ) {
            prop_assert!(kept_free(limit) <= limit / 4);
            let used = used.index(usize::try_from(limit).unwrap()) as u64;
            let step = Watch::default().step(Reading { used, limit, kernel_kills: 0 }, false, Instant::now());
            match step {
                Step::End => prop_assert!(used >= limit - kept_free(limit)),
                Step::Look(pause) => {
                    let filled = used + (FILLS_AT as f64 * pause.as_secs_f64()) as u64;
                    prop_assert!(filled <= limit || pause == LOOK_EVERY.0);
                }
            }
        }
    }
}
