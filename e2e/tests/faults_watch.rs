//! Events that get lost, watches that run out, and changes that raise no event: all are found by looking.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::oracle::{assert_equal, assert_no_conflict, problem, settle};
use e2e::{Options, Server, eventually, processes};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

/// How long an agent may take to see and heal, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_happened_while_the_queue_of_events_overflowed_is_found() {
    let server = Server::start().await;
    let session = server.session("overflow").await;
    let app = server.app(&session);
    session.sh("mkdir d e; for n in $(seq 1 500); do echo $n > e/f$n; done").await;
    assert_equal(&session, &app, &[], 502).await;
    let queue: usize =
        std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();

    let agent = server.agent(&session);
    processes::kill(agent, Signal::STOP);
    // Each new file raises a create, a modify and a close: more events than the queue takes.
    let files = 12_000.max(queue / 2);
    for n in 0..files {
        std::fs::write(app.join(format!("d/f{n}")), n.to_string()).unwrap();
    }
    // These events are lost for sure.
    for n in 1..=100 {
        std::fs::write(app.join(format!("e/f{n}")), "edited").unwrap();
        std::fs::remove_file(app.join(format!("e/f{}", n + 100))).unwrap();
    }
    std::fs::create_dir_all(app.join("new/deep")).unwrap();
    std::fs::write(app.join("new/deep/file"), "new").unwrap();
    std::fs::rename(app.join("e/f400"), app.join("e/moved")).unwrap();
    processes::kill(agent, Signal::CONT);

    // Without being asked.
    session.wait_for_file("new/deep/file", b"new").await;
    eventually("an edit whose event was lost", SOON, || async {
        session.read("e/f100").await.filter(|text| text == "edited")
    })
    .await;
    let tree = assert_equal(&session, &app, &[], files).await;
    assert!(!tree.contains_key("e/f101") && tree.contains_key("e/moved"));
    assert_no_conflict(&session).await;
    // The folder that appeared meanwhile is watched.
    std::fs::write(app.join("new/deep/file"), "again").unwrap();
    session.wait_for_file("new/deep/file", b"again").await;
}

/// Changes of every kind arrive though little or nothing is watched, and the session says so.
async fn polled(options: Options) {
    let server = Server::with(options).await;
    let session = server.session("polled").await;
    let app = server.app(&session);
    session.sh("for d in $(seq 1 60); do mkdir -p d$d/e; echo $d > d$d/e/f; done").await;
    eventually("polling is told", SOON, || async {
        problem(&session, "").await.filter(|code| code == "polling")
    })
    .await;
    assert_equal(&session, &app, &[], 180).await;
    session.sh("echo changed > d60/e/f; rm -r d59; mkdir -p d61/e; echo new > d61/e/f").await;
    // Not asked for by a question, but found.
    session.wait_for_file("d60/e/f", b"changed\n").await;
    session.wait_for_file("d61/e/f", b"new\n").await;
    eventually("a delete", SOON, || async { session.read("d59/e/f").await.is_none().then_some(()) }).await;
    let rev = session.save("d58/e/f", "saved").await;
    assert_eq!(session.exec("cat d58/e/f", json!({"after_rev": rev})).await.out(), "saved");
    assert_equal(&session, &app, &[], 180).await;
    assert_eq!(problem(&session, "").await.as_deref(), Some("polling"), "it goes on saying so");
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn when_watches_run_out_changes_are_found_by_polling_and_that_is_told() {
    polled(Options { watches: Some(20), ..Options::default() }).await;
}

#[tokio::test]
async fn without_any_watcher_changes_are_found_by_polling_and_that_is_told() {
    polled(Options { watchers: Some(0), ..Options::default() }).await;
}

/// Writes through a memory map that stays open, then says so and waits.
const MAPPED: &str = r#"
import mmap, os, sys, time
with open("mapped", "r+b") as f:
    m = mmap.mmap(f.fileno(), 0)
    m[0:6] = b"mapped"
    open(".cache/written", "w").close()
    while not os.path.exists(".cache/end"): time.sleep(0.02)
"#;

#[tokio::test]
async fn a_write_through_a_memory_map_is_found_by_the_sweep_and_by_a_question() {
    for swept in [true, false] {
        let every = if swept { "1" } else { "3600" };
        let environment = vec![("BERTH_AGENT_SWEEP".to_owned(), every.to_owned())];
        let server = Server::with(Options { environment, ..Options::default() }).await;
        let session = server.session("mmap").await;
        let app = server.app(&session);
        session.sh("mkdir .cache; printf 'before, and more' > mapped").await;
        assert_equal(&session, &app, &[], 1).await;
        let mapping = session.exec(json!(["python3", "-c", MAPPED]), json!({"timeout_s": 120}));
        let looking = async {
            eventually("it is written", SOON, || async { app.join(".cache/written").exists().then_some(()) })
                .await;
            if swept {
                session.wait_for_file("mapped", b"mapped, and more").await;
            } else {
                settle(&session).await;
                assert_eq!(session.read("mapped").await.unwrap(), "mapped, and more");
            }
            std::fs::write(app.join(".cache/end"), "").unwrap();
        };
        let (ran, ()) = tokio::join!(mapping, looking);
        assert_eq!(ran.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
        assert_equal(&session, &app, &[], 1).await;
    }
}
