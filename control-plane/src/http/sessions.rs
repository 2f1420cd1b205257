//! Sessions: create, list, start, stop, delete, and what happened to them.

use super::environment::EnvironmentChange;
use super::openapi::{Part, ProblemBody};
use super::problem::{Problem, sentence};
use super::request::{JSON_BYTES, Request, no_session};
use super::route::{Access, Route};
use crate::accounts::{Principal, Role, role::role};
use crate::app::App;
use crate::lifecycle::{Ends, Error, New, Session, TimelineEvent};
use crate::templates::DEFAULT;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use shared::id::SessionId;
use utoipa::{OpenApi, ToSchema};
use warp::Reply;
use warp::reply::Response;

pub(super) fn routes() -> Vec<Route> {
    let session = |role| Access::Session(role);
    vec![
        Route::new(Method::POST, "/api/sessions", Access::SignedIn, create),
        Route::new(Method::GET, "/api/sessions", Access::SignedIn, list),
        Route::new(Method::GET, "/api/sessions/{uuid}", session(Role::Viewer), get),
        Route::new(Method::DELETE, "/api/sessions/{uuid}", session(Role::Owner), delete),
        Route::new(Method::POST, "/api/sessions/{uuid}/start", session(Role::Editor), start),
        Route::new(Method::POST, "/api/sessions/{uuid}/stop", session(Role::Editor), stop),
        Route::new(Method::POST, "/api/sessions/{uuid}/extend", session(Role::Editor), extend),
        Route::new(Method::GET, "/api/sessions/{uuid}/timeline", session(Role::Viewer), timeline),
    ]
}

#[derive(OpenApi)]
#[openapi(paths(create, list, get, delete, start, stop, extend, timeline))]
struct Document;

pub(super) fn document() -> Part {
    Document::openapi()
}

/// Lets a request in if `principal` has at least the role `needed` on the session that the path names. To
/// whoever has none, the session does not exist.
pub(super) async fn admit(
    app: &App,
    request: &mut Request,
    principal: &Principal,
    needed: Role,
) -> Result<(), Problem> {
    let session = app.lifecycle.get(request.session()?).await.map_err(refused)?;
    match role(principal, session.owner) {
        None => Err(no_session()),
        Some(has) if has < needed => Err(Problem::forbidden(
            "no_role",
            "Your role on this session does not allow this. Ask its owner.",
        )),
        Some(_) => {
            request.session = Some(session);
            Ok(())
        }
    }
}

fn refused(why: Error) -> Problem {
    match why {
        Error::NotFound(_) => no_session(),
        Error::NameTaken(_) => {
            Problem::conflict("name_in_use", format!("{} Choose another name.", sentence(&why.to_string())))
        }
        Error::BadName => Problem::bad("bad_name", sentence(&why.to_string())),
        Error::BadExtension => Problem::bad("bad_extension", sentence(&why.to_string())),
        Error::NotRunning(_) => Problem::conflict(
            "session_not_running",
            "The session does not run, so nothing ends it. Start it; all files are there.",
        ),
        Error::NoTemplate(_) => Problem::bad(
            "no_such_template",
            format!("{} `GET /api/templates` lists what there is.", sentence(&why.to_string())),
        ),
        Error::Workspace(why) => super::workspace::refused(why),
        Error::Database(why) => super::database(why),
    }
}

#[derive(Deserialize, ToSchema)]
#[schema(as = NewSession)]
struct NewSession {
    /// 1 to 100 characters; unique among one's sessions.
    name: String,
    /// Whether it starts at once.
    #[serde(default = "yes")]
    start: bool,
    /// The name of the template it is made from; `default` if it is left out.
    template: Option<String>,
    /// Its own variables and secrets.
    environment: Option<EnvironmentChange>,
}

fn yes() -> bool {
    true
}

/// A session.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionBody {
    uuid: uuid::Uuid,
    name: String,
    /// The name of the template it was made from.
    template: String,
    /// `stopped`, `starting`, `running`, `stopping` or `failed`.
    state: &'static str,
    /// Why it is in that state, if that needs a word.
    reason: Option<String>,
    /// By RFC 3339, as all times.
    created_at: String,
    /// When its state last changed.
    state_at: String,
    /// When it was last used, to the minute.
    last_activity_at: Option<String>,
    /// When it stops for want of activity if nothing more happens; null if it does not run, or for never.
    idle_at: Option<String>,
    /// When its lifetime ends; null if it does not run, or for never.
    expires_at: Option<String>,
    /// The end that comes soon, and of which its open pages are warned.
    ending: Option<EndingBody>,
}

