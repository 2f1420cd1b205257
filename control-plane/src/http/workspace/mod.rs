//! A workspace over HTTP: files, tree, batches, archives, history.

mod archive;
mod batch;
mod etag;
mod files;
mod history;
mod import;
mod sync;
mod tree;
mod unpack;

use super::openapi::Part;
use super::problem::{Problem, sentence};
use super::request::{Request, no_session};
use super::route::Route;
use crate::app::App;
use crate::workspace::{Author, Error};
use http::StatusCode;
use http::header::ETAG;
use shared::tree::Item;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use utoipa::{OpenApi, ToSchema};

/// How long an upload waits for memory before it is told to come later.
const MEMORY_PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> Vec<Route> {
    let mut routes = files::routes();
    routes.extend(tree::routes());
    routes.extend(batch::routes());
    routes.extend(archive::routes());
    routes.extend(import::routes());
    routes.extend(history::routes());
    routes.extend(sync::routes());
    routes
}

pub(super) fn documents() -> Vec<Part> {
    vec![
        files::Document::openapi(),
        tree::Document::openapi(),
        batch::Document::openapi(),
        archive::Document::openapi(),
        import::Document::openapi(),
        history::Document::openapi(),
        sync::Document::openapi(),
    ]
}

/// What stands at a path, as the API shows it.
#[derive(Debug, serde::Serialize, ToSchema)]
#[schema(as = Item)]
pub(super) struct ItemBody {
    /// Where.
    path: String,
    /// `file`, `dir` or `symlink`.
    kind: &'static str,
    /// Permission bits.
    mode: u32,
    /// Bytes of the content.
    size: u64,
    /// BLAKE3 of the content, hexadecimal.
    hash: String,
    /// The revision that last changed it; its ETag.
    rev: u64,
    /// The item's id, kept over renames.
    id: uuid::Uuid,
    /// True if it is gone; the rest tells what it was.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

impl ItemBody {
    fn new(path: &shared::path::WorkspacePath, item: &Item, deleted: bool) -> Self {
        Self {
            path: path.to_string(),
            kind: item.entry.kind.as_str(),
            mode: item.entry.mode,
            size: item.entry.size,
            hash: item.entry.hash.to_hex(),
            rev: item.rev.0,
            id: item.id.0,
            deleted,
        }
    }
}

/// Who makes a change, for the history.
fn author(request: &Request) -> Result<Author, Problem> {
    Ok(Author::editor(request.principal()?.name.clone()))
}

/// Each way in which the store refuses, as an answer.
pub(super) fn refused(why: Error) -> Problem {
    let code = why.code();
    let detail = sentence(&why.to_string());
    match &why {
        Error::NoWorkspace(_) => no_session(),
        Error::NotFound(_) | Error::NoSuchRevision(_) | Error::NoSuchVersion(_) | Error::ContentGone(_) => {
            Problem::not_found(code, detail)
        }
        Error::Exists(_) | Error::NotADirectory(_) | Error::IsADirectory(_) | Error::NothingToUndo(_) => {
            Problem::conflict(code, detail)
        }
        Error::Stale { path, current } => {
            let shown = if current.0 == 0 { format!("{path:?} was deleted since.") } else { detail };
            Problem::conflict(
                code,
                format!(
                    "{shown} Nothing was overwritten; compare, and save again with the revision you compared."
                ),
            )
            .with("rev", current.0)
            .header(ETAG, etag::of(*current))
        }
        Error::IntoItself(_) | Error::ContentMissing(_) | Error::BadParts(_) => Problem::bad(code, detail),
        Error::BadPath(bad) => (*bad).into(),
        Error::FileTooLarge { limit, .. }
        | Error::WorkspaceFull { limit }
        | Error::TooManyItems { limit }
        | Error::BatchTooLarge { limit, .. }
        | Error::UploadsFull { limit } => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail).with("limit", *limit)
        }
        Error::Superseded { .. } | Error::PartsMissing => Problem::conflict(code, detail),
        Error::Damaged(_) => Problem::internal(&why),
        Error::Unanswered => Problem::unavailable(
            code,
            "The database does not answer. Whether this was saved will show when it does; look before you send it again.",
        )
        .retry_after(Duration::from_secs(2)),
        Error::Database(_) => Problem::unavailable(
            code,
            "The database does not answer. Nothing was changed; try again in a moment.",
        )
        .retry_after(Duration::from_secs(2))
        .because(&why),
    }
}

/// Memory for a body of at most `bytes`, held until the guard is dropped. Uploads beyond the server's memory wait
/// for their turn.
pub(super) async fn upload_memory<'a>(
    app: &'a App,
    request: &Request,
    bytes: u64,
) -> Result<SemaphorePermit<'a>, Problem> {
    let wanted = request.content_length().unwrap_or(bytes).min(bytes);
    // At least one, so that floods of tiny bodies are counted, and never more than there is.
    let kib = (wanted / 1024 + 1).min(u64::from(app.settings.upload_memory_mb) * 1024) as u32;
    match tokio::time::timeout(MEMORY_PATIENCE, app.upload_memory.acquire_many(kib)).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Problem::unavailable(
            "busy",
            "Too many uploads are under way. Nothing was saved; send it again in a moment.",
        )
        .retry_after(Duration::from_secs(5))),
    }
}
