//! The memory watch on a real control group with a real limit, or, where none can be made, on files that say the same.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod support;

use pod_agent::cgroup::Group;
use pod_agent::environment::Environment;
use pod_agent::events::Events;
use pod_agent::memory::Watching;
use pod_agent::terminal::{Keeping, Terminals, attach};
use shared::id::{LinkEpoch, Revision, SessionId, TerminalId, ViewerId};
use shared::limits::SyncLimits;
use shared::link::frames::Frames;
use shared::link::hello::{Accepted, FromAgent, Welcome};
use shared::link::mux::{Side, mux};
use shared::link::socket::BinaryMessages;
use shared::link::terminal::*;
use shared::link::websocket::WebSocketBytes;
use shared::link::{Open, SUBPROTOCOL, VERSION_MAX, frame};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

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
        let home = folder.path().to_str().unwrap();
        let settings = support::settings(folder.path(), &["--home", home, "--shell", "/bin/sh"]);
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
    fn make(name: &str) -> Option<Self> {
        let name = format!("berth-test-{name}-{}", std::process::id());
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
    let Some(limited) = Limited::make("shell") else {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_agent_in_a_group_of_its_own_outlives_a_leak_and_tells_the_control_plane() {
    let Some(limited) = Limited::make("agent") else {
        eprintln!("no control group can be made here: seen with files alone");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for name in ["app", "state"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("credential"), "credential").unwrap();
    fs::write(folder.path().join("app/leak.py"), LEAK).unwrap();
    let mut agent = tokio::process::Command::new("sh")
        .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
        .arg(&limited.0)
        .arg(env!("CARGO_BIN_EXE_pod-agent"))
        .arg("--control-plane")
        .arg(format!("ws://{}", listener.local_addr().unwrap()))
        .arg("--credential-file")
        .arg(folder.path().join("credential"))
        .arg("--workspace")
        .arg(folder.path().join("app"))
        .arg("--state")
        .arg(folder.path().join("state"))
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    // The control plane's side of one link.
    let (io, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    #[expect(clippy::result_large_err, reason = "the library's own")]
    let handshake = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().unwrap());
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(io, handshake).await.unwrap();
    let (opener, mut streams, driver) =
        mux(WebSocketBytes::new(BinaryMessages::new(socket)), Side::ControlPlane);
    let driver = tokio::spawn(driver);
    let mut control = streams.recv().await.unwrap();
    assert!(matches!(frame::expect(&mut control).await.unwrap(), Open::Control(_)));
    let welcome = Welcome::Accepted(Accepted {
        version: VERSION_MAX,
        session: SessionId::random(),
        epoch: LinkEpoch(1),
        environment: Default::default(),
        limits: SyncLimits::default(),
        credential: None,
    });
    frame::write(&mut control, &welcome).await.unwrap();

    let mut asked = opener.open().await.unwrap();
    let command = ["sh", "-c", "python3 leak.py; exec cat"].map(str::to_owned).to_vec();
    let create = Call::Create(Create { size: SIZE, command, cwd: String::new() });
    frame::write(&mut asked, &Open::Terminal(create)).await.unwrap();
    let Answer::Created(created) = frame::expect(&mut asked).await.unwrap() else { panic!() };

    let mut words = Frames::new(control);
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            if let FromAgent::Event { kind, message } = words.expect().await.unwrap() {
                return (kind, message);
            }
        }
    });
    let (kind, message) = told.await.expect("the agent tells of it");
    assert_eq!(kind, "oom_kill");
    expects_a_leak_ended(&format!("[Berth: {message}]"), LIMIT >> 20);
    assert_eq!((limited.kernel_kills(), agent.try_wait().unwrap()), (0, None), "the kernel ended nothing");

    let mut asked = opener.open().await.unwrap();
    let close = Call::Close { terminal: created.terminal };
    frame::write(&mut asked, &Open::Terminal(close)).await.unwrap();
    assert_eq!(frame::expect::<_, Answer>(&mut asked).await.unwrap(), Answer::Closed);
    agent.kill().await.unwrap();
    driver.abort();
}
