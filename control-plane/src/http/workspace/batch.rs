//! Several changes as one: all or nothing, one revision.

use super::super::openapi::ProblemBody;
use super::super::problem::Problem;
use super::super::request::Request;
use super::super::route::{Access, Route};
use super::{ItemBody, author, refused, upload_memory};
use crate::accounts::Role;
use crate::app::App;
use crate::workspace::{Op, Precondition};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use shared::id::Revision;
use shared::path::WorkspacePath;
use utoipa::{OpenApi, ToSchema};
use warp::Reply;
use warp::reply::Response;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::new(Method::POST, "/api/workspace/{uuid}/batch", Access::Session(Role::Editor), batch)]
}

#[derive(OpenApi)]
#[openapi(paths(batch))]
pub(super) struct Document;

#[derive(Deserialize, ToSchema)]
#[schema(as = Batch)]
struct BatchBody {
    /// In this order.
    ops: Vec<OpBody>,
}

/// One change. `if_rev` makes it conditional on the item's revision; 0 means that nothing may be there.
#[derive(Deserialize, ToSchema)]
#[schema(as = Op)]
#[serde(tag = "op", rename_all = "snake_case")]
enum OpBody {
    /// A file holds these bytes: `data` as text, or `base64`.
    Write {
        #[schema(value_type = String)]
        path: WorkspacePath,
        #[serde(default)]
        data: Option<String>,
        #[serde(default)]
        base64: Option<String>,
        /// Permission bits as a number; without, a file keeps its own.
        #[serde(default)]
        mode: Option<u32>,
        #[serde(default)]
        if_rev: Option<u64>,
    },
    /// A new folder.
    Mkdir {
        #[schema(value_type = String)]
        path: WorkspacePath,
        #[serde(default)]
        mode: Option<u32>,
    },
    /// A symbolic link to a text that is never followed by the server.
    Symlink {
        #[schema(value_type = String)]
        path: WorkspacePath,
        target: String,
    },
    /// An item and all it holds goes elsewhere.
    Move {
        #[schema(value_type = String)]
        from: WorkspacePath,
        #[schema(value_type = String)]
        to: WorkspacePath,
        /// Whether a file at `to` is replaced.
        #[serde(default)]
        overwrite: bool,
        #[serde(default)]
        if_rev: Option<u64>,
    },
    /// An item and all it holds goes; the history keeps it.
    Delete {
        #[schema(value_type = String)]
        path: WorkspacePath,
        #[serde(default)]
        if_rev: Option<u64>,
    },
    /// Other permission bits, as a number.
    Chmod {
        #[schema(value_type = String)]
        path: WorkspacePath,
        mode: u32,
    },
}

/// What a batch made.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchDone)]
pub(super) struct DoneBody {
    /// The revision that holds it, or the one that stands if nothing changed.
    rev: u64,
    /// What is now where something changed, at most 100 paths.
    changed: Vec<ItemOrGone>,
}

/// An item, or a path where nothing is any more.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum ItemOrGone {
    Item(ItemBody),
    Gone { path: String, deleted: bool },
}

impl From<crate::workspace::BatchDone> for DoneBody {
    fn from(done: crate::workspace::BatchDone) -> Self {
        let changed = done.changed.iter().map(|(path, item)| match item {
            Some(item) => ItemOrGone::Item(ItemBody::new(path, item, false)),
            None => ItemOrGone::Gone { path: path.to_string(), deleted: true },
        });
        Self { rev: done.rev.0, changed: changed.collect() }
    }
}

/// Change several items at once.
///
/// All or nothing, in one revision, in the order given.
#[utoipa::path(post, path = "/api/workspace/{uuid}/batch", tag = "workspace", request_body = BatchBody,
    params(("uuid" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "Done", body = DoneBody),
        (status = 400, description = "`bad_json`, `bad_request`, a bad path's own code, `into_itself`", body = ProblemBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 409, description = "`stale`, `exists`, `is_a_directory`, `not_a_directory`", body = ProblemBody),
        (status = 413, description = "`batch_too_large`, `file_too_large`, `workspace_full`, `too_many_items`", body = ProblemBody),
    ))]
async fn batch(app: App, mut request: Request) -> Result<Response, Problem> {
    let session = request.session()?;
    let limits = app.settings.sync_limits();
    // Base64 takes a third more, JSON some besides.
    let limit = limits.batch_bytes + limits.batch_bytes / 2 + (1 << 20);
    let memory = upload_memory(&app, &request, limit).await?;
    let body: BatchBody = request.json(limit).await?;
    let ops = body.ops.into_iter().map(op).collect::<Result<Vec<Op>, Problem>>()?;
    let done = app.store.batch(session, ops, &author(&request)?).await.map_err(refused)?;
    drop(memory);
    app.metrics.batches.inc();
    Ok(warp::reply::json(&DoneBody::from(done)).into_response())
}

fn op(body: OpBody) -> Result<Op, Problem> {
    let condition = |if_rev: Option<u64>| match if_rev {
        None => Precondition::Any,
        Some(0) => Precondition::NotExists,
        Some(rev) => Precondition::Rev(Revision(rev)),
    };
    let permissions = |mode: Option<u32>| match mode {
        Some(mode) if mode > 0o777 => Err(Problem::bad(
            "bad_mode",
            "A mode is permission bits as a number, at most 511, which is 0o777.",
        )),
        mode => Ok(mode),
    };
    Ok(match body {
        OpBody::Write { path, data, base64, mode, if_rev } => {
            let bytes = match (data, base64) {
                (Some(data), None) => Bytes::from(data),
                (None, Some(text)) => STANDARD
                    .decode(text)
                    .map_err(|_| {
                        Problem::bad(
                            "bad_base64",
                            format!("The `base64` of {path:?} is not base64 with padding."),
                        )
                    })?
                    .into(),
                _ => {
                    return Err(Problem::bad(
                        "bad_request",
                        format!("The write of {path:?} needs `data` or `base64`, and not both."),
                    ));
                }
            };
            Op::Write { path, bytes, mode: permissions(mode)?, precondition: condition(if_rev) }
        }
        OpBody::Mkdir { path, mode } => Op::Mkdir { path, mode: permissions(mode)? },
        OpBody::Symlink { path, target } => Op::Symlink { path, target },
        OpBody::Move { from, to, overwrite, if_rev } => {
            Op::Move { from, to, overwrite, precondition: condition(if_rev) }
        }
        OpBody::Delete { path, if_rev } => Op::Delete { path, precondition: condition(if_rev) },
        OpBody::Chmod { path, mode } => Op::Chmod { path, mode: permissions(Some(mode))?.unwrap_or(mode) },
    })
}