/// An end that comes soon.
#[derive(Serialize, ToSchema)]
#[schema(as = Ending)]
struct EndingBody {
    at: String,
    /// `idle` or `lifetime`.
    cause: &'static str,
}

impl SessionBody {
    fn new(session: &Session, Ends { idle_at, expires_at, ending }: Ends) -> Self {
        Self {
            uuid: session.id.0,
            name: session.name.clone(),
            template: session.template.clone(),
            state: session.state.as_str(),
            reason: session.reason.clone(),
            created_at: session.created_at.to_string(),
            state_at: session.state_at.to_string(),
            last_activity_at: session.active_at.map(|at| at.to_string()),
            idle_at: idle_at.map(|at| at.to_string()),
            expires_at: expires_at.map(|at| at.to_string()),
            ending: ending.map(|end| EndingBody { at: end.at.to_string(), cause: end.cause.as_str() }),
        }
    }
}

async fn answer(app: &App, session: &Session) -> Result<Response, Problem> {
    let ends = app.lifecycle.ends(std::slice::from_ref(session)).await.map_err(refused)?;
    let ends = ends.into_iter().next().unwrap_or_default();
    Ok(warp::reply::json(&SessionBody::new(session, ends)).into_response())
}

/// Create a session.
#[utoipa::path(post, path = "/api/sessions", tag = "sessions", request_body = NewSession, responses(
    (status = 201, description = "Created; it starts meanwhile", body = SessionBody),
    (status = 400, description = "`bad_name`, `no_such_template`, `bad_environment`, `bad_json`, `bad_request`", body = ProblemBody),
    (status = 409, description = "`name_in_use`", body = ProblemBody),
))]
async fn create(app: App, mut request: Request) -> Result<Response, Problem> {
    let body: NewSession = request.json(JSON_BYTES).await?;
    let principal = request.principal()?;
    let id = SessionId::random();
    let variables = body.environment.unwrap_or_default().into_change();
    let variables = app.environments.rows(id, variables).map_err(super::environment::refused)?;
    let session = app
        .lifecycle
        .create(New {
            id,
            variables,
            owner: principal.user,
            name: &body.name,
            template: body.template.as_deref().unwrap_or(DEFAULT),
            start: body.start,
            actor: Some(principal.name.clone()),
        })
        .await
        .map_err(refused)?;
    tracing::info!(request_id = %request.id, session = %session.id, "session created");
    Ok(warp::reply::with_status(answer(&app, &session).await?, StatusCode::CREATED).into_response())
}

#[derive(Serialize, ToSchema)]
#[schema(as = Sessions)]
struct SessionsBody {
    sessions: Vec<SessionBody>,
}

/// One's sessions, the newest first.
#[utoipa::path(get, path = "/api/sessions", tag = "sessions", responses((status = 200, body = SessionsBody)))]
async fn list(app: App, request: Request) -> Result<Response, Problem> {
    let principal = request.principal()?;
    let owner = (!principal.admin).then_some(principal.user);
    let sessions = app.lifecycle.list(owner).await.map_err(refused)?;
    let ends = app.lifecycle.ends(&sessions).await.map_err(refused)?;
    let sessions = sessions.iter().zip(ends).map(|(session, ends)| SessionBody::new(session, ends)).collect();
    Ok(warp::reply::json(&SessionsBody { sessions }).into_response())
}

/// One session.
#[utoipa::path(get, path = "/api/sessions/{uuid}", tag = "sessions", params(("uuid" = uuid::Uuid, Path)), responses(
    (status = 200, body = SessionBody),
    (status = 404, description = "`session_gone`", body = ProblemBody),
))]
async fn get(app: App, request: Request) -> Result<Response, Problem> {
    answer(&app, request.session.as_ref().ok_or_else(no_session)?).await
}

