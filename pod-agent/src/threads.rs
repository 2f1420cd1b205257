//! What the agent asks of the machine's scheduler, and the server with it.

#![allow(unsafe_code, reason = "neither the standard library nor rustix has sched_setattr")]

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How long a thread that serves terminals wants to run at a time, in nanoseconds. Linux (from 6.12 on) lets a thread
/// that wakes and asks for less run before one that asks for more, as every compiler does with the usual 3 ms; its
/// share of the processor stays the same. Older kernels take no notice.
const SLICE_NS: u64 = 200_000;
/// What is started by such a thread, a shell for one, asks for nothing special.
const RESET_ON_FORK: u64 = 1;
/// Bytes of the structure's first version, which every kernel knows.
const ATTRIBUTES_BYTES: u32 = 48;

/// For a runtime's `on_thread_start`: its first `workers` threads, which are those that serve, are woken promptly;
/// later ones, which do long work, are not.
pub fn prompt_workers(workers: usize) -> impl Fn() + Send + Sync + 'static {
    let started = AtomicUsize::new(0);
    move || {
        if started.fetch_add(1, Ordering::Relaxed) < workers {
            // Where it is refused, as in some sandboxes, everything works as before.
            let _ = wake_promptly();
        }
    }
}

/// Asks that the calling thread be run soon when it wakes.
fn wake_promptly() -> io::Result<()> {
    // SAFETY: a structure of numbers, for which all zeroes are a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most so many bytes to it, and it lives on.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, ATTRIBUTES_BYTES, 0) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attributes.size = ATTRIBUTES_BYTES;
    attributes.sched_flags |= RESET_ON_FORK;
    attributes.sched_runtime = SLICE_NS;
    // SAFETY: the kernel reads `size` bytes of it.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_thread_may_ask_and_its_children_are_as_usual() {
        let asked = std::thread::spawn(|| {
            wake_promptly()?;
            // Read by the child of itself: what was passed on to it would show there.
            let child = std::process::Command::new("cat").arg("/proc/self/sched").output()?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&child.stdout).into_owned())
        });
        let child = asked.join().unwrap().unwrap();
        let slice = child
            .lines()
            .find_map(|line| line.strip_prefix("se.slice")?.split(':').nth(1)?.trim().parse().ok());
        // Only kernels that are built to tell do.
        assert_ne!(slice, Some(SLICE_NS), "{child}");
    }
}
