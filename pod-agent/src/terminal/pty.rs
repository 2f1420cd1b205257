//! A pseudo-terminal and the shell in it, with what is easily got wrong about them.
//!
//! - portable-pty's writer types a line break and Ctrl-D when it drops, which would run a half-typed command: it
//!   is never taken. Reading and writing go through a duplicate of the raw descriptor.
//! - `spawn_command` answers Ok although `exec` failed, and a missing folder silently becomes `$HOME`: both are
//!   checked before.
//! - The slave is dropped right after the start, or the master would never see the end.

#![allow(
    unsafe_code,
    reason = "portable-pty gives its descriptor as a number; registering one with the reactor is unsafe by contract"
)]

use crate::environment::Environment;
use crate::processes::{self, TAG};
use portable_pty::{CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use shared::id::TerminalId;
use shared::link::Failure;
use shared::link::terminal::{Create, Exit, Size};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The master's side of a PTY, non-blocking.
pub struct Pty {
    fd: AsyncFd<OwnedFd>,
    master: Mutex<Box<dyn MasterPty + Send>>,
    // Kept only so that nothing else waits for the child; waiting is ours, by number.
    _child: Box<dyn portable_pty::Child + Send + Sync>,
    leader: i32,
}

fn pty_size(size: Size) -> PtySize {
    PtySize { rows: size.rows, cols: size.cols, pixel_width: 0, pixel_height: 0 }
}

impl Pty {
    /// Starts a shell or command. Answers the program's name, too.
    pub fn spawn(
        id: TerminalId,
        create: &Create,
        environment: &Environment,
    ) -> Result<(Self, String), Failure> {
        let failed = |code: &str, message: String| Failure::new(code, message);
        let folder = environment.folder(&create.cwd).ok_or_else(|| {
            failed("cwd_missing", format!("the folder {:?} does not exist in the workspace", create.cwd))
        })?;
        let variables = environment.variables();
        let path = variables.get("PATH").cloned().unwrap_or_default();
        let shell = environment.shell.to_string_lossy().into_owned();
        let name = create.command.first().unwrap_or(&shell);
        let program = environment
            .program(name, &folder, &path)
            .ok_or_else(|| failed("shell_missing", format!("{name:?} is not there or cannot be executed")))?;
        let mut command = CommandBuilder::new(&program);
        command.args(create.command.iter().skip(1));
        command.env_clear();
        for (key, value) in variables {
            command.env(key, value);
        }
        command.env("TERM", "xterm-256color");
        command.env("COLORTERM", "truecolor");
        command.env(TAG, id.to_string());
        // By the name that users know, where the folder has several.
        command.env("PWD", &folder);
        command.cwd(&folder);

        let broken = |why: &dyn std::fmt::Display| {
            failed("terminal_failed", format!("no terminal could be made: {why}"))
        };
        let alone = processes::start_alone();
        let pair = native_pty_system().openpty(pty_size(create.size)).map_err(|e| broken(&e))?;
        let child = pair.slave.spawn_command(command).map_err(|e| broken(&e))?;
        drop(pair.slave);
        drop(alone);
        let leader = child.process_id().and_then(|pid| i32::try_from(pid).ok());
        let leader = leader.ok_or_else(|| broken(&"it has no process id"))?;
        let raw = pair.master.as_raw_fd().ok_or_else(|| broken(&"it has no descriptor"))?;
        // SAFETY: `raw` belongs to `pair.master`, which outlives this borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
        let fd = rustix::io::fcntl_dupfd_cloexec(borrowed, 3).map_err(|e| broken(&e))?;
        let flags = fcntl_getfl(&fd).map_err(|e| broken(&e))?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(|e| broken(&e))?;
        // SAFETY: an `OwnedFd` stays the same open descriptor until it drops, with the `AsyncFd` that holds it.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|e| broken(&e))?;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((Self { fd, master: Mutex::new(pair.master), _child: child, leader }, name))
    }

    /// The process id of the shell, which is its session's and first group's id, too.
    pub fn leader(&self) -> i32 {
        self.leader
    }

    /// Tells the programs inside that the size changed.
    pub fn resize(&self, size: Size) {
        let master = self.master.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(why) = master.resize(pty_size(size)) {
            tracing::debug!(%why, "a terminal could not be resized");
        }
    }

    /// Waits for output and reads what is there, up to `buffer`'s length: the kernel gives 4 KiB at a time, and
    /// one frame for each of them halves the throughput. 0 is the end: no process holds the terminal any more.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.ready(Interest::READABLE).await?;
            match self.read_now(buffer) {
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready_matching(tokio::io::Ready::READABLE);
                }
                read => return read,
            }
        }
    }

    /// Reads what is there; `WouldBlock` if there is nothing, 0 at the end.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::read(self.fd.get_ref(), &mut buffer[filled..]) {
                // Linux says EIO where the last holder of the other side is gone.
                Ok(0) | Err(rustix::io::Errno::IO) => return Ok(filled),
                Ok(n) => filled += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) if filled > 0 => return Ok(filled),
                Err(why) => return Err(why.into()),
            }
        }
        Ok(filled)
    }

    /// Writes some of `input`, waiting until the terminal takes any; answers how much.
    pub async fn write(&self, input: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.ready(Interest::WRITABLE).await?;
            match rustix::io::write(self.fd.get_ref(), input) {
                Ok(n) => return Ok(n),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready_matching(tokio::io::Ready::WRITABLE),
                Err(why) => return Err(why.into()),
            }
        }
    }

    /// Waits for the shell's end. Nobody else waits for it.
    pub async fn wait(&self) -> Exit {
        let pid = Pid::from_raw(self.leader);
        if let Some(pid) = pid
            && let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)
        {
            // SAFETY: as in `spawn`: the `OwnedFd` lives as long as the `AsyncFd`.
            if let Ok(handle) = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) } {
                let _ = handle.readable().await;
            }
        }
        if let Ok(Some((_, status))) = waitpid(pid, WaitOptions::NOHANG) {
            return exit_of(status);
        }
        // Without pidfd (old kernels, gVisor) this waits on a thread of its own.
        let waited = tokio::task::spawn_blocking(move || {
            loop {
                match waitpid(pid, WaitOptions::empty()) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => return other,
                }
            }
        });
        match waited.await {
            Ok(Ok(Some((_, status)))) => exit_of(status),
            _ => Exit { code: None, signal: None },
        }
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    Exit { code: status.exit_status(), signal: status.terminating_signal().map(signal_name) }
}

/// A signal's name, as `kill -l` has it with `SIG` before.
pub fn signal_name(number: i32) -> String {
    let name = match number {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        other => return format!("SIG{other}"),
    };
    name.to_owned()
}
