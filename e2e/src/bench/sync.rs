//! Files both ways, beside what the bare file system and the bare database do in the same run.

use super::floor::{FILE_BYTES, Floors};
use super::{Report, Times, bulk, floor};
use e2e::events::Events;
use e2e::proxy::Proxy;
use e2e::{Options, Server, Session};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a change may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures: one file back and forth, a checkout of so many files, and a workspace of so many items.
pub(crate) async fn run(quick: bool, files: usize, items: usize, url: Option<String>) -> Report {
    let mut report = Report::new("sync", quick);
    let rounds = if quick { 20 } else { 500 };
    let (files, items) = if quick { (200, 1_000) } else { (files, items) };
    let mut flags = vec!["--workspace-items".to_owned(), "1000000".to_owned()];
    flags.extend(["--file-mb", "512", "--batch-mb", "512", "--workspace-mb", "8192"].map(str::to_owned));
    flags.extend(url.iter().flat_map(|url| ["--database-url".to_owned(), url.clone()]));
    let server = Server::with(Options { flags, ..Options::default() }).await;
    let proxy = Proxy::before(&server).await;

    let session = server.session("bench").await;
    let app = server.app(&session);
    let floors = floor::of_a_save(&mut report, &server.folder(&session), rounds, url.as_deref()).await;
    save(&mut report, &session, &app, rounds, &floors, url.is_some()).await;
    write(&mut report, &session, &app, rounds, &floors).await;
    bulk::checkout(&mut report, &server, &session, files).await;
    bulk::reconnect(&mut report, &session, &proxy, files).await;
    bulk::remove(&session).await;

    let large = server.session("bench-large").await;
    bulk::one_byte(&mut report, &server, &large, &proxy, if quick { 4 << 20 } else { 200_000_000 }).await;
    bulk::remove(&large).await;

    let many = server.session("bench-many").await;
    bulk::items(&mut report, &server, &many, items).await;
    bulk::remove(&many).await;
    report
}

async fn save(
    report: &mut Report,
    session: &Session,
    app: &Path,
    rounds: usize,
    floors: &Floors,
    postgres: bool,
) {
    let mut times = Vec::new();
    for n in 0..rounds {
        let text = format!("{n:FILE_BYTES$}");
        let begun = Instant::now();
        session.save("saved.txt", text.clone()).await;
        let path = app.join("saved.txt");
        while std::fs::read(&path).unwrap_or_default() != text.as_bytes() {
            assert!(begun.elapsed() < PATIENCE, "a save did not arrive");
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        times.push(begun.elapsed());
    }
    let (p50, p99) = (Times::new(times.clone()).p50(), Times::new(times).p99());
    let bar = if postgres { 10.0 } else { 5.0 };
    report.judge("save of 4 KB → visible in the session, p50", p50, "ms", format!("≤ {bar} ms"), p50 <= bar);
    report.judge("save of 4 KB → visible in the session, p99", p99, "ms", "≤ 25 ms", p99 <= 25.0);
    report.ratio("  p50 ÷ (bare commit + bare stage and rename)", p50, floors.commit + floors.rename);
}

async fn write(report: &mut Report, session: &Session, app: &Path, rounds: usize, floors: &Floors) {
    let mut events = Events::of(session).await;
    let mut times = Vec::new();
    for n in 0..rounds {
        let name = format!("written-{n}.txt");
        let begun = Instant::now();
        std::fs::write(app.join(&name), format!("{n:FILE_BYTES$}")).expect("to write");
        events
            .find(|event| {
                event["paths"].as_array().is_some_and(|paths| paths.iter().any(|path| *path == name))
            })
            .await;
        times.push(begun.elapsed());
    }
    let times = Times::new(times);
    let p50 = times.p50();
    report.judge("write of 4 KB in the session → committed, p50", p50, "ms", "≤ 15 ms", p50 <= 15.0);
    report.add("write of 4 KB in the session → committed, p99", times.p99(), "ms");
    report.ratio("  p50 ÷ bare commit", p50, floors.commit);
}
