//! Whether the server lives, whether it can work, and what it counts.

use super::database;
use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Route};
use crate::app::App;
use http::Method;
use http::header::{self, HeaderValue};
use std::time::Duration;
use warp::reply::Response;

/// How long the database may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/healthz", Access::Public, live),
        Route::new(Method::GET, "/readyz", Access::Public, ready),
        Route::new(Method::GET, "/metrics", Access::SignedIn, metrics),
    ]
}

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "operation", security(()), responses((status = 200, description = "It lives", body = String)))]
pub async fn live(_: App, _: Request) -> Result<Response, Problem> {
    Ok(Response::new("ok\n".into()))
}

/// Whether the server can work: its database answers and it is not about to end.
#[utoipa::path(get, path = "/readyz", tag = "operation", security(()), responses(
    (status = 200, description = "Ready", body = String),
    (status = 503, description = "`draining` or `database_unavailable`", body = super::openapi::ProblemBody),
))]
pub async fn ready(app: App, _: Request) -> Result<Response, Problem> {
    if app.shutdown.is_cancelled() {
        return Err(Problem::unavailable("draining", "The server is about to end."));
    }
    let asked = tokio::time::timeout(PATIENCE, app.database.ping()).await;
    match asked {
        Ok(Ok(_)) => Ok(Response::new("ready\n".into())),
        Ok(Err(why)) => Err(database(why)),
        Err(_) => Err(Problem::unavailable("database_unavailable", "The database does not answer.")),
    }
}

/// What the server counts, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text")))]
pub async fn metrics(app: App, _: Request) -> Result<Response, Problem> {
    let mut response = Response::new(app.metrics.encode().into());
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
