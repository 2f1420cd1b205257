//! Programs and an editor at work in one session at once.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::oracle::{Tree, assert_equal, assert_no_conflict, settle, sha256};
use e2e::{Server, Session};
use serde_json::json;

/// Everything that was saved is in the folder, everything written there is saved, and both hold the same.
async fn equal_soon(server: &Server, session: &Session, at_least: usize) -> Tree {
    let rev = settle(session).await;
    session.exec("true", json!({"after_rev": rev})).await;
    assert_equal(session, &server.app(session), &[], at_least).await
}

#[tokio::test]
async fn edits_on_both_sides_at_once_lose_nothing() {
    let server = Server::start().await;
    let session = server.session("both").await;
    let there: Vec<String> = (0..100).map(|n| format!("pod/{n}")).collect();
    let editor = async {
        for n in 0..100 {
            session.save(&format!("editor/{n}"), format!("by the editor {n}")).await;
        }
    };
    let program = session.sh("mkdir -p pod; for n in $(seq 0 99); do echo by the program $n > pod/$n; done");
    tokio::join!(editor, program);
    let tree = equal_soon(&server, &session, 200).await;
    assert!(there.iter().all(|path| tree.contains_key(path)));
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn what_changed_on_both_sides_while_they_were_apart_is_merged_or_kept() {
    let mut server = Server::start().await;
    let session = server.session("apart").await;
    let rev = session.save("merge.txt", "one\ntwo\nthree\nfour\nfive\n").await;
    session.exec(json!(["cat", "merge.txt"]), json!({"after_rev": rev})).await;
    let app = server.app(&session);
    session.stop().await;
    // Different lines: the session's folder by hand, the database by the editor.
    std::fs::write(app.join("merge.txt"), "ONE\ntwo\nthree\nfour\nfive\n").unwrap();
    session.save("merge.txt", "one\ntwo\nthree\nfour\nFIVE\n").await;
    std::fs::write(app.join("offline.txt"), "made offline\n").unwrap();
    assert_eq!(server.terminate().await, Some(0));
    server.restart().await;
    session.start().await;
    session.wait_for_file("merge.txt", b"ONE\ntwo\nthree\nfour\nFIVE\n").await;
    session.wait_for_file("offline.txt", b"made offline\n").await;
    equal_soon(&server, &session, 2).await;
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn a_reader_in_the_session_never_sees_a_torn_or_missing_file() {
    let server = Server::start().await;
    let session = server.session("torn").await;
    session.save("page.html", "x".repeat(20_000)).await;
    let reader = session.exec(
        json!(["python3", "-c", "import time\nend=time.time()+6\nbad=0\nn=0\nwhile time.time()<end:\n  try:\n    t=open('page.html').read()\n    n+=1\n    bad+=len(t)!=20000 or len(set(t))!=1\n  except FileNotFoundError:\n    bad+=1\nprint(bad, n>100)"]),
        json!({"timeout_s": 60}),
    );
    let writer = async {
        for n in 0..300u32 {
            let letter = char::from(b'a' + (n % 26) as u8);
            session.save("page.html", letter.to_string().repeat(20_000)).await;
        }
    };
    let (ran, ()) = tokio::join!(reader, writer);
    assert_eq!(ran.out(), "0 True\n", "{}", String::from_utf8_lossy(&ran.stderr));
    let tree = equal_soon(&server, &session, 1).await;
    let last = sha256("n".repeat(20_000).as_bytes());
    assert_eq!(tree["page.html"], format!("file 644 {last}"), "the last save stands on both sides");
    assert_no_conflict(&session).await;
}
