//! What the session uses: memory, processor, processes.

use crate::cgroup::Group;
use shared::link::hello::Vitals;
use std::fs;

/// Reads the session's vitals: from the pod's cgroup where there is one with a limit, else from the agent alone.
pub fn read() -> Vitals {
    let agent_rss = resident().unwrap_or_default();
    let group = Group::own().and_then(|group| group.read());
    let (memory, limit) = group.map_or((agent_rss, 0), |group| (group.used, group.limit));
    let processes = number("/sys/fs/cgroup/pids.current").filter(|_| in_own_cgroup()).unwrap_or_default();
    Vitals {
        agent_rss,
        memory,
        memory_limit: limit,
        cpu_ms: cpu_ms().unwrap_or_default(),
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

fn cpu_ms() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<u64> =
        stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4).filter_map(|f| f.parse().ok()).collect();
    let ticks: u64 = fields.iter().sum();
    Some(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1))
}
