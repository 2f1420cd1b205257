//! Disks that fail: full, replaced, gone, or with a base that somebody tampered with.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::oracle::{assert_equal, assert_no_conflict, conflicts, in_database, problem, settle};
use e2e::{Options, Server, Session, eventually};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// How long an agent may take to see and heal, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// A session with `files` files that both sides hold.
async fn with_files(server: &Server, name: &str, files: usize) -> Session {
    let session = server.session(name).await;
    session.sh(&format!("mkdir d; for n in $(seq 1 {files}); do echo \"text $n\" > d/f$n; done")).await;
    assert_equal(&session, &server.app(&session), &[], files + 1).await;
    session
}

async fn sync_state(session: &Session) -> Value {
    session.api.get(&session.workspace("/problems")).await.expect(200).json()
}

/// Waits until the folder shows all that the database has.
async fn in_step(session: &Session) {
    eventually("the folder shows the newest revision", SOON, || async {
        let (state, tree) = (sync_state(session).await, session.tree().await);
        (state["rev_in_pod"] == tree["rev"] && state["state"] == "live").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_full_folder_keeps_the_save_tells_it_and_heals() {
    let options = Options { sessions_bytes: Some(24 << 20), ..Options::default() };
    keeps_tells_and_heals(options, "No space left on device").await;
}

#[tokio::test]
async fn a_quota_that_is_used_up_though_the_volume_has_room_is_as_a_full_folder() {
    if let Some(why) = e2e::machine::lacks_quotas() {
        e2e::skipped(&format!("no quota can be set here: {why}"));
        return;
    }
    let options = Options { sessions_quota: Some(24 << 20), ..Options::default() };
    keeps_tells_and_heals(options, "Disk quota exceeded").await;
}

/// A session whose folder takes no more, as programs there are told by `refusal`.
async fn keeps_tells_and_heals(options: Options, refusal: &str) {
    let server = Server::with(options).await;
    let session = server.session("full").await;
    let mut events = e2e::events::Events::of(&session).await;
    let rev = session.save("before.txt", "fits\n").await;
    session.exec("cat before.txt", json!({"after_rev": rev})).await;
    // Until not even a few bytes fit.
    let fill = "mkdir .cache; for size in 1M 4k 64; do dd if=/dev/zero bs=$size >> .cache/filler; done";
    let ran = session.exec(fill, json!({})).await;
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(said.matches(refusal).count(), 3, "{said}");

    let text = vec![b'x'; 300_000];
    session.save("saved.txt", text.clone()).await;
    assert_eq!(session.read("saved.txt").await.unwrap(), text, "the save is kept in the database");
    events
        .find(|event| {
            (event["type"] == "sync" && event["state"] == "full")
                || (event["type"] == "problem" && event["path"] == "saved.txt")
        })
        .await;
    eventually("the path is told", SOON, || async {
        problem(&session, "saved.txt").await.filter(|code| code == "no_space")
    })
    .await;
    // The terminal and the server live on, and what a program deletes or shortens still arrives.
    assert_eq!(session.sh("echo alive; rm before.txt").await, "alive\n");
    eventually("a delete arrives", SOON, || async {
        session.read("before.txt").await.is_none().then_some(())
    })
    .await;
    assert_eq!(session.state().await["state"], "running");

    session.sh("rm -r .cache").await;
    eventually("it heals when there is room", SOON, || async {
        let ran = session.exec("wc -c < saved.txt", json!({})).await;
        (ran.out().trim() == "300000").then_some(())
    })
    .await;
    in_step(&session).await;
    assert_eq!(problem(&session, "saved.txt").await, None);
    session.sh("echo again > after.txt").await;
    assert_equal(&session, &server.seen_app(&session), &[], 2).await;
}

#[tokio::test]
async fn a_replaced_volume_deletes_nothing_and_is_filled_again() {
    let server = Server::start().await;
    let session = with_files(&server, "replaced", 30).await;
    let before = in_database(&session).await;
    session.stop().await;
    // What a new, empty disk looks like: neither files nor base.
    let folder = server.folder(&session);
    for name in ["app", ".berth"] {
        std::fs::rename(folder.join(name), server.data().join(name)).unwrap();
    }
    session.start().await;
    in_step(&session).await;
    assert_eq!(in_database(&session).await, before);
    assert_eq!(assert_equal(&session, &server.app(&session), &[], 31).await, before);
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn another_volume_with_a_base_of_its_own_deletes_nothing() {
    let server = Server::start().await;
    let (session, other) = (with_files(&server, "one", 30).await, with_files(&server, "other", 5).await);
    session.sh("echo theirs > d/f1; echo only > here").await;
    let before = assert_equal(&session, &server.app(&session), &[], 32).await;
    session.stop().await;
    other.stop().await;
    // The disk of another session, whose base lists files at revisions of its own.
    for name in ["app", ".berth"] {
        let (mine, theirs) = (server.folder(&session).join(name), server.folder(&other).join(name));
        std::fs::remove_dir_all(&mine).unwrap();
        std::fs::rename(theirs, mine).unwrap();
    }
    session.start().await;
    in_step(&session).await;
    let after = assert_equal(&session, &server.app(&session), &[], 32).await;
    assert_eq!(after, before, "the database's side stands at every path that both have");
    let lost: Vec<_> = conflicts(&session).await.iter().map(|version| version["path"].clone()).collect();
    assert_eq!(lost, ["d/f1"], "the other's differing file is a version in the history");
}

#[tokio::test]
async fn a_folder_gone_at_a_start_is_held_and_asked_for() {
    // Also a few: no folder is not a folder in which somebody deleted them.
    for (files, delete) in [(30, false), (30, true), (3, false), (3, true)] {
        let server = Server::start().await;
        let session = with_files(&server, "gone", files).await;
        let before = in_database(&session).await;
        session.stop().await;
        std::fs::rename(server.app(&session), server.data().join("app-was")).unwrap();
        session.start().await;
        eventually("the mass delete is held", SOON, || async {
            let state = sync_state(&session).await;
            (state["state"] == "held" && state["mass_delete"]["items"] == files + 1).then_some(())
        })
        .await;
        // Work goes on meanwhile, both ways.
        session.sh("echo new > new").await;
        session.wait_for_file("new", b"new\n").await;
        assert_eq!(in_database(&session).await.len(), files + 2, "nothing is deleted unasked");
        let reply = session.api.post(&session.workspace("/mass-delete"), &json!({"delete": delete})).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
        eventually("the decision is carried out", SOON, || async {
            let there = in_database(&session).await.len();
            let here = std::fs::read_dir(server.app(&session).join("d")).map_or(0, Iterator::count);
            ((there, here) == if delete { (1, 0) } else { (files + 2, files) }).then_some(())
        })
        .await;
        in_step(&session).await;
        let after = assert_equal(&session, &server.app(&session), &[], 1).await;
        if !delete {
            assert!(before.iter().all(|(path, what)| after.get(path) == Some(what)));
        }
    }
}

#[tokio::test]
async fn a_tampered_base_loses_nothing() {
    let garbage = |base: &Path, _: &Path| std::fs::write(base, vec![0xAA; 5_000]).unwrap();
    let empty = |base: &Path, _: &Path| std::fs::write(base, b"").unwrap();
    let truncated = |base: &Path, _: &Path| {
        let bytes = std::fs::read(base).unwrap();
        std::fs::write(base, &bytes[..bytes.len() / 2]).unwrap();
    };
    let flipped = |base: &Path, _: &Path| {
        let mut bytes = std::fs::read(base).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 0x10;
        std::fs::write(base, bytes).unwrap();
    };
    let gone = |base: &Path, _: &Path| std::fs::remove_file(base).unwrap();
    let folder = |base: &Path, _: &Path| {
        std::fs::remove_file(base).unwrap();
        std::fs::create_dir(base).unwrap();
    };
    let older = |base: &Path, older: &Path| {
        std::fs::copy(older, base).unwrap();
    };
    type Tamper = fn(&Path, &Path);
    let ways: [(&str, Tamper); 7] = [
        ("garbage", garbage),
        ("empty", empty),
        ("truncated", truncated),
        ("a flipped bit", flipped),
        ("gone", gone),
        ("a folder", folder),
        ("an older one", older),
    ];
    let server = Server::start().await;
    for (what, tamper) in ways {
        let session = with_files(&server, what, 30).await;
        let (app, base) = (server.app(&session), server.folder(&session).join(".berth/base"));
        session.stop().await;
        let saved = server.data().join("older-base");
        std::fs::copy(&base, &saved).unwrap();
        session.start().await;
        session.sh("echo second > d/f2; echo second > d/f3; rm d/f4; echo new > n1").await;
        assert_equal(&session, &app, &[], 31).await;
        session.stop().await;
        tamper(&base, &saved);
        // Both sides go on while they are apart.
        std::fs::write(app.join("d/f5"), "the pod's\n").unwrap();
        std::fs::write(app.join("n2"), "the pod's\n").unwrap();
        session.save("d/f6", "the page's\n").await;
        session.save("n3", "the page's\n").await;
        session.start().await;
        in_step(&session).await;
        let tree = assert_equal(&session, &app, &[], 33).await;
        for path in
            (1..=30).filter(|n| *n != 4).map(|n| format!("d/f{n}")).chain(["n1", "n2", "n3"].map(Into::into))
        {
            assert!(tree.contains_key(&path), "{what}: {path}");
        }
        // What only one side changed is that side's, or the other one's is in the history.
        for (path, wrote) in
            [("d/f5", "the pod's\n"), ("n2", "the pod's\n"), ("d/f6", "the page's\n"), ("d/f2", "second\n")]
        {
            let stands = session.read(path).await.unwrap() == wrote;
            let history = session.api.get(&session.workspace(&format!("/history?path={path}"))).await.json();
            let kept = history["versions"].as_array().unwrap().iter().any(|v| v["size"] == wrote.len());
            assert!(stands || kept, "{what}: {path} is neither there nor in the history");
        }
        session.stop().await;
        session.api.delete(&session.path("")).await;
    }
}

#[tokio::test]
async fn the_folder_replaced_under_a_running_agent_deletes_nothing_unasked() {
    let server = Server::start().await;
    let session = with_files(&server, "swapped", 3).await;
    let app = server.app(&session);
    let before = in_database(&session).await;
    std::fs::rename(&app, server.data().join("app-was")).unwrap();
    std::fs::create_dir(&app).unwrap();
    eventually("the mass delete is held", SOON, || async {
        (sync_state(&session).await["state"] == "held").then_some(())
    })
    .await;
    assert_eq!(in_database(&session).await, before);
    // Put back, it is as it was.
    std::fs::remove_dir(&app).unwrap();
    std::fs::rename(server.data().join("app-was"), &app).unwrap();
    in_step(&session).await;
    assert_eq!(assert_equal(&session, &app, &[], 4).await, before);
    std::fs::write(app.join("d/f1"), "watched again\n").unwrap();
    session.wait_for_file("d/f1", b"watched again\n").await;
}

#[tokio::test]
async fn the_folder_gone_under_a_running_agent_deletes_nothing_unasked() {
    let server = Server::start().await;
    let session = with_files(&server, "away", 30).await;
    let app = server.app(&session);
    let before = in_database(&session).await;
    std::fs::rename(&app, server.data().join("app-was")).unwrap();
    eventually("it is told", SOON, || async {
        problem(&session, "").await.filter(|code| code == "workspace_gone")
    })
    .await;
    assert_eq!(in_database(&session).await, before);
    session.save("saved", "kept\n").await;
    std::fs::rename(server.data().join("app-was"), &app).unwrap();
    eventually("the save arrives", SOON, || async {
        std::fs::read_to_string(app.join("saved")).ok().filter(|text| text == "kept\n")
    })
    .await;
    settle(&session).await;
    assert_equal(&session, &app, &[], 32).await;
    assert_eq!(problem(&session, "").await, None);
}
