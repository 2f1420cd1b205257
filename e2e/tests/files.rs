//! Files over HTTP: one file, the tree, several as one, archives, and what listeners are told.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::events::Events;
use e2e::{Server, Session, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use std::io::{Cursor, Read, Write};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

async fn put(session: &Session, path: &str, headers: &[(&str, &str)], bytes: &str) -> e2e::Reply {
    session.api.send(Method::PUT, &session.file(path), headers, bytes.to_owned()).await
}

fn paths(tree: &Value) -> Vec<String> {
    let items = tree["items"].as_array().unwrap();
    items
        .iter()
        .filter(|item| item["deleted"] != true)
        .map(|item| item["path"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_file_is_saved_read_guarded_by_its_revision_and_deleted() {
    let server = Server::start().await;
    let session = server.api.create("files", false).await;
    let saved = put(&session, "a/b/größe 1.txt", &[], "one").await;
    let body = saved.json();
    let rev = body["rev"].as_u64().unwrap();
    assert_eq!((body["path"].as_str(), body["size"].as_u64()), (Some("a/b/größe 1.txt"), Some(3)));
    assert_eq!(body["hash"].as_str().unwrap().len(), 64);
    assert_eq!(saved.header("etag"), format!("\"{rev}\""));

    let read = session.api.get(&session.file("a/b/größe 1.txt")).await.expect(200);
    assert_eq!((read.header("etag"), &read.body[..]), (saved.header("etag"), &b"one"[..]));
    let unchanged = session
        .api
        .send(Method::GET, &session.file("a/b/größe 1.txt"), &[("if-none-match", saved.header("etag"))], "")
        .await;
    assert_eq!(unchanged.status, 304);

    let second =
        put(&session, "a/b/größe 1.txt", &[("if-match", saved.header("etag"))], "two").await.expect(200);
    let stale = put(&session, "a/b/größe 1.txt", &[("if-match", saved.header("etag"))], "three").await;
    assert_eq!((stale.status, stale.code().as_str()), (409, "stale"));
    assert_eq!(
        (stale.json()["rev"].as_u64(), stale.header("etag")),
        (second.json()["rev"].as_u64(), second.header("etag"))
    );
    let taken = put(&session, "a/b/größe 1.txt", &[("if-none-match", "*")], "four").await;
    assert_eq!((taken.status, taken.code().as_str()), (409, "exists"));
    assert_eq!(session.read("a/b/größe 1.txt").await.unwrap(), "two", "a refused save changes nothing");
    assert_eq!(put(&session, "new.txt", &[("if-none-match", "*")], "five").await.status, 201);
    let posted = session.api.send(Method::POST, &session.file("posted.txt"), &[], "six").await;
    assert!(matches!(posted.status, 200 | 201));

    let stale = session
        .api
        .send(Method::DELETE, &session.file("a/b/größe 1.txt"), &[("if-match", saved.header("etag"))], "")
        .await;
    assert_eq!((stale.status, stale.code().as_str()), (409, "stale"));
    session.api.delete(&session.file("a")).await.expect(200);
    let gone = session.api.get(&session.file("a/b/größe 1.txt")).await;
    assert_eq!((gone.status, gone.code().as_str()), (404, "not_found"));
    assert_eq!(paths(&session.tree().await), ["new.txt", "posted.txt"]);
}

#[tokio::test]
async fn bytes_come_back_as_they_were_whatever_they_are() {
    let server = Server::start().await;
    let session = server.session("bytes").await;
    let big: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (path, bytes) in [
        ("empty", &b""[..]),
        ("crlf.txt", b"one\r\ntwo\r\n"),
        ("no-final-newline", "🦀 ü".as_bytes()),
        ("binary", b"\x00\xff\xfe\n\x1b[31m"),
        ("big", &big),
    ] {
        let rev = session.save(path, bytes.to_vec()).await;
        assert_eq!(session.read(path).await.unwrap(), bytes, "{path}");
        let ran = session.exec(json!(["cat", path]), json!({"after_rev": rev})).await;
        assert!(ran.stdout == bytes, "{path} in the session: {} bytes", ran.stdout.len());
    }
    let range =
        session.api.send(Method::GET, &session.file("big"), &[("range", "bytes=1000000-1000009")], "").await;
    assert_eq!((range.status, &range.body[..]), (206, &big[1_000_000..1_000_010]));
}

#[tokio::test]
async fn the_tree_tells_all_or_what_changed_since() {
    let server = Server::start().await;
    let session = server.api.create("tree", false).await;
    let first = session.save("src/main.rs", "fn main() {}").await;
    let second = session.save("src/lib.rs", "//").await;
    session.api.delete(&session.file("src/main.rs")).await.expect(200);
    let tree = session.tree().await;
    assert_eq!(paths(&tree), ["src", "src/lib.rs"]);
    let file = &tree["items"][1];
    assert_eq!(
        (file["kind"].as_str(), file["size"].as_u64(), file["rev"].as_u64()),
        (Some("file"), Some(2), Some(second))
    );
    assert_eq!(tree["items"][0]["kind"], "dir");

    let since = session.api.get(&session.workspace(&format!("/tree?since={first}"))).await.expect(200).json();
    assert_eq!(since["rev"], tree["rev"]);
    let deleted: Vec<&Value> =
        since["items"].as_array().unwrap().iter().filter(|item| item["deleted"] == true).collect();
    assert_eq!(deleted.len(), 1, "{since}");
    assert_eq!(deleted[0]["path"], "src/main.rs");
    assert!(paths(&since).contains(&"src/lib.rs".to_owned()));
    let bad = session.api.get(&session.workspace("/tree?since=yesterday")).await;
    assert_eq!((bad.status, bad.code().as_str()), (400, "bad_query"));
}

#[tokio::test]
async fn a_batch_is_one_revision_or_nothing() {
    let server = Server::start().await;
    let session = server.session("batch").await;
    let before = session.save("old/name.txt", "text").await;
    let path = session.workspace("/batch");
    let done = session
        .api
        .post(
            &path,
            &json!({"ops": [
                {"op": "mkdir", "path": "empty"},
                {"op": "write", "path": "run.sh", "data": "echo ran\n", "mode": 0o755},
                {"op": "write", "path": "raw", "base64": "AP8="},
                {"op": "move", "from": "old", "to": "new"},
                {"op": "chmod", "path": "new/name.txt", "mode": 0o600},
            ]}),
        )
        .await
        .expect(200)
        .json();
    assert_eq!(done["rev"].as_u64(), Some(before + 1), "one batch, one revision");
    let ran = session
        .exec("./run.sh; cat new/name.txt; stat -c %a new/name.txt; ls", json!({"after_rev": done["rev"]}))
        .await;
    assert_eq!(ran.out(), "ran\ntext600\nempty\nnew\nraw\nrun.sh\n");

    let tree = session.tree().await;
    let refused = session
        .api
        .post(
            &path,
            &json!({"ops": [
                {"op": "write", "path": "half", "data": "done"},
                {"op": "delete", "path": "not-there"},
            ]}),
        )
        .await;
    assert_eq!((refused.status, refused.code().as_str()), (404, "not_found"));
    let refused = session
        .api
        .post(
            &path,
            &json!({"ops": [
                {"op": "delete", "path": "raw"},
                {"op": "write", "path": "../out", "data": "x"},
            ]}),
        )
        .await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "path_dot_part"));
    assert_eq!(session.tree().await, tree, "nothing is half done");
}

fn zip_names(bytes: &[u8]) -> Vec<(String, String)> {
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    (0..zip.len())
        .map(|n| {
            let mut file = zip.by_index(n).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            (file.name().unwrap().into_owned(), text)
        })
        .collect()
}

#[tokio::test]
async fn a_workspace_goes_out_as_an_archive_and_comes_in_as_one() {
    let server = Server::start().await;
    let session = server.api.create("archive", false).await;
    session.save("a.txt", "eins").await;
    session.save("d/ö.txt", "zwei").await;
    session
        .api
        .post(&session.workspace("/batch"), &json!({"ops": [{"op": "mkdir", "path": "leer"}]}))
        .await
        .expect(200);
    let zip = session.archive("zip").await;
    let names = zip_names(&zip);
    assert!(
        names.contains(&("a.txt".into(), "eins".into()))
            && names.contains(&("d/ö.txt".into(), "zwei".into())),
        "{names:?}"
    );
    assert!(names.iter().any(|(name, _)| name == "leer/"), "{names:?}");

    for (format, kind) in [("zip", "application/zip"), ("tar.zst", "application/zstd")] {
        let other = server.api.create(&format!("copy-{format}"), false).await;
        let archive = session.archive(format).await;
        let reply = other
            .api
            .send(
                Method::PUT,
                &other.workspace(&format!("/archive?format={format}")),
                &[("content-type", kind)],
                archive,
            )
            .await;
        assert_eq!(reply.status, 200, "{format}: {}", reply.text());
        let pick = |tree: &Value| -> Vec<(Value, Value, Value)> {
            tree["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|i| (i["path"].clone(), i["kind"].clone(), i["hash"].clone()))
                .collect()
        };
        assert_eq!(pick(&other.tree().await), pick(&session.tree().await), "{format}");
    }
    let bad = session.api.get(&session.workspace("/archive?format=rar")).await;
    assert_eq!((bad.status, bad.code().as_str()), (400, "bad_format"));
}

#[tokio::test]
async fn so_many_archives_at_once_and_the_next_is_asked_to_wait() {
    let server = Server::start().await;
    let session = server.api.create("imports", false).await;
    session.save("a.txt", "eins").await;
    let zip = session.archive("zip").await;
    let path = session.workspace("/archive");
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\nPK",
        port = server.port(),
        token = server.token(),
    );
    let begin = || async {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let import = || async { session.api.send(Method::PUT, &path, &[], zip.clone()).await };
    let mut begun = Vec::new();
    // A whole one may have the place that one of these was to take, so each that comes through is followed by another.
    let all_taken = async {
        loop {
            begun.push(begin().await);
            let reply = import().await;
            if reply.status != 200 {
                return reply;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, all_taken).await.expect("all places are taken");
    assert_eq!((refused.status, refused.code().as_str()), (503, "busy"));
    assert!(refused.headers.contains_key("retry-after"));
    drop(begun);
    eventually("there is a place again", PATIENCE, || async { (import().await.status == 200).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_hostile_archive_takes_nothing_outside_and_leaves_nothing_half_done() {
    let server = Server::start().await;
    let session = server.api.create("hostile", false).await;
    session.save("keep", "kept").await;
    let before = session.tree().await;
    let import = |bytes: Vec<u8>| {
        let session = session.clone();
        async move {
            session
                .api
                .send(
                    Method::PUT,
                    &session.workspace("/archive?format=zip"),
                    &[("content-type", "application/zip")],
                    bytes,
                )
                .await
        }
    };
    for (name, code) in [("../evil", "path_dot_part"), ("/etc/evil", "path_absolute")] {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file("good", options).unwrap();
        zip.write_all(b"good").unwrap();
        zip.start_file(name, options).unwrap();
        zip.write_all(b"evil").unwrap();
        let reply = import(zip.finish().unwrap().into_inner()).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, code), "{name}");
    }
    let reply = import(b"this is no archive".to_vec()).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "bad_format"));
    assert_eq!(session.tree().await, before);
}

#[tokio::test]
async fn listeners_are_told_of_saves_of_the_sessions_own_changes_and_of_its_state() {
    let server = Server::start().await;
    let session = server.session("events").await;
    let mut events = Events::of(&session).await;
    let rev = session.save("by-hand.txt", "x").await;
    let told = events.find(|event| event["type"] == "files" && event["rev"] == rev).await;
    assert_eq!((told["origin"].as_str(), &told["paths"]), (Some("editor"), &json!(["by-hand.txt"])));
    session.sh("echo made > by-program.txt").await;
    let told = events.find(|event| event["type"] == "files" && event["origin"] == "pod").await;
    assert_eq!(told["paths"], json!(["by-program.txt"]));
    assert_eq!(session.read("by-program.txt").await.unwrap(), "made\n", "told after the commit");
    session.stop().await;
    events.find(|event| event["type"] == "session" && event["state"] == "stopped").await;
}
