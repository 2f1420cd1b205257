//! Kernels and file systems that lack what the agent would rather use: each has a way around, as safe but for what
//! SYNC.md says.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::machine::Kernel;
use e2e::oracle::{assert_equal, assert_no_conflict, in_database, problem, settle};
use e2e::{Options, Server, eventually};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long an agent may take to see and heal, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// What nobody in a session may see of what lies outside.
const SECRET: &str = "a secret that lies outside";

async fn on(kernel: Kernel) -> Server {
    Server::with(Options { kernel, ..Options::default() }).await
}

/// Both ways, with everything that makes the agent look, rename, replace and remove.
async fn stays_in_step(kernel: Kernel) {
    let server = on(kernel).await;
    let session = server.session("kernel").await;
    let app = server.app(&session);
    session
        .sh(r#"set -e
        mkdir -p a/b/c; for n in $(seq 1 200); do echo "$n" > a/b/c/f$n; done
        for n in $(seq 1 50); do echo two > new; mv new a/replaced; done
        sed -i s/1/one/ a/b/c/f1*; ln -s b/c/f1 a/link; chmod 755 a/b/c/f2; mv a/b a/moved; rm a/moved/c/f3"#)
        .await;
    let tree = assert_equal(&session, &app, &[], 200).await;
    assert_eq!(tree["a/link"], "symlink b/c/f1");

    // Over what is there, beside it, in new folders; then each kind in the place of another.
    for n in 0..20 {
        session.save("a/replaced", format!("saved {n}")).await;
        let rev = session.save(&format!("new/{n}/f"), format!("saved {n}")).await;
        let ran = session.exec(format!("cat a/replaced new/{n}/f"), json!({"after_rev": rev})).await;
        assert_eq!(ran.out(), format!("saved {n}saved {n}"));
    }
    let batch = json!({"ops": [
        {"op": "move", "from": "new", "to": "a/new"},
        {"op": "delete", "path": "a/moved/c/f4"},
        {"op": "chmod", "path": "a/moved/c/f5", "mode": 0o755},
        {"op": "delete", "path": "a/link"},
        {"op": "mkdir", "path": "a/link"},
    ]});
    let reply = session.api.post(&session.workspace("/batch"), &batch).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let rev = reply.json()["rev"].as_u64().unwrap();
    let ran =
        session.exec("test -d a/link && cat a/new/7/f && ls a/moved/c | wc -l", json!({"after_rev": rev}));
    assert_eq!(ran.await.out().trim(), "saved 7198");
    session.sh("rmdir a/link; echo file > a/link").await;
    assert_equal(&session, &app, &[], 220).await;
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn without_openat2_and_renameat2_both_sides_stay_in_step() {
    stays_in_step(Kernel::Old).await;
}

#[tokio::test]
async fn on_a_file_system_that_only_renames_plainly_both_sides_stay_in_step() {
    stays_in_step(Kernel::PlainRenames).await;
}

/// Swaps what is at `one` and at `other`, over and over, until `stop`; answers how often. It runs beside the server: its
/// own kernel knows an exchange.
fn swap(one: &Path, other: &Path, stop: &AtomicBool) -> u32 {
    let mut swaps = 0;
    while !stop.load(Ordering::Relaxed) || swaps % 2 == 1 {
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
        swaps += 1;
    }
    swaps
}

#[tokio::test]
async fn without_openat2_nothing_passes_through_a_link_that_is_swapped_for_a_folder() {
    let server = on(Kernel::Old).await;
    let session = server.session("swapped").await;
    let app = server.app(&session);
    let outside = tempfile::tempdir().unwrap();
    for name in ["x", "y", "z"] {
        std::fs::write(outside.path().join(name), SECRET).unwrap();
    }
    session.sh("mkdir d; for n in x y z; do echo inside > d/$n; done; echo fine > beside").await;
    assert_equal(&session, &app, &[], 5).await;
    std::os::unix::fs::symlink(outside.path(), app.join("../link")).unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let (d, link, stopped) = (app.join("d"), app.join("../link"), Arc::clone(&stop));
    let swapper = std::thread::spawn(move || swap(&d, &link, &stopped));
    for n in 0..100 {
        let name = ["x", "y", "z", "new"][n % 4];
        session.save(&format!("d/{name}"), format!("saved {n}")).await;
        if n % 10 == 0 {
            std::fs::write(app.join("beside"), n.to_string()).unwrap();
            session.wait_for_file("beside", n.to_string().as_bytes()).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert!(swapper.join().unwrap() > 1_000, "they never met");

    eventually("nothing is in the way any more", SOON, || async {
        settle(&session).await;
        problem(&session, "d").await.is_none().then_some(())
    })
    .await;
    let rev = session.save("d/last", "the last").await;
    assert_eq!(session.exec("cat d/last", json!({"after_rev": rev})).await.out(), "the last");
    assert_equal(&session, &app, &[], 7).await;
    let mut left: Vec<_> =
        std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    left.sort();
    assert_eq!(left.len(), 3, "nothing was made or removed outside: {left:?}");
    assert!(left.iter().all(|file| std::fs::read_to_string(file).unwrap() == SECRET), "nothing was changed");
    let secret = e2e::oracle::sha256(SECRET.as_bytes());
    assert!(in_database(&session).await.values().all(|what| !what.ends_with(&secret)));
    let history = session.api.get(&session.workspace("/history?limit=1000")).await.expect(200).json();
    let sizes = history["versions"].as_array().unwrap().iter().map(|version| version["size"].as_u64());
    assert!(!sizes.into_iter().any(|size| size == Some(SECRET.len() as u64)), "nothing was read outside");
}
