//! One command in a session, its output streamed as JSON lines.

use super::openapi::{Part, ProblemBody};
use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Route};
use super::terminals::{ExitBody, asked, link};
use super::workspace::upload_memory;
use crate::accounts::Role;
use crate::agents::Link;
use crate::agents::exec::{self, Running};
use crate::app::App;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream;
use http::Method;
use http::header::{self, HeaderValue};
use serde::{Deserialize, Serialize};
use shared::id::{Revision, SessionId};
use shared::limits::{AFTER_REV_WAIT, MESSAGE_BYTES};
use shared::link::exec::{Command, Output};
use shared::link::sync::State;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Mutex, PoisonError};
use utoipa::{OpenApi, ToSchema};
use warp::Reply;
use warp::reply::Response;

/// Seconds a command may take unless it says otherwise.
const DEFAULT_SECONDS: f64 = 3600.0;
/// Seconds a command may take at most: a day.
const MAX_SECONDS: f64 = 86_400.0;
/// Bytes of a command's request, its input among them.
const BODY_BYTES: u64 = 8 << 20;
/// Bytes of a command's words, variables and folder: with what names them they fit into one message to the agent.
const WORDS_BYTES: usize = MESSAGE_BYTES / 2;
/// Bytes that each of a command's words may cost beside its own: a head in the message.
const WORD_COST: usize = 5;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::new(Method::POST, "/api/sessions/{uuid}/exec", Access::Session(Role::Editor), run)]
}

#[derive(OpenApi)]
#[openapi(paths(run))]
struct Document;

pub(super) fn document() -> Part {
    Document::openapi()
}

/// A command: a shell line, or program and arguments.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum CommandBody {
    Line(String),
    Program(Vec<String>),
}

#[derive(Deserialize, ToSchema)]
#[schema(as = Exec)]
struct ExecBody {
    command: CommandBody,
    /// A folder below the workspace; without, its top.
    #[serde(default)]
    cwd: Option<String>,
    /// Variables on top of the session's own.
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    /// Its standard input, as text.
    #[serde(default)]
    stdin: Option<String>,
    /// Its standard input, as base64.
    #[serde(default)]
    stdin_base64: Option<String>,
    /// It and all it started are killed after so many seconds; 3,600 by default, 86,400 at most.
    #[serde(default)]
    timeout_s: Option<f64>,
    /// It starts once this revision is visible in the workspace, and not at all if that takes over 2 s. Without, it
    /// starts once all that was saved before is visible, or after 2 s.
    #[serde(default)]
    after_rev: Option<u64>,
}

