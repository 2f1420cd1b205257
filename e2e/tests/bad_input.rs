//! Bad input: each kind with a status and a code of its own, and nothing half done.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::api::Api;
use e2e::terminal::connect;
use e2e::{Options, Server, Session, Viewer, raw};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

async fn save(server: &Server, session: &Session, path: &str, body: &[u8]) -> (u16, String) {
    let path = format!("{}{path}", session.workspace("/file/"));
    let reply = raw::request(server.port(), "PUT", &path, server.token(), "", body).await;
    (reply.status, reply.code())
}

#[tokio::test]
async fn a_path_that_is_none_is_refused_with_its_own_code() {
    let server = Server::start().await;
    let session = server.session("paths").await;
    session.save("keep", "kept").await;
    let before = session.tree().await;
    let long = "x".repeat(256);
    let longer = vec!["y".repeat(200); 21].join("/");
    let deep = vec!["z"; 65].join("/");
    for (path, code) in [
        ("/etc/passwd", "path_absolute"),
        ("%2Fetc%2Fpasswd", "path_absolute"),
        ("../up", "path_dot_part"),
        ("a/../../up", "path_dot_part"),
        ("a/%2e%2e/%2E%2E/up", "path_dot_part"),
        ("..%2F..%2Fup", "path_dot_part"),
        ("./here", "path_dot_part"),
        ("a%00b", "path_nul"),
        ("a//b", "path_empty_part"),
        ("a/", "path_empty_part"),
        ("", "path_empty"),
        (&long, "path_part_too_long"),
        (&longer, "path_too_long"),
        (&deep, "path_too_deep"),
        ("%ff%fe", "path_not_utf8"),
    ] {
        assert_eq!(save(&server, &session, path, b"x").await, (400, code.to_owned()), "{:.60}", path);
    }
    assert_eq!(session.tree().await, before, "nothing is half done");
    assert!(!server.app(&session).join("../up").exists() && !server.data().join("up").exists());
    let edge = "é".repeat(127);
    session.save(&edge, "255 bytes are allowed, and this is 254").await;
}

#[tokio::test]
async fn a_body_too_large_or_cut_short_changes_nothing() {
    let server =
        Server::with(Options { flags: vec!["--file-mb".into(), "1".into()], ..Options::default() }).await;
    let session = server.session("bodies").await;
    session.save("keep", "kept").await;
    let before = session.tree().await;

    let reply = session.api.send(Method::PUT, &session.file("keep"), &[], vec![b'x'; (1 << 20) + 1]).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));
    assert_eq!(reply.json()["limit"], 1 << 20);
    // Without a length, the bytes are counted as they come.
    let pieces = futures::stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 64 * 1024])));
    let reply = session
        .api
        .try_send(Method::PUT, &session.file("keep"), &[], reqwest::Body::wrap_stream(pieces))
        .await;
    if let Some(reply) = reply {
        assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));
    }
    let path = session.file("keep");
    let (port, token) = (server.port(), server.token());
    let cut = format!(
        "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\nonly so much"
    );
    let reply = raw::send(port, cut.as_bytes()).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "body_cut_short"));
    let cut = format!(
        "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly so much"
    );
    let reply = raw::send(port, cut.as_bytes()).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "body_cut_short"));

    assert_eq!(session.tree().await, before);
    assert_eq!(session.read("keep").await.unwrap(), "kept");
    session.save("keep", vec![b'x'; 1 << 20]).await;
}

