//! WebSockets of browsers: accepted, refused with a code, counted, and seen by the end of the server.

use super::problem::Problem;
use crate::accounts::Principal;
use crate::app::App;
use futures::SinkExt;
use http::StatusCode;
use std::future::Future;
use std::time::Duration;
use warp::Reply;
use warp::reply::Response;
use warp::ws::{Message, WebSocket, Ws};

/// How long a close frame may take to leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// The close code that says to a browser what a problem's status says to others.
pub fn close_code(status: StatusCode) -> u16 {
    match status.as_u16() {
        401 => 4401,
        403 => 4403,
        404 | 410 => 4404,
        408 => 4408,
        409 => 4409,
        429 => 4429,
        503 => 4503,
        500.. => 4500,
        _ => 4400,
    }
}

/// Accepts an upgrade only to say why it is refused.
pub fn refuse(upgrade: Ws, problem: &Problem) -> Response {
    let (code, reason) = (close_code(problem.status), problem.code.to_string());
    upgrade.on_upgrade(move |socket| close(socket, code, reason)).into_response()
}

/// Says why, and closes.
pub async fn close(mut socket: WebSocket, code: u16, reason: String) {
    let goodbye = async {
        if socket.send(Message::close_with(code, reason)).await.is_ok() {
            let _ = socket.close().await;
        }
    };
    let _ = tokio::time::timeout(GOODBYE, goodbye).await;
}

/// Accepts an upgrade and serves it, as a task that the server's end waits for, until whoever opened it is signed out.
/// A browser that comes back then is told so.
pub fn serve<F, R>(app: &App, kind: &'static str, opener: &Principal, upgrade: Ws, work: F) -> Response
where
    F: FnOnce(WebSocket) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let open = app.metrics.socket(kind);
    let token = app.sockets.token();
    let (accounts, opener) = (app.accounts.clone(), opener.clone());
    upgrade
        .on_upgrade(move |socket| async move {
            tokio::select! {
                () = work(socket) => {}
                () = accounts.signed_out(&opener) => {}
            }
            drop((open, token));
        })
        .into_response()
}
