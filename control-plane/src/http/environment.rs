//! Variables and secrets of a session's shells and commands.

use super::openapi::{Part, ProblemBody};
use super::problem::Problem;
use super::request::{JSON_BYTES, Request};
use super::route::{Access, Route};
use crate::accounts::Role;
use crate::app::App;
use crate::environment::{Change, Error, Shown};
use crate::telemetry::Secret;
use http::Method;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{OpenApi, ToSchema};
use warp::Reply;
use warp::reply::Response;

pub(super) fn routes() -> Vec<Route> {
    // Who may type in the session sees its variables there; who may only look must not.
    let editor = Access::Session(Role::Editor);
    vec![
        Route::new(Method::GET, "/api/sessions/{uuid}/environment", editor, get),
        Route::new(Method::PUT, "/api/sessions/{uuid}/environment", editor, put),
    ]
}

#[derive(OpenApi)]
#[openapi(paths(get, put))]
struct Document;

pub(super) fn document() -> Part {
    Document::openapi()
}

pub(super) fn refused(why: Error) -> Problem {
    match why {
        Error::NoKey => Problem::unavailable("no_secrets_key", why.to_string()),
        Error::Database(why) => super::database(why),
        why => Problem::bad("bad_environment", format!("{why} Nothing was changed.")),
    }
}

/// Variables and secrets to set.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EnvironmentChange)]
pub(super) struct EnvironmentChange {
    /// All variables, in the place of those there are; left out, they stay as they are.
    variables: Option<BTreeMap<String, String>>,
    /// Secrets to set; null removes one. Others stay: they cannot be read, so nobody has to send them again.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    secrets: BTreeMap<String, Option<String>>,
}

impl EnvironmentChange {
    pub(super) fn into_change(self) -> Change {
        let secrets = self.secrets.into_iter().map(|(name, value)| (name, value.map(Secret::from))).collect();
        Change { variables: self.variables, secrets }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Environment)]
struct EnvironmentBody {
    /// Its own variables.
    variables: BTreeMap<String, String>,
    /// The names of its secrets. Their values are shown by no call.
    secrets: Vec<String>,
    /// In the answer to a change: whether the session runs and has it already. Else it has it when it next starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<bool>,
}

fn answer(Shown { variables, secrets }: Shown, live: Option<bool>) -> Response {
    warp::reply::json(&EnvironmentBody { variables, secrets, live }).into_response()
}

/// A session's own variables, and the names of its secrets.
#[utoipa::path(get, path = "/api/sessions/{uuid}/environment", tag = "environment", params(("uuid" = uuid::Uuid, Path)), responses(
    (status = 200, body = EnvironmentBody),
    (status = 404, description = "`session_gone`", body = ProblemBody),
))]
async fn get(app: App, request: Request) -> Result<Response, Problem> {
    let shown = app.environments.get(request.session()?).await.map_err(super::database)?;
    Ok(answer(shown, None))
}

/// Change a session's variables and secrets.
///
/// Terminals and commands started from then on have them; what runs keeps what it was started with. The template's
/// variables come first, then the session's own, then its secrets: the later wins. Names that begin with `BERTH_` are
/// Berth's; anything else may be set, also `PATH`. At most 100 together, 64 KiB of names and values.
#[utoipa::path(put, path = "/api/sessions/{uuid}/environment", tag = "environment", params(("uuid" = uuid::Uuid, Path)), request_body = EnvironmentChange, responses(
    (status = 200, body = EnvironmentBody),
    (status = 400, description = "`bad_environment`, `bad_json`, `bad_request`", body = ProblemBody),
    (status = 404, description = "`session_gone`", body = ProblemBody),
    (status = 503, description = "`no_secrets_key`: the server has no key to keep secrets with", body = ProblemBody),
))]
async fn put(app: App, mut request: Request) -> Result<Response, Problem> {
    let change: EnvironmentChange = request.json(JSON_BYTES).await?;
    let session = request.session()?;
    let shown = app.environments.put(session, change.into_change()).await.map_err(refused)?;
    // It is kept; an agent that cannot be told now is told when it links.
    let live = app.agents.refresh_environment(session).await.unwrap_or(false);
    tracing::info!(request_id = %request.id, %session, live, "environment changed");
    Ok(answer(shown, Some(live)))
}