/// Delete a session with its files and their history.
#[utoipa::path(delete, path = "/api/sessions/{uuid}", tag = "sessions", params(("uuid" = uuid::Uuid, Path)), responses(
    (status = 204, description = "Gone; what it ran ends meanwhile"),
    (status = 404, description = "`session_gone`", body = ProblemBody),
))]
async fn delete(app: App, request: Request) -> Result<Response, Problem> {
    let session = request.session()?;
    app.lifecycle.delete(session).await.map_err(refused)?;
    tracing::info!(request_id = %request.id, %session, "session deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Start a session. One that runs stays as it is.
#[utoipa::path(post, path = "/api/sessions/{uuid}/start", tag = "sessions", params(("uuid" = uuid::Uuid, Path)), responses((status = 202, body = SessionBody)))]
async fn start(app: App, request: Request) -> Result<Response, Problem> {
    let actor = request.principal()?.name.clone();
    let session = app.lifecycle.start(request.session()?, Some(actor)).await.map_err(refused)?;
    Ok(warp::reply::with_status(answer(&app, &session).await?, StatusCode::ACCEPTED).into_response())
}

/// Stop a session, once its last files have reached the database.
#[utoipa::path(post, path = "/api/sessions/{uuid}/stop", tag = "sessions", params(("uuid" = uuid::Uuid, Path)), responses((status = 202, body = SessionBody)))]
async fn stop(app: App, request: Request) -> Result<Response, Problem> {
    let actor = request.principal()?.name.clone();
    let session = app.lifecycle.stop(request.session()?, Some(actor)).await.map_err(refused)?;
    Ok(warp::reply::with_status(answer(&app, &session).await?, StatusCode::ACCEPTED).into_response())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Extension)]
struct ExtensionBody {
    /// How many seconds from now on it runs at least, up to 43,200 (12 hours). Left out: as long as its template lets it
    /// be without activity, else half an hour.
    seconds: Option<u32>,
}

/// Keep a session running.
///
/// Neither want of activity nor the end of its lifetime stops it before that time. Asking twice adds nothing; a session
/// may be extended again and again. What counts as activity: keys, saves, commands and other calls that change
/// something, files that change in the session, a processor at work over 10 % of the time, and output, which alone keeps
/// a session for twice as long as nothing at all. Open pages and what they read do not.
#[utoipa::path(post, path = "/api/sessions/{uuid}/extend", tag = "sessions", params(("uuid" = uuid::Uuid, Path)), request_body = ExtensionBody, responses(
    (status = 200, description = "With its new ends", body = SessionBody),
    (status = 400, description = "`bad_extension`, `bad_json`, `bad_request`", body = ProblemBody),
    (status = 409, description = "`session_not_running`", body = ProblemBody),
))]
async fn extend(app: App, mut request: Request) -> Result<Response, Problem> {
    let body: ExtensionBody = request.json(JSON_BYTES).await?;
    let actor = request.principal()?.name.clone();
    let session =
        app.lifecycle.extend(request.session()?, body.seconds, Some(actor)).await.map_err(refused)?;
    answer(&app, &session).await
}

/// One line of a timeline.
#[derive(Serialize, ToSchema)]
#[schema(as = TimelineEvent)]
struct EventBody {
    at: String,
    /// `created`, `start`, `step`, `running`, `warning`, `extended`, `stop`, `stopped`, `released`, `failed`, `agent`, …
    kind: String,
    /// For a person.
    message: String,
    /// Which step of a start or stop it was.
    step: Option<String>,
    /// Milliseconds from the start's or stop's beginning to this step.
    elapsed_ms: Option<i64>,
}

impl From<TimelineEvent> for EventBody {
    fn from(event: TimelineEvent) -> Self {
        let TimelineEvent { at, kind, message, step, elapsed_ms } = event;
        Self { at: at.to_string(), kind, message, step, elapsed_ms }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Timeline)]
struct TimelineBody {
    /// The oldest first.
    events: Vec<EventBody>,
}

/// What happened to a session.
#[utoipa::path(get, path = "/api/sessions/{uuid}/timeline", tag = "sessions", params(("uuid" = uuid::Uuid, Path)), responses((status = 200, body = TimelineBody)))]
async fn timeline(app: App, request: Request) -> Result<Response, Problem> {
    let events = app.lifecycle.timeline(request.session()?).await.map_err(refused)?;
    Ok(warp::reply::json(&TimelineBody { events: events.into_iter().map(EventBody::from).collect() })
        .into_response())
}
