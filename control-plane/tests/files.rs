//! Files over HTTP: saving, conditions, bad input, batches, archives, events.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod support;

use base64::Engine;
use serde_json::json;
use std::io::{Cursor, Read, Write};
use support::{Answer, TOKEN, TestServer};

fn file(session: &str, path: &str) -> String {
    format!("/api/workspace/{session}/file/{path}")
}

async fn put(server: &TestServer, session: &str, path: &str, body: &str) -> Answer {
    server.request("PUT", &file(session, path)).body(body).send().await
}

async fn paths(server: &TestServer, session: &str) -> Vec<String> {
    let tree = server.request("GET", &format!("/api/workspace/{session}/tree")).send().await.json();
    tree["items"].as_array().unwrap().iter().map(|item| item["path"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_is_saved_is_read_back_under_its_revision() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let text = "naïve\r\n🦀 no newline at the end";
    let saved = put(&server, &session, "src/a%20b.py", text).await;
    assert_eq!(saved.status, 200, "{saved:?}");
    let json = saved.json();
    assert_eq!(
        (json["path"].as_str(), json["rev"].as_u64(), json["size"].as_u64()),
        (Some("src/a b.py"), Some(1), Some(text.len() as u64))
    );
    assert_eq!(saved.header("etag"), "\"1\"");
    let read = server.request("GET", &file(&session, "src/a%20b.py")).send().await;
    assert_eq!(
        (read.status, read.header("etag"), read.header("content-type")),
        (200, "\"1\"", "text/plain; charset=utf-8")
    );
    assert_eq!(read.body, text.as_bytes());
    let head = server.request("HEAD", &file(&session, "src/a%20b.py")).send().await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, text.len().to_string().as_str(), 0)
    );
    let part =
        server.request("GET", &file(&session, "src/a%20b.py")).header("Range", "bytes=0-1").send().await;
    assert_eq!(
        (part.status, part.body.as_slice(), part.header("content-range")),
        (206, &b"na"[..], format!("bytes 0-1/{}", text.len()).as_str())
    );
    let beyond =
        server.request("GET", &file(&session, "src/a%20b.py")).header("Range", "bytes=999-").send().await;
    assert_eq!((beyond.status, beyond.code().as_str()), (416, "bad_range"));
    let download =
        server.request("GET", &format!("{}?download", file(&session, "src/a%20b.py"))).send().await;
    assert!(download.header("content-disposition").starts_with("attachment"));
    assert_eq!(paths(&server, &session).await, ["src", "src/a b.py"]);
}

#[tokio::test]
async fn a_stale_save_overwrites_nothing_and_says_what_is_there() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let path = file(&session, "a.txt");
    put(&server, &session, "a.txt", "one").await;
    put(&server, &session, "a.txt", "two").await;
    let stale = server.request("PUT", &path).header("If-Match", "\"1\"").body("three").send().await;
    assert_eq!(
        (stale.status, stale.code().as_str(), stale.header("etag"), stale.json()["rev"].as_u64()),
        (409, "stale", "\"2\"", Some(2))
    );
    let exists = server.request("PUT", &path).header("If-None-Match", "*").body("three").send().await;
    assert_eq!((exists.status, exists.code().as_str()), (409, "exists"));
    let stale = server.request("DELETE", &path).header("If-Match", "\"1\"").send().await;
    assert_eq!((stale.status, stale.code().as_str()), (409, "stale"));
    assert_eq!(server.request("GET", &path).send().await.body, b"two");
    let unchanged = server.request("GET", &path).header("If-None-Match", "\"2\"").send().await;
    assert_eq!((unchanged.status, unchanged.body.len(), unchanged.header("etag")), (304, 0, "\"2\""));
    let fresh = server.request("PUT", &path).header("If-Match", "\"2\"").body("three").send().await;
    assert_eq!((fresh.status, fresh.header("etag")), (200, "\"3\""));
    let new =
        server.request("PUT", &file(&session, "b.txt")).header("If-None-Match", "*").body("new").send().await;
    assert_eq!(new.status, 201);
    let nothing =
        server.request("PUT", &file(&session, "c.txt")).header("If-Match", "*").body("x").send().await;
    assert_eq!((nothing.status, nothing.code().as_str()), (404, "not_found"));
    let bad = server.request("PUT", &path).header("If-Match", "three").body("x").send().await;
    assert_eq!((bad.status, bad.code().as_str()), (400, "bad_etag"));
    let gone = server.request("DELETE", &path).header("If-Match", "\"3\"").send().await;
    assert_eq!(gone.status, 200, "{gone:?}");
    assert_eq!(server.request("GET", &path).send().await.code(), "not_found");
}

