//! Agents among the processes of this machine: found in `/proc` by their arguments, ended with all they started.

use pod_agent::processes::{self, Family};
use rustix::process::Signal;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

pub(super) use pod_agent::processes::Process;

/// The state folder that a process serves as an agent, if it is one: told by its arguments, which hold also
/// where its environment may not be read.
fn agent_of(pid: i32) -> Option<Vec<u8>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    if arguments.get(1) != Some(&&b"agent"[..]) {
        return None;
    }
    let at = arguments.iter().position(|argument| *argument == b"--state")?;
    arguments.get(at + 1).map(|state| state.to_vec())
}

/// Every agent that runs on this machine, with the state folder it serves.
pub(super) fn agents() -> Vec<(Process, Vec<u8>)> {
    processes::running().into_iter().filter_map(|process| Some((process, agent_of(process.pid())?))).collect()
}

/// The agent that serves `state`, if it runs.
pub(super) fn agent(state: &Path) -> Option<Process> {
    let serves = |(_, folder): &(Process, Vec<u8>)| folder == state.as_os_str().as_bytes();
    agents().into_iter().find(serves).map(|(process, _)| process)
}

/// Ends an agent politely within `grace`, then kills whatever is left of what it started, or carries `variable`
/// however it was orphaned. Answers whether all are gone.
pub(super) async fn end(agent: Option<Process>, variable: (&str, &str), grace: Duration) -> bool {
    let leader = agent.map(|agent| agent.pid());
    let family = Family { leader, ended: false, variable };
    let known = family.find().await;
    if let Some(agent) = agent {
        agent.signal(Signal::TERM);
        processes::wait_until_gone(&[agent], grace).await;
    }
    family.kill(&known).await
}
