//! A database that goes away under a session at work: its terminal goes on, a save is answered in time, and all is in
//! step once the database is back.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::oracle::{assert_equal, assert_no_conflict};
use e2e::postgres::Postgres;
use e2e::{Options, Server, eventually};
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};

/// How long everything may take to be as before, once the database is back.
const SOON: Duration = Duration::from_secs(60);
/// How long a save may wait for its answer: longer than the server's own patience of 10 s.
const ANSWERED: Duration = Duration::from_secs(25);
/// How long an echo may take on a busy machine.
const ECHO: Duration = Duration::from_secs(5);

async fn goes_away(name: &str, away: fn(&Postgres), back: fn(&Postgres)) {
    let postgres = Postgres::start();
    let flags = vec!["--database-url".into(), postgres.url()];
    let server = Server::with(Options { flags, ..Options::default() }).await;
    let session = server.session(name).await;
    let rev = session.save("saved", "before").await;
    assert_eq!(session.exec("cat saved", json!({"after_rev": rev})).await.out(), "before");
    let mut terminal = session.terminal().await;
    terminal.wait_for(e2e::server::PROMPT).await;
    terminal.type_text("kept='of the same shell'\n").await;
    terminal.wait_for_acks().await;

    away(&postgres);
    let started = Instant::now();
    let path = session.file("saved");
    let saving = session.api.send(Method::PUT, &path, &[], "during");
    let typing = async {
        let mut slowest = Duration::ZERO;
        for n in 0..30 {
            let typed = Instant::now();
            terminal.type_text(&format!("echo {n}-$((n+{n}))- >> written; tail -n 1 written\n")).await;
            terminal.wait_for(&format!("\n{n}-{n}-")).await;
            slowest = slowest.max(typed.elapsed());
        }
        slowest
    };
    let (reply, slowest) = tokio::join!(saving, typing);
    assert_eq!((reply.status, reply.code().as_str()), (503, "database_unavailable"));
    assert_ne!(reply.header("retry-after"), "");
    assert!(started.elapsed() < ANSWERED, "it took {:?} to be told so", started.elapsed());
    assert!(slowest < ECHO, "an echo took {slowest:?}");
    assert_eq!(session.api.get("/readyz").await.status, 503);

    back(&postgres);
    let ready = || async { (server.api.get("/readyz").await.status == 200).then_some(()) };
    eventually("the server is ready again", SOON, ready).await;
    let rev = eventually("a save is taken again", SOON, || async {
        let reply = session.api.send(Method::PUT, &path, &[], "after").await;
        (reply.status == 200).then(|| reply.json()["rev"].as_u64().unwrap())
    })
    .await;
    assert_eq!(session.exec("cat saved", json!({"after_rev": rev})).await.out(), "after");
    let written: String = (0..30).map(|n| format!("{n}-{n}-\n")).collect();
    session.wait_for_file("written", written.as_bytes()).await;
    terminal.type_text("echo \"[$kept]\"\n").await;
    terminal.wait_for("\n[of the same shell]").await;
    assert_equal(&session, &server.app(&session), &[], 2).await;
    assert_no_conflict(&session).await;
    drop(terminal);
    drop(server);
}

#[tokio::test]
async fn a_database_that_freezes_stops_no_terminal_and_holds_up_no_save_for_ever() {
    goes_away("frozen", Postgres::freeze, Postgres::thaw).await;
}

#[tokio::test]
async fn a_database_that_crashes_and_comes_back_stops_no_terminal_and_loses_nothing() {
    goes_away("crashed", Postgres::crash, Postgres::resume).await;
}
