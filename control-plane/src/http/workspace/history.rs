//! What files were, and how to get it back.

use super::super::openapi::ProblemBody;
use super::super::problem::Problem;
use super::super::request::{JSON_BYTES, Request};
use super::super::route::{Access, Route};
use super::batch::DoneBody;
use super::files::{attachment, body, content_type};
use super::{author, refused};
use crate::accounts::Role;
use crate::app::App;
use crate::workspace::{HistoryQuery, Version};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use shared::id::Revision;
use shared::path::WorkspacePath;
use utoipa::{OpenApi, ToSchema};
use warp::Reply;
use warp::reply::Response;

/// Versions in one answer, unless asked otherwise.
const DEFAULT_LIMIT: u64 = 100;
/// Versions in one answer, at most.
const MAX_LIMIT: u64 = 1_000;

pub(super) fn routes() -> Vec<Route> {
    let (viewer, editor) = (Access::Session(Role::Viewer), Access::Session(Role::Editor));
    vec![
        Route::new(Method::GET, "/api/workspace/{uuid}/history", viewer, history),
        Route::new(Method::GET, "/api/workspace/{uuid}/versions/{version}", viewer, version),
        Route::new(Method::POST, "/api/workspace/{uuid}/versions/{version}/settle", editor, settle_conflict),
        Route::new(Method::POST, "/api/workspace/{uuid}/restore", editor, restore),
        Route::new(Method::POST, "/api/workspace/{uuid}/undo", editor, undo),
    ]
}

#[derive(OpenApi)]
#[openapi(paths(history, version, settle_conflict, restore, undo))]
pub(super) struct Document;

/// One version of an item.
#[derive(Serialize, ToSchema)]
#[schema(as = Version)]
struct VersionBody {
    /// Its number; rises with time.
    version: i64,
    /// The item's id, kept over renames.
    item: uuid::Uuid,
    /// The revision that made it.
    rev: u64,
    /// Where the item then was.
    path: String,
    /// `create`, `write`, `move`, `chmod`, `delete` or `loser` (lost a conflict, or a merge's parent).
    op: &'static str,
    /// `file`, `dir` or `symlink`.
    kind: &'static str,
    /// Permission bits.
    mode: u32,
    /// Bytes of the content.
    size: u64,
    /// BLAKE3 of the content, hexadecimal.
    hash: String,
    /// `editor`, `pod`, `restore`, `merge` or `import`.
    origin: &'static str,
    /// Who did it, if that is known.
    actor: Option<String>,
    /// If it lost: the revision of what stood at the path instead.
    conflict_of: Option<u64>,
    /// Whether it lost a conflict that nobody has settled yet.
    open_conflict: bool,
    /// When, by RFC 3339.
    at: String,
}

impl From<&Version> for VersionBody {
    fn from(version: &Version) -> Self {
        Self {
            version: version.id,
            item: version.item.0,
            rev: version.rev.0,
            path: version.path.to_string(),
            op: version.op.as_str(),
            kind: version.kind.as_str(),
            mode: version.mode,
            size: version.size,
            hash: version.hash.to_hex(),
            origin: version.origin.as_str(),
            actor: version.actor.clone(),
            conflict_of: version.conflict_of.map(|rev| rev.0),
            open_conflict: version.open_conflict,
            at: super::super::time(version.at),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = History)]
struct HistoryBody {
    /// Newest first.
    versions: Vec<VersionBody>,
}

/// Versions, newest first.
#[utoipa::path(get, path = "/api/workspace/{uuid}/history", tag = "history",
    params(
        ("uuid" = uuid::Uuid, Path),
        ("path" = Option<String>, Query, description = "Only of the items that are or were there"),
        ("below" = Option<bool>, Query, description = "With a path: also of what is or was below it"),
        ("before" = Option<i64>, Query, description = "Only versions with a lower number: the next page"),
        ("conflicts" = Option<bool>, Query, description = "Only conflicts that nobody has settled"),
        ("limit" = Option<u64>, Query, description = "1 to 1,000; 100 by default"),
    ),
    responses((status = 200, body = HistoryBody)))]
