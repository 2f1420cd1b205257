//! Agents that die in the middle of their work, and agents that come twice.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::oracle::{assert_equal, assert_no_conflict, in_database, settle};
use e2e::{Server, Session, eventually, processes};
use rustix::process::Signal;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long an agent may take to see and heal, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Files of a burst, so many that a kill falls into its middle.
const FILES: usize = 10_000;

/// Kills the session's agent as a crash would, and waits for the next one.
async fn crash(server: &Server, session: &Session) {
    let agent = server.agent(session);
    processes::kill(agent, Signal::KILL);
    eventually("another agent runs", SOON, || async {
        let next = std::fs::read_to_string(server.folder(session).join(".berth/agent.lock")).ok()?;
        let next: i32 = next.trim().parse().ok()?;
        (next != agent && processes::alive(next)).then_some(())
    })
    .await;
}

/// Files on disk below `folder`, of those that the bursts make.
fn files(folder: &std::path::Path) -> usize {
    (0..100).map(|d| std::fs::read_dir(folder.join(format!("d{d}"))).map_or(0, Iterator::count)).sum()
}

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_ten_thousand_applies_ends_with_all_of_them() {
    let server = Server::start().await;
    let session = server.session("applies").await;
    let app = server.app(&session);
    let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    for n in 0..FILES {
        let text = format!("content {n}\n");
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, format!("d{}/f{n}", n % 100), text.as_bytes()).unwrap();
    }
    let archive = tar.into_inner().unwrap().finish().unwrap();
    let kind = [("content-type", "application/zstd")];
    let path = session.workspace("/archive?format=tar.zst");
    let reply = session.api.send(reqwest::Method::PUT, &path, &kind, archive).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut killed = 0;
    for at in [300, 3_000, 7_000] {
        eventually("more of them are there", SOON, || async { (files(&app) >= at).then_some(()) }).await;
        killed += usize::from(files(&app) < FILES);
        crash(&server, &session).await;
    }
    assert!(killed > 0, "no kill fell into the middle");
    eventually("all of them are there", SOON * 2, || async { (files(&app) == FILES).then_some(()) }).await;
    let tree = assert_equal(&session, &app, &[], FILES + 100).await;
    assert_eq!(tree.len(), FILES + 100, "none went, none doubled");
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_its_pushes_ends_with_all_of_them() {
    let server = Server::start().await;
    let session = server.session("pushes").await;
    let app = server.app(&session);
    // By nobody whom the agent's death would end.
    let writing = app.clone();
    let writer = std::thread::spawn(move || {
        for d in 0..100 {
            std::fs::create_dir(writing.join(format!("d{d}"))).unwrap();
        }
        for n in 0..FILES {
            std::fs::write(writing.join(format!("d{}/f{n}", n % 100)), format!("content {n}\n")).unwrap();
        }
    });
    let arrived = || async {
        let tree = session.tree().await;
        tree["items"].as_array().unwrap().iter().filter(|item| item["kind"] == "file").count()
    };
    let mut killed = 0;
    for at in [1, 2_500, 6_000] {
        eventually("more of them are committed", SOON, || async { (arrived().await >= at).then_some(()) })
            .await;
        killed += usize::from(arrived().await < FILES);
        crash(&server, &session).await;
    }
    assert!(killed > 0, "no kill fell into the middle");
    writer.join().unwrap();
    session.wait_for("running").await;
    let tree = assert_equal(&session, &app, &[], FILES + 100).await;
    assert_eq!(tree.len(), FILES + 100, "none went, none doubled");
    assert_no_conflict(&session).await;
}

/// An agent by hand, with the session's credential and a volume of its own; killed when dropped.
struct Second(std::process::Child);