/// Run a command.
///
/// The answer is a stream of JSON lines: `{"stream":"stdout"|"stderr","data":"…"}`, or with `base64` in the place of
/// `data` where the bytes are not UTF-8; at last `{"exit":{"code":0,"signal":null}}`, with `"timed_out":true` if
/// its time was over. If the session goes away meanwhile, the last line is `{"error":{"code":"…","message":"…"}}`.
/// A client that disconnects ends the command and all it started.
#[utoipa::path(post, path = "/api/sessions/{uuid}/exec", tag = "commands", params(("uuid" = uuid::Uuid, Path)), request_body = ExecBody, responses(
    (status = 200, description = "The stream", content_type = "application/x-ndjson", body = String),
    (status = 400, description = "`not_found` (no such program), `cwd_missing`, `bad_command`, `command_too_long`, `bad_json`, `bad_request`", body = ProblemBody),
    (status = 409, description = "`session_not_running`, `revision_not_visible`", body = ProblemBody),
    (status = 503, description = "`busy`, with Retry-After", body = ProblemBody),
))]
async fn run(app: App, mut request: Request) -> Result<Response, Problem> {
    let memory = upload_memory(&app, &request, BODY_BYTES).await?;
    let body: ExecBody = request.json(BODY_BYTES).await?;
    let (command, stdin) = command(body)?;
    let link = link(&app, &request).await?;
    // Who waits for a command uses the session, however quiet it is.
    let busy = app.lifecycle.busy(request.session()?);
    if command.after_rev.is_none() {
        wait_shown(&app, &link, request.session()?).await;
    }
    let running = exec::run(&link, command, stdin).await.map_err(asked)?;
    // What is left is input, which goes as the command reads it; a long command must not hold a place for uploads.
    drop(memory);
    let lines = stream::unfold((Lines::new(running), busy), |(mut lines, busy)| async {
        let line = lines.next().await?;
        Some((Ok::<_, io::Error>(line), (lines, busy)))
    });
    let mut response = warp::reply::stream(Shareable(Mutex::new(Box::pin(lines)))).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    // A proxy that gathers a whole answer before it passes it on would hide what is going on.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Waits until the workspace shows all that was saved before. Not for ever: a full folder shows nothing more until
/// a command made room in it; and not without a database, which is no reason for a command not to run.
async fn wait_shown(app: &App, link: &Link, session: SessionId) {
    if matches!(link.sync().status().state, Some(State::Full | State::Held)) {
        return;
    }
    if let Ok(rev) = app.store.rev(session).await {
        link.sync().wait_visible(rev, AFTER_REV_WAIT).await;
    }
}

fn command(body: ExecBody) -> Result<(Command, Bytes), Problem> {
    let argv = match body.command {
        CommandBody::Line(line) => vec!["sh".into(), "-c".into(), line],
        CommandBody::Program(argv) => argv,
    };
    let environment = body.env.unwrap_or_default();
    let texts = argv.iter().chain(environment.keys()).chain(environment.values()).chain(&body.cwd);
    if argv.first().is_none_or(String::is_empty) || texts.into_iter().any(|text| text.contains('\0')) {
        return Err(Problem::bad("bad_command", "A command needs a program, and no NUL byte anywhere."));
    }
    let words = argv.iter().chain(environment.keys()).chain(environment.values()).chain(&body.cwd);
    if words.map(|word| word.len() + WORD_COST).sum::<usize>() > WORDS_BYTES {
        return Err(Problem::bad(
            "command_too_long",
            format!(
                "A command's arguments and variables may have {WORDS_BYTES} bytes together. Give it more as `stdin`."
            ),
        ));
    }
    if environment.keys().any(|name| name.is_empty() || name.contains('=')) {
        return Err(Problem::bad("bad_command", "A variable's name must not be empty or contain `=`."));
    }
    let stdin = match (body.stdin, body.stdin_base64) {
        (None, None) => Bytes::new(),
        (Some(text), None) => text.into(),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map_err(|_| Problem::bad("bad_base64", "`stdin_base64` is not base64 with padding."))?
            .into(),
        _ => return Err(Problem::bad("bad_request", "Give `stdin` or `stdin_base64`, not both.")),
    };
    let seconds = body.timeout_s.unwrap_or(DEFAULT_SECONDS);
    if !(seconds > 0.0 && seconds <= MAX_SECONDS) {
        return Err(Problem::bad("bad_timeout", "`timeout_s` must be over 0 and at most 86400."));
    }
    let timeout_ms = (seconds * 1e3).ceil() as u64;
    let after_rev = body.after_rev.filter(|rev| *rev > 0).map(Revision);
    Ok((Command { argv, cwd: body.cwd.unwrap_or_default(), environment, timeout_ms, after_rev }, stdin))
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Text {
        stream: &'static str,
        data: &'a str,
    },
    Bytes {
        stream: &'static str,
        base64: String,
    },
    Exit {
        exit: ExitBody,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        timed_out: bool,
    },
    Error {
        error: ErrorBody<'a>,
    },
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
}

fn line(line: &Line<'_>) -> Bytes {
    // Strings and numbers under fixed keys cannot fail to become JSON.
    let mut json = serde_json::to_vec(line).unwrap_or_default();
    json.push(b'\n');
    json.into()
}

/// A command's output as lines. Holds back at most three bytes of each stream: a character that is cut.
struct Lines {
    running: Running,
    held: [Vec<u8>; 2],
    ready: VecDeque<Bytes>,
    done: bool,
}

const STREAMS: [&str; 2] = ["stdout", "stderr"];

impl Lines {
    fn new(running: Running) -> Self {
        Self { running, held: [Vec::new(), Vec::new()], ready: VecDeque::new(), done: false }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.done {
                return None;
            }
            match self.running.next().await {
                Ok(Some(Output::Stdout(bytes))) => self.output(0, &bytes),
                Ok(Some(Output::Stderr(bytes))) => self.output(1, &bytes),
                Ok(Some(Output::Exit { exit, timed_out })) => {
                    self.flush();
                    self.ready.push_back(line(&Line::Exit { exit: exit.into(), timed_out }));
                    self.done = true;
                }
                Ok(Some(_)) => {}
                Ok(None) => self.done = true,
                Err(why) => {
                    self.flush();
                    let error = ErrorBody { code: why.code(), message: &why.to_string() };
                    self.ready.push_back(line(&Line::Error { error }));
                    self.done = true;
                }
            }
        }
    }

    fn output(&mut self, stream: usize, bytes: &[u8]) {
        let mut whole = std::mem::take(&mut self.held[stream]);
        whole.extend_from_slice(bytes);
        let keep = cut_character(&whole);
        self.held[stream] = whole.split_off(whole.len() - keep);
        self.say(stream, &whole);
    }

    fn say(&mut self, stream: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let name = STREAMS[stream];
        self.ready.push_back(line(&match std::str::from_utf8(bytes) {
            Ok(data) => Line::Text { stream: name, data },
            Err(_) => Line::Bytes { stream: name, base64: STANDARD.encode(bytes) },
        }));
    }

    fn flush(&mut self) {
        for stream in 0..STREAMS.len() {
            let held = std::mem::take(&mut self.held[stream]);
            self.say(stream, &held);
        }
    }
}

