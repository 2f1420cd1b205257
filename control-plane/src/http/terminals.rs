//! Terminals: open, list, close, and the socket of one viewer.

use super::openapi::{Part, ProblemBody};
use super::problem::{Problem, sentence};
use super::request::{JSON_BYTES, Request};
use super::route::{Access, Route, Speaks};
use super::socket;
use crate::accounts::{Role, role::role};
use crate::agents::terminals::{self, View};
use crate::agents::wire::{Close, Frame};
use crate::agents::{AskError, Link};
use crate::app::App;
use crate::lifecycle::{Activity, State};
use futures::{SinkExt, StreamExt, future};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use shared::id::TerminalId;
use shared::limits::TERMINAL_SIDE;
use shared::link::terminal::{Create, Exit, Size, Summary};
use std::str::FromStr;
use std::time::Duration;
use tokio::time::Instant;
use utoipa::{OpenApi, ToSchema};
use warp::Reply;
use warp::reply::Response;
use warp::ws::{Message, WebSocket};

/// How long a call waits for the agent of a session that should be linked any moment: while it starts, or after
/// the server did.
const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one snapshot as JSON, at worst: what one socket may have waiting to be written.
const WRITE_BUFFER_BYTES: usize = 64 << 20;

pub(super) fn routes() -> Vec<Route> {
    const ALL: &str = "/api/sessions/{uuid}/terminals";
    const ONE: &str = "/api/sessions/{uuid}/terminals/{id}";
    let (viewer, editor) = (Access::Session(Role::Viewer), Access::Session(Role::Editor));
    vec![
        Route::new(Method::GET, ALL, viewer, list),
        Route::new(Method::POST, ALL, editor, create),
        Route::new(Method::DELETE, ONE, editor, close),
        Route::new(Method::GET, ONE, viewer, view).speaks(Speaks::WebSocket),
    ]
}

#[derive(OpenApi)]
#[openapi(paths(list, create, close, view))]
struct Document;

pub(super) fn document() -> Part {
    Document::openapi()
}

/// The session's link, awaited for a moment if it should come.
pub(super) async fn link(app: &App, request: &Request) -> Result<Link, Problem> {
    let session = request.session()?;
    if let Some(link) = app.agents.get(session) {
        return Ok(link);
    }
    let state = request.session.as_ref().map(|session| session.state);
    if matches!(state, Some(State::Running | State::Starting))
        && let Some(link) = app.agents.wait(session, Instant::now() + LINK_PATIENCE).await
    {
        return Ok(link);
    }
    Err(asked(AskError::NotRunning))
}

/// An agent's refusal, or its absence, as an answer.
pub(super) fn asked(why: AskError) -> Problem {
    let (code, detail) = (why.code().to_owned(), sentence(&why.to_string()));
    let status = match (&why, code.as_str()) {
        (AskError::NotRunning, _) => {
            return Problem::conflict(
                "session_not_running",
                "The session is not running. Start it first; its files are kept.",
            );
        }
        (AskError::Gone | AskError::Timeout, _) => StatusCode::SERVICE_UNAVAILABLE,
        (AskError::Full, _) => StatusCode::TOO_MANY_REQUESTS,
        (AskError::Nonsense(_), _) => StatusCode::BAD_GATEWAY,
        (AskError::Refused(_), "terminal_gone") => StatusCode::NOT_FOUND,
        (AskError::Refused(_), "too_many_terminals") => StatusCode::TOO_MANY_REQUESTS,
        (AskError::Refused(_), "revision_not_visible") => StatusCode::CONFLICT,
        (AskError::Refused(_), _) => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, code, detail)
}

/// A terminal.
#[derive(Serialize, ToSchema)]
#[schema(as = Terminal)]
struct TerminalBody {
    id: uuid::Uuid,
    /// What its program set as title, or the program's name. From the session: text only.
    title: String,
    cols: u16,
    rows: u16,
    /// How its program ended, if it did: `code` or `signal`.
    exited: Option<ExitBody>,
}

/// How a program ended: one of the two is set.
#[derive(Serialize, ToSchema)]
#[schema(as = Exit)]
pub(super) struct ExitBody {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<String>,
}

impl From<Exit> for ExitBody {
    fn from(exit: Exit) -> Self {
        Self { code: exit.code, signal: exit.signal }
    }
}

impl From<Summary> for TerminalBody {
    fn from(summary: Summary) -> Self {
        Self {
            id: summary.terminal.0,
            title: summary.title,
            cols: summary.size.cols,
            rows: summary.size.rows,
            exited: summary.exit.map(ExitBody::from),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Terminals)]
struct TerminalsBody {
    /// The oldest first.
    terminals: Vec<TerminalBody>,
}

/// A session's terminals.
#[utoipa::path(get, path = "/api/sessions/{uuid}/terminals", tag = "terminals", params(("uuid" = uuid::Uuid, Path)), responses(
    (status = 200, body = TerminalsBody),
    (status = 409, description = "`session_not_running`", body = ProblemBody),
))]
async fn list(app: App, request: Request) -> Result<Response, Problem> {
    let link = link(&app, &request).await?;
    let terminals = terminals::list(&link).await.map_err(asked)?;
    Ok(warp::reply::json(&TerminalsBody {
        terminals: terminals.into_iter().map(TerminalBody::from).collect(),
    })
    .into_response())
}