impl Second {
    fn start(server: &Server, session: &Session, flags: &[&str]) -> Self {
        let (folder, own) = (server.folder(session), server.data().join("second"));
        for name in ["app", ".berth"] {
            std::fs::create_dir_all(own.join(name)).unwrap();
        }
        let child = Command::new(e2e::server::program())
            .arg("agent")
            .arg("--control-plane-file")
            .arg(server.data().join("agent-address"))
            .arg("--credential-file")
            .arg(folder.join(".berth/credential"))
            .arg("--workspace")
            .arg(own.join("app"))
            .arg("--state")
            .arg(own.join(".berth"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(own.join("log")).unwrap())
            .process_group(0)
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_agent_that_was_superseded_is_refused_and_what_it_had_is_not_lost() {
    let server = Server::start().await;
    let session = server.session("superseded").await;
    let app = server.app(&session);
    session.sh("for n in 1 2 3; do echo first > f$n; done").await;
    assert_equal(&session, &app, &[], 3).await;
    let first = server.agent(&session);
    processes::kill(first, Signal::STOP);
    // Written where the first agent can't tell it any more.
    std::fs::write(app.join("f1"), "unsent\n").unwrap();
    std::fs::write(app.join("unsent"), "unsent\n").unwrap();

    let second = Second::start(&server, &session, &[]);
    let own = server.data().join("second/app");
    eventually("the second agent has the files", SOON, || async {
        std::fs::read_to_string(own.join("f3")).ok().filter(|text| text == "first\n")
    })
    .await;
    std::fs::write(own.join("f2"), "second\n").unwrap();
    session.wait_for_file("f2", b"second\n").await;

    processes::kill(first, Signal::CONT);
    eventually("the first agent ends", SOON, || async { (!processes::alive(first)).then_some(()) }).await;
    std::fs::write(own.join("f3"), "second\n").unwrap();
    session.wait_for_file("f3", b"second\n").await;
    assert_eq!(session.read("f1").await.unwrap(), "first\n", "the first agent's batches are refused");
    assert_eq!(session.read("unsent").await, None);
    drop(second);

    // On its own again, the first volume's files are told: nothing was lost.
    session.stop().await;
    session.start().await;
    session.wait_for_file("unsent", b"unsent\n").await;
    session.wait_for_file("f1", b"unsent\n").await;
    settle(&session).await;
    eventually("what the second agent wrote", SOON, || async {
        std::fs::read_to_string(app.join("f3")).ok().filter(|text| text == "second\n")
    })
    .await;
    assert_equal(&session, &app, &[], 4).await;
    assert_eq!(in_database(&session).await.len(), 4);
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn an_agent_that_finds_no_control_plane_for_as_long_as_it_may_writes_its_state_says_so_and_ends() {
    let mut server = Server::start().await;
    let session = server.session("alone").await;
    let first = server.agent(&session);
    let mut second = Second::start(&server, &session, &["--give-up-after", "2"]);
    let own = server.data().join("second");
    std::fs::write(own.join("app/linked"), "sent\n").unwrap();
    session.wait_for_file("linked", b"sent\n").await;
    eventually("the first agent ends", SOON, || async { (!processes::alive(first)).then_some(()) }).await;
    // Linked, it stays, however long that is.
    eventually("twice its patience passes", SOON, || async {
        let started = std::fs::metadata(own.join("log")).unwrap().created().unwrap();
        (started.elapsed().unwrap() > Duration::from_secs(4)).then_some(())
    })
    .await;
    assert_eq!(second.0.try_wait().unwrap(), None);

    server.kill();
    let alone = std::time::Instant::now();
    std::fs::write(own.join("app/unsent"), "kept\n").unwrap();
    let status = eventually("it ends", SOON, || {
        let status = second.0.try_wait().unwrap();
        async move { status }
    })
    .await;
    assert!(alone.elapsed() >= Duration::from_secs(1), "it looks for one first");
    let log = std::fs::read_to_string(own.join("log")).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("no control plane for 2s: this agent writes its last state and ends"), "{log}");
    assert!(std::fs::metadata(own.join(".berth/base")).unwrap().len() > 0);
    assert_eq!(std::fs::read_to_string(own.join("app/unsent")).unwrap(), "kept\n");
}
