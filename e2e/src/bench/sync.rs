//! Files both ways, beside what the bare file system does in the same run.

use super::{Report, Times};
use e2e::events::Events;
use e2e::{Server, Session};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a change may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures.
pub(crate) async fn run(quick: bool) -> Report {
    let mut report = Report::new("sync", quick);
    let rounds = if quick { 20 } else { 500 };
    let files = if quick { 200 } else { 10_000 };
    let server = Server::start().await;
    let session = server.session("bench").await;
    let app = server.app(&session);
    floor_of_a_save(&mut report, server.folder(&session).as_path(), rounds);
    save(&mut report, &session, &app, rounds).await;
    write(&mut report, &session, &app, rounds).await;
    checkout(&mut report, &server, &session, files).await;
    report
}

/// Stage and rename, without database, network or agent.
fn floor_of_a_save(report: &mut Report, folder: &Path, rounds: usize) {
    let times = (0..rounds).map(|n| {
        let begun = Instant::now();
        std::fs::write(folder.join("floor.new"), format!("{n:4096}")).expect("to write");
        std::fs::rename(folder.join("floor.new"), folder.join("floor")).expect("to rename");
        begun.elapsed()
    });
    report.add("floor: bare stage and rename of 4 KB, p50", Times::new(times.collect()).p50(), "ms");
    // The folder is the session's own, and stays as it was.
    let _ = std::fs::remove_file(folder.join("floor"));
}

async fn save(report: &mut Report, session: &Session, app: &Path, rounds: usize) {
    let mut times = Vec::new();
    for n in 0..rounds {
        let text = format!("{n:4096}");
        let begun = Instant::now();
        session.save("saved.txt", text.clone()).await;
        let path = app.join("saved.txt");
        while std::fs::read(&path).unwrap_or_default() != text.as_bytes() {
            assert!(begun.elapsed() < PATIENCE, "a save did not arrive");
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        times.push(begun.elapsed());
    }
    let times = Times::new(times);
    report.judge(
        "save of 4 KB → visible in the session, p50",
        times.p50(),
        "ms",
        "≤ 5 ms",
        times.p50() <= 5.0,
    );
    report.judge(
        "save of 4 KB → visible in the session, p99",
        times.p99(),
        "ms",
        "≤ 25 ms",
        times.p99() <= 25.0,
    );
}

async fn write(report: &mut Report, session: &Session, app: &Path, rounds: usize) {
    let mut events = Events::of(session).await;
    let mut times = Vec::new();
    for n in 0..rounds {
        let name = format!("written-{n}.txt");
        let begun = Instant::now();
        std::fs::write(app.join(&name), format!("{n:4096}")).expect("to write");
        events
            .find(|event| {
                event["paths"].as_array().is_some_and(|paths| paths.iter().any(|path| *path == name))
            })
            .await;
        times.push(begun.elapsed());
    }
    let times = Times::new(times);
    report.judge(
        "write of 4 KB in the session → committed, p50",
        times.p50(),
        "ms",
        "≤ 15 ms",
        times.p50() <= 15.0,
    );
    report.add("write of 4 KB in the session → committed, p99", times.p99(), "ms");
}

async fn checkout(report: &mut Report, server: &Server, session: &Session, files: usize) {
    let source = tempfile::tempdir().expect("a folder");
    for n in 0..files {
        let folder = source.path().join(format!("d{}", n % 100));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("f{n}")), format!("{n:2048}")).expect("a file");
    }
    let copy = |to: &Path| {
        std::fs::create_dir_all(to).expect("a folder");
        let line = "tar c -C \"$1\" . | tar x -C \"$2\"";
        let begun = Instant::now();
        let status = Command::new("sh").args(["-c", line, "sh"]).arg(source.path()).arg(to).status();
        assert!(status.is_ok_and(|status| status.success()));
        begun.elapsed().as_secs_f64()
    };
    let bare = tempfile::tempdir().expect("a folder");
    report.add(format!("floor: tar | tar of {files} files of 2 KB"), copy(bare.path()), "s");
    let begun = Instant::now();
    let walked = walk(bare.path());
    report.add(format!("floor: bare stat of {walked} entries"), begun.elapsed().as_secs_f64() * 1e3, "ms");

    let begun = Instant::now();
    copy(&server.app(session).join("checkout"));
    loop {
        let tree = session.tree().await;
        let items = tree["items"].as_array().map_or(0, |items| {
            let below = |item: &&serde_json::Value| {
                item["path"].as_str().is_some_and(|path| path.starts_with("checkout/d"))
            };
            items.iter().filter(below).filter(|item| item["kind"] == "file").count()
        });
        if items == files {
            break;
        }
        assert!(begun.elapsed() < PATIENCE * 2, "{items} of {files} files arrived");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    report.judge(format!("checkout of {files} files of 2 KB → committed"), took, "s", "≤ 3 s", took <= 3.0);
    let memory = e2e::processes::resident(server.agent(session)) as f64 / f64::from(1 << 20);
    report.add("agent's resident memory afterwards", memory, "MiB");
}

fn walk(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let below = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => 1 + walk(&entry.path()),
        _ => 1,
    };
    entries.flatten().map(below).sum()
}