async fn history(app: App, request: Request) -> Result<Response, Problem> {
    let path = request.query("path").map(WorkspacePath::new).transpose()?;
    let limit = request.parsed::<u64>("limit", "from 1 to 1000")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::bad("bad_query", "The query's limit must be from 1 to 1000."));
    }
    let before = request.parsed("before", "a version's number")?;
    let (below, open_conflicts) = (request.flag("below"), request.flag("conflicts"));
    let query = HistoryQuery { path, below, before, open_conflicts, limit };
    let versions = app.store.history(request.session()?, &query).await.map_err(refused)?;
    Ok(warp::reply::json(&HistoryBody { versions: versions.iter().map(VersionBody::from).collect() })
        .into_response())
}

fn number(request: &Request) -> Result<i64, Problem> {
    let text = request.param("version")?;
    text.parse().map_err(|_| Problem::not_found("no_such_version", "A version is a number."))
}

/// A version's bytes.
#[utoipa::path(get, path = "/api/workspace/{uuid}/versions/{version}", tag = "history",
    params(("uuid" = uuid::Uuid, Path), ("version" = i64, Path), ("download" = Option<bool>, Query, description = "Answer as an attachment")),
    responses((status = 200, description = "The bytes", content_type = "application/octet-stream"), (status = 404, description = "`no_such_version`", body = ProblemBody)))]
async fn version(app: App, request: Request) -> Result<Response, Problem> {
    let opened = app.store.open_version(request.session()?, number(&request)?).await;
    let (version, content) = opened.map_err(refused)?;
    let (kind, mut response) = match content {
        Some(content) => {
            let head = content.head().await.map_err(refused)?;
            (content_type(version.path.name(), &head), body(content, 0, version.size))
        }
        None => (content_type(version.path.name(), b""), Response::new(Bytes::new().into())),
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // Versions never change.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=86400, immutable"));
    if request.flag("download")
        && let Ok(value) = HeaderValue::from_str(&attachment(version.path.name()))
    {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// Note that a conflict is settled.
#[utoipa::path(post, path = "/api/workspace/{uuid}/versions/{version}/settle", tag = "history",
    params(("uuid" = uuid::Uuid, Path), ("version" = i64, Path)),
    responses((status = 204, description = "Noted"), (status = 404, description = "`no_such_version`", body = ProblemBody)))]
async fn settle_conflict(app: App, request: Request) -> Result<Response, Problem> {
    app.store.settle_conflict(request.session()?, number(&request)?).await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize, ToSchema)]
#[schema(as = Restore)]
struct RestoreBody {
    /// A file or a folder; without, the whole workspace.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    path: Option<WorkspacePath>,
    /// The revision to go back to.
    rev: u64,
}

/// Bring a file, a folder or the whole workspace back to a revision.
///
/// This is a new revision, and can itself be undone.
#[utoipa::path(post, path = "/api/workspace/{uuid}/restore", tag = "history", request_body = RestoreBody,
    params(("uuid" = uuid::Uuid, Path)),
    responses((status = 200, body = DoneBody), (status = 404, description = "`no_such_revision`, `not_found`, `content_gone`", body = ProblemBody)))]
async fn restore(app: App, mut request: Request) -> Result<Response, Problem> {
    let session = request.session()?;
    let body: RestoreBody = request.json(JSON_BYTES).await?;
    let done = app
        .store
        .restore(session, body.path.as_ref(), Revision(body.rev), &author(&request)?)
        .await
        .map_err(refused)?;
    Ok(warp::reply::json(&DoneBody::from(done)).into_response())
}

#[derive(Deserialize, ToSchema)]
#[schema(as = Undo)]
struct UndoBody {
    /// Whose last change is undone.
    #[schema(value_type = String)]
    path: WorkspacePath,
}

/// Undo the last change of a path.
#[utoipa::path(post, path = "/api/workspace/{uuid}/undo", tag = "history", request_body = UndoBody,
    params(("uuid" = uuid::Uuid, Path)),
    responses((status = 200, body = DoneBody), (status = 404, description = "`content_gone`", body = ProblemBody), (status = 409, description = "`nothing_to_undo`", body = ProblemBody)))]
async fn undo(app: App, mut request: Request) -> Result<Response, Problem> {
    let session = request.session()?;
    let body: UndoBody = request.json(JSON_BYTES).await?;
    let done = app.store.undo(session, &body.path, &author(&request)?).await.map_err(refused)?;
    Ok(warp::reply::json(&DoneBody::from(done)).into_response())
}
