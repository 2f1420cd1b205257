//! A real server on a real socket, over a database of its own, and a client that sends exactly what a test says.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use clap::Parser;
use control_plane::accounts::token::Token;
use control_plane::agents::StoredCredentials;
use control_plane::app::App;
use control_plane::config::Cli;
use control_plane::entities::{browser_session, now_ms, user};
use control_plane::runtime::local::LocalRuntime;
use control_plane::server::{self, Running};
use control_plane::workspace::Database;
use futures::{SinkExt, StreamExt};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::EntityTrait;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// The token of a test server's admin.
pub const TOKEN: &str = "a-token-for-tests-0123456789";
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A server that ends when it is dropped.
pub struct TestServer {
    pub address: SocketAddr,
    pub app: App,
    pub data: TempDir,
}

impl TestServer {
    /// Starts one with the defaults.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts one with these flags.
    pub async fn with(flags: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().to_str().unwrap();
        let always = ["control-plane", "--data", folder, "--admin-token", TOKEN, "--listen", "127.0.0.1:0"];
        let settings = Cli::try_parse_from(always.iter().chain(flags)).unwrap().settings;
        settings.check().unwrap();
        let database = Database::open(settings.database().expose()).await.unwrap();
        let listener = TcpListener::bind(settings.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = LocalRuntime::new(data.path(), "/bin/false".into()).unwrap();
        let identity = Arc::new(StoredCredentials(database.clone()));
        let running = Running { runtime: Arc::new(runtime), identity };
        let app = server::assemble(settings, database, address, address, running).await.unwrap();
        let (store, lifecycle, agents) = (app.store.clone(), app.lifecycle.clone(), app.agents.clone());
        tokio::spawn(app.events.clone().run(store, lifecycle, agents, app.shutdown.clone()));
        tokio::spawn(app.clone().serve(listener));
        Self { address, app, data }
    }

    /// A request with the admin's token.
    pub fn request(&self, method: &str, path: &str) -> Ask<'_> {
        self.stranger(method, path).header("Authorization", &format!("Bearer {TOKEN}"))
    }

    /// A request by nobody.
    pub fn stranger(&self, method: &str, path: &str) -> Ask<'_> {
        Ask {
            server: self,
            head: format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address),
            body: Vec::new(),
            length: None,
        }
    }

    /// A new session that doesn't run.
    pub async fn session(&self, name: &str) -> String {
        let answer =
            self.request("POST", "/api/sessions").json(json!({"name": name, "start": false})).send().await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["uuid"].as_str().unwrap().to_owned()
    }

    /// A WebSocket with these headers, or the status that refused it.
    pub async fn socket(&self, path: &str, headers: &[(&'static str, String)]) -> Result<Socket, u16> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(Socket(socket)),
            Err(WsError::Http(response)) => Err(response.status().as_u16()),
            Err(other) => panic!("{other}"),
        }
    }

    /// The cookie of a browser that followed a fresh one-time link.
    pub async fn browser(&self) -> String {
        let link = self.app.accounts.link().await.unwrap();
        let answer = self.stranger("GET", &format!("/sign-in?token={}", link.reveal())).send().await;
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{answer:?}");
        let cookie = answer.header("set-cookie");
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && cookie.contains("Path=/"),
            "{cookie}"
        );
        cookie.split(';').next().unwrap().to_owned()
    }

    /// The bearer token of a user who is no administrator and has no session.
    pub async fn somebody(&self) -> String {
        let database = &self.app.database;
        let row = user::ActiveModel {
            id: NotSet,
            uuid: Set(uuid::Uuid::new_v4()),
            name: Set("somebody".into()),
            email: Set(None),
            password_hash: Set(None),
            admin: Set(0),
            created_at: Set(now_ms()),
            disabled_at: Set(None),
        };
        let user = user::Entity::insert(row).exec_with_returning(database.writer()).await.unwrap();
        let token = Token::random();
        let row = browser_session::ActiveModel {
            token_hash: Set(token.hash().to_vec()),
            user_id: Set(user.id),
            created_at: Set(now_ms()),
            last_seen_at: Set(now_ms()),
            expires_at: Set(now_ms() + 60_000),
        };
        browser_session::Entity::insert(row).exec_without_returning(database.writer()).await.unwrap();
        format!("Bearer {}", token.reveal())
    }

    /// The origin that a page of this server has.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.app.shutdown.cancel();
    }
}

/// A request in the making.
pub struct Ask<'a> {
    server: &'a TestServer,
    head: String,
    body: Vec<u8>,
    length: Option<usize>,
}

impl Ask<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn json(self, body: Value) -> Self {
        self.body(body.to_string())
    }

    /// Announces another length than the body has.
    pub fn announce(mut self, length: usize) -> Self {
        self.length = Some(length);
        self
    }

    pub async fn send(self) -> Answer {
        tokio::time::timeout(PATIENCE, self.exchange()).await.expect("no answer in time")
    }

    async fn exchange(self) -> Answer {
        let mut stream = TcpStream::connect(self.server.address).await.unwrap();
        let length = self.length.unwrap_or(self.body.len());
        let head = format!("{}Content-Length: {length}\r\n\r\n", self.head);
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that has seen enough may close before it was sent all.
        let _ = stream.write_all(&self.body).await;
        if self.length.is_some() {
            stream.shutdown().await.unwrap();
        }
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        Answer::parse(&bytes)
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Self { status, headers, body: bytes[end + 4..].to_vec() };
        if answer.header("transfer-encoding") == "chunked" {
            answer.body = dechunked(&answer.body);
        }
        answer
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The problem's code; the answer must be a problem in every respect.
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status, "{json}");
        assert_eq!(json["request_id"], self.header("x-request-id"), "{json}");
        assert!(json["detail"].as_str().unwrap().len() > 10, "{json}");
        json["code"].as_str().unwrap().to_owned()
    }
}

fn dechunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n").expect("a chunk's head");
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
}

/// A WebSocket's client.
pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// The next JSON message.
    pub async fn json(&mut self) -> Value {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("no message in time") {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next JSON message of this type; others are passed over.
    pub async fn json_of(&mut self, kind: &str) -> Value {
        loop {
            let json = self.json().await;
            if json["type"] == kind {
                return json;
            }
        }
    }

    /// The code that the server closes with; messages before it are passed over.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("no close in time") {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Closes it as a browser does that leaves.
    pub async fn close(&mut self) {
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.0.close(Some(normal)).await.unwrap();
    }

    /// Returns when the server has ended it, with or without a word.
    pub async fn ended(&mut self) {
        let ended = async {
            while let Some(Ok(message)) = self.0.next().await {
                if message.is_close() {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("no end in time");
    }

    pub async fn send(&mut self, json: Value) {
        self.0.send(Message::text(json.to_string())).await.unwrap();
    }
}
