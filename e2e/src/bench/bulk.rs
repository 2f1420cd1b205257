//! Many files, many items, and large ones.

use super::{Report, Times, floor};
use e2e::oracle::settle;
use e2e::proxy::Proxy;
use e2e::{Server, Session, noise, processes};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a session may take to be in step again.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Cuts of a link.
const CUTS: usize = 10;
/// Files for which the bars were set.
const BAR_FILES: usize = 10_000;
/// Bytes of a link that reconnects: greetings and heartbeats, and no content.
const GREETING_BYTES: u64 = 64 * 1024;
/// Bytes that a changed byte may cost: the part it is in, and what names it and the others.
const ONE_BYTE_BYTES: u64 = 4 << 20;
/// Resident memory of an agent.
const MEMORY_MIB: f64 = 64.0;

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Waits until the folder shows a revision.
async fn in_step(session: &Session, rev: u64) {
    let begun = Instant::now();
    loop {
        let state = session.api.get(&session.workspace("/problems")).await.json();
        if state["rev_in_pod"].as_u64().is_some_and(|shown| shown >= rev) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not in step: {state}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Ends a session and all that it left in the database, which may be somebody's.
pub(crate) async fn remove(session: &Session) {
    session.stop().await;
    let _ = session.api.delete(&session.path("")).await;
}

/// Unpacks `files` files into the session, and waits until all are committed.
pub(crate) async fn checkout(report: &mut Report, server: &Server, session: &Session, files: usize) {
    let source = tempfile::tempdir().expect("a folder");
    for n in 0..files {
        let folder = source.path().join(format!("d{}", n % 100));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("f{n}")), format!("{n:2048}")).expect("a file");
    }
    let bare = tempfile::tempdir().expect("a folder");
    let tar = floor::tar(source.path(), bare.path());
    report.add(format!("floor: tar | tar of {files} files of 2 KB"), tar, "s");

    let before = settle(session).await;
    let begun = Instant::now();
    floor::tar(source.path(), &server.app(session).join("checkout"));
    settle(session).await;
    let took = begun.elapsed().as_secs_f64();
    let since = session.api.get(&session.workspace(&format!("/tree?since={before}"))).await.json();
    let arrived = since["items"]
        .as_array()
        .map_or(0, |items| items.iter().filter(|item| item["kind"] == "file").count());
    assert_eq!(arrived, files, "every file is committed");
    let name = format!("checkout of {files} files of 2 KB → committed");
    if files == BAR_FILES {
        report.judge(name, took, "s", "≤ 3 s", took <= 3.0);
    } else {
        report.add(name, took, "s");
    }
    report.ratio("  ÷ tar | tar", took, tar);
    let memory = mib(processes::resident(server.agent(session)));
    report.add("agent's resident memory afterwards", memory, "MiB");
}