/// How many bytes at the end begin a character that could be completed by more.
fn cut_character(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let Some(at) = tail.iter().rposition(|b| *b >= 0xc0) else { return 0 };
    match std::str::from_utf8(&tail[at..]) {
        Err(why) if why.error_len().is_none() => tail.len() - at,
        _ => 0,
    }
}

/// warp asks for streams that may be shared between threads, though it never does.
struct Shareable<S>(Mutex<S>);

impl<S: futures::Stream + Unpin> futures::Stream for Shareable<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        let inner = self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::pin::Pin::new(inner).poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_character_that_may_still_be_completed_is_held_back() {
        assert_eq!(cut_character("aé".as_bytes()), 0);
        assert_eq!(cut_character(&"aé".as_bytes()[..2]), 1);
        assert_eq!(cut_character(&"🦀".as_bytes()[..3]), 3);
        assert_eq!(cut_character(b"\xff"), 0);
        assert_eq!(cut_character(b"\x80\x80\x80"), 0);
        assert_eq!(cut_character(b""), 0);
    }

    #[test]
    fn a_command_is_a_shell_line_or_a_program_and_bad_ones_have_codes() {
        let parse = |json: &str| command(serde_json::from_str(json).unwrap());
        let argv = |json: &str| parse(json).unwrap().0.argv;
        assert_eq!(argv(r#"{"command":"a | b"}"#), ["sh", "-c", "a | b"]);
        assert_eq!(argv(r#"{"command":["a","b"]}"#), ["a", "b"]);
        let code = |json: &str| parse(json).unwrap_err().code;
        assert_eq!(code(r#"{"command":[]}"#), "bad_command");
        assert_eq!(code(r#"{"command":["a\u0000"]}"#), "bad_command");
        assert_eq!(code(r#"{"command":"a","env":{"A=B":"c"}}"#), "bad_command");
        let long = format!(r#"{{"command":["echo","{}"]}}"#, "x".repeat(300_000));
        assert_eq!(code(&long), "command_too_long");
        let many = format!(r#"{{"command":["echo"{}]}}"#, r#","""#.repeat(100_000));
        assert_eq!(code(&many), "command_too_long");
        assert_eq!(code(r#"{"command":"a","timeout_s":0}"#), "bad_timeout");
        assert_eq!(code(r#"{"command":"a","stdin_base64":"%"}"#), "bad_base64");
    }
}
