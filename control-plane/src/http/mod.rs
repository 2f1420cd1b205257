//! HTTP: one file a resource, each thin: parse, authorise, call, answer.
//!
//! warp takes requests apart and upgrades WebSockets; the table in [`routes`] says what they mean. One
//! place ([`answer`]) finds the route, asks who is there, checks the role, calls the handler, and turns
//! whatever happened into an answer with an id that is also in the log.

mod body;
mod docs;
mod environment;
mod events;
mod exec;
mod health;
mod openapi;
mod page;
pub mod problem;
pub mod request;
pub mod route;
pub mod security;

mod sessions;
mod sign_in;
mod socket;
mod templates;
mod terminals;
mod workspace;

use crate::accounts::{Principal, Via};
use crate::app::{App, Peer, SocketMark};
use crate::lifecycle::Activity;
use crate::telemetry::Untrusted;
use bytes::{Buf, Bytes};
use futures::{FutureExt, StreamExt};
use http::header::{self, HeaderMap};
use http::{Method, StatusCode};
use problem::Problem;
use request::Request;
use route::{Access, Route, Speaks, matches};
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use warp::Filter;
use warp::reply::Response;

/// How long the database may take to say who asks and what they may: as long as a caller waits for a connection. One that
/// freezes, or is cut off, says nothing at all.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that may wait in a browser's socket to be written; then its writer waits. Over one message, or none
/// could be sent.
const SOCKET_BUFFER_BYTES: usize = 2 * shared::limits::MESSAGE_BYTES;

/// The table of all routes.
pub fn routes() -> Vec<Route> {
    let mut routes = Vec::new();
    routes.extend(health::routes());
    routes.extend(openapi::routes());
    routes.extend(docs::routes());
    routes.extend(sign_in::routes());
    routes.extend(sessions::routes());
    routes.extend(environment::routes());
    routes.extend(templates::routes());
    routes.extend(terminals::routes());
    routes.extend(exec::routes());
    routes.extend(workspace::routes());
    routes.extend(events::routes());
    routes.extend(page::routes());
    routes
}

/// The service of the public listener: clone it for each connection.
pub fn service(
    app: App,
) -> impl tower_service::Service<
    http::Request<hyper::body::Incoming>,
    Response = Response,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let routes = Arc::new(routes());
    warp::service(request().then(move |request| answer(app.clone(), routes.clone(), request)))
}

/// Takes a request apart. Nothing is ever rejected here: what a request lacks is its route's matter.
fn request() -> impl Filter<Extract = (Request,), Error = warp::Rejection> + Clone + Send + Sync + 'static {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let upgrade = warp::ws().map(Some).or(warp::any().map(|| None)).unify();
    warp::any()
        .and(warp::method())
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Peer>())
        .and(warp::ext::optional::<SocketMark>())
        .and(upgrade)
        .and(warp::body::stream())
        .map(
            |method: Method,
             path: warp::path::FullPath,
             query: String,
             headers: HeaderMap,
             peer: Option<Peer>,
             socket: Option<SocketMark>,
             upgrade: Option<warp::ws::Ws>,
             body| {
                let body = body::Body::new(pieces(body));
                Request {
                    method,
                    path: path.as_str().to_owned(),
                    query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
                    headers,
                    peer: peer.map(|Peer(address)| address.ip()),
                    id: uuid::Uuid::now_v7().simple().to_string(),
                    params: Vec::new(),
                    principal: None,
                    session: None,
                    body: Some(body),
                    upgrade: upgrade.map(bounded),
                    socket,
                }
            },
        )
}

/// Finds the route, checks who asks, calls the handler.
async fn answer(app: App, routes: Arc<Vec<Route>>, mut request: Request) -> Response {
    let started = Instant::now();
    let (id, method) = (request.id.clone(), label(&request.method));
    let shown = request.path.clone();
    let peer = request.peer;
    let found = find(&routes, &mut request);
    let template = found.as_ref().map_or("unknown", |route| route.template);
    let result = match found {
        Ok(route) => {
            AssertUnwindSafe(enter(&app, route, request)).catch_unwind().await.unwrap_or_else(|panic| {
                let what = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let what = what.or_else(|| panic.downcast_ref::<String>().cloned());
                Err(Problem::internal(format!("panic: {}", what.unwrap_or_default())))
            })
        }
        Err(problem) => Err(problem),
    };
    let (mut response, code, cause) = match result {
        Ok(response) => (response, None, None),
        Err(problem) => {
            let (code, cause) = (problem.code.clone(), problem.cause().to_owned());
            (problem.into_response(&id), Some(code), Some(cause))
        }
    };
    security::headers(response.headers_mut(), &id, app.settings.secure());
    let status = response.status().as_u16();
    app.metrics.answered(method, template, status, started);
    let (us, path) = (started.elapsed().as_micros() as u64, Untrusted(&shown));
    let (code, cause) = (code.as_deref().unwrap_or(""), cause.as_deref().unwrap_or(""));
    let cause = Untrusted(cause);
    if status >= 500 && status != 503 {
        tracing::error!(request_id = %id, method, %path, status, code, %cause, us, ?peer, "request failed");
    } else if status >= 400 {
        tracing::info!(request_id = %id, method, %path, status, code, %cause, us, "request refused");
    } else {
        tracing::debug!(request_id = %id, method, %path, status, us, "request");
    }
    response
}

