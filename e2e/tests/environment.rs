//! Variables and secrets: where they are to be seen, and where not.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::{Options, Server};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;

/// Nowhere but in the session's own programs.
const SECRET: &str = "s3cret-Wert-0f6b1c";
/// What it is changed to.
const CHANGED: &str = "other-s3cret-77aa41";

/// Files below a folder that hold a text, links aside.
fn holding(folder: &Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    found.push(entry.path());
                }
            }
        }
    }
    found
}

async fn put(server: &Server, path: &str, body: Value) -> e2e::Reply {
    server.api.send(Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await
}

#[tokio::test]
async fn a_secret_is_in_the_sessions_programs_and_nowhere_else() {
    let options = Options { flags: vec!["--log".into(), "debug".into()], ..Options::default() };
    let mut server = Server::with(options).await;
    let template = json!({"environment": {"LEVEL": "template", "BASE": "base"}});
    put(&server, "/api/templates/box", template).await.expect(201);
    let body = json!({
        "name": "secrets", "start": true, "template": "box",
        "environment": {"variables": {"LEVEL": "session", "PLAIN": "two words"}, "secrets": {"TOKEN": SECRET}},
    });
    let made = server.api.post("/api/sessions", &body).await.expect(201).json();
    let session = server.api.session(made["uuid"].as_str().unwrap());
    session.wait_for("running").await;
    let shown = "printf '%s|' \"$BASE\" \"$LEVEL\" \"$PLAIN\" \"$TOKEN\"";
    let ran = session.exec(shown, json!({})).await;
    assert_eq!(ran.out(), format!("base|session|two words|{SECRET}|"));

    // A change reaches what is started from then on, without a restart.
    let path = session.path("/environment");
    let answer =
        put(&server, &path, json!({"variables": {"PLAIN": "new"}, "secrets": {"TOKEN": CHANGED}})).await;
    assert_eq!(
        answer.expect(200).json(),
        json!({"variables": {"PLAIN": "new"}, "secrets": ["TOKEN"], "live": true})
    );
    let ran = session.exec(shown, json!({})).await;
    assert_eq!(ran.out(), format!("base|template|new|{CHANGED}|"));
    let seen = session.sh("echo \"<$TOKEN>\"").await;
    assert!(seen.contains(&format!("<{CHANGED}>")), "{seen}");

    // Neither a call nor a timeline shows it.
    for path in
        [path.clone(), session.path(""), session.path("/timeline"), "/api/sessions".into(), "/metrics".into()]
    {
        let text = server.api.get(&path).await.expect(200).text();
        assert!(!text.contains(SECRET) && !text.contains(CHANGED), "{path}: {text}");
    }
    let refused = put(&server, &path, json!({"secrets": {"BERTH_TOKEN": SECRET}})).await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "bad_environment"));
    assert!(!refused.text().contains(SECRET));

    // It is there after a restart of the server and of the session, and still in no file: not the database's, not a log.
    let log = server.log();
    assert!(log.contains("environment changed"), "the log says what happened");
    assert!(!log.contains(SECRET) && !log.contains(CHANGED));
    server.terminate().await;
    server.restart().await;
    session.stop().await;
    server.api.post(&session.path("/start"), &json!({})).await.expect(202);
    session.wait_for("running").await;
    assert_eq!(session.exec("printf %s \"$TOKEN\"", json!({})).await.out(), CHANGED);
    server.terminate().await;
    for text in [SECRET, CHANGED] {
        assert_eq!(holding(&server.data(), text), Vec::<std::path::PathBuf>::new());
        assert!(!server.log().contains(text));
    }
}
