//! What is too much: each limit refuses the path that passes it, says so there, and leaves the rest working.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::oracle::{assert_equal, in_database, problem, settle};
use e2e::{Options, Server};

async fn with(flags: &[&str]) -> Server {
    Server::with(Options {
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        ..Options::default()
    })
    .await
}

#[tokio::test]
async fn a_file_over_the_limit_stays_in_the_session_and_comes_when_it_is_shorter() {
    let server = with(&["--file-mb", "1"]).await;
    let session = server.session("file").await;
    session.sh("echo before > grows; echo fine > other").await;
    assert_equal(&session, &server.app(&session), &[], 2).await;
    session
        .sh("head -c 2000000 /dev/urandom > grows; head -c 2000000 /dev/urandom > new; echo changed > other")
        .await;
    settle(&session).await;
    for path in ["grows", "new"] {
        assert_eq!(problem(&session, path).await.as_deref(), Some("too_large"), "{path}");
    }
    assert_eq!(session.read("grows").await.unwrap(), "before\n", "what was committed stays");
    assert_eq!(session.read("other").await.unwrap(), "changed\n");
    assert_eq!(session.sh("wc -c < new").await.trim(), "2000000", "the session's file is left alone");
    session.sh("truncate -s 500000 grows new").await;
    assert_equal(&session, &server.app(&session), &[], 3).await;
    assert_eq!(problem(&session, "new").await, None);
}

#[tokio::test]
async fn a_workspace_with_too_many_items_refuses_new_ones_and_takes_them_when_there_is_room() {
    let server = with(&["--workspace-items", "50"]).await;
    let session = server.session("workspace").await;
    session.sh("echo first > first; echo gone > gone").await;
    settle(&session).await;
    session.sh("for n in $(seq 1 60); do echo $n > f$n; done").await;
    settle(&session).await;
    let told = session.api.get(&session.workspace("/problems")).await.expect(200).json();
    let problems = told["problems"].as_array().unwrap();
    assert!(
        !problems.is_empty() && problems.iter().all(|problem| problem["code"] == "too_many_items"),
        "{told}"
    );
    // Edits and deletes of what is there still arrive.
    session.sh("echo edited > first; rm gone").await;
    settle(&session).await;
    assert_eq!(session.read("first").await.unwrap(), "edited\n");
    assert_eq!(session.read("gone").await, None);
    let there = in_database(&session).await.len();
    assert!(there <= 50, "{there} of 62");
    session.sh("rm $(ls | grep ^f | tail -40)").await;
    assert_equal(&session, &server.app(&session), &[], 15).await;
    let told = session.api.get(&session.workspace("/problems")).await.expect(200).json();
    assert_eq!(told["problems"].as_array().map(Vec::len), Some(0), "{told}");
}