/// Cuts the link of a session in which nothing changes.
pub(crate) async fn reconnect(report: &mut Report, session: &Session, proxy: &Proxy, files: usize) {
    let mut times = Vec::new();
    let mut most = 0;
    let rev = settle(session).await;
    for _ in 0..CUTS {
        in_step(session, rev).await;
        let before = proxy.bytes();
        proxy.cut();
        while session.api.get(&session.workspace("/problems")).await.json()["state"] != "offline" {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        in_step(session, rev).await;
        // From the agent's call: how long it waits before that is chance, up to 0.1 s.
        times.extend(proxy.dialled().map(|dialled| dialled.elapsed()));
        let after = proxy.bytes();
        most = most.max(after.0 + after.1 - before.0 - before.1);
    }
    let p50 = Times::new(times).p50();
    let name = format!("reconnect, {files} files unchanged → in step, p50");
    report.judge(name, p50, "ms", "≤ 300 ms", p50 <= 300.0);
    let name = "  bytes on the link, at most";
    report.judge(name, most as f64 / 1024.0, "KiB", "no content: ≤ 64 KiB", most <= GREETING_BYTES);

    session.stop().await;
    let before = proxy.bytes();
    let begun = Instant::now();
    session.start().await;
    in_step(session, rev).await;
    report.add(
        format!("agent started anew, {files} files unchanged → in step"),
        begun.elapsed().as_secs_f64() * 1e3,
        "ms",
    );
    let after = proxy.bytes();
    report.add("  bytes on the link", (after.0 + after.1 - before.0 - before.1) as f64 / 1024.0, "KiB");
}

/// A workspace of `items` items: what the agent needs to know of it, and to look at all of it.
pub(crate) async fn items(report: &mut Report, server: &Server, session: &Session, items: usize) {
    let app = server.app(session);
    let folders = (items / 100).max(1);
    let begun = Instant::now();
    for folder in 0..folders {
        let folder = app.join(format!("folder-{}/part-{folder}", folder % 10));
        std::fs::create_dir_all(&folder).expect("a folder");
        for n in 0..99 {
            std::fs::write(folder.join(format!("file-{n}.txt")), format!("{n} {}", folder.display()))
                .expect("a file");
        }
    }
    settle(session).await;
    report.add(format!("{items} items written → committed"), begun.elapsed().as_secs_f64(), "s");
    let busy = mib(processes::resident(server.agent(session)));

    let (entries, bare) = floor::scan(&app);
    report.add(format!("floor: bare stat of {entries} entries"), bare, "ms");
    let mut scans = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        settle(session).await;
        scans.push(begun.elapsed());
    }
    let scan = Times::new(scans).p50();
    report.add("  all looked at, nothing changed, p50", scan, "ms");
    report.ratio("  ÷ bare stat", scan, bare);

    let rev = settle(session).await;
    session.stop().await;
    session.start().await;
    in_step(session, rev).await;
    settle(session).await;
    let fresh = mib(processes::resident(server.agent(session)));
    for (name, memory) in [("after they came", busy), ("started anew", fresh)] {
        let name = format!("agent's resident memory, {items} items, {name}");
        report.judge(name, memory, "MiB", "≤ 64 MiB", memory <= MEMORY_MIB);
    }
}

/// One byte of a large file changes, in the session and by a save.
pub(crate) async fn one_byte(
    report: &mut Report,
    server: &Server,
    session: &Session,
    proxy: &Proxy,
    bytes: usize,
) {
    let file = server.app(session).join("large.bin");
    let mut content = noise(1, bytes);
    let megabytes = bytes as f64 / 1e6;
    let measured = |report: &mut Report, what: &str, begun: Instant, before: (u64, u64), judged: bool| {
        let after = proxy.bytes();
        let moved = after.0 + after.1 - before.0 - before.1;
        let name = format!("{what}: bytes on the link");
        if judged {
            report.judge(name, mib(moved), "MiB", "a few parts: ≤ 4 MiB", moved <= ONE_BYTE_BYTES);
        } else {
            report.add(name, mib(moved), "MiB");
        }
        report.add("  time", begun.elapsed().as_secs_f64(), "s");
    };
    settle(session).await;
    let (begun, before) = (Instant::now(), proxy.bytes());
    std::fs::write(&file, &content).expect("a large file");
    settle(session).await;
    measured(report, &format!("{megabytes} MB written → committed"), begun, before, false);

    let at = bytes / 2;
    content[at] ^= 1;
    let (begun, before) = (Instant::now(), proxy.bytes());
    patch(&file, at as u64, content[at]);
    settle(session).await;
    measured(report, &format!("one byte of {megabytes} MB written → committed"), begun, before, true);
    let stored = session.read("large.bin").await.expect("the large file");
    assert!(stored == content, "the changed file is committed whole");

    content[at / 2] ^= 1;
    let (begun, before) = (Instant::now(), proxy.bytes());
    let rev = session.save("large.bin", content.clone()).await;
    in_step(session, rev).await;
    measured(report, &format!("one byte of {megabytes} MB saved → visible"), begun, before, true);
    assert!(std::fs::read(&file).expect("the large file") == content, "the save is visible whole");
    let memory = mib(processes::resident(server.agent(session)));
    report.add("agent's resident memory afterwards", memory, "MiB");
}

fn patch(file: &Path, at: u64, byte: u8) {
    let mut file = std::fs::OpenOptions::new().write(true).open(file).expect("the large file");
    file.seek(SeekFrom::Start(at)).expect("to seek");
    file.write_all(&[byte]).expect("to write");
}
