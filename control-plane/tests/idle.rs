//! Connections and their places: those on which nothing is asked have one for a while and not for ever.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod support;

use std::time::Duration;
use support::{PATIENCE, TOKEN, TestServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long this test's server keeps a connection on which nothing is asked.
const KEPT: Duration = Duration::from_secs(1);
/// All that an HTTP/2 client must say before it asks anything, and its empty settings.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn who_asks_nothing_is_let_go_and_who_is_being_answered_is_not() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server.app.clone().serve_within(listener, KEPT));

    let mut slow = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PUT /api/workspace/{session}/file/a HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Connection: close\r\nContent-Length: 2\r\n\r\na"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    for said in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n", HTTP2] {
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, idle.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "still open after {:?}", String::from_utf8_lossy(said));
    }
    // All the while, this one's body was under way.
    slow.write_all(b"b").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, slow.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[tokio::test]
async fn a_socket_keeps_its_connections_place_until_it_ends() {
    let server = TestServer::with(&["--max-connections", "1"]).await;
    let session = server.session("box").await;
    let bearer = ("authorization", format!("Bearer {TOKEN}"));
    let mut socket =
        server.socket(&format!("/api/workspace/{session}/events"), &[bearer]).await.ok().unwrap();
    socket.json_of("hello").await;
    let mut asking = std::pin::pin!(server.stranger("GET", "/healthz").send());
    assert!(
        tokio::time::timeout(Duration::from_millis(500), &mut asking).await.is_err(),
        "there was a place"
    );
    drop(socket);
    assert_eq!(asking.await.status, 200);
}
