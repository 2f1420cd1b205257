//! Commands: streamed output, exit, input, time limit, and nothing left of one that ended.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::{Server, eventually};
use futures::StreamExt;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_command_has_its_streams_apart_its_input_its_folder_its_variables_and_its_code() {
    let server = Server::start().await;
    let session = server.session("exec").await;
    session.save("sub/here", "x").await;

    let ran = session.exec("echo out; echo err >&2; exit 3", json!({})).await;
    assert_eq!((ran.out().as_str(), ran.stderr.as_slice(), ran.code()), ("out\n", &b"err\n"[..], Some(3)));

    let ran = session.exec(json!(["tr", "a-z", "A-Z"]), json!({"stdin": "größe"})).await;
    assert_eq!(ran.out(), "GRößE");

    let rev = session.save("sub/there", "y").await;
    let more = json!({"cwd": "sub", "env": {"GREETING": "hello"}, "after_rev": rev});
    let ran = session.exec("echo $GREETING; ls", more).await;
    assert_eq!(ran.out(), "hello\nhere\nthere\n");

    let ran = session.exec("printf '\\377\\000x'", json!({})).await;
    assert_eq!(ran.stdout, b"\xff\0x");
    let ran = session.exec("kill -KILL $$", json!({})).await;
    assert_eq!((ran.code(), ran.last["exit"]["signal"].as_str()), (None, Some("SIGKILL")), "{}", ran.last);
}

#[tokio::test]
async fn a_command_sees_what_was_saved_before_it_without_naming_a_revision() {
    let server = Server::start().await;
    let session = server.session("save-exec-plain").await;
    for n in 0..100 {
        session.save("value", format!("{n}")).await;
        assert_eq!(session.exec(json!(["cat", "value"]), json!({})).await.out(), n.to_string());
    }
    // Also one that was saved while it didn't run.
    session.stop().await;
    session.save("value", "meanwhile").await;
    session.api.post(&session.path("/start"), &json!({})).await;
    assert_eq!(session.exec(json!(["cat", "value"]), json!({})).await.out(), "meanwhile");
}

#[tokio::test]
async fn output_comes_while_the_command_runs() {
    let server = Server::start().await;
    let session = server.session("stream").await;
    let body = json!({"command": "echo first; read line; echo never", "timeout_s": 600, "stdin": ""});
    // `read` fails at once on empty input; `sleep` keeps the command alive.
    let body = json!({"command": "echo first; sleep 600", "timeout_s": 600, "stdin": body["stdin"]});
    let request = reqwest::Client::new().post(format!("{}{}", session.api.base, session.path("/exec")));
    let response = request.bearer_auth(server.token()).body(body.to_string()).send().await.unwrap();
    let mut pieces = response.bytes_stream();
    let piece = tokio::time::timeout(Duration::from_secs(20), pieces.next()).await.unwrap().unwrap().unwrap();
    assert!(String::from_utf8_lossy(&piece).contains("first"), "{piece:?}");
    drop(pieces);
    eventually("the command ends when its client leaves", Duration::from_secs(20), || async {
        let left = server.left();
        left.iter().all(|process| process.name != "sleep").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_command_over_its_time_is_killed_with_all_it_started() {
    let server = Server::start().await;
    let session = server.session("timeout").await;
    let begun = Instant::now();
    let ran = session
        .exec("sleep 900 & (setsid sleep 901 &); echo begun; sleep 902", json!({"timeout_s": 0.5}))
        .await;
    assert_eq!(ran.out(), "begun\n");
    assert_eq!(ran.last["timed_out"], true, "{}", ran.last);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    eventually("nothing is left of it", Duration::from_secs(10), || async {
        server.left().iter().all(|process| process.name != "sleep").then_some(())
    })
    .await;
}

#[tokio::test]
async fn megabytes_of_output_arrive_whole() {
    let server = Server::start().await;
    let session = server.session("much").await;
    let ran = session.exec("seq 1 1000000", json!({})).await;
    let expected: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
    assert!(ran.stdout == expected.as_bytes(), "{} bytes of {}", ran.stdout.len(), expected.len());
    let ran = session
        .exec("head -c 5000000 /dev/urandom | tee data | sha256sum; sha256sum < data", json!({}))
        .await;
    let sums: Vec<String> = ran.out().lines().map(str::to_owned).collect();
    assert_eq!(sums[0], sums[1]);
}

#[tokio::test]
async fn what_cannot_run_is_refused_with_a_reason() {
    let server = Server::start().await;
    let session = server.session("refused").await;
    for (body, status) in [
        (json!({"command": []}), 400),
        (json!({"command": ["no-such-program-anywhere"]}), 400),
        (json!({"command": "true", "cwd": "no/such/folder"}), 400),
        (json!({"command": "true", "cwd": "../.."}), 400),
        (json!({"command": "true", "timeout_s": -1}), 400),
        (json!({"command": 7}), 400),
    ] {
        let reply = session.api.post(&session.path("/exec"), &body).await;
        assert_eq!(reply.status, status, "{body}: {}", reply.text());
        assert!(!reply.code().is_empty());
    }
}
