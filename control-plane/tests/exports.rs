//! Archives whose readers take nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod support;

use support::{PATIENCE, TOKEN, TestServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// More archives than are written at once.
const MANY: usize = 40;

#[tokio::test]
async fn readers_who_take_nothing_keep_archives_from_others_for_a_while_and_nothing_else() {
    let server = TestServer::start().await;
    let session = server.session("box").await;
    // More than sockets hold, and nothing that compresses.
    let mut noise = vec![0; 8 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let file = format!("/api/workspace/{session}/file/noise");
    assert_eq!(server.request("PUT", &file).body(noise).send().await.status, 200);

    let archive = format!("/api/workspace/{session}/archive?format=tar.zst");
    let head = format!(
        "GET {archive} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
        server.address
    );
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..MANY {
        let mut reader = TcpStream::connect(server.address).await.unwrap();
        reader.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        tokio::time::timeout(PATIENCE, reader.read_exact(&mut status)).await.unwrap().unwrap();
        match &status {
            b"HTTP/1.1 200" => held.push(reader),
            b"HTTP/1.1 503" => refused += 1,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert!(refused > 0 && held.len() + refused == MANY, "{refused} were refused");
    let other = format!("/api/workspace/{session}/file/other");
    assert_eq!(server.request("PUT", &other).body("text").send().await.status, 200);
    // Once they are gone, others have their turn.
    drop(held);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = server.request("GET", &archive).send().await;
        if answer.status == 200 {
            return;
        }
        assert_eq!(answer.code(), "busy");
        assert!(tokio::time::Instant::now() < deadline, "no place came free");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
