//! Signing in and out, and who one is.

use super::database;
use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Route, Speaks};
use super::{page, security};
use crate::accounts::{BROWSER_LIFE, SignInError, token::Token};
use crate::app::App;
use crate::config::Settings;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;
use utoipa::ToSchema;
use warp::Reply;
use warp::reply::Response;

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/sign-in", Access::Public, follow_link).speaks(Speaks::Page),
        Route::new(Method::POST, "/api/sign-in", Access::Public, sign_in),
        Route::new(Method::POST, "/api/sign-out", Access::SignedIn, sign_out),
        Route::new(Method::GET, "/api/me", Access::SignedIn, me),
    ]
}

/// The cookie's name. Cookies are shared by all ports of a host, so without a host of its own the port is in it.
pub fn cookie_name(settings: &Settings) -> String {
    if settings.secure() { "__Host-berth".into() } else { format!("berth-{}", settings.listen.port()) }
}

fn cookie(settings: &Settings, token: &str, seconds: u64) -> HeaderValue {
    let secure = if settings.secure() { "; Secure" } else { "" };
    let name = cookie_name(settings);
    let text = format!("{name}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    // Tokens are URL-safe text and the name is ours.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// A one-time token.
#[derive(Deserialize, ToSchema)]
pub struct SignIn {
    /// What stands behind `token=` in the one-time link.
    #[serde(default)]
    token: String,
}

/// Who is signed in.
#[derive(Serialize, ToSchema)]
pub struct Me {
    /// The user's name.
    name: String,
    /// Whether every session is open to it.
    admin: bool,
}

/// Sign in with a one-time token.
#[utoipa::path(post, path = "/api/sign-in", tag = "accounts", request_body = SignIn, security(()), responses(
    (status = 204, description = "Signed in; the cookie is set"),
    (status = 401, description = "`bad_link`: used, expired or unknown", body = super::openapi::ProblemBody),
    (status = 429, description = "`too_many_attempts`, with Retry-After", body = super::openapi::ProblemBody),
))]
pub async fn sign_in(app: App, mut request: Request) -> Result<Response, Problem> {
    security::check_origin(&request, &app.settings)?;
    let SignIn { token } = request.json(4096).await?;
    let session = redeem(&app, &request, &token).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    response
        .headers_mut()
        .insert(header::SET_COOKIE, cookie(&app.settings, session.reveal(), BROWSER_LIFE.as_secs()));
    Ok(response)
}

/// Sign this browser out.
#[utoipa::path(post, path = "/api/sign-out", tag = "accounts", responses((status = 204, description = "Signed out")))]
pub async fn sign_out(app: App, request: Request) -> Result<Response, Problem> {
    if let Some(token) = request.cookie(&cookie_name(&app.settings)) {
        app.accounts.sign_out(token).await.map_err(database)?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie(&app.settings, "", 0));
    Ok(response)
}

/// Who is signed in.
#[utoipa::path(get, path = "/api/me", tag = "accounts", responses((status = 200, body = Me)))]
pub async fn me(_: App, request: Request) -> Result<Response, Problem> {
    let principal = request.principal()?;
    Ok(warp::reply::json(&Me { name: principal.name.clone(), admin: principal.admin }).into_response())
}

/// The one-time link itself, as printed. Fetching it ahead of a click does not use it up.
async fn follow_link(app: App, request: Request) -> Result<Response, Problem> {
    let ahead = [
        HeaderName::from_static("sec-purpose"),
        HeaderName::from_static("purpose"),
        HeaderName::from_static("x-purpose"),
    ];
    let ahead = ahead.into_iter().any(|name| {
        request.header(name).is_some_and(|value| value.contains("prefetch") || value.contains("preview"))
    });
    if ahead || request.method == Method::HEAD {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let token = request.query("token").unwrap_or_default().to_owned();
    if token.is_empty() {
        // The page asks for the link.
        return Ok(page::go_home());
    }
    match redeem(&app, &request, &token).await {
        Ok(session) => {
            let mut response = page::go_home();
            response
                .headers_mut()
                .insert(header::SET_COOKIE, cookie(&app.settings, session.reveal(), BROWSER_LIFE.as_secs()));
            Ok(response)
        }
        Err(problem) => {
            // Whoever is signed in already wants in, not an error: a reload of the link, mostly.
            if let Some(old) = request.cookie(&cookie_name(&app.settings))
                && app.accounts.cookie(old).await.map_err(database)?.is_some()
            {
                return Ok(page::go_home());
            }
            Ok(page::message(problem.status, "This link does not work any more", &problem.detail))
        }
    }
}

/// Signs in by a link. Nobody guesses its 256 bits, so one that works always does: behind a proxy many people have one
/// address, which another's bad links must not close to them.
async fn redeem(app: &App, request: &Request, token: &str) -> Result<Token, Problem> {
    let from = request.peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let attempts = app.accounts.attempts();
    match app.accounts.sign_in(token).await {
        Ok(session) => {
            attempts.accepted(from);
            tracing::info!(request_id = %request.id, peer = %from, "signed in");
            Ok(session)
        }
        Err(SignInError::Database(why)) => Err(database(why)),
        Err(SignInError::NoSuchLink) => {
            app.metrics.sign_in_refused.inc();
            if let Err(wait) = attempts.may_try(from, Instant::now()) {
                let problem = Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too_many_attempts",
                    "Too many links that do not work were tried from here. Wait, and try again.",
                );
                return Err(problem.retry_after(wait));
            }
            attempts.refused(from, Instant::now());
            Err(Problem::unauthorized(
                "bad_link",
                "Each sign-in link works once and for an hour. Run `control-plane sign-in-link` where the server runs for a new one.",
            ))
        }
    }
}
