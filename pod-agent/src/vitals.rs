//! What the session uses: memory, processor, processes.

use crate::cgroup::Group;
use crate::processes;
use crate::terminal::Terminals;
use shared::link::hello::Vitals;
use std::fs;

/// Where a container of its own counts what it used of the processor.
const CPU_STAT: &str = "/sys/fs/cgroup/cpu.stat";

/// Reads the session's vitals off the threads that serve terminals: some are in many small files.
pub async fn read(terminals: &Terminals) -> Vitals {
    let output_bytes = terminals.output_bytes();
    let read = tokio::task::spawn_blocking(measure).await.unwrap_or_default();
    Vitals { output_bytes, ..read }
}

/// Memory from the pod's cgroup where there is one with a limit, else the agent's alone.
fn measure() -> Vitals {
    let agent_rss = resident().unwrap_or_default();
    let group = Group::own().and_then(|group| group.read());
    let (memory, limit) = group.map_or((agent_rss, 0), |group| (group.used, group.limit));
    let processes = number("/sys/fs/cgroup/pids.current").filter(|_| in_own_cgroup()).unwrap_or_default();
    Vitals {
        agent_rss,
        memory,
        memory_limit: limit,
        cpu_ms: cpu_ms().unwrap_or_default(),
        output_bytes: 0,
        processes: u32::try_from(processes).unwrap_or(u32::MAX),
    }
}

/// Whether the cgroup seen at the root is the session's own, as in a pod, rather than the machine's.
fn in_own_cgroup() -> bool {
    fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| text.trim() == "0::/")
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// What the container used, if this is one of its own; else what the agent and all below it did.
fn cpu_ms() -> Option<u64> {
    let counted = || {
        let text = fs::read_to_string(CPU_STAT).ok().filter(|_| in_own_cgroup())?;
        text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse::<u64>().ok())
    };
    if let Some(us) = counted() {
        return Some(us / 1000);
    }
    let me = i32::try_from(std::process::id()).ok()?;
    Some(processes::ticks_below(me) * 1000 / rustix::param::clock_ticks_per_second().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_at_work_is_counted_while_it_works() {
        let before = cpu_ms().unwrap();
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while cpu_ms().unwrap() < before + 200 {
            assert!(std::time::Instant::now() < deadline, "the child's work is not seen");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