#[derive(Deserialize, ToSchema)]
#[schema(as = NewTerminal)]
struct NewTerminal {
    /// 1 to 1,000.
    #[serde(default = "cols")]
    cols: u16,
    /// 1 to 1,000.
    #[serde(default = "rows")]
    rows: u16,
    /// Program and arguments; without, the session's shell.
    #[serde(default)]
    command: Vec<String>,
    /// A folder below the workspace; without, its top.
    #[serde(default)]
    cwd: String,
}

fn cols() -> u16 {
    80
}

fn rows() -> u16 {
    24
}

/// Open a terminal.
#[utoipa::path(post, path = "/api/sessions/{uuid}/terminals", tag = "terminals", params(("uuid" = uuid::Uuid, Path)), request_body = NewTerminal, responses(
    (status = 201, description = "Open", body = TerminalBody),
    (status = 400, description = "`bad_size`, `cwd_missing`, `shell_missing`", body = ProblemBody),
    (status = 409, description = "`session_not_running`", body = ProblemBody),
    (status = 429, description = "`too_many_terminals`, `too_many_viewers`", body = ProblemBody),
))]
async fn create(app: App, mut request: Request) -> Result<Response, Problem> {
    let NewTerminal { cols, rows, command, cwd } = request.json(JSON_BYTES).await?;
    if !TERMINAL_SIDE.contains(&cols) || !TERMINAL_SIDE.contains(&rows) {
        return Err(Problem::bad("bad_size", "A terminal has from 1 to 1000 columns and rows."));
    }
    let link = link(&app, &request).await?;
    let create = Create { size: Size { cols, rows }, command, cwd };
    let summary = terminals::create(&link, create).await.map_err(asked)?;
    Ok(warp::reply::with_status(warp::reply::json(&TerminalBody::from(summary)), StatusCode::CREATED)
        .into_response())
}

fn terminal(request: &Request) -> Result<TerminalId, Problem> {
    TerminalId::from_str(&request.param("id")?).map_err(|_| {
        Problem::not_found("terminal_gone", "There is no such terminal: it was closed, or never was.")
    })
}

