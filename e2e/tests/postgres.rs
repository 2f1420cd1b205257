//! The same server on PostgreSQL: sessions, files, terminals, a crash.
//!
//! `BERTH_TEST_DATABASE_URL` names a database whose user may create others; each test has one of its own.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::{Options, Server};
use serde_json::json;
use std::process::Command;

struct Database {
    admin: String,
    name: String,
}

impl Database {
    /// A new, empty database, or a panic that says what is missing.
    fn new(name: &str) -> Self {
        let admin = std::env::var("BERTH_TEST_DATABASE_URL")
            .expect("BERTH_TEST_DATABASE_URL; e2e/test starts a PostgreSQL and sets it");
        let name = format!("e2e_{name}_{}", std::process::id());
        let new = Self { admin, name };
        new.run(&format!("create database {}", new.name));
        new
    }

    fn run(&self, statement: &str) {
        let output = Command::new("psql")
            .args(["-X", "-q", "-d", &self.admin, "-c", statement])
            .output()
            .expect("psql");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn url(&self) -> String {
        let (head, query) = self
            .admin
            .split_once('?')
            .map_or((self.admin.as_str(), String::new()), |(head, query)| (head, format!("?{query}")));
        let (server, _) = head.rsplit_once('/').unwrap();
        format!("{server}/{}{query}", self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.run(&format!("drop database if exists {} with (force)", self.name));
    }
}

#[tokio::test]
async fn the_whole_chain_works_on_postgresql_and_survives_a_crash() {
    let database = Database::new("chain");
    let flags = vec!["--database-url".into(), database.url()];
    let mut server = Server::with(Options { flags, ..Options::default() }).await;
    assert!(!server.data().join("berth.sqlite").exists());
    let session = server.session("postgres").await;
    for n in 0..50 {
        let rev = session.save("value", format!("{n}")).await;
        let ran = session.exec(json!(["cat", "value"]), json!({"after_rev": rev})).await;
        assert_eq!(ran.out(), n.to_string());
    }
    let mut terminal = session.terminal().await;
    terminal.type_text("echo from the shell > made.txt\n").await;
    session.wait_for_file("made.txt", b"from the shell\n").await;
    server.kill();
    server.restart().await;
    terminal.come_back_patiently().await;
    terminal.type_text("cat made.txt value\n").await;
    terminal.wait_for("from the shell\r\n49").await;
    assert_eq!(session.read("value").await.unwrap(), "49");
    let tree = session.tree().await;
    assert_eq!(tree["items"].as_array().unwrap().len(), 2);
    session.stop().await;
    drop(server);
}
