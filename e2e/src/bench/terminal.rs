//! Terminals: keys, floods, Ctrl-C, connecting, memory; beside a raw PTY in the same run.

use super::pty::Pty;
use super::{Report, Times};
use e2e::{Frame, Server, Session, Viewer, processes};
use serde_json::json;
use std::time::{Duration, Instant};

/// Gives back each key at once.
const ECHO: &[&str] = &["sh", "-c", "stty raw -echo; printf go; exec cat"];

/// The terminal's two protocols: what a client offers, the name, and how much an echo's median may add, in ms.
const PROTOCOLS: [(&str, &str, f64); 2] = [("bin", "binary", 0.1), ("text", "JSON", 0.2)];

/// Measures.
pub(crate) async fn run(quick: bool) -> Report {
    let mut report = Report::new("terminal", quick);
    let rounds = if quick { 50 } else { 2000 };
    let lines = if quick { 100_000 } else { 5_000_000 };
    let server = Server::start().await;
    let session = server.session("bench").await;
    let agent = server.agent(&session);
    let idle = Resident::of(agent);

    let raw = tokio::task::spawn_blocking(move || {
        let mut pty = Pty::spawn(ECHO);
        pty.wait_for("go");
        Times::new(pty.echoes(rounds))
    });
    let raw = raw.await.expect("the raw PTY");
    report.add("echo, raw PTY, p50", raw.p50(), "ms");
    report.add("echo, raw PTY, p99", raw.p99(), "ms");
    echo(&mut report, &session, rounds, &raw, "").await;

    let beside = tokio::task::spawn_blocking(move || {
        let flood = Pty::flood();
        let mut pty = Pty::spawn(ECHO);
        pty.wait_for("go");
        let times = Times::new(pty.echoes(rounds));
        flood.stop();
        times
    });
    let beside = beside.await.expect("the raw PTY");
    report.add("echo, raw PTY beside a raw flood, p50", beside.p50(), "ms");
    report.add("echo, raw PTY beside a raw flood, p99", beside.p99(), "ms");
    let flood = Flood::start(&session).await;
    echo(&mut report, &session, rounds, &beside, " beside a flood").await;
    flood.stop().await;

    for (cap, name, bar) in PROTOCOLS {
        let files = tokio::spawn(move_files(session.clone(), name, contents(if quick { 2 } else { 20 })));
        let moving = echoes(&session, cap, usize::MAX, Some(&files)).await;
        judge_echo(&mut report, &format!("{name} while 100 MB of files move"), &moving, &raw, bar);
        files.await.expect("the files");
    }

    output(&mut report, &session, lines).await;
    interrupt(&mut report, &session).await;
    connect(&mut report, &session, rounds.min(200)).await;
    memory(&mut report, &server, idle).await;
    drop(server);
    replica(&mut report, if quick { 3 } else { 50 }).await;
    report
}

async fn open(session: &Session, argv: &[&str]) -> String {
    let body = json!({"cols": 80, "rows": 24, "command": argv});
    let reply = session.api.post(&session.path("/terminals"), &body).await.expect(201);
    reply.json()["id"].as_str().expect("an id").to_owned()
}

async fn close(session: &Session, id: &str) {
    session.api.delete(&session.path(&format!("/terminals/{id}"))).await.expect(204);
}

/// Round trips of one key each, so many or until the work is done.
async fn echoes<T>(
    session: &Session,
    cap: &str,
    rounds: usize,
    meanwhile: Option<&tokio::task::JoinHandle<T>>,
) -> Times {
    let id = open(session, ECHO).await;
    let mut viewer = Viewer::attach(session, &id, "bench", &[cap, "ack"]).await;
    viewer.wait_for("go").await;
    let mut times = Vec::new();
    let warm = rounds.min(100);
    for n in 0.. {
        if times.len() >= rounds || meanwhile.is_some_and(|work| work.is_finished()) {
            break;
        }
        let begun = Instant::now();
        viewer.type_text("k").await;
        while !matches!(viewer.frame().await, Frame::Output(..)) {}
        if n >= warm || meanwhile.is_some() {
            times.push(begun.elapsed());
        }
        viewer.forget();
    }
    close(session, &id).await;
    Times::new(times)
}

