//! One file: read, save, delete.

use super::super::openapi::ProblemBody;
use super::super::problem::Problem;
use super::super::request::Request;
use super::super::route::{Access, Route};
use super::etag::{self, Expects};
use super::{author, refused, upload_memory};
use crate::accounts::Role;
use crate::app::App;
use crate::telemetry::metrics::ByteLabels;
use crate::workspace::{Content, Op, Precondition};
use futures::{StreamExt, stream};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde::Serialize;
use shared::id::SessionId;
use shared::path::WorkspacePath;
use shared::tree::Item;
use tokio::sync::mpsc;
use utoipa::{OpenApi, ToSchema};
use warp::Reply;
use warp::reply::Response;

/// Permission bits of a file, in octal; on answers, and as the query's `mode` on saves.
const MODE: HeaderName = HeaderName::from_static("x-berth-mode");

/// Pieces of a large file that wait for a slow reader.
const PIECES: usize = 4;

pub(super) fn routes() -> Vec<Route> {
    const FILE: &str = "/api/workspace/{uuid}/file/{path...}";
    let editor = Access::Session(Role::Editor);
    vec![
        Route::new(Method::GET, FILE, Access::Session(Role::Viewer), read),
        Route::new(Method::PUT, FILE, editor, put),
        Route::new(Method::POST, FILE, editor, post),
        Route::new(Method::DELETE, FILE, editor, delete),
    ]
}

#[derive(OpenApi)]
#[openapi(paths(read, put, post, delete))]
pub(super) struct Document;

/// What a save made.
#[derive(Serialize, ToSchema)]
struct SavedBody {
    /// Where.
    path: String,
    /// The file's revision, and its ETag. A save that changes nothing answers the one that stands.
    rev: u64,
    /// BLAKE3 of the bytes, hexadecimal.
    hash: String,
    /// How many bytes.
    size: u64,
}

/// The revision that holds a change.
#[derive(Serialize, ToSchema)]
pub(super) struct RevBody {
    /// The workspace's revision.
    pub(super) rev: u64,
}

/// A file's bytes.
///
/// One `Range` of bytes is honoured. A symlink answers its target's text, with `X-Berth-Kind: symlink`.
#[utoipa::path(get, path = "/api/workspace/{uuid}/file/{path}", tag = "workspace",
    params(
        ("uuid" = uuid::Uuid, Path), ("path" = String, Path, description = "Relative, percent-encoded, with slashes"),
        ("download" = Option<bool>, Query, description = "Answer as an attachment"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag one has"),
    ),
    responses(
        (status = 200, description = "The bytes, with ETag and `X-Berth-Mode`", content_type = "application/octet-stream"),
        (status = 206, description = "The range asked for"),
        (status = 304, description = "Unchanged"),
        (status = 400, description = "`path_absolute`, `path_dot_part`, `path_nul`, `path_empty_part`, `path_part_too_long`, `path_too_long`, `path_too_deep`, `path_empty`, `path_not_utf8`", body = ProblemBody),
        (status = 404, description = "`not_found`, `session_gone`", body = ProblemBody),
        (status = 409, description = "`is_a_directory`", body = ProblemBody),
    ))]
async fn read(app: App, request: Request) -> Result<Response, Problem> {
    let (session, path) = (request.session()?, request.workspace_path()?);
    if request.headers.contains_key(header::IF_NONE_MATCH) {
        let item = app.store.item(session, &path).await.map_err(refused)?;
        if etag::has(&request, item.rev) {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            describe(&mut response, &item);
            return Ok(response);
        }
    }
    let (item, content) = app.store.open_file(session, &path).await.map_err(refused)?;
    let (size, head) = (item.entry.size, content.head().await.map_err(refused)?);
    let range = match request.header(header::IF_RANGE) {
        Some(tag) if tag != etag::of(item.rev) => None,
        _ => request.header(header::RANGE).and_then(|value| range(value, size)),
    };
    let mut response = match range {
        None => body(content, 0, size),
        Some(None) => {
            return Err(Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "bad_range",
                "The file does not reach that far.",
            )
            .header(header::CONTENT_RANGE, format!("bytes */{size}")));
        }
        Some(Some((from, to))) => {
            let mut response = body(content, from, to + 1);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, header::CONTENT_RANGE, &format!("bytes {from}-{to}/{size}"));
            response
        }
    };
    app.metrics.file_bytes.get_or_create(&ByteLabels { direction: "out" }).inc_by(size);
    describe(&mut response, &item);
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, header::CONTENT_TYPE, content_type(path.name(), &head));
    if request.flag("download") {
        set(&mut response, header::CONTENT_DISPOSITION, &attachment(path.name()));
    }
    Ok(response)
}

