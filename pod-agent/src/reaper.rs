//! What process 1 of a pod must do: hand signals on, and reap whatever lost its parent.
//!
//! The agent itself cannot: waiting for any child races with its waiting for a certain one. So process 1 is this,
//! and the agent its child.

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use std::os::unix::process::CommandExt;
use std::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// The variable that tells the child not to fork again.
const CHILD: &str = "BERTH_AGENT_REAPED";

/// Whether this process must reap: it is process 1 and not told otherwise.
pub fn is_due() -> bool {
    std::process::id() == 1 && std::env::var_os(CHILD).is_none()
}

/// Whether process 1 is this, with the agent as its child.
pub fn is_ours() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs this same program as a child, and reaps until it ends. Answers its exit code.
pub fn run() -> std::io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut child_ended = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut arguments = std::env::args_os();
        let mut command = Command::new("/proc/self/exe");
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        let child = command.args(arguments).env(CHILD, "1").spawn()?;
        let agent = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // Waiting is done below, for all; the handle must not do it, too.
        std::mem::forget(child);
        loop {
            tokio::select! {
                _ = child_ended.recv() => {}
                _ = terminate.recv() => pass_on(agent, Signal::TERM),
                _ = interrupt.recv() => pass_on(agent, Signal::INT),
            }
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                if Some(pid) == agent {
                    let code = status.exit_status().or(status.terminating_signal().map(|s| 128 + s));
                    return Ok(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(1));
                }
            }
        }
    })
}

fn pass_on(agent: Option<Pid>, signal: Signal) {
    // An agent that is gone is reaped next.
    let _ = agent.map(|agent| kill_process(agent, signal));
}