async fn echo(report: &mut Report, session: &Session, rounds: usize, raw: &Times, when: &str) {
    for (cap, name, bar) in PROTOCOLS {
        let times = echoes::<()>(session, cap, rounds, None).await;
        judge_echo(report, &format!("{name}{when}"), &times, raw, bar);
    }
}

fn judge_echo(report: &mut Report, what: &str, times: &Times, raw: &Times, bar: f64) {
    let added = times.p50() - raw.p50();
    let bar_added = format!("added < {bar} ms");
    report.judge(format!("echo, {what}, p50"), times.p50(), "ms", bar_added, added < bar);
    report.judge(format!("echo, {what}, p99"), times.p99(), "ms", "< 3 ms", times.p99() < 3.0);
}

/// Another terminal that prints without end, and its reader.
struct Flood {
    session: Session,
    id: String,
    reader: tokio::task::JoinHandle<()>,
}

impl Flood {
    async fn start(session: &Session) -> Self {
        let id = open(session, &["yes"]).await;
        let mut viewer = Viewer::attach(session, &id, "flood", &["bin", "ack"]).await;
        viewer.wait_for("y\r\n").await;
        let reader = tokio::spawn(async move {
            while !matches!(viewer.frame().await, Frame::Closed(_)) {
                viewer.forget();
            }
        });
        Self { session: session.clone(), id, reader }
    }

    async fn stop(self) {
        close(&self.session, &self.id).await;
        self.reader.abort();
    }
}

/// So many files of 5 MB that do not compress. Made before anything is timed.
fn contents(count: usize) -> Vec<Vec<u8>> {
    let mut state = 1u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..count).map(|_| (0..5_000_000 / 8).flat_map(|_| random()).collect()).collect()
}

async fn move_files(session: Session, folder: &'static str, contents: Vec<Vec<u8>>) {
    for (n, bytes) in contents.into_iter().enumerate() {
        session.save(&format!("{folder}/{n}"), bytes).await;
    }
}

async fn output(report: &mut Report, session: &Session, lines: usize) {
    // As a shell has it: the terminal makes each line's break two bytes.
    let line = format!(
        "stty -echo; printf go; read x; yes 0123456789012345678901234567890123456789 | head -n {lines}; exec sleep 1000"
    );
    let bytes = lines * 42;
    let argv = ["bash", "-c", line.as_str()];
    let mut pty = Pty::spawn(&argv);
    let raw = tokio::task::spawn_blocking(move || {
        pty.wait_for("go");
        std::io::Write::write_all(&mut pty.writer, b"\n").expect("to type");
        pty.drain(bytes)
    });
    let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
    let raw = rate(raw.await.expect("the raw PTY"));
    report.add("bulk output, raw PTY", raw, "MB/s");
    for (cap, name) in [("bin", "binary"), ("text", "JSON")] {
        let id = open(session, &argv).await;
        let mut viewer = Viewer::attach(session, &id, "bench", &[cap, "ack"]).await;
        viewer.wait_for("go").await;
        let from = viewer.offset;
        viewer.type_text("\n").await;
        let mut begun = None;
        while viewer.offset - from < bytes as u64 {
            viewer.frame().await;
            begun.get_or_insert_with(Instant::now);
            viewer.forget();
        }
        let ours = rate(begun.map_or(Duration::ZERO, |begun| begun.elapsed()));
        report.judge(format!("bulk output, {name}"), ours, "MB/s", "≥ 0.8 of the raw PTY", ours >= 0.8 * raw);
        close(session, &id).await;
    }
}

