//! How many files and sockets this process may have open at once.
//!
//! Each WebSocket is one. The limit that a process is usually started with, 1,024, is for programs that use `select`;
//! the hard limit is what this machine allows.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::sync::OnceLock;

/// The limit that this process was started with, once it is raised.
static STARTED_WITH: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit as far as is allowed, and logs what it came to.
pub fn raise() {
    let before = getrlimit(Resource::Nofile);
    // No process may have more than the kernel's own bound, not even where there is no limit.
    let bound =
        std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let wanted = before.maximum.or(bound);
    let shown = |limit: Option<u64>| limit.map_or("no limit".to_owned(), |limit| limit.to_string());
    match setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: before.maximum }) {
        Ok(()) => {
            // Raised once; a second time would take the raised one for the first.
            let _ = STARTED_WITH.set(before);
            tracing::info!(
                was = shown(before.current),
                now = shown(wanted),
                "open files and sockets are limited"
            );
        }
        Err(why) => {
            let limit = shown(before.current);
            tracing::warn!(%why, limit, "the limit of open files and sockets could not be raised");
        }
    }
}

/// Gives a child the limit that this process was started with: programs in sessions may use `select`, or go through
/// all descriptors that there may be. One that has ended needs none.
pub fn restore(child: u32) {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    if let (Some(pid), Some(before)) = (pid, STARTED_WITH.get())
        && let Err(why) = prlimit(Some(pid), Resource::Nofile, *before)
    {
        tracing::debug!(%why, child, "its limit of open files could not be set");
    }
}