/// The bytes from `from` up to, not with, `to`; a large content's as they are read, never all in memory.
pub(super) fn body(content: Content, from: u64, to: u64) -> Response {
    if let Some(bytes) = content.whole() {
        // Within the content, whose bytes are in memory.
        return Response::new(bytes.slice(from as usize..to as usize).into());
    }
    let (sender, mut receiver) = mpsc::channel(PIECES);
    // Its end is the reader's: with the answer dropped, the next piece cannot be sent, and it stops.
    tokio::spawn(async move {
        let mut pieces = content.read(from, to);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|why| {
                tracing::warn!(%why, "a file was cut short");
                std::io::Error::other(why)
            });
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    let pieces = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let mut response = warp::reply::stream(pieces).into_response();
    // So that a reader knows an answer that was broken off from a whole one.
    set(&mut response, header::CONTENT_LENGTH, &(to - from).to_string());
    response
}

fn describe(response: &mut Response, item: &Item) {
    set(response, header::ETAG, &etag::of(item.rev));
    // A reader may keep it, and must ask whether it still stands.
    set(response, header::CACHE_CONTROL, "private, no-cache");
    set(response, MODE, &format!("{:o}", item.entry.mode));
    set(response, HeaderName::from_static("x-berth-kind"), item.entry.kind.as_str());
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Save a file.
///
/// Folders above it are made. With `If-Match` only if the file is still at that revision, with
/// `If-None-Match: *` only if nothing is there. The answer comes after the database's commit.
#[utoipa::path(put, path = "/api/workspace/{uuid}/file/{path}", tag = "workspace", request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    params(
        ("uuid" = uuid::Uuid, Path), ("path" = String, Path),
        ("mode" = Option<String>, Query, description = "Permission bits in octal, such as 755"),
        ("If-Match" = Option<String>, Header, description = "The ETag the change is based on"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only a new file"),
    ),
    responses(
        (status = 200, description = "Saved, with the new ETag; also if the file is new, without `If-None-Match: *`", body = SavedBody),
        (status = 201, description = "Saved as a new file, with `If-None-Match: *`", body = SavedBody),
        (status = 400, description = "A bad path's own code, `body_cut_short`, `bad_etag`", body = ProblemBody),
        (status = 409, description = "`stale` with the present `rev` and ETag; `exists`, `is_a_directory`, `not_a_directory`", body = ProblemBody),
        (status = 413, description = "`too_large`, `workspace_full`, `too_many_items`", body = ProblemBody),
    ))]
async fn put(app: App, request: Request) -> Result<Response, Problem> {
    save(app, request).await
}

/// Save a file, as PUT does.
#[utoipa::path(post, path = "/api/workspace/{uuid}/file/{path}", tag = "workspace", request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    params(("uuid" = uuid::Uuid, Path), ("path" = String, Path)),
    responses((status = 200, description = "Saved", body = SavedBody), (status = 201, description = "Saved as a new file, with `If-None-Match: *`", body = SavedBody)))]
async fn post(app: App, request: Request) -> Result<Response, Problem> {
    save(app, request).await
}

async fn save(app: App, mut request: Request) -> Result<Response, Problem> {
    let (session, path) = (request.session()?, request.workspace_path()?);
    let expects = Expects::of(&request)?;
    let mode = mode(&request)?;
    let limit = app.settings.sync_limits().file_bytes;
    let memory = upload_memory(&app, &request, limit).await?;
    let bytes = request.bytes(limit).await?;
    let precondition = precondition(&app, session, &path, expects).await?;
    let size = bytes.len() as u64;
    let saved = app
        .store
        .save_file(session, &path, bytes, mode, precondition, &author(&request)?)
        .await
        .map_err(refused)?;
    drop(memory);
    app.metrics.saves.inc();
    app.metrics.file_bytes.get_or_create(&ByteLabels { direction: "in" }).inc_by(size);
    let body = SavedBody {
        path: saved.path.to_string(),
        rev: saved.rev.0,
        hash: saved.hash.to_hex(),
        size: saved.size,
    };
    let mut response = warp::reply::json(&body).into_response();
    if precondition == Precondition::NotExists {
        *response.status_mut() = StatusCode::CREATED;
    }
    set(&mut response, header::ETAG, &etag::of(saved.rev));
    Ok(response)
}

async fn precondition(
    app: &App,
    session: SessionId,
    path: &WorkspacePath,
    expects: Expects,
) -> Result<Precondition, Problem> {
    match expects.precondition() {
        Some(precondition) => Ok(precondition),
        // `*`: whatever is there now; if it changes before the commit, that is stale, too.
        None => Ok(Precondition::Rev(app.store.item(session, path).await.map_err(refused)?.rev)),
    }
}

