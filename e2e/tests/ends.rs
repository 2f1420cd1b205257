//! Sessions that end by themselves: when, with what warning, and what keeps them.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::events::Events;
use e2e::{Server, Session, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A session of a template with these members.
async fn session(server: &Server, name: &str, template: Value) -> Session {
    let path = format!("/api/templates/{name}");
    server.api.send(Method::PUT, &path, &[], template.to_string()).await.expect(201);
    let body = json!({"name": name, "template": name});
    let made = server.api.post("/api/sessions", &body).await.expect(201).json();
    let session = server.api.session(made["uuid"].as_str().unwrap());
    session.wait_for("running").await;
    session
}

async fn lines(session: &Session, kind: &str) -> Vec<String> {
    let timeline = session.api.get(&session.path("/timeline")).await.expect(200).json();
    let events = timeline["events"].as_array().unwrap().clone();
    events.iter().filter(|e| e["kind"] == kind).map(|e| e["message"].as_str().unwrap().to_owned()).collect()
}

fn at(json: &Value) -> jiff::Timestamp {
    json.as_str().unwrap_or_else(|| panic!("no time: {json}")).parse().unwrap()
}

#[tokio::test]
async fn one_in_which_nothing_happens_is_announced_can_be_extended_and_then_stops_with_its_files() {
    let server = Server::start().await;
    let session = session(&server, "idle", json!({"idle_s": 6})).await;
    let began = Instant::now();
    session.exec("echo kept > file", json!({})).await;
    let mut events = Events::of(&session).await;
    let warning = events.find(|e| e["type"] == "session" && e["ending"] != Value::Null).await;
    assert_eq!((&warning["state"], &warning["ending"]["cause"]), (&json!("running"), &json!("idle")));
    assert!(began.elapsed() >= Duration::from_secs(4), "a quarter of its time ahead, not sooner");
    let state = session.state().await;
    assert_eq!(state["ending"]["cause"], "idle", "{state}");
    assert_eq!(lines(&session, "warning").await.len(), 1);

    let extended =
        session.api.post(&session.path("/extend"), &json!({"seconds": 8})).await.expect(200).json();
    let extended_at = Instant::now();
    assert!(at(&extended["idle_at"]) > at(&warning["ending"]["at"]), "{extended}");
    events.find(|e| e["type"] == "session" && e["ending"] == Value::Null).await;

    // A page that is open, and whatever it reads, keeps nothing alive: this looks all the time.
    session.wait_for("stopping").await;
    let kept = extended_at.elapsed();
    assert!(kept >= Duration::from_millis(7_900) && kept < Duration::from_secs(12), "{kept:?}");
    session.wait_for("stopped").await;
    let reason = session.state().await["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("after 6 seconds without activity") && reason.contains("All files are kept"),
        "{reason}"
    );
    assert!(lines(&session, "stop").await[0].contains("without activity"));
    assert!(lines(&session, "extended").await[0].contains("8 seconds"));
    let refused = session.api.post(&session.path("/extend"), &json!({})).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "session_not_running"));
    session.start().await;
    assert_eq!(session.exec("cat file", json!({})).await.out(), "kept\n");
}

#[tokio::test]
async fn what_is_at_work_goes_on_and_its_lifetime_ends_all_the_same() {
    let server = Server::start().await;
    let session = session(&server, "busy", json!({"idle_s": 5, "lifetime_s": 14})).await;
    let began = Instant::now();
    // A quiet command that somebody waits for is as good as keys.
    assert_eq!(session.exec("sleep 8; echo done", json!({})).await.out(), "done\n");
    assert_eq!(session.state().await["state"], "running");
    let mut events = Events::of(&session).await;
    let saving = async {
        for n in 0.. {
            // A session that stops takes saves still: they are the database's.
            session.save("file", format!("{n}")).await;
            if session.state().await["state"] != "running" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let warned = events.find(|e| e["type"] == "session" && e["ending"]["cause"] == "lifetime");
    let (warning, ()) = tokio::join!(warned, saving);
    assert!(warning["ending"]["at"].is_string());
    let ran = began.elapsed();
    assert!(ran >= Duration::from_millis(13_000) && ran < Duration::from_secs(18), "{ran:?}");
    session.wait_for("stopped").await;
    let reason = session.state().await["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("lifetime of 14 seconds"), "{reason}");
}

#[tokio::test]
async fn an_end_outlives_the_server_and_nobody_is_stopped_unwarned_because_it_was_away() {
    let mut server = Server::start().await;
    let session = session(&server, "life", json!({"idle_s": 0, "lifetime_s": 8})).await;
    let before = session.state().await;
    assert_eq!(before["idle_at"], Value::Null);
    server.kill();
    server.restart().await;
    eventually("the agent is back", Duration::from_secs(20), || async {
        let ran = session.api.get(&session.path("/terminals")).await;
        (ran.status == 200).then_some(())
    })
    .await;
    assert_eq!(session.state().await["expires_at"], before["expires_at"]);
    server.kill();
    // Past its end, and past when its users would have been warned.
    let end = at(&before["expires_at"]);
    while jiff::Timestamp::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.restart().await;
    session.wait_for("stopped").await;
    let log = server.log();
    let (warned, stopped) = (log.find("end was announced"), log.find("a session is stopped"));
    assert!(warned.is_some() && warned < stopped, "{log}");
    assert_eq!(lines(&session, "warning").await.len(), 1);
}

#[tokio::test]
async fn a_bad_extension_is_refused_and_one_without_an_end_stays_so() {
    let server = Server::start().await;
    let session = server.session("default").await;
    let state = session.state().await;
    assert_eq!((&state["idle_at"], &state["expires_at"]), (&Value::Null, &Value::Null), "{state}");
    for seconds in [json!(0), json!(43_201)] {
        let refused = session.api.post(&session.path("/extend"), &json!({"seconds": seconds})).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad_extension"));
    }
    let refused = session.api.post(&session.path("/extend"), &json!({"minutes": 5})).await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "bad_request"));
    let extended = session.api.post(&session.path("/extend"), &json!({})).await.expect(200).json();
    assert_eq!((&extended["idle_at"], &extended["expires_at"]), (&Value::Null, &Value::Null));
}