/// A method as a metric's label: only known ones, so that their number stays bounded.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Who sent a request, by its bearer token or else its cookie. A wrong bearer token is refused even beside a
/// good cookie: whoever sends one means it.
async fn identify(app: &App, request: &Request) -> Result<Option<Principal>, Problem> {
    if let Some(value) = request.headers.get(header::AUTHORIZATION) {
        let token = value.to_str().ok().and_then(|value| value.split_once(' '));
        let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
            return Err(Problem::unauthorized(
                "bad_token",
                "The Authorization header must be `Bearer` and a token.",
            ));
        };
        let known = app.accounts.bearer(token.trim()).await.map_err(database)?;
        return known.map(Some).ok_or_else(|| {
            Problem::unauthorized("bad_token", "This bearer token is unknown or has expired.")
        });
    }
    let Some(token) = request.cookie(&sign_in::cookie_name(&app.settings)) else { return Ok(None) };
    app.accounts.cookie(token).await.map_err(database)
}

/// Every check before the handler. The request carries who asks, and about which session, afterwards.
async fn check(app: &App, route: &Route, request: &mut Request) -> Result<(), Problem> {
    if route.speaks == Speaks::WebSocket {
        if request.upgrade.is_none() {
            return Err(Problem::new(
                StatusCode::UPGRADE_REQUIRED,
                "upgrade_required",
                "This address speaks WebSocket; ask for an upgrade.",
            )
            .header(header::UPGRADE, "websocket"));
        }
        security::check_origin(request, &app.settings)?;
    }
    if route.access == Access::Public {
        return Ok(());
    }
    let Some(principal) = identify(app, request).await? else {
        return Err(Problem::unauthorized(
            "not_signed_in",
            "Sign in with the one-time link, or send a bearer token.",
        ));
    };
    if route.speaks == Speaks::WebSocket
        && principal.via == Via::Cookie
        && !request.headers.contains_key(header::ORIGIN)
    {
        return Err(Problem::forbidden(
            "origin_missing",
            "A WebSocket opened with a cookie must say its Origin, as browsers do. Programs use a bearer token.",
        ));
    }
    security::check_intent(request, principal.via, &app.settings)?;
    match route.access {
        Access::Session(needed) => {
            sessions::admit(app, request, &principal, needed).await?;
            // What an open page reads is no activity; what changes or runs something is.
            if !matches!(request.method, Method::GET | Method::HEAD) {
                app.lifecycle.touch(request.session()?, Activity::Call);
            }
        }
        Access::Admin if !principal.admin => {
            return Err(Problem::forbidden(
                "not_an_admin",
                "Only administrators may do this. Nothing was changed; ask one of them.",
            ));
        }
        Access::Admin | Access::SignedIn | Access::Public => {}
    }
    request.principal = Some(principal);
    Ok(())
}

/// Checks and calls. A browser cannot see why an upgrade was refused, so its socket is accepted and closed
/// with a code; a foreign page's is not.
async fn enter(app: &App, route: &Route, mut request: Request) -> Result<Response, Problem> {
    let checked = tokio::time::timeout(CHECK_PATIENCE, check(app, route, &mut request)).await;
    let late = |_| Err(database(sea_orm::DbErr::Custom(format!("no answer within {CHECK_PATIENCE:?}"))));
    match checked.unwrap_or_else(late) {
        Ok(()) => (route.handler)(app.clone(), request).await,
        Err(problem) => match request.upgrade.take() {
            Some(upgrade)
                if request.headers.contains_key(header::ORIGIN) && problem.code != "foreign_origin" =>
            {
                Ok(socket::refuse(upgrade, &problem))
            }
            _ => Err(problem),
        },
    }
}

/// The route of a request, whose parameters it fills in; else 404 or 405.
fn find<'a>(routes: &'a [Route], request: &mut Request) -> Result<&'a Route, Problem> {
    let method = if request.method == Method::HEAD { &Method::GET } else { &request.method };
    let mut allowed = Vec::new();
    for route in routes {
        let Some(params) = matches(route.template, &request.path) else { continue };
        if route.method == method {
            request.params = params;
            return Ok(route);
        }
        allowed.push(route.method.as_str());
    }
    if allowed.is_empty() {
        return Err(Problem::not_found(
            "no_route",
            "There is nothing at this address. `/api/docs` lists what there is.",
        ));
    }
    allowed.dedup();
    Err(Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("This address takes {}.", allowed.join(", ")),
    )
    .header(header::ALLOW, allowed.join(", ")))
}

/// A database that does not answer: the request may be sent again.
pub fn database(why: sea_orm::DbErr) -> Problem {
    Problem::unavailable(
        "database_unavailable",
        "The database does not answer. Nothing was changed; try again in a moment.",
    )
    .retry_after(Duration::from_secs(2))
    .because(why)
}

/// A time in milliseconds since 1970, by RFC 3339.
fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string()
}

/// The pieces of a body as plain bytes.
fn pieces<B: Buf>(
    body: impl futures::Stream<Item = Result<B, warp::Error>> + Send + Sync,
) -> impl futures::Stream<Item = Result<Bytes, warp::Error>> + Send + Sync {
    body.map(|piece| piece.map(|mut piece| piece.copy_to_bytes(piece.remaining())))
}

/// warp's own WebSocket limits are generous to a fault.
fn bounded(upgrade: warp::ws::Ws) -> warp::ws::Ws {
    upgrade
        .max_message_size(shared::limits::MESSAGE_BYTES)
        .max_frame_size(shared::limits::MESSAGE_BYTES)
        .max_write_buffer_size(SOCKET_BUFFER_BYTES)
}
