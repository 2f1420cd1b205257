//! Sessions on the local runtime: this very program as agents, real processes, a real database in a file.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

use control_plane::agents::{self, Agents, StoredCredentials, exec, terminals};
use control_plane::environment::Environments;
use control_plane::lifecycle::{Lifecycle, New, Session, Settings, State};
use control_plane::runtime::Runtime;
use control_plane::runtime::local::LocalRuntime;
use control_plane::telemetry::metrics::Metrics;
use control_plane::templates::{Template, Templates};
use control_plane::workspace::{Database, Store};
use shared::id::SessionId;
use shared::limits::SyncLimits;
use shared::link::exec::{Command, Output};
use shared::link::terminal::{Create, Size};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// How long a test waits for what should happen within a second or two.
const SOON: Duration = Duration::from_secs(60);

/// A server without its public face.
struct Server {
    agents: Agents,
    lifecycle: Lifecycle,
    database: Database,
    runtime: LocalRuntime,
    owner: i64,
    tasks: tokio::task::JoinSet<()>,
}

impl Server {
    async fn start(data: &Path, program: &str) -> Self {
        let url = format!("sqlite://{}/berth.sqlite?mode=rwc", data.display());
        let database = Database::open(&url).await.unwrap();
        let limits = SyncLimits::default();
        let store = Store::new(database.clone(), limits);
        let settings = agents::Settings {
            environments: Environments::new(database.clone(), None),
            identity: Arc::new(StoredCredentials(database.clone())),
            limits,
            metrics: Metrics::new(),
            replica: "test".into(),
            address: "here".into(),
        };
        let agents = Agents::new(store.clone(), settings);
        let runtime = LocalRuntime::new(data, PathBuf::from(program)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        runtime.announce(listener.local_addr().unwrap()).unwrap();
        let settings = Settings {
            stop_grace: Duration::from_secs(10),
            compare_every: Duration::from_millis(500),
            ..Settings::default()
        };
        let lifecycle = Lifecycle::new(store, agents.clone(), Arc::new(runtime.clone()), settings);
        let mut tasks = tokio::task::JoinSet::new();
        let (serving, running) = (agents.clone(), lifecycle.clone());
        tasks.spawn(async move { serving.serve(listener).await });
        tasks.spawn(async move { running.run().await });
        let owner = database.local_user().await.unwrap();
        Self { agents, lifecycle, database, runtime, owner, tasks }
    }

    /// Ends as a server does; agents live on.
    async fn end(mut self) {
        self.lifecycle.close().await;
        self.agents.close().await;
        self.tasks.shutdown().await;
        self.database.close().await.unwrap();
    }

    async fn create(&self, name: &str) -> Session {
        self.lifecycle.create(New::named(self.owner, name)).await.unwrap()
    }

    async fn until(&self, id: SessionId, state: State) -> Session {
        let deadline = Instant::now() + SOON;
        loop {
            let session = self.lifecycle.get(id).await.unwrap();
            if session.state == state {
                return session;
            }
            assert!(
                Instant::now() < deadline,
                "still {session:?}, log: {:?}",
                self.runtime.log_tail(id).await
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn link(&self, id: SessionId) -> agents::Link {
        self.agents.wait(id, Instant::now() + SOON).await.expect("the agent links")
    }

    async fn run(&self, id: SessionId, line: &str) -> String {
        let command = Command {
            argv: ["sh", "-c", line].map(str::to_owned).to_vec(),
            cwd: String::new(),
            environment: Default::default(),
            timeout_ms: 10_000,
            after_rev: None,
        };
        let mut running = exec::run(&self.link(id).await, command, Default::default()).await.unwrap();
        let mut out = Vec::new();
        while let Some(output) = running.next().await.unwrap() {
            if let Output::Stdout(bytes) = output {
                out.extend_from_slice(&bytes);
            }
        }
        String::from_utf8(out).unwrap()
    }

    async fn delete(&self, id: SessionId) {
        self.lifecycle.delete(id).await.unwrap();
        let deadline = Instant::now() + SOON;
        while self.runtime.observe(id).await.unwrap() != Default::default() {
            assert!(Instant::now() < deadline, "something is left of it");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_control-plane");

#[tokio::test(flavor = "multi_thread")]
async fn a_session_starts_works_stops_starts_again_and_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), PROGRAM).await;
    let session = server.create("one").await;
    assert_eq!(session.state, State::Starting);
    server.until(session.id, State::Running).await;
    let folder = data.path().canonicalize().unwrap().join("sessions").join(session.id.to_string());
    assert_eq!(server.run(session.id, "pwd").await.trim(), folder.join("app").display().to_string());
    let link = server.link(session.id).await;
    let size = Size { cols: 80, rows: 24 };
    let terminal =
        terminals::create(&link, Create { size, command: Vec::new(), cwd: String::new() }).await.unwrap();
    assert_eq!(terminals::list(&link).await.unwrap().len(), 1);
    terminals::close(&link, terminal.terminal).await.unwrap();

    // Something that tries to get away, too, ends with the session.
    let escaped: u32 =
        server.run(session.id, "setsid sleep 1000 >/dev/null 2>&1 & echo $!").await.trim().parse().unwrap();
    let agent = link.hello().pid;
    server.lifecycle.stop(session.id, None).await.unwrap();
    server.until(session.id, State::Stopped).await;
    assert!(!is_alive(agent) && !is_alive(escaped));
    assert!(link.stopped().is_some(), "the agent's last word was heard");

    server.lifecycle.start(session.id, None).await.unwrap();
    server.until(session.id, State::Running).await;
    let timeline = server.lifecycle.timeline(session.id).await.unwrap();
    let steps: Vec<_> = timeline.iter().filter_map(|line| line.step.as_deref()).collect();
    for step in ["folder_ready", "agent_started", "connected", "agent_ended"] {
        assert!(steps.contains(&step), "{steps:?}");
    }
    server.delete(session.id).await;
    assert!(!folder.exists());
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_outlives_its_server_and_is_found_again_not_doubled() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), PROGRAM).await;
    let session = server.create("one").await;
    server.until(session.id, State::Running).await;
    let before = server.link(session.id).await.hello().clone();
    server.end().await;
    assert!(is_alive(before.pid));

    let server = Server::start(data.path(), PROGRAM).await;
    let after = server.link(session.id).await.hello().clone();
    assert_eq!((before.instance, before.pid), (after.instance, after.pid));
    assert_eq!(server.until(session.id, State::Running).await.reason, None);
    server.delete(session.id).await;
    assert!(!is_alive(before.pid));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_is_started_again_with_its_folder() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), PROGRAM).await;
    let session = server.create("one").await;
    server.until(session.id, State::Running).await;
    server.run(session.id, "echo kept > file").await;
    let link = server.link(session.id).await;
    let pid = rustix::process::Pid::from_raw(link.hello().pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    tokio::time::timeout(SOON, link.closed()).await.unwrap();
    let next = server.link(session.id).await;
    assert_ne!(next.hello().instance, link.hello().instance);
    server.until(session.id, State::Running).await;
    assert_eq!(server.run(session.id, "cat file").await, "kept\n");
    let timeline = server.lifecycle.timeline(session.id).await.unwrap();
    let told = timeline.iter().find(|line| line.kind == "restart").expect("the restart is told of");
    assert!(told.message.contains("SIGKILL"), "{}", told.message);
    server.delete(session.id).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_sessions_folder_is_given_back_in_time_and_its_files_come_back_with_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), PROGRAM).await;
    let template = Template { retention_s: 5, ..Template::local() };
    Templates::new(server.database.clone()).put(&template).await.unwrap();
    let session = server.create("one").await;
    server.until(session.id, State::Running).await;
    server.run(session.id, "mkdir sub && echo kept > sub/file && echo here > ../beside").await;
    server.lifecycle.stop(session.id, None).await.unwrap();
    server.until(session.id, State::Stopped).await;
    let stopped = Instant::now();
    let folder = data.path().join("sessions").join(session.id.to_string());
    assert!(folder.join("app/sub/file").exists());
    while folder.exists() {
        assert!(stopped.elapsed() < SOON, "it is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(stopped.elapsed() > Duration::from_secs(4), "not before its time");
    let told = || async {
        let timeline = server.lifecycle.timeline(session.id).await.unwrap();
        timeline
            .into_iter()
            .filter(|line| line.kind == "released")
            .map(|line| line.message)
            .collect::<Vec<_>>()
    };
    while told().await.is_empty() {
        assert!(stopped.elapsed() < SOON, "nobody is told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(told().await[0].contains("5 seconds"), "{:?}", told().await);
    server.lifecycle.start(session.id, None).await.unwrap();
    server.until(session.id, State::Running).await;
    let link = server.link(session.id).await;
    let rev = control_plane::workspace::Store::new(server.database.clone(), SyncLimits::default())
        .rev(session.id)
        .await
        .unwrap();
    assert!(link.sync().wait_visible(rev, SOON).await);
    assert_eq!(server.run(session.id, "cat sub/file; ls ..").await, "kept\nagent.log\napp\n");
    assert_eq!(told().await.len(), 1, "once");
    server.delete(session.id).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_run_is_told_of_with_its_reason() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), "/bin/false").await;
    let session = server.create("one").await;
    let mut changes = server.lifecycle.watch();
    let reason = tokio::time::timeout(SOON, async {
        loop {
            if let Some(reason) = changes.recv().await.unwrap().reason {
                return reason;
            }
        }
    });
    let reason = reason.await.unwrap();
    assert!(reason.contains("exit status: 1"), "{reason}");
    server.delete(session.id).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_without_a_session_is_removed_and_a_strangers_folder_is_not() {
    let data = tempfile::tempdir().unwrap();
    let orphan = data.path().join("sessions").join(SessionId::random().to_string());
    let strange = data.path().join("sessions").join("notes");
    for folder in [&orphan, &strange] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let server = Server::start(data.path(), PROGRAM).await;
    let deadline = Instant::now() + SOON;
    while orphan.exists() {
        assert!(Instant::now() < deadline, "the orphan is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(strange.exists());
    server.end().await;
}