/// Close a terminal and end all it started.
#[utoipa::path(delete, path = "/api/sessions/{uuid}/terminals/{id}", tag = "terminals",
    params(("uuid" = uuid::Uuid, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Closed, and its processes are gone"), (status = 404, description = "`terminal_gone`", body = ProblemBody)))]
async fn close(app: App, request: Request) -> Result<Response, Problem> {
    let terminal = terminal(&request)?;
    let link = link(&app, &request).await?;
    terminals::close(&link, terminal).await.map_err(asked)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// See a terminal and type into it, over a WebSocket.
///
/// Text frames are JSON. First the client attaches:
///
/// ```json
/// → {"type":"attach","viewer":"chosen by the client, kept over reconnects","cols":80,"rows":24,"epoch":E?,"from":N?,"caps":["bin","ack"]?}
/// ← {"type":"hello","terminal":"…","epoch":E,"input_seq":N,"offset":N}
/// ← {"type":"snapshot","offset":N,"cols":80,"rows":24,"data":"…"}
/// ← {"type":"output","offset":N,"data":"…" or "base64":"…"}
/// → {"type":"input","seq":N,"data":"…" or "base64":"…","after_rev":R?}
/// ← {"type":"input_ack","seq":N}
/// → {"type":"ack","offset":N}
/// → {"type":"resize","cols":100,"rows":30}        ← {"type":"resize","cols":100,"rows":30}
/// → {"type":"visible","visible":false}
/// ← {"type":"exit","code":0,"signal":null}
/// ↔ {"type":"ping"}, {"type":"pong"}              → {"type":"detach"}
/// ← {"type":"error","code":"…","message":"…"}
/// ```
///
/// **Output.** `offset` is the number of the frame's first byte; the next one is expected at `offset` plus the
/// bytes in it (bytes, never characters). `hello.offset` is where output ended when the client attached: what a
/// resumed client is sent up to there is a replay, in which it must not answer queries. To come back, attach with
/// the `epoch` of the hello and `from`, the next byte expected: the answer is the missing output, or a `snapshot` to
/// paint from nothing. A client that says it is not `visible` gets no output and does not count for the size; when it
/// is again, it gets another `hello` and then what it missed, which up to `hello.offset` is a replay, too.
///
/// **Input.** `seq` is the number of the first byte of `data`, counted from this viewer's first; `input_ack.seq` and
/// `hello.input_seq` say how many the shell has been given. Keep what is not acknowledged and send it again after a
/// reconnect: each byte arrives once. `after_rev` holds the input until that revision of the workspace is visible.
///
/// **Flow.** With the cap `ack`, or after a first `ack`, at most 128 KiB are sent beyond the last acknowledged offset;
/// acknowledge what was parsed, every 16 KiB or so, and never more than 64 KiB late. Without, the socket alone sets the pace.
///
/// **Binary.** With the cap `bin`, output comes as binary frames: `0x01`, the offset as u64, the bytes; and input may
/// be sent so: `0x02`, seq as u64, after_rev as u64 (0: none), the bytes. Numbers are big-endian.
///
/// In Python, with the package `websockets`:
///
/// ```python
/// import asyncio, json, sys, websockets
/// async def main(url, token):
///     async with websockets.connect(url, additional_headers={"Authorization": "Bearer " + token}) as ws:
///         await ws.send(json.dumps({"type": "attach", "viewer": "example", "cols": 80, "rows": 24}))
///         seq = json.loads(await ws.recv())["input_seq"]
///         await ws.send(json.dumps({"type": "input", "seq": seq, "data": "echo $((6*7)); exit\n"}))
///         async for frame in ws:
///             frame = json.loads(frame)
///             if frame["type"] in ("snapshot", "output"): print(frame.get("data", ""), end="")
///             if frame["type"] == "exit": return
/// asyncio.run(main(*sys.argv[1:]))
/// ```
#[utoipa::path(get, path = "/api/sessions/{uuid}/terminals/{id}", tag = "terminals",
    params(("uuid" = uuid::Uuid, Path), ("id" = uuid::Uuid, Path)),
    responses(
        (status = 101, description = "WebSocket"),
        (status = 401, description = "`not_signed_in`; browsers get the close code 4401 instead", body = ProblemBody),
        (status = 403, description = "`foreign_origin`", body = ProblemBody),
        (status = 404, description = "`session_gone`; browsers get the close code 4404 instead", body = ProblemBody),
        (status = 426, description = "`upgrade_required`", body = ProblemBody),
    ))]
async fn view(app: App, mut request: Request) -> Result<Response, Problem> {
    let upgrade =
        request.upgrade.take().ok_or_else(|| Problem::internal("a socket's route without an upgrade"))?;
    let session = request.session()?;
    let Ok(terminal) = terminal(&request) else {
        return Ok(socket::refuse(upgrade, &Problem::not_found("terminal_gone", "")));
    };
    let state = request.session.as_ref().map(|session| session.state);
    if matches!(state, Some(State::Stopped | State::Stopping | State::Failed))
        && app.agents.get(session).is_none()
    {
        return Ok(socket::refuse(upgrade, &Problem::not_found("session_not_running", "")));
    }
    let owner = request.session.as_ref().map_or(0, |session| session.owner);
    let writable = role(request.principal()?, owner) >= Some(Role::Editor);
    if let Some(mark) = &request.socket {
        mark.carries_terminal();
    }
    let upgrade = upgrade
        .max_message_size(crate::agents::wire::VIEWER_MESSAGE_BYTES)
        .max_frame_size(crate::agents::wire::VIEWER_MESSAGE_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES);
    let (agents, lifecycle) = (app.agents.clone(), app.lifecycle.clone());
    let opener = request.principal()?;
    Ok(socket::serve(&app, "terminal", opener, upgrade, move |socket| async move {
        let typed = || lifecycle.touch(session, Activity::Input);
        terminals::serve(&agents, View { session, terminal, writable }, frames(socket), typed).await;
    }))
}

/// The socket as the relay sees it.
fn frames(
    socket: WebSocket,
) -> impl futures::Stream<Item = Result<Frame, warp::Error>>
+ futures::Sink<Frame, Error = warp::Error>
+ Send
+ Unpin {
    socket.map(|message| message.map(read)).with(|frame: Frame| future::ready(Ok(write(frame))))
}

fn read(message: Message) -> Frame {
    if message.is_text() {
        return Frame::Text(message.to_str().unwrap_or_default().to_owned());
    }
    if message.is_binary() {
        return Frame::Binary(message.into_bytes());
    }
    if message.is_ping() {
        return Frame::Ping;
    }
    if message.is_close() {
        // Without a frame the client said goodbye without a word.
        let (code, reason) = message.close_frame().unwrap_or((1005, ""));
        return Frame::Close(Close::new(code, reason));
    }
    Frame::Pong
}

fn write(frame: Frame) -> Message {
    match frame {
        Frame::Text(text) => Message::text(text),
        Frame::Binary(bytes) => Message::binary(bytes),
        Frame::Ping => Message::ping(bytes::Bytes::new()),
        Frame::Pong => Message::pong(bytes::Bytes::new()),
        Frame::Close(close) => Message::close_with(close.code, close.reason),
    }
}