fn mode(request: &Request) -> Result<Option<u32>, Problem> {
    let Some(text) = request.query("mode") else { return Ok(None) };
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(Some(mode)),
        _ => Err(Problem::bad("bad_mode", "The mode must be permission bits in octal, from 0 to 777.")),
    }
}

/// Delete a file, a link, or a folder with all it holds.
///
/// The history keeps what is deleted.
#[utoipa::path(delete, path = "/api/workspace/{uuid}/file/{path}", tag = "workspace",
    params(("uuid" = uuid::Uuid, Path), ("path" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag the delete is based on")),
    responses(
        (status = 200, description = "Deleted", body = RevBody),
        (status = 404, description = "`not_found`", body = ProblemBody),
        (status = 409, description = "`stale`", body = ProblemBody),
    ))]
async fn delete(app: App, request: Request) -> Result<Response, Problem> {
    let (session, path) = (request.session()?, request.workspace_path()?);
    let expects = Expects::of(&request)?;
    if expects == Expects::Nothing {
        return Err(Problem::bad("bad_etag", "A delete cannot expect that nothing is there."));
    }
    let precondition = precondition(&app, session, &path, expects).await?;
    let done = app
        .store
        .batch(session, vec![Op::Delete { path, precondition }], &author(&request)?)
        .await
        .map_err(refused)?;
    Ok(warp::reply::json(&RevBody { rev: done.rev.0 }).into_response())
}

/// The one range of a `Range` header: none if there is no usable one, `Some(None)` if the file is too short.
fn range(value: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) = (from.trim(), to.trim());
    let last = size.checked_sub(1);
    let bounds = match (from.is_empty(), to.is_empty()) {
        (true, true) => return None,
        (true, false) => {
            let suffix: u64 = to.parse().ok()?;
            last.filter(|_| suffix > 0).map(|last| (size.saturating_sub(suffix), last))
        }
        (false, _) => {
            let from: u64 = from.parse().ok()?;
            let to: u64 = if to.is_empty() { u64::MAX } else { to.parse().ok()? };
            if to < from {
                return None;
            }
            last.filter(|last| from <= *last).map(|last| (from, to.min(last)))
        }
    };
    Some(bounds)
}

/// A type that no browser can take for a document of ours: images, sound and film as they are, text as plain text.
pub(super) fn content_type(name: &str, bytes: &[u8]) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "bmp" => "image/bmp",
        "ico" => "image/x-icon",
        // Scripts in it do not run: the answer is sandboxed.
        "svg" => "image/svg+xml",
        "pdf" => "application/pdf",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "json" => "application/json",
        // A sample may cut a character; that does not make a text binary.
        _ => match std::str::from_utf8(&bytes[..bytes.len().min(4096)]) {
            Ok(text) if !text.contains('\0') => "text/plain; charset=utf-8",
            Err(why) if why.error_len().is_none() && bytes.len() > 4096 => "text/plain; charset=utf-8",
            _ => "application/octet-stream",
        },
    }
}

/// `Content-Disposition` for any file name, by RFC 6266.
pub(super) fn attachment(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\') || c == ' ' { c } else { '_' })
        .collect();
    let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_file() {
        assert_eq!(range("bytes=0-3", 10), Some(Some((0, 3))));
        assert_eq!(range("bytes=4-", 10), Some(Some((4, 9))));
        assert_eq!(range("bytes=-3", 10), Some(Some((7, 9))));
        assert_eq!(range("bytes=8-99", 10), Some(Some((8, 9))));
        assert_eq!(range("bytes=10-", 10), Some(None));
        assert_eq!(range("bytes=0-", 0), Some(None));
        for unusable in ["bytes=3-1", "bytes=-", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b"] {
            assert_eq!(range(unusable, 10), None, "{unusable}");
        }
    }

    #[test]
    fn nothing_from_a_workspace_is_a_page() {
        assert_eq!(content_type("index.html", b"<script>"), "text/plain; charset=utf-8");
        assert_eq!(content_type("a.js", b"alert(1)"), "text/plain; charset=utf-8");
        assert_eq!(content_type("data", b"\x00\x01"), "application/octet-stream");
        assert_eq!(content_type("text", &"é".repeat(4096).as_bytes()[1..]), "application/octet-stream");
        assert_eq!(
            content_type("text", format!("a{}", "é".repeat(4096)).as_bytes()),
            "text/plain; charset=utf-8"
        );
    }

    #[test]
    fn any_name_can_be_downloaded() {
        assert_eq!(
            attachment("a \"b\".txt"),
            "attachment; filename=\"a _b_.txt\"; filename*=UTF-8''a%20%22b%22%2Etxt"
        );
        assert!(HeaderValue::from_str(&attachment("naïve\r\n🦀")).is_ok());
    }
}
