//! The memory watch on a real control group with a real limit, or, where none can be made, on files that say the same.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

use clap::Parser;
use pod_agent::cgroup::Group;
use pod_agent::environment::Environment;
use pod_agent::events::Events;
use pod_agent::memory::Watching;
use pod_agent::settings::Settings;
use pod_agent::terminal::{Keeping, Terminals, attach};
use shared::id::{Revision, TerminalId, ViewerId};
use shared::link::frame;
use shared::link::terminal::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::sync::watch;

/// Bytes of the limit.
const LIMIT: u64 = 128 << 20;
/// A program that takes memory until it is stopped, a little at a time, as a leak does.
const LEAK: &str =
    "import time\nheld = []\nwhile True:\n    held.append(b'x' * (1 << 20))\n    time.sleep(0.002)\n";

const SIZE: Size = Size { cols: 120, rows: 24 };
const PATIENCE: Duration = Duration::from_secs(30);

struct Session {
    terminals: Terminals,
    folder: TempDir,
}

impl Session {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let settings = Settings::parse_from([
            "pod-agent",
            "--control-plane",
            "ws://127.0.0.1:1",
            "--credential-file",
            "/none",
            "--workspace",
            path,
            "--state",
            path,
            "--home",
            path,
            "--shell",
            "/bin/sh",
        ]);
        let (_, visible) = watch::channel(Revision::ZERO);
        let keeping = Keeping { history_bytes: 1 << 20, scrollback: 100 };
        Self { terminals: Terminals::new(Environment::new(&settings), keeping, visible), folder }
    }

    /// A terminal that runs a script, and its viewer.
    async fn run(&self, script: &str) -> (TerminalId, DuplexStream) {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let create = Create { size: SIZE, command, cwd: String::new() };
        let Answer::Created(summary) = self.terminals.call(Call::Create(create)).await else { panic!() };
        let terminal = summary.terminal;
        let viewer = ViewerId::new("viewer").unwrap();
        let attach = Attach { terminal, viewer, size: SIZE, resume: None, writable: true, acks: false };
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(attach::serve(self.terminals.get(terminal).unwrap(), attach, theirs));
        (terminal, ours)
    }
}

/// Reads what the terminal shows until it holds `text`.
async fn shows(stream: &mut DuplexStream, text: &str) -> String {
    let mut seen = Vec::new();
    loop {
        let message = tokio::time::timeout(PATIENCE, frame::expect(stream)).await;
        let shown = || String::from_utf8_lossy(&seen).into_owned();
        match message.unwrap_or_else(|_| panic!("not in time: {}", shown())).unwrap() {
            ToViewer::Output { data, .. } | ToViewer::Snapshot { data, .. } => seen.extend_from_slice(&data),
            _ => {}
        }
        let shown = String::from_utf8_lossy(&seen).into_owned();
        if shown.contains(text) {
            return shown;
        }
    }
}

/// A control group of version 1 or 2 with a limit, removed when this drops.
struct Limited(PathBuf);

impl Limited {
    /// None where this machine allows none.
    fn make() -> Option<Self> {
        let name = format!("berth-test-{}", std::process::id());
        for (parent, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let folder = Path::new(parent).join(&name);
            if fs::create_dir(&folder).is_ok() {
                let made = Self(folder);
                if fs::write(made.0.join(limit), LIMIT.to_string()).is_ok() {
                    return Some(made);
                }
            }
        }
        None
    }

    fn take(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn kernel_kills(&self) -> u64 {
        Group::at(&self.0).unwrap().read().unwrap().kernel_kills
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // Refused while a process that was killed is still going.
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

fn expects_a_leak_ended(shown: &str, limit: u64) {
    let said = shown.split("[Berth: python3 was ended: it used ").nth(1).unwrap_or_else(|| panic!("{shown}"));
    let used: u64 = said.split(' ').next().unwrap().parse().unwrap();
    assert!(used > limit / 2 && used <= limit, "{used} of {limit} MB");
    assert!(said.contains(&format!(" MB of the session's {limit} MB; files are safe]")), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_takes_all_memory_is_ended_before_the_kernel_ends_any() {
    let Some(limited) = Limited::make() else {
        eprintln!("no control group can be made here: seen with files alone");
        return;
    };
    let session = Session::new();
    let events = Events::default();
    fs::write(session.folder.path().join("leak.py"), LEAK).unwrap();
    let script = "echo ready; read go; python3 leak.py; echo \"ended with $?\"; exec cat";
    let (terminal, mut viewer) = session.run(script).await;
    shows(&mut viewer, "ready").await;
    limited.take(session.terminals.get(terminal).unwrap().leader());
    let group = Group::at(&limited.0).unwrap();
    let watching = Watching::start(group, session.terminals.clone(), events.clone());

    let go = FromViewer::Input {
        seq: shared::id::InputSeq(0),
        after_rev: None,
        data: bytes::Bytes::from_static(b"go\n"),
    };
    frame::write(&mut viewer, &go).await.unwrap();
    // The shell that started it lives on.
    let shown = shows(&mut viewer, "ended with 137").await;
    expects_a_leak_ended(&shown, LIMIT >> 20);
    let event = tokio::time::timeout(PATIENCE, events.first()).await.unwrap();
    assert_eq!(event.kind, "oom_kill");
    assert!(event.message.starts_with("python3 was ended: it used "), "{event:?}");
    assert_eq!(limited.kernel_kills(), 0, "the kernel ended nothing");
    drop(watching);
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_program_of_a_full_group_is_ended_and_it_is_said_where_it_ran() {
    let session = Session::new();
    let events = Events::default();
    let script = "python3 -c \"import time; held = b'x' * (90 << 20); print('held', flush=True); time.sleep(60)\"; \
                  echo \"ended with $?\"; exec cat";
    let (terminal, mut viewer) = session.run(script).await;
    shows(&mut viewer, "held").await;
    // What a group of version 2 says when it is full.
    let group = tempfile::tempdir().unwrap();
    let leader = session.terminals.get(terminal).unwrap().leader();
    let children = fs::read_to_string(format!("/proc/{leader}/task/{leader}/children")).unwrap();
    let members = format!("{leader}\n{}\n", children.trim());
    for (file, text) in [
        ("memory.max", LIMIT.to_string()),
        ("memory.current", (LIMIT - 1).to_string()),
        ("memory.stat", "inactive_file 0\n".into()),
        ("memory.events", "oom_kill 0\n".into()),
        ("cgroup.procs", members),
    ] {
        fs::write(group.path().join(file), text).unwrap();
    }
    let watching =
        Watching::start(Group::at(group.path()).unwrap(), session.terminals.clone(), events.clone());
    let event = tokio::time::timeout(PATIENCE, events.first()).await.unwrap();
    fs::write(group.path().join("memory.current"), "1").unwrap();
    let shown = shows(&mut viewer, "ended with 137").await;
    expects_a_leak_ended(&shown, LIMIT >> 20);
    assert_eq!(event.kind, "oom_kill");
    // The kernel's own kills are told, too.
    events.told(&event);
    fs::write(group.path().join("memory.events"), "oom_kill 1\n").unwrap();
    let event = tokio::time::timeout(PATIENCE, events.first()).await.unwrap();
    assert!(event.message.contains("by the system"), "{event:?}");
    drop(watching);
    session.terminals.close_all().await;
}