#[tokio::test]
async fn each_bad_path_has_its_own_code_and_saves_nothing() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let long = "x".repeat(256);
    let longest = vec!["x".repeat(250); 17].join("/");
    let deep = vec!["x"; 65].join("/");
    for (path, code) in [
        ("", "path_empty"),
        ("/etc/passwd", "path_absolute"),
        ("%2Fetc%2Fpasswd", "path_absolute"),
        ("../x", "path_dot_part"),
        ("%2e%2e%2fx", "path_dot_part"),
        ("a/./b", "path_dot_part"),
        ("a//b", "path_empty_part"),
        ("a/", "path_empty_part"),
        ("a%00b", "path_nul"),
        ("%ff", "path_not_utf8"),
        (long.as_str(), "path_part_too_long"),
        (longest.as_str(), "path_too_long"),
        (deep.as_str(), "path_too_deep"),
    ] {
        for method in ["GET", "PUT", "POST", "DELETE"] {
            let answer = server.request(method, &file(&session, path)).send().await;
            assert_eq!((answer.status, answer.code().as_str()), (400, code), "{method} {path}");
        }
    }
    // Decoded once, not twice: this is a name with a percent sign in it.
    assert_eq!(put(&server, &session, "%252e%252e", "x").await.json()["path"], "%2e%2e");
    assert_eq!(paths(&server, &session).await, ["%2e%2e"]);
}

#[tokio::test]
async fn a_body_that_is_cut_short_or_too_large_saves_nothing() {
    let server = TestServer::with(&["--file-mb", "1"]).await;
    let session = server.session("box").await;
    let path = file(&session, "a.txt");
    let cut = server.request("PUT", &path).body("half").announce(8).send().await;
    assert_eq!((cut.status, cut.code().as_str()), (400, "body_cut_short"));
    let announced = server.request("PUT", &path).body("x").announce((1 << 20) + 1).send().await;
    assert_eq!((announced.status, announced.code().as_str()), (413, "too_large"));
    let chunked = server.request("PUT", &path).header("Transfer-Encoding", "chunked");
    drop(chunked);
    assert!(paths(&server, &session).await.is_empty());
    let fits = server.request("PUT", &path).body(vec![b'x'; 1 << 20]).send().await;
    assert_eq!(fits.status, 200, "{fits:?}");
}

