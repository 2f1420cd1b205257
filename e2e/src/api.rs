//! The HTTP API as any client sees it.

use crate::terminal::Viewer;
use crate::wait::eventually;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use std::time::Duration;

/// What of a path is sent as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');
/// How long a session may take to reach a state, on a busy machine.
const STATE_WITHIN: Duration = Duration::from_secs(30);
/// How long any answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A client with a token.
#[derive(Clone, Debug)]
pub struct Api {
    /// `http://address:port`
    pub base: String,
    /// The bearer token; empty sends none.
    pub token: String,
    http: reqwest::Client,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|why| panic!("{why}: {} {}", self.status, self.text()))
    }

    /// The problem's code; asserts that the answer is a whole problem.
    pub fn code(&self) -> String {
        let kind = self.header("content-type");
        assert_eq!(kind, "application/problem+json", "{} {}", self.status, self.text());
        let json = self.json();
        for member in ["detail", "request_id", "title"] {
            assert!(json[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {json}");
        }
        assert_eq!(json["status"], self.status);
        json["code"].as_str().expect("a code").to_owned()
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// Asserts the status.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

impl Api {
    /// A client of the server at `base`.
    pub fn new(base: String, token: &str) -> Self {
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build().expect("a client");
        Self { base, token: token.to_owned(), http }
    }

    /// Sends a request; none if there was no answer.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Option<Reply> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).body(body);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Some(Reply { status, headers, body: response.bytes().await.ok()? })
    }

    /// Sends a request.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Reply {
        let shown = format!("{method} {path}");
        self.try_send(method, path, headers, body).await.unwrap_or_else(|| panic!("no answer to {shown}"))
    }

    /// GET; none if there was no answer.
    pub async fn try_get(&self, path: &str) -> Option<Reply> {
        self.try_send(Method::GET, path, &[], "").await
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    /// POST with JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// A new session.
    pub async fn create(&self, name: &str, start: bool) -> Session {
        let reply = self.post("/api/sessions", &json!({"name": name, "start": start})).await.expect(201);
        let uuid = reply.json()["uuid"].as_str().expect("a uuid").to_owned();
        Session { api: self.clone(), uuid }
    }

    /// A session known by its id.
    pub fn session(&self, uuid: &str) -> Session {
        Session { api: self.clone(), uuid: uuid.to_owned() }
    }

    /// `address:port`
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// The WebSocket address of a path.
    pub fn socket(&self, path: &str) -> String {
        format!("{}{path}", self.base.replacen("http", "ws", 1))
    }
}

/// How a command went.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// The stream's last line.
    pub last: Value,
}

impl Ran {
    /// Its exit code, if it exited.
    pub fn code(&self) -> Option<i64> {
        self.last["exit"]["code"].as_i64()
    }

    /// Its standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A session, and its workspace.
#[derive(Clone, Debug)]
pub struct Session {
    /// The client that asks.
    pub api: Api,
    /// Its public id.
    pub uuid: String,
}

impl Session {
    /// The API's path of this session, with something behind it.
    pub fn path(&self, rest: &str) -> String {
        format!("/api/sessions/{}{rest}", self.uuid)
    }

    /// The API's path of its workspace, with something behind it.
    pub fn workspace(&self, rest: &str) -> String {
        format!("/api/workspace/{}{rest}", self.uuid)
    }

    /// The API's path of a file.
    pub fn file(&self, path: &str) -> String {
        self.workspace(&format!("/file/{}", utf8_percent_encode(path, PATH)))
    }

    /// Its state now.
    pub async fn state(&self) -> Value {
        self.api.get(&self.path("")).await.expect(200).json()
    }

    /// Waits until it is in a state.
    pub async fn wait_for(&self, state: &str) {
        let mut seen = Value::Null;
        let deadline = std::time::Instant::now() + STATE_WITHIN;
        while std::time::Instant::now() < deadline {
            seen = self.state().await;
            if seen["state"] == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let timeline = self.api.get(&self.path("/timeline")).await.text();
        panic!("not {state}: {seen}\n{timeline}");
    }

    /// Starts it and waits.
    pub async fn start(&self) {
        self.api.post(&self.path("/start"), &json!({})).await.expect(202);
        self.wait_for("running").await;
    }

    /// Stops it and waits.
    pub async fn stop(&self) {
        self.api.post(&self.path("/stop"), &json!({})).await.expect(202);
        self.wait_for("stopped").await;
    }

    /// Saves a file; answers its revision.
    pub async fn save(&self, path: &str, bytes: impl Into<reqwest::Body>) -> u64 {
        let reply = self.api.send(Method::PUT, &self.file(path), &[], bytes).await;
        assert!(matches!(reply.status, 200 | 201), "{path}: {} {}", reply.status, reply.text());
        reply.json()["rev"].as_u64().expect("a revision")
    }

    /// A file's bytes in the database, or nothing if it is not there.
    pub async fn read(&self, path: &str) -> Option<Bytes> {
        let reply = self.api.get(&self.file(path)).await;
        match reply.status {
            200 => Some(reply.body),
            404 => None,
            _ => panic!("{path}: {} {}", reply.status, reply.text()),
        }
    }

    /// Waits until the database holds these bytes at a path.
    pub async fn wait_for_file(&self, path: &str, bytes: &[u8]) {
        eventually(&format!("{path} is committed"), Duration::from_secs(20), || async {
            self.read(path).await.filter(|found| found == bytes)
        })
        .await;
    }

    /// The whole tree.
    pub async fn tree(&self) -> Value {
        self.api.get(&self.workspace("/tree")).await.expect(200).json()
    }

    /// Runs a command to its end. `more` holds further members of the request.
    pub async fn exec(&self, command: impl Into<Value>, more: Value) -> Ran {
        let mut body = json!({"command": command.into()});
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        let reply = self.api.post(&self.path("/exec"), &body).await.expect(200);
        let mut ran = Ran::default();
        for line in reply.text().lines() {
            let line: Value = serde_json::from_str(line).expect("a JSON line");
            let bytes = output(&line);
            match line["stream"].as_str() {
                Some("stdout") => ran.stdout.extend(bytes),
                Some("stderr") => ran.stderr.extend(bytes),
                _ => ran.last = line,
            }
        }
        ran
    }

    /// Runs a shell line that must succeed; answers its output.
    pub async fn sh(&self, line: &str) -> String {
        let ran = self.exec(line, json!({})).await;
        assert_eq!(
            ran.code(),
            Some(0),
            "{line}: {} {}{}",
            ran.last,
            ran.out(),
            String::from_utf8_lossy(&ran.stderr)
        );
        ran.out()
    }

    /// Opens a terminal; answers its id.
    pub async fn open_terminal(&self) -> String {
        let reply =
            self.api.post(&self.path("/terminals"), &json!({"cols": 80, "rows": 24})).await.expect(201);
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Opens a terminal and looks at it.
    pub async fn terminal(&self) -> Viewer {
        let id = self.open_terminal().await;
        Viewer::attach(self, &id, "first", &["ack"]).await
    }

    /// The workspace as an archive.
    pub async fn archive(&self, format: &str) -> Bytes {
        self.api.get(&self.workspace(&format!("/archive?format={format}"))).await.expect(200).body
    }
}

/// The bytes in a line of output: text or base64.
pub fn output(line: &Value) -> Vec<u8> {
    match (line["data"].as_str(), line["base64"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(text)) => STANDARD.decode(text).expect("base64"),
        (None, None) => Vec::new(),
    }
}
