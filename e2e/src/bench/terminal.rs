//! Terminals: keys, floods, Ctrl-C, connecting, memory; beside a raw PTY in the same run.

use super::pty::Pty;
use super::{Report, Times};
use e2e::{Frame, Server, Session, Viewer, processes};
use serde_json::json;
use std::time::{Duration, Instant};

/// Gives back each key at once.
const ECHO: &[&str] = &["sh", "-c", "stty raw -echo; printf go; exec cat"];

/// Measures.
pub(crate) async fn run(quick: bool) -> Report {
    let mut report = Report::new("terminal", quick);
    let rounds = if quick { 50 } else { 2000 };
    let bulk = if quick { 5_000_000 } else { 200_000_000 };
    let server = Server::start().await;
    let session = server.session("bench").await;
    let agent = server.agent(&session);
    let idle = processes::resident(agent);

    let raw = tokio::task::spawn_blocking(move || {
        let mut pty = Pty::spawn(ECHO);
        pty.wait_for("go");
        Times::new(pty.echoes(rounds))
    });
    let raw = raw.await.expect("the raw PTY");
    report.add("echo, raw PTY, p50", raw.p50(), "ms");
    report.add("echo, raw PTY, p99", raw.p99(), "ms");
    echo(&mut report, &session, rounds, &raw, "").await;

    let flood = Flood::start(&session).await;
    echo(&mut report, &session, rounds, &raw, " beside a flood").await;
    flood.stop().await;

    let files = tokio::spawn(move_files(session.clone(), if quick { 2 } else { 20 }));
    let moving = echoes(&session, "bin", usize::MAX, Some(&files)).await;
    report.judge(
        "echo, binary while 100 MB of files move, p50",
        moving.p50(),
        "ms",
        "added < 0.1 ms",
        moving.p50() - raw.p50() < 0.1,
    );
    report.judge(
        "echo, binary while 100 MB of files move, p99",
        moving.p99(),
        "ms",
        "< 3 ms",
        moving.p99() < 3.0,
    );
    files.await.expect("the files");

    output(&mut report, &session, bulk).await;
    interrupt(&mut report, &session).await;
    connect(&mut report, &session, rounds.min(200)).await;
    memory(&mut report, &server, idle).await;
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
    for (cap, name, bar) in [("bin", "binary", 0.1), ("text", "JSON", 0.2)] {
        let times = echoes::<()>(session, cap, rounds, None).await;
        let added = times.p50() - raw.p50();
        report.judge(
            format!("echo, {name}{when}, p50"),
            times.p50(),
            "ms",
            format!("added < {bar} ms"),
            added < bar,
        );
        report.judge(format!("echo, {name}{when}, p99"), times.p99(), "ms", "< 3 ms", times.p99() < 3.0);
    }
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

/// Saves so many files of 5 MB that do not compress.
async fn move_files(session: Session, count: usize) {
    let mut state = 1u64;
    for n in 0..count {
        let bytes: Vec<u8> = (0..5_000_000 / 8)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        session.save(&format!("moved/{n}"), bytes).await;
    }
}

async fn output(report: &mut Report, session: &Session, bytes: usize) {
    let line = format!(
        "stty raw -echo; printf go; read x; yes 0123456789012345678901234567890123456789 | head -c {bytes}; exec sleep 1000"
    );
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

async fn memory(report: &mut Report, server: &Server, idle: u64) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    report.judge("agent's resident memory, idle", mib(idle), "MiB", "≤ 10 MiB", mib(idle) <= 10.0);
    let session = server.session("memory").await;
    for (count, more) in [(1, 1), (20, 19)] {
        for n in 0..more {
            let id = session.open_terminal().await;
            let mut viewer = Viewer::attach(&session, &id, &format!("m{n}"), &["bin", "ack"]).await;
            viewer.wait_for(e2e::server::PROMPT).await;
        }
        let name = format!("agent's resident memory, {count} terminal{}", if count == 1 { "" } else { "s" });
        report.add(name, mib(processes::resident(server.agent(&session))), "MiB");
    }
}
