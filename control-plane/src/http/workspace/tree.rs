//! The tree: all of it, or what changed since a revision.

use super::super::problem::Problem;
use super::super::request::Request;
use super::super::route::{Access, Route};
use super::{ItemBody, refused};
use crate::accounts::Role;
use crate::app::App;
use http::Method;
use http::header::{self, HeaderValue};
use serde::Serialize;
use shared::id::{Revision, SessionId};
use std::io::Write;
use utoipa::{OpenApi, ToSchema};
use warp::reply::Response;

/// Changes read from the database at once.
const PAGE: u64 = 5_000;
/// A smaller answer is not worth compressing.
const COMPRESS_OVER: usize = 4 * 1024;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::new(Method::GET, "/api/workspace/{uuid}/tree", Access::Session(Role::Viewer), tree)]
}

#[derive(OpenApi)]
#[openapi(paths(tree))]
pub(super) struct Document;

#[derive(Serialize, ToSchema)]
#[schema(as = Tree)]
struct TreeBody {
    /// The revision that this is the tree of.
    rev: u64,
    /// True if `items` is the whole tree, and what is not in it is gone; else it is what changed.
    complete: bool,
    /// The items, folders before what they hold. Of a change, gone ones have `deleted`.
    items: Vec<ItemBody>,
}

/// The tree, or what changed.
///
/// With `since`, what changed after that revision; if the history does not reach back that far, the whole
/// tree with `complete: true`.
#[utoipa::path(get, path = "/api/workspace/{uuid}/tree", tag = "workspace",
    params(("uuid" = uuid::Uuid, Path), ("since" = Option<u64>, Query, description = "The revision one has")),
    responses((status = 200, body = TreeBody)))]
async fn tree(app: App, request: Request) -> Result<Response, Problem> {
    let session = request.session()?;
    let body = match request.revision("since")? {
        Some(since) => match changes(&app, session, since).await? {
            Some(body) => body,
            None => whole(&app, session).await?,
        },
        None => whole(&app, session).await?,
    };
    let accepted = request.header(header::ACCEPT_ENCODING).unwrap_or_default().to_owned();
    // A large tree takes milliseconds to write and pack; others must not wait for it.
    let answer = tokio::task::spawn_blocking(move || encode(&body, &accepted));
    answer.await.map_err(Problem::internal)?
}

async fn whole(app: &App, session: SessionId) -> Result<TreeBody, Problem> {
    let snapshot = app.store.snapshot(session).await.map_err(refused)?;
    let items = snapshot.items.iter().map(|(path, item)| ItemBody::new(path, item, false)).collect();
    Ok(TreeBody { rev: snapshot.rev.0, complete: true, items })
}

/// What changed after `since`; none if the history does not reach back that far, or not yet that far.
async fn changes(app: &App, session: SessionId, since: Revision) -> Result<Option<TreeBody>, Problem> {
    let mut items = Vec::new();
    let mut cursor = None;
    loop {
        let page = app.store.changes_since(session, since, cursor.as_ref(), PAGE).await.map_err(refused)?;
        if page.pruned || since > page.rev {
            return Ok(None);
        }
        items.extend(
            page.changes.iter().map(|change| ItemBody::new(&change.path, &change.item, change.deleted)),
        );
        cursor = page.next;
        if cursor.is_none() {
            return Ok(Some(TreeBody { rev: page.rev.0, complete: false, items }));
        }
    }
}

fn encode(body: &TreeBody, accepted: &str) -> Result<Response, Problem> {
    let json = serde_json::to_vec(body).map_err(Problem::internal)?;
    let packed = match coding(accepted).filter(|_| json.len() > COMPRESS_OVER) {
        Some("zstd") => zstd::bulk::compress(&json, 1).ok().map(|bytes| ("zstd", bytes)),
        Some("gzip") => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&json).and_then(|()| encoder.finish()).ok().map(|bytes| ("gzip", bytes))
        }
        _ => None,
    };
    let (coding, bytes) = packed.map_or((None, json), |(coding, bytes)| (Some(coding), bytes));
    let mut response = Response::new(bytes.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    Ok(response)
}

/// The better of the codings that a client takes.
fn coding(accepted: &str) -> Option<&'static str> {
    let takes = |coding: &str| {
        accepted.split(',').any(|part| {
            let mut part = part.split(';').map(str::trim);
            part.next() == Some(coding) && !part.any(|q| matches!(q, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        })
    };
    ["zstd", "gzip"].into_iter().find(|coding| takes(coding))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_coding_that_a_client_takes_is_chosen() {
        assert_eq!(coding("gzip, deflate, br, zstd"), Some("zstd"));
        assert_eq!(coding("gzip, zstd;q=0"), Some("gzip"));
        assert_eq!(coding("identity"), None);
    }
}