async fn interrupt(report: &mut Report, session: &Session) {
    const RATE: f64 = 1e6;
    let raw =
        tokio::task::spawn_blocking(|| Pty::spawn(&["bash", "--norc", "--noprofile", "-i"]).interrupt(RATE));
    report.add(
        "Ctrl-C to prompt, reader at 1 MB/s, raw PTY",
        raw.await.expect("the raw PTY").as_secs_f64() * 1e3,
        "ms",
    );
    let id = session.open_terminal().await;
    let mut viewer = Viewer::attach(session, &id, "slow", &["bin", "ack"]).await;
    viewer.wait_for(e2e::server::PROMPT).await;
    viewer.type_text("yes\n").await;
    let (begun, from) = (Instant::now(), viewer.offset);
    let mut pressed = None;
    viewer.forget();
    let took = loop {
        viewer.frame().await;
        let due = Duration::from_secs_f64((viewer.offset - from) as f64 / RATE);
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        if pressed.is_none() && begun.elapsed() > Duration::from_secs(2) {
            viewer.type_text("\x03").await;
            pressed = Some(Instant::now());
            viewer.forget();
        }
        if let Some(pressed) = pressed
            && e2e::terminal::contains(&viewer.output, e2e::server::PROMPT.as_bytes())
        {
            break pressed.elapsed();
        }
    };
    let ms = took.as_secs_f64() * 1e3;
    report.judge("Ctrl-C to prompt, reader at 1 MB/s", ms, "ms", "≤ 300 ms", ms <= 300.0);
    close(session, &id).await;
}

async fn connect(report: &mut Report, session: &Session, rounds: usize) {
    let id = open(session, ECHO).await;
    let mut times = Vec::new();
    for n in 0..rounds {
        let begun = Instant::now();
        let mut viewer = Viewer::attach(session, &id, &format!("viewer-{n}"), &["bin", "ack"]).await;
        viewer.type_text("k").await;
        while !matches!(viewer.frame().await, Frame::Output(..)) {}
        times.push(begun.elapsed());
        viewer.close().await;
    }
    close(session, &id).await;
    let times = Times::new(times);
    report.judge("connect → usable, p50", times.p50(), "ms", "≤ 10 ms", times.p50() <= 10.0);
    report.add("connect → usable, p99", times.p99(), "ms");
}

/// A process' resident memory in bytes.
struct Resident {
    all: u64,
    /// What is not pages of its program and libraries, which are in memory once for all agents.
    own: u64,
}

impl Resident {
    fn of(pid: i32) -> Self {
        Self { all: processes::resident(pid), own: processes::own(pid) }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

async fn memory(report: &mut Report, server: &Server, idle: Resident) {
    let all = mib(idle.all);
    report.judge("agent's resident memory, idle", all, "MiB", "≤ 10 MiB", all <= 10.0);
    report.add("of it the agent's own, idle", mib(idle.own), "MiB");
    let session = server.session("memory").await;
    for (count, more) in [(1, 1), (20, 19)] {
        for n in 0..more {
            let id = session.open_terminal().await;
            let mut viewer = Viewer::attach(&session, &id, &format!("m{n}"), &["bin", "ack"]).await;
            viewer.wait_for(e2e::server::PROMPT).await;
        }
        let name = format!("agent's resident memory, {count} terminal{}", if count == 1 { "" } else { "s" });
        let resident = Resident::of(server.agent(&session));
        report.add(name.clone(), mib(resident.all), "MiB");
        report.add(
            format!("of it the agent's own, {}", name.rsplit(", ").next().unwrap_or(&name)),
            mib(resident.own),
            "MiB",
        );
    }
}

/// So many sessions at once, each with a terminal that is looked at; what each costs the server.
async fn replica(report: &mut Report, count: usize) {
    // One that has done nothing yet, or memory that is free again would count as cost.
    let server = Server::start().await;
    drop(server.session("first").await);
    let before = processes::resident(server.pid());
    let mut sessions = Vec::new();
    for n in 0..count {
        sessions.push(server.session(&format!("link-{n}")).await);
    }
    let linked = processes::resident(server.pid());
    let mut viewers = Vec::new();
    for session in &sessions {
        let mut viewer = session.terminal().await;
        viewer.wait_for(e2e::server::PROMPT).await;
        viewers.push(viewer);
    }
    let viewed = processes::resident(server.pid());
    let begun = Instant::now();
    for viewer in &mut viewers {
        viewer.type_text("echo he''re\n").await;
    }
    for viewer in &mut viewers {
        viewer.wait_for("here\r\n").await;
    }
    let each = |bytes: u64| bytes as f64 / 1024.0 / count as f64;
    report.add("links and terminals at once, all answering", viewers.len() as f64, "");
    report.add("until the last of them answered", begun.elapsed().as_secs_f64() * 1e3, "ms");
    report.add("server's memory for each link", each(linked.saturating_sub(before)), "KiB");
    report.add("server's memory for each terminal viewed", each(viewed.saturating_sub(linked)), "KiB");
}