#[tokio::test]
async fn what_is_no_json_or_not_the_right_json_is_told_apart() {
    let server = Server::start().await;
    let session = server.session("json").await;
    let code = |path: String, body: &'static str| {
        let api = server.api.clone();
        async move {
            let reply = api.send(Method::POST, &path, &[("content-type", "application/json")], body).await;
            (reply.status, reply.code())
        }
    };
    for path in [
        "/api/sessions".to_owned(),
        session.path("/exec"),
        session.path("/terminals"),
        session.workspace("/batch"),
    ] {
        assert_eq!(code(path.clone(), "{\"name\": ").await, (400, "bad_json".into()), "{path}");
        assert_eq!(code(path.clone(), "nonsense").await, (400, "bad_json".into()), "{path}");
        assert_eq!(code(path.clone(), "\"text\"").await.0, 400, "{path}");
    }
    assert_eq!(code("/api/sessions".into(), r#"{"name": 7}"#).await, (400, "bad_request".into()));
    assert_eq!(code("/api/sessions".into(), r#"{"name": ""}"#).await, (400, "bad_name".into()));
    assert_eq!(
        code(session.workspace("/batch"), r#"{"ops": [{"op": "explode"}]}"#).await,
        (400, "bad_request".into())
    );
    assert_eq!(
        code(session.path("/terminals"), r#"{"cols": 0, "rows": 24}"#).await,
        (400, "bad_size".into())
    );
    assert_eq!(server.api.get("/api/sessions").await.json()["sessions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_name_in_use_is_refused() {
    let server = Server::start().await;
    server.api.create("taken", false).await;
    let reply = server.api.post("/api/sessions", &json!({"name": "taken", "start": false})).await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "name_in_use"));
    assert_eq!(server.api.get("/api/sessions").await.json()["sessions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let server = Server::start().await;
    let session = server.session("gone").await;
    let nobody = server.api.session("00000000-0000-4000-8000-000000000000");
    for reply in [
        nobody.api.get(&nobody.path("")).await,
        nobody.api.get(&nobody.file("x")).await,
        server.api.get("/api/sessions/nonsense").await,
    ] {
        assert_eq!((reply.status, reply.code().as_str()), (404, "session_gone"));
    }
    let reply = server.api.get("/api/nothing-here").await;
    assert_eq!((reply.status, reply.code().as_str()), (404, "no_route"));
    let reply = server.api.send(Method::PATCH, "/api/sessions", &[], "").await;
    assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"));
    let reply = session.api.get(&session.file("not-there")).await;
    assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"));
    let reply = session.api.get(&session.path("/terminals/00000000-0000-4000-8000-000000000000")).await;
    assert_eq!((reply.status, reply.code().as_str()), (426, "upgrade_required"));
    session.save("folder/file", "x").await;
    let reply = session.api.send(Method::PUT, &session.file("folder"), &[], "x").await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "is_a_directory"));
    let reply = session.api.send(Method::PUT, &session.file("folder/file/below"), &[], "x").await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "not_a_directory"));
}

#[tokio::test]
async fn a_terminal_that_is_gone_says_so() {
    let server = Server::start().await;
    let session = server.session("terminals").await;
    let id = session.open_terminal().await;
    let mut viewer = Viewer::attach(&session, &id, "v", &[]).await;
    assert_eq!(session.api.delete(&session.path(&format!("/terminals/{id}"))).await.status, 204);
    let code = viewer.wait_for_close().await;
    assert!(matches!(code, 1000 | 4404), "{code}");
    let reply = session.api.delete(&session.path(&format!("/terminals/{id}"))).await;
    assert_eq!((reply.status, reply.code().as_str()), (404, "terminal_gone"));
    assert_eq!(
        refused_attach(&session, &id, json!({"type": "attach", "viewer": "v", "cols": 80, "rows": 24})).await,
        4404
    );
}

/// Sends a first frame; answers the code with which the socket is closed.
async fn refused_attach(session: &Session, id: &str, first: Value) -> u16 {
    use futures::{SinkExt, StreamExt};
    let mut socket = connect(&session.api, &session.path(&format!("/terminals/{id}")), &[]).await.unwrap();
    // The socket may be closed before the frame is out.
    let _ = socket.send(tungstenite::Message::text(first.to_string())).await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        match tokio::time::timeout_at(deadline, socket.next()).await.expect("a close in time") {
            Some(Ok(tungstenite::Message::Close(close))) => {
                return close.map_or(1005, |close| close.code.into());
            }
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_terminals_socket_closes_on_what_it_does_not_understand() {
    let server = Server::start().await;
    let session = server.session("frames").await;
    let id = session.open_terminal().await;
    for first in [
        json!({"type": "nonsense"}),
        json!({"type": "input", "seq": 0, "data": "before the attach"}),
        json!({"type": "attach", "viewer": "v", "cols": 0, "rows": 24}),
        json!({"type": "attach", "viewer": "", "cols": 80, "rows": 24}),
        json!([1, 2, 3]),
    ] {
        assert_eq!(refused_attach(&session, &id, first.clone()).await, 4400, "{first}");
    }
    let mut viewer = Viewer::attach(&session, &id, "gap", &[]).await;
    viewer.say(&json!({"type": "input", "seq": 1000, "data": "a gap before me"})).await;
    assert_eq!(viewer.wait_for_close().await, 4400);
    let mut viewer = Viewer::attach(&session, &id, "fine", &[]).await;
    viewer.type_text("echo st''ill here\n").await;
    viewer.wait_for("still here").await;
}

/// The HTTP status of a refused upgrade.
async fn refused_upgrade(api: &Api, path: &str, headers: &[(&'static str, &str)]) -> u16 {
    match connect(api, path, headers).await.map_err(|why| *why) {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(why) => panic!("{why}"),
        Ok(_) => panic!("let in"),
    }
}

#[tokio::test]
async fn nobody_enters_without_a_token_or_from_a_foreign_page() {
    let server = Server::start().await;
    let session = server.session("doors").await;
    let id = session.open_terminal().await;
    let nobody = Api::new(server.api.base.clone(), "");
    let stranger = Api::new(server.api.base.clone(), "not-the-token-at-all-0123456789");
    for path in [
        "/api/sessions".to_owned(),
        session.path(""),
        session.file("x"),
        session.workspace("/tree"),
        session.workspace("/archive?format=zip"),
        session.path("/terminals"),
        session.path("/timeline"),
    ] {
        let reply = nobody.get(&path).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, "not_signed_in"), "{path}");
        let reply = stranger.get(&path).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, "bad_token"), "{path}");
    }
    for (path, body) in [
        ("/api/sessions".to_owned(), r#"{"name":"x"}"#),
        (session.path("/exec"), r#"{"command":"touch x"}"#),
        (session.path("/stop"), "{}"),
    ] {
        let reply = nobody.send(Method::POST, &path, &[], body).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, "not_signed_in"), "{path}");
    }
    assert_eq!(nobody.send(Method::PUT, &session.file("x"), &[], "x").await.status, 401);
    assert_eq!(nobody.delete(&session.path("")).await.status, 401);
    for path in [session.path(&format!("/terminals/{id}")), session.workspace("/events")] {
        assert_eq!(refused_upgrade(&nobody, &path, &[]).await, 401, "{path}");
        assert_eq!(refused_upgrade(&stranger, &path, &[]).await, 401, "{path}");
        assert_eq!(
            refused_upgrade(&server.api, &path, &[("origin", "https://evil.example")]).await,
            403,
            "{path}"
        );
        assert_eq!(refused_upgrade(&server.api, &path, &[("origin", "null")]).await, 403, "{path}");
        let home = server.api.base.clone();
        assert!(connect(&server.api, &path, &[("origin", &home)]).await.is_ok(), "{path}");
    }
    assert_eq!(session.state().await["state"], "running");
}