#[tokio::test]
async fn json_that_is_not_and_names_in_use_have_their_codes() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let create = |body: &str| server.request("POST", "/api/sessions").body(body.to_owned());
    for (body, status, code) in [
        ("{", 400, "bad_json"),
        ("[1,2", 400, "bad_json"),
        ("\u{0}", 400, "bad_json"),
        ("{}", 400, "bad_request"),
        (r#"{"name":7}"#, 400, "bad_request"),
        (r#"{"name":""}"#, 400, "bad_name"),
        (r#"{"name":"a\u0007"}"#, 400, "bad_name"),
        (r#"{"name":"box","start":false}"#, 409, "name_in_use"),
    ] {
        let answer = create(body).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
    }
    let batch = format!("/api/workspace/{session}/batch");
    for (body, code) in [
        (r#"{"ops":[{"op":"write","path":"../x","data":""}]}"#, "path_dot_part"),
        (r#"{"ops":[{"op":"write","path":"x"}]}"#, "bad_request"),
        (r#"{"ops":[{"op":"write","path":"x","base64":"%"}]}"#, "bad_base64"),
        (r#"{"ops":[{"op":"fly","path":"x"}]}"#, "bad_request"),
        (r#"{"ops":[{"op":"chmod","path":"x","mode":1000}]}"#, "bad_mode"),
    ] {
        let answer = server.request("POST", &batch).body(body).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{body}");
    }
    let exec = server
        .request("POST", &format!("/api/sessions/{session}/exec"))
        .json(json!({"command": "true"}))
        .send()
        .await;
    assert_eq!((exec.status, exec.code().as_str()), (409, "session_not_running"));
    let deleted = server.request("DELETE", &format!("/api/sessions/{session}")).send().await;
    assert_eq!(deleted.status, 204);
    let gone = server.request("GET", &format!("/api/sessions/{session}")).send().await;
    assert_eq!((gone.status, gone.code().as_str()), (404, "session_gone"));
}

#[tokio::test]
async fn a_batch_is_all_or_nothing_and_one_revision() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let batch = format!("/api/workspace/{session}/batch");
    let ops = json!({"ops": [
        {"op": "write", "path": "a/b.txt", "data": "text"},
        {"op": "write", "path": "bin", "base64": base64::engine::general_purpose::STANDARD.encode([0, 159, 146, 150])},
        {"op": "mkdir", "path": "empty"},
        {"op": "move", "from": "a/b.txt", "to": "c.txt"},
        {"op": "chmod", "path": "c.txt", "mode": 0o755},
    ]});
    let done = server.request("POST", &batch).json(ops).send().await;
    assert_eq!((done.status, done.json()["rev"].as_u64()), (200, Some(1)), "{done:?}");
    assert_eq!(paths(&server, &session).await, ["a", "bin", "c.txt", "empty"]);
    assert_eq!(server.request("GET", &file(&session, "bin")).send().await.body, [0, 159, 146, 150]);
    let failing = json!({"ops": [{"op": "delete", "path": "c.txt"}, {"op": "delete", "path": "nothing"}]});
    let failed = server.request("POST", &batch).json(failing).send().await;
    assert_eq!((failed.status, failed.code().as_str()), (404, "not_found"));
    let stale = json!({"ops": [{"op": "delete", "path": "bin"}, {"op": "write", "path": "c.txt", "data": "x", "if_rev": 77}]});
    let stale = server.request("POST", &batch).json(stale).send().await;
    assert_eq!((stale.status, stale.code().as_str()), (409, "stale"));
    assert_eq!(paths(&server, &session).await, ["a", "bin", "c.txt", "empty"]);
    let since = server.request("GET", &format!("/api/workspace/{session}/tree?since=1")).send().await.json();
    assert_eq!((since["rev"].as_u64(), since["items"].as_array().map(Vec::len)), (Some(1), Some(0)));
    server.request("DELETE", &file(&session, "a")).send().await;
    let since = server.request("GET", &format!("/api/workspace/{session}/tree?since=1")).send().await.json();
    assert_eq!(
        (since["items"][0]["path"].as_str(), since["items"][0]["deleted"].as_bool()),
        (Some("a"), Some(true))
    );
}

#[tokio::test]
async fn an_archive_goes_out_and_comes_back_the_same() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    put(&server, &session, "a/b.txt", "text").await;
    server.request("PUT", &format!("{}?mode=755", file(&session, "run.sh"))).body("#!/bin/sh\n").send().await;
    let batch = json!({"ops": [{"op": "mkdir", "path": "empty"}, {"op": "symlink", "path": "link", "target": "a/b.txt"}]});
    server.request("POST", &format!("/api/workspace/{session}/batch")).json(batch).send().await;
    for format in ["zip", "tar.zst"] {
        let out =
            server.request("GET", &format!("/api/workspace/{session}/archive?format={format}")).send().await;
        assert_eq!((out.status, out.header("etag")), (200, "\"3\""), "{format}");
        assert!(out.header("content-disposition").contains(&format!("box.{format}")));
        if format == "zip" {
            let mut zip = zip::ZipArchive::new(Cursor::new(&out.body)).unwrap();
            let mut text = String::new();
            zip.by_name("a/b.txt").unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "text");
        }
        let copy = server.session(format).await;
        let taken =
            server.request("PUT", &format!("/api/workspace/{copy}/archive")).body(out.body).send().await;
        assert_eq!(
            (taken.status, taken.json()["rev"].as_u64(), taken.json()["files"].as_u64()),
            (200, Some(1), Some(3)),
            "{taken:?}"
        );
        let items = |tree: serde_json::Value| -> Vec<(String, u64, String)> {
            let items = tree["items"].as_array().unwrap().iter();
            items
                .map(|item| {
                    (item["path"].to_string(), item["mode"].as_u64().unwrap(), item["hash"].to_string())
                })
                .collect()
        };
        let original = server.request("GET", &format!("/api/workspace/{session}/tree")).send().await.json();
        let copied = server.request("GET", &format!("/api/workspace/{copy}/tree")).send().await.json();
        assert_eq!(items(original), items(copied), "{format}");
    }
    let bad = server.request("GET", &format!("/api/workspace/{session}/archive?format=rar")).send().await;
    assert_eq!((bad.status, bad.code().as_str()), (400, "bad_format"));
}

#[tokio::test]
async fn a_hostile_archive_is_refused_whole() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let zip = |name: &str, bytes: &[u8]| {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file("fine.txt", options).unwrap();
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
        zip.finish().unwrap().into_inner()
    };
    for (archive, status, code) in [
        (zip("../../etc/cron.d/x", b"x"), 400, "path_dot_part"),
        (zip("/etc/passwd", b"x"), 400, "path_absolute"),
        (zip("bomb", &vec![0; 40 << 20]), 413, "archive_bomb"),
        (zip("large", &vec![0; 51 << 20]), 413, "archive_bomb"),
        (b"not an archive".to_vec(), 400, "bad_format"),
        (zip("x", b"x")[..60].to_vec(), 400, "archive_damaged"),
    ] {
        let answer =
            server.request("PUT", &format!("/api/workspace/{session}/archive")).body(archive).send().await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
    }
    assert!(paths(&server, &session).await.is_empty());
}

#[tokio::test]
async fn a_large_archive_is_one_revision_too() {
    let server = TestServer::with(&["--batch-items", "10"]).await;
    let session = server.session("box").await;
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for i in 0..40 {
        zip.start_file(format!("d/{i}.txt"), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(i.to_string().as_bytes()).unwrap();
    }
    let archive = zip.finish().unwrap().into_inner();
    let taken = server
        .request("PUT", &format!("/api/workspace/{session}/archive?path=below"))
        .body(archive)
        .send()
        .await;
    assert_eq!((taken.status, taken.json()["rev"].as_u64()), (200, Some(1)), "{taken:?}");
    assert_eq!(server.request("GET", &file(&session, "below/d/39.txt")).send().await.body, b"39");
}

#[tokio::test]
async fn an_archive_over_what_a_batch_may_bring_is_taken_in_too() {
    let server = TestServer::with(&["--batch-mb", "4"]).await;
    let session = server.session("box").await;
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for name in ["a", "b"] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(&vec![b'x'; 3 << 20]).unwrap();
    }
    let archive = zip.finish().unwrap().into_inner();
    let taken =
        server.request("PUT", &format!("/api/workspace/{session}/archive")).body(archive).send().await;
    assert_eq!((taken.status, taken.json()["rev"].as_u64()), (200, Some(1)), "{taken:?}");
    assert_eq!(paths(&server, &session).await, ["a", "b"]);
}

#[tokio::test]
async fn who_has_the_workspace_open_hears_of_a_save_and_of_the_end() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let bearer = [("authorization", format!("Bearer {TOKEN}"))];
    let mut events = server.socket(&format!("/api/workspace/{session}/events"), &bearer).await.ok().unwrap();
    assert_eq!(events.json().await, json!({"type": "hello", "rev": 0}));
    assert_eq!(
        events.json().await,
        json!({"type": "session", "state": "stopped", "reason": null, "ending": null})
    );
    assert_eq!(events.json_of("sync").await["state"], "offline");
    put(&server, &session, "a.txt", "x").await;
    let files = events.json_of("files").await;
    assert_eq!(
        files,
        json!({"type": "files", "rev": 1, "origin": "editor", "paths": ["a.txt"], "truncated": false})
    );
    events.send(json!({"type": "ping"})).await;
    assert_eq!(events.json().await, json!({"type": "pong"}));
    server.request("DELETE", &format!("/api/sessions/{session}")).send().await;
    assert_eq!(events.close_code().await, 4404);
}

#[tokio::test]
async fn a_browser_that_leaves_is_answered() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let bearer = ("authorization", format!("Bearer {TOKEN}"));
    let mut events =
        server.socket(&format!("/api/workspace/{session}/events"), &[bearer]).await.ok().unwrap();
    events.json_of("hello").await;
    events.close().await;
    assert_eq!(events.close_code().await, 1000);
}

#[tokio::test]
async fn what_was_overwritten_or_deleted_can_be_had_back() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    put(&server, &session, "a.txt", "one").await;
    put(&server, &session, "a.txt", "two").await;
    let history =
        server.request("GET", &format!("/api/workspace/{session}/history?path=a.txt")).send().await.json();
    let versions = history["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 2, "{history}");
    let oldest = versions[1]["version"].as_i64().unwrap();
    let bytes = server.request("GET", &format!("/api/workspace/{session}/versions/{oldest}")).send().await;
    assert_eq!(bytes.body, b"one");
    let restored = server
        .request("POST", &format!("/api/workspace/{session}/restore"))
        .json(json!({"path": "a.txt", "rev": 1}))
        .send()
        .await;
    assert_eq!(restored.status, 200, "{restored:?}");
    assert_eq!(server.request("GET", &file(&session, "a.txt")).send().await.body, b"one");
    let undone = server
        .request("POST", &format!("/api/workspace/{session}/undo"))
        .json(json!({"path": "a.txt"}))
        .send()
        .await;
    assert_eq!(undone.status, 200, "{undone:?}");
    assert_eq!(server.request("GET", &file(&session, "a.txt")).send().await.body, b"two");
    let missing = server
        .request("POST", &format!("/api/workspace/{session}/restore"))
        .json(json!({"rev": 99}))
        .send()
        .await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "no_such_revision"));
}
