//! File sync with a running session: what it is doing, what it can't, and barriers.

use super::super::openapi::ProblemBody;
use super::super::problem::Problem;
use super::super::request::{JSON_BYTES, Request};
use super::super::route::{Access, Route};
use super::super::terminals::{asked, link};
use super::files::RevBody;
use super::refused;
use crate::accounts::Role;
use crate::app::App;
use crate::events::sync_name;
use crate::lifecycle::State;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{OpenApi, ToSchema};
use warp::Reply;
use warp::reply::Response;

/// How long everything written in the session may take to be committed.
const SETTLE_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn routes() -> Vec<Route> {
    let (viewer, editor) = (Access::Session(Role::Viewer), Access::Session(Role::Editor));
    vec![
        Route::new(Method::GET, "/api/workspace/{uuid}/problems", viewer, problems),
        Route::new(Method::POST, "/api/workspace/{uuid}/settle", editor, settle),
        Route::new(Method::POST, "/api/workspace/{uuid}/mass-delete", editor, mass_delete),
    ]
}

#[derive(OpenApi)]
#[openapi(paths(problems, settle, mass_delete))]
pub(super) struct Document;

/// A path that cannot be synced now.
#[derive(Serialize, ToSchema)]
#[schema(as = SyncProblem)]
struct ProblemItem {
    path: String,
    /// `special_file`, `name_not_utf8`, `symlink_outside`, `unreadable`, `too_large`, `no_space`, `hot_file`, …
    code: String,
    /// For a person.
    message: String,
}

/// A mass delete that waits for a decision.
#[derive(Serialize, ToSchema)]
#[schema(as = HeldDelete)]
struct HeldBody {
    /// How many items.
    items: u64,
    /// The topmost paths that are gone in the session, at most 100.
    paths: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SyncProblems)]
struct ProblemsBody {
    /// `live`, `catching-up`, `full`, `held` or `offline`.
    state: &'static str,
    /// The revision that the session's folder shows.
    rev_in_pod: u64,
    /// At most 1,000.
    problems: Vec<ProblemItem>,
    /// How many more there are.
    more: u64,
    /// So much was gone at a reconnect that nothing is deleted before somebody says so.
    mass_delete: Option<HeldBody>,
}

/// What file sync is doing, and which paths it can't sync.
#[utoipa::path(get, path = "/api/workspace/{uuid}/problems", tag = "workspace", params(("uuid" = uuid::Uuid, Path)), responses((status = 200, body = ProblemsBody)))]
async fn problems(app: App, request: Request) -> Result<Response, Problem> {
    let Some(link) = app.agents.get(request.session()?) else {
        let none = ProblemsBody {
            state: "offline",
            rev_in_pod: 0,
            problems: Vec::new(),
            more: 0,
            mass_delete: None,
        };
        return Ok(warp::reply::json(&none).into_response());
    };
    let status = link.sync().status();
    let problems = status.problems.iter().map(|problem| ProblemItem {
        path: problem.path.clone(),
        code: problem.code.clone(),
        message: problem.message.clone(),
    });
    let held = status.mass_delete.as_ref().map(|held| HeldBody {
        items: held.items,
        paths: held.paths.iter().map(ToString::to_string).collect(),
    });
    let body = ProblemsBody {
        state: sync_name(status.state),
        rev_in_pod: link.sync().visible().0,
        problems: problems.collect(),
        more: status.more_problems,
        mass_delete: held,
    };
    Ok(warp::reply::json(&body).into_response())
}

/// Wait until everything written in the session before this call is committed.
///
/// The answer is the revision that holds it. Of a session that doesn't run, that is the present one.
#[utoipa::path(post, path = "/api/workspace/{uuid}/settle", tag = "workspace", params(("uuid" = uuid::Uuid, Path)), responses(
    (status = 200, body = RevBody),
    (status = 503, description = "`agent_timeout`, `link_lost`", body = ProblemBody),
))]
async fn settle(app: App, request: Request) -> Result<Response, Problem> {
    let session = request.session()?;
    let stopped = request.session.as_ref().is_some_and(|session| session.state == State::Stopped);
    let rev = if stopped && app.agents.get(session).is_none() {
        app.store.rev(session).await.map_err(refused)?
    } else {
        link(&app, &request).await?.sync().settle(SETTLE_PATIENCE).await.map_err(asked)?
    };
    Ok(warp::reply::json(&RevBody { rev: rev.0 }).into_response())
}

#[derive(Deserialize, ToSchema)]
#[schema(as = MassDelete)]
struct DecisionBody {
    /// True to delete them in the workspace, too; false to put them back into the session.
    delete: bool,
}

/// Decide about a mass delete that is held.
#[utoipa::path(post, path = "/api/workspace/{uuid}/mass-delete", tag = "workspace", params(("uuid" = uuid::Uuid, Path)), request_body = DecisionBody, responses(
    (status = 204, description = "Told to the session"),
    (status = 400, description = "`nothing_held`", body = ProblemBody),
))]
async fn mass_delete(app: App, mut request: Request) -> Result<Response, Problem> {
    let DecisionBody { delete } = request.json(JSON_BYTES).await?;
    let link = link(&app, &request).await?;
    link.sync().decide_mass_delete(delete).map_err(asked)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
