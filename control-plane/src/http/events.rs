//! The socket that tells a browser what happens in a workspace.

use super::openapi::{Part, ProblemBody};
use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Route, Speaks};
use super::socket;
use crate::accounts::Role;
use crate::app::App;
use crate::events::{Event, Next, Subscription, Told, sync_state};
use futures::{Sink, SinkExt, Stream, StreamExt};
use http::Method;
use shared::id::SessionId;
use shared::limits::{PING_EVERY, PING_TIMEOUT};
use tokio::time::{Instant, MissedTickBehavior};
use utoipa::OpenApi;
use warp::reply::Response;
use warp::ws::Message;

/// Bytes of a message from a browser, which has only pings to say here.
const MESSAGE_BYTES: usize = 4096;

pub(super) fn routes() -> Vec<Route> {
    const EVENTS: &str = "/api/workspace/{uuid}/events";
    vec![Route::new(Method::GET, EVENTS, Access::Session(Role::Viewer), events).speaks(Speaks::WebSocket)]
}

#[derive(OpenApi)]
#[openapi(paths(events))]
struct Document;

pub(super) fn document() -> Part {
    Document::openapi()
}

/// What happens in a workspace, over a WebSocket.
///
/// Text frames are JSON:
///
/// ```json
/// ← {"type":"hello","rev":N}
/// ← {"type":"files","rev":N,"origin":"editor"|"pod"|"restore"|"merge"|"import","paths":["…"],"truncated":false}
/// ← {"type":"session","state":"running","reason":null}
/// ← {"type":"sync","rev_in_pod":N,"state":"live"|"catching-up"|"full"|"held"|"offline","problems":N,
///    "transfer":{"to":"pod"|"database","done":BYTES,"total":BYTES}|null}
/// ← {"type":"conflict","path":"…","rev":N,"version":N}
/// ← {"type":"problem","path":"…","code":"…","message":"…"}
/// ← {"type":"terminals"}
/// ↔ {"type":"ping"}, {"type":"pong"}
/// ```
///
/// After the hello, read the tree; from then on, `files` with `truncated` says that the tree since the revision one
/// has must be read. That is also how a client that fell behind is told, with no `origin` and no paths.
#[utoipa::path(get, path = "/api/workspace/{uuid}/events", tag = "workspace", params(("uuid" = uuid::Uuid, Path)), responses(
    (status = 101, description = "WebSocket"),
    (status = 401, description = "`not_signed_in`; browsers get the close code 4401 instead", body = ProblemBody),
    (status = 403, description = "`foreign_origin`", body = ProblemBody),
    (status = 426, description = "`upgrade_required`", body = ProblemBody),
))]
async fn events(app: App, mut request: Request) -> Result<Response, Problem> {
    let upgrade =
        request.upgrade.take().ok_or_else(|| Problem::internal("a socket's route without an upgrade"))?;
    let session = request.session()?;
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES).max_frame_size(MESSAGE_BYTES);
    let inner = app.clone();
    let opener = request.principal()?;
    Ok(socket::serve(&app, "events", opener, upgrade, move |socket| async move {
        let (mut sink, mut source) = socket.split();
        let (code, reason) = tell(&inner, session, &mut sink, &mut source).await;
        let goodbye = async {
            let _ = sink.send(Message::close_with(code, reason)).await;
            // A browser that closed takes no more; the answer to its own close waits until this sends it.
            let _ = sink.close().await;
        };
        let _ = tokio::time::timeout(PING_TIMEOUT, goodbye).await;
    }))
}

/// Tells until the end, which it names by a close code.
async fn tell<S, R>(app: &App, session: SessionId, sink: &mut S, source: &mut R) -> (u16, &'static str)
where
    S: Sink<Message> + Unpin,
    R: Stream<Item = Result<Message, warp::Error>> + Unpin,
{
    // First, so that nothing falls between the revision and the first event.
    let mut subscription: Subscription = app.events.subscribe(session);
    if let Err(end) = greet(app, session, sink).await {
        return end;
    }
    let mut pings = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        let sent = tokio::select! {
            next = subscription.next() => match next {
                Next::Told(Told::Event(json)) => send(sink, Message::text(&*json)).await,
                Next::Told(Told::Gone) => return (4404, "session_gone"),
                Next::Missed => afresh(app, session, sink).await,
            },
            message = source.next() => {
                heard = Instant::now();
                match message {
                    Some(Ok(message)) if message.is_close() => return (1000, ""),
                    Some(Ok(message)) if is_ping(&message) => send(sink, Message::text(r#"{"type":"pong"}"#)).await,
                    Some(Ok(_)) => Ok(()),
                    Some(Err(_)) | None => return (1006, ""),
                }
            }
            _ = pings.tick() => {
                if heard.elapsed() > PING_EVERY + PING_TIMEOUT {
                    return (4408, "nothing was heard for too long");
                }
                send(sink, Message::ping(bytes::Bytes::new())).await
            }
            () = app.shutdown.cancelled() => return (1012, "the server restarts"),
        };
        if let Err(end) = sent {
            return end;
        }
    }
}

fn is_ping(message: &Message) -> bool {
    let text = message.to_str().unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(text).is_ok_and(|json| json["type"] == "ping")
}

/// Revision, state and sync as they are now.
async fn greet<S: Sink<Message> + Unpin>(
    app: &App,
    session: SessionId,
    sink: &mut S,
) -> Result<(), (u16, &'static str)> {
    let rev = app.store.rev(session).await.map_err(|_| (4503, "database_unavailable"))?;
    send(sink, Message::text(Event::Hello { rev }.json())).await?;
    state(app, session, sink).await
}

async fn state<S: Sink<Message> + Unpin>(
    app: &App,
    session: SessionId,
    sink: &mut S,
) -> Result<(), (u16, &'static str)> {
    let now = match app.lifecycle.get(session).await {
        Ok(now) => now,
        Err(crate::lifecycle::Error::NotFound(_)) => return Err((4404, "session_gone")),
        Err(_) => return Err((4503, "database_unavailable")),
    };
    let ending = app.lifecycle.ending(session, now.state);
    let event = Event::Session { state: now.state, reason: now.reason.as_deref(), ending: ending.as_ref() };
    send(sink, Message::text(event.json())).await?;
    send(sink, Message::text(sync_state(&app.agents, session).json())).await
}

/// All that a client which fell behind needs to look afresh.
async fn afresh<S: Sink<Message> + Unpin>(
    app: &App,
    session: SessionId,
    sink: &mut S,
) -> Result<(), (u16, &'static str)> {
    let rev = app.store.rev(session).await.map_err(|_| (4503, "database_unavailable"))?;
    let event = Event::Files { rev, origin: None, paths: &[], truncated: true };
    send(sink, Message::text(event.json())).await?;
    send(sink, Message::text(Event::Terminals.json())).await?;
    state(app, session, sink).await
}

/// Sends one message; a browser that takes nothing for too long is let go.
async fn send<S: Sink<Message> + Unpin>(sink: &mut S, message: Message) -> Result<(), (u16, &'static str)> {
    match tokio::time::timeout(PING_EVERY + PING_TIMEOUT, sink.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err((1006, "")),
        Err(_) => Err((4408, "nothing was taken for too long")),
    }
}
