//! For those who run it: health, metrics, documents, settings, one server a folder.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::{Options, Server, api::Api, eventually, server};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

#[tokio::test]
async fn health_readiness_metrics_and_documents_answer() {
    let server = Server::start().await;
    let session = server.session("seen").await;
    session.save("a", "a").await;
    let open = Api::new(server.api.base.clone(), "");
    assert_eq!(open.get("/healthz").await.status, 200);
    assert_eq!(open.get("/readyz").await.status, 200);
    let metrics = server.api.get("/metrics").await.expect(200).text();
    assert!(metrics.contains("berth_http_requests_total{") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(metrics.contains("berth_agent_links 1"), "{metrics}");
    let docs = open.get("/api/docs").await.expect(200);
    assert!(docs.header("content-type").starts_with("text/html"));
}

#[tokio::test]
async fn the_openapi_document_lists_every_route_of_the_interface() {
    let server = Server::start().await;
    let document = server.api.get("/api/openapi.json").await.expect(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    for (method, path) in [
        ("post", "/api/sessions"),
        ("get", "/api/sessions"),
        ("get", "/api/sessions/{uuid}"),
        ("delete", "/api/sessions/{uuid}"),
        ("post", "/api/sessions/{uuid}/start"),
        ("post", "/api/sessions/{uuid}/stop"),
        ("get", "/api/sessions/{uuid}/timeline"),
        ("get", "/api/workspace/{uuid}/file/{path}"),
        ("put", "/api/workspace/{uuid}/file/{path}"),
        ("post", "/api/workspace/{uuid}/file/{path}"),
        ("delete", "/api/workspace/{uuid}/file/{path}"),
        ("get", "/api/workspace/{uuid}/tree"),
        ("post", "/api/workspace/{uuid}/batch"),
        ("get", "/api/workspace/{uuid}/archive"),
        ("put", "/api/workspace/{uuid}/archive"),
        ("get", "/api/workspace/{uuid}/events"),
        ("get", "/api/sessions/{uuid}/terminals"),
        ("post", "/api/sessions/{uuid}/terminals"),
        ("get", "/api/sessions/{uuid}/terminals/{id}"),
        ("delete", "/api/sessions/{uuid}/terminals/{id}"),
        ("post", "/api/sessions/{uuid}/exec"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
        ("get", "/api/openapi.json"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{method} {path} is missing");
    }
}

/// Soft and hard limit of open files.
fn descriptors(pid: i32) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[tokio::test]
async fn a_low_limit_of_open_files_is_raised_for_the_server_and_left_to_sessions() {
    let server = Server::with(Options { descriptors: Some(128), ..Options::default() }).await;
    let (soft, hard) = descriptors(server.pid());
    assert_eq!(soft, hard);
    assert_eq!(server.log().matches("open files and sockets are limited").count(), 1, "{}", server.log());
    let session = server.session("many").await;
    assert_eq!(descriptors(server.agent(&session)).0, "128");
    assert_eq!(session.sh("ulimit -Sn").await, "128\n");
    // More than it was started with, and still it answers.
    let open: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(("127.0.0.1", server.port())).unwrap()).collect();
    // The kernel says that they are connected before the server has taken them.
    eventually("all are taken", Duration::from_secs(60), || async {
        (e2e::processes::descriptors(server.pid()) > 200).then_some(())
    })
    .await;
    assert_eq!(server.api.get("/readyz").await.status, 200);
    drop(open);
}

#[test]
fn a_bad_setting_is_refused_at_once_with_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let run = |flags: &[&str]| {
        let mut command = Command::new(server::program());
        let output =
            command.arg("--data").arg(folder.path().join("data")).args(flags).env_clear().output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (flags, says) in [
        (&["--listen", "0.0.0.0:0"][..], "--allow-unisolated"),
        (&["--listen", "nowhere"], "--listen"),
        (&["--admin-token", "short"], "20"),
        (&["--database-url", "mysql://x"], "postgres://"),
        (&["--runtime", "docker"], "local"),
        (&["--file-mb", "0"], "--file-mb"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let (code, text) = run(flags);
        assert_eq!(code, Some(2), "{flags:?}: {text}");
        assert!(text.contains(says), "{flags:?}: {text}");
    }
    let (code, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn one_data_folder_has_one_server() {
    let server = Server::start().await;
    let mut second = Command::new(server::program());
    let second =
        second.args(["--listen", "127.0.0.1:0", "--data"]).arg(server.data()).env_clear().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let says = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(says.contains("Another server"), "{says}");
    assert_eq!(server.api.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_sign_in_link_lets_in_once() {
    let server = Server::start().await;
    let link = server.sign_in_link();
    let token = link.split_once("token=").unwrap().1.to_owned();
    let open = Api::new(server.api.base.clone(), "");
    let body = serde_json::json!({ "token": token });
    let first = open.send(reqwest::Method::POST, "/api/sign-in", &[("x-berth", "1")], body.to_string()).await;
    assert!(matches!(first.status, 200 | 204), "{} {}", first.status, first.text());
    let cookie = first.header("set-cookie").to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let second =
        open.send(reqwest::Method::POST, "/api/sign-in", &[("x-berth", "1")], body.to_string()).await;
    assert!((400..500).contains(&second.status), "{}", second.status);
    assert!(!second.code().is_empty());

    let cookie = cookie.split(';').next().unwrap();
    let me = open.send(reqwest::Method::GET, "/api/sessions", &[("cookie", cookie)], "").await;
    assert_eq!(me.status, 200);
    let forged =
        open.send(reqwest::Method::POST, "/api/sessions", &[("cookie", cookie)], r#"{"name":"x"}"#).await;
    assert_eq!((forged.status, forged.code().as_str()), (403, "csrf"));
}

#[tokio::test]
async fn secrets_are_not_in_the_log() {
    let server =
        Server::with(e2e::Options { flags: vec!["--log".into(), "debug".into()], ..Default::default() })
            .await;
    let session = server.session("quiet").await;
    let _ = server.api.get("/api/sessions?token=from-a-query").await;
    session.sh("true").await;
    let credential = std::fs::read_to_string(server.folder(&session).join(".berth/credential")).unwrap();
    let log = server.log();
    assert!(!log.contains(server.token()), "the admin token is in the log");
    assert!(!log.contains(credential.trim()), "an agent's credential is in the log");
}
