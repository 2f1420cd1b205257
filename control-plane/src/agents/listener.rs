//! The agents' own listener: one route, one credential, one upgrade. Nothing else is reachable there.

use super::identity::Identified;
use super::registry::Agents;
use super::serve;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::link::{LINK_PATH, SUBPROTOCOL};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the credential's check and the upgrade may take.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Agents linked at once; more wait in the kernel's queue and dial again.
const CONNECTIONS: usize = 20_000;
/// A pause after `accept` failed, as it does when descriptors run out: it would fail at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Answer = Response<Full<&'static [u8]>>;

impl Agents {
    /// Serves agents on `listener` until [`Agents::close`].
    pub async fn serve(&self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepting = async {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                accepted = accepting => accepted,
                () = self.closing() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let agents = self.clone();
                    self.0.tasks.spawn(async move {
                        agents.connection(stream).await;
                        drop(place);
                    });
                }
                Err(why) => {
                    tracing::warn!(%why, "could not accept an agent's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream) {
        // Echo waits for nothing.
        let _ = stream.set_nodelay(true);
        let (upgrade, upgraded) = tokio::sync::oneshot::channel();
        let upgrade = std::sync::Mutex::new(Some(upgrade));
        let service = service_fn(|mut request: Request<Incoming>| {
            let on_upgrade = hyper::upgrade::on(&mut request);
            let upgrade = upgrade.lock().ok().and_then(|mut slot| slot.take());
            async move {
                let (answer, agent) = self.answer(&request).await;
                if let (Some(agent), Some(upgrade)) = (agent, upgrade) {
                    let _ = upgrade.send((agent, on_upgrade));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let http = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let handshake = async {
            http.await.ok()?;
            let (agent, on_upgrade) = upgraded.await.ok()?;
            Some((agent, on_upgrade.await.ok()?))
        };
        let handshake = tokio::time::timeout(HEAD_TIMEOUT + UPGRADE_TIMEOUT, handshake);
        let linked = tokio::select! {
            linked = handshake => linked,
            () = self.closing() => return,
        };
        if let Ok(Some((agent, socket))) = linked {
            serve::link(self, agent, TokioIo::new(socket)).await;
        }
    }

    /// The answer to a request, and whose agent it is if it is an upgrade that may go on.
    async fn answer(&self, request: &Request<Incoming>) -> (Answer, Option<Identified>) {
        let refuse = |status: StatusCode, body: &'static str| {
            let mut answer = Response::new(Full::new(body.as_bytes()));
            *answer.status_mut() = status;
            (answer, None)
        };
        if request.uri().path() != LINK_PATH {
            return refuse(StatusCode::NOT_FOUND, "Only agents' links are served here.\n");
        }
        let mut offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let offers =
            |v: &HeaderValue| v.to_str().is_ok_and(|v| v.split(',').any(|p| p.trim() == SUBPROTOCOL));
        if !offered.any(offers) {
            return refuse(StatusCode::BAD_REQUEST, "The subprotocol berth.link.v1 is needed.\n");
        }
        let Ok(mut answer) = create_response_with_body(request, || Full::new(&b""[..])) else {
            return refuse(StatusCode::BAD_REQUEST, "A WebSocket upgrade is needed.\n");
        };
        let bearer =
            request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
        let Some(bearer) = bearer else {
            return refuse(StatusCode::UNAUTHORIZED, "A bearer credential is needed.\n");
        };
        let identified = self.0.settings.identity.identify(bearer);
        match tokio::time::timeout(UPGRADE_TIMEOUT, identified).await {
            Ok(Ok(Some(agent))) => {
                let name: HeaderName = SEC_WEBSOCKET_PROTOCOL;
                answer.headers_mut().insert(name, HeaderValue::from_static(SUBPROTOCOL));
                (answer, Some(agent))
            }
            Ok(Ok(None)) => refuse(StatusCode::UNAUTHORIZED, "The credential opens no session.\n"),
            Ok(Err(why)) => {
                tracing::warn!(%why, "an agent could not be identified");
                refuse(StatusCode::SERVICE_UNAVAILABLE, "The credential cannot be checked now.\n")
            }
            Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "The credential cannot be checked now.\n"),
        }
    }
}
