//! An archive taken into the workspace.

use super::super::body::too_large;
use super::super::openapi::ProblemBody;
use super::super::problem::{Problem, sentence};
use super::super::request::Request;
use super::super::route::{Access, Route};
use super::unpack::{Refused, Unpacked, unpack};
use super::{author, refused};
use crate::accounts::Role;
use crate::app::App;
use crate::workspace::{Author, DIR_MODE, Error, FILE_MODE, Op, Origin, Precondition, Store};
use http::{Method, StatusCode};
use serde::Serialize;
use shared::id::SessionId;
use shared::limits::SyncLimits;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Kind};
use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use utoipa::{OpenApi, ToSchema};
use warp::Reply;
use warp::reply::Response;

/// Bytes that an archive may unpack to for all of it to be held in memory at once.
const SMALL_BYTES: u64 = 32 << 20;
/// Archives that arrive or are taken in at once. Each may be as large as a workspace, on the server's disk, until it
/// is saved.
const ARRIVING: usize = 32;
/// Archives that are unpacked and saved at once.
const AT_ONCE: usize = 8;
/// How long an archive may take to arrive, however large.
const ARRIVAL: Duration = Duration::from_secs(3600);
/// How long one that has arrived waits for others to be taken in before it is told to come later.
const PATIENCE: Duration = Duration::from_secs(60);
/// Paths named as left out; more are counted.
const SKIPPED_NAMED: usize = 100;

static ARRIVALS: Semaphore = Semaphore::const_new(ARRIVING);
static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

pub(super) fn routes() -> Vec<Route> {
    vec![Route::new(Method::PUT, "/api/workspace/{uuid}/archive", Access::Session(Role::Editor), import)]
}

#[derive(OpenApi)]
#[openapi(paths(import))]
pub(super) struct Document;

/// What an import made.
#[derive(Serialize, ToSchema)]
#[schema(as = Imported)]
struct ImportedBody {
    /// The revision that holds all of it.
    rev: u64,
    /// Files and links taken in.
    files: u64,
    /// What was left out, at most 100.
    skipped: Vec<SkippedBody>,
    /// How many were left out.
    skipped_count: u64,
}

/// Something left out.
#[derive(Serialize, ToSchema)]
#[schema(as = Skipped)]
struct SkippedBody {
    /// What.
    path: String,
    /// `hard_link`, `special_file` or `symlink_outside`.
    code: &'static str,
}

/// Take an archive in.
///
/// zip, tar.zst, tar.gz or tar, recognised by its content. Its files are added, or replace those of the same
/// path; nothing is deleted. It is checked whole before anything is saved: one bad path, a bomb or a cut refuses all
/// of it. What it holds becomes one revision.
#[utoipa::path(put, path = "/api/workspace/{uuid}/archive", tag = "workspace", request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    params(("uuid" = uuid::Uuid, Path), ("path" = Option<String>, Query, description = "A folder to unpack into")),
    responses(
        (status = 200, description = "Taken in", body = ImportedBody),
        (status = 400, description = "`bad_format`, `archive_damaged`, `body_cut_short`, a bad path's own code", body = ProblemBody),
        (status = 409, description = "`is_a_directory`, `not_a_directory`", body = ProblemBody),
        (status = 413, description = "`archive_bomb`, `file_too_large`, `workspace_full`, `uploads_full`, `too_many_items`, `too_large`", body = ProblemBody),
        (status = 503, description = "`busy`, with Retry-After", body = ProblemBody),
    ))]
async fn import(app: App, mut request: Request) -> Result<Response, Problem> {
    let session = request.session()?;
    let below = request.query("path").filter(|path| !path.is_empty()).map(WorkspacePath::new).transpose()?;
    let author = Author { origin: Origin::Import, ..author(&request)? };
    let arrival = ARRIVALS.try_acquire().map_err(|_| busy())?;
    let archive = spool(&app, &mut request).await?;
    // Only now: whoever sends slowly takes it from nobody.
    let place = match tokio::time::timeout(PATIENCE, PLACES.acquire()).await {
        Ok(Ok(place)) => place,
        _ => return Err(busy()),
    };
    let work = Import {
        store: app.store.clone(),
        session,
        limits: app.settings.sync_limits(),
        below,
        author,
        handle: Handle::current(),
    };
    let work = tokio::task::spawn_blocking(move || {
        let done = work.run(archive);
        // Only now is its file gone, also if nobody waits for the answer any more.
        drop((place, arrival));
        done
    });
    let done = work.await.map_err(Problem::internal)??;
    Ok(warp::reply::json(&done).into_response())
}

fn busy() -> Problem {
    Problem::unavailable(
        "busy",
        "Too many archives are being taken in. Nothing was saved; send it again in a moment.",
    )
    .retry_after(Duration::from_secs(5))
}

/// The body in a file without a name: archives may be larger than memory should be.
async fn spool(app: &App, request: &mut Request) -> Result<File, Problem> {
    let limit = app.settings.sync_limits().workspace_bytes;
    if request.content_length().is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let mut file = tempfile::tempfile_in(&app.settings.data).map_err(Problem::internal)?;
    let Some(body) = request.body.take() else { return Ok(file) };
    let mut body = body.within(ARRIVAL, request.content_length());
    let mut size = 0;
    while let Some(piece) = body.next().await? {
        size += piece.len() as u64;
        if size > limit {
            return Err(too_large(limit));
        }
        // The page cache takes this in microseconds; a hop to the blocking pool for each piece would cost more.
        file.write_all(&piece).map_err(|why| {
            Problem::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "no_space",
                "The server has no room to unpack this. Nothing was saved.",
            )
            .because(why)
        })?;
    }
    Ok(file)
}

struct Import {
    store: Store,
    session: SessionId,
    limits: SyncLimits,
    below: Option<WorkspacePath>,
    author: Author,
    handle: Handle,
}

impl Import {
    fn run(self, mut archive: File) -> Result<ImportedBody, Problem> {
        // Once through without keeping anything: what is refused is refused before anything is saved.
        let (mut bytes, mut items) = (0, 0);
        unpack(&mut archive, &self.limits, &mut |piece| {
            items += 1;
            match piece {
                Unpacked::File(path, content, _) => {
                    bytes += content.len() as u64;
                    self.place(&path).map(drop)
                }
                Unpacked::Symlink(path, target) => {
                    bytes += target.len() as u64;
                    self.place(&path).map(drop)
                }
                Unpacked::Dir(path) => self.place(&path).map(drop),
                Unpacked::Skipped(..) => Ok(()),
            }
        })
        .map_err(problem)?;
        // Small ones in one transaction; of large ones each content by itself, so that memory holds only one.
        let small = SMALL_BYTES.min(self.limits.batch_bytes);
        let mut sink = if bytes <= small && items <= self.limits.batch_items {
            let snapshot = self.handle.block_on(self.store.snapshot(self.session)).map_err(refused)?;
            let folders = snapshot.items.into_iter().filter(|(_, item)| item.entry.kind == Kind::Dir);
            Sink::Batch { folders: folders.map(|(path, _)| path).collect(), ops: Vec::new() }
        } else {
            Sink::Contents(Vec::new())
        };
        let mut done = ImportedBody { rev: 0, files: 0, skipped: Vec::new(), skipped_count: 0 };
        let mut failed = None;
        let unpacked = unpack(&mut archive, &self.limits, &mut |piece| match piece {
            Unpacked::Skipped(path, code) => {
                done.skipped_count += 1;
                if done.skipped.len() < SKIPPED_NAMED {
                    done.skipped.push(SkippedBody { path, code });
                }
                Ok(())
            }
            piece => {
                done.files += u64::from(!matches!(piece, Unpacked::Dir(_)));
                self.take(&mut sink, piece)?.map_err(|why| {
                    failed = Some(why);
                    Refused::Sink
                })
            }
        });
        if let (Sink::Contents(entries), true) = (&sink, failed.is_some() || unpacked.is_err()) {
            let contents = entries.iter().filter(|(_, entry)| entry.kind != Kind::Dir);
            let contents: Vec<_> = contents.map(|(_, entry)| entry.hash).collect();
            self.handle.block_on(self.store.forget_contents(self.session, &contents));
        }
        if let Some(why) = failed {
            return Err(refused(why));
        }
        unpacked.map_err(problem)?;
        let committed = match sink {
            Sink::Batch { ops, .. } => {
                self.handle.block_on(self.store.batch(self.session, ops, &self.author))
            }
            Sink::Contents(entries) => {
                self.handle.block_on(self.store.import(self.session, entries, &self.author))
            }
        };
        done.rev = committed.map_err(refused)?.rev.0;
        Ok(done)
    }

    /// Keeps one piece for the commit.
    fn take(&self, sink: &mut Sink, piece: Unpacked) -> Result<Result<(), Error>, Refused> {
        Ok(match (sink, piece) {
            (Sink::Batch { ops, folders }, Unpacked::File(path, bytes, mode)) => {
                let path = self.place(&path)?;
                folders.extend(path.ancestors());
                ops.push(Op::Write { path, bytes: bytes.into(), mode, precondition: Precondition::Any });
                Ok(())
            }
            (Sink::Batch { ops, folders }, Unpacked::Symlink(path, target)) => {
                let path = self.place(&path)?;
                folders.extend(path.ancestors());
                ops.push(Op::Symlink { path, target });
                Ok(())
            }
            (Sink::Batch { ops, folders }, Unpacked::Dir(path)) => {
                let path = self.place(&path)?;
                folders.extend(path.ancestors());
                // A folder that is there already is as wished.
                if folders.insert(path.clone()) {
                    ops.push(Op::Mkdir { path, mode: None });
                }
                Ok(())
            }
            (Sink::Contents(entries), Unpacked::File(path, bytes, mode)) => {
                let (path, size) = (self.place(&path)?, bytes.len() as u64);
                let put = self.handle.block_on(self.store.put_content(self.session, &path, bytes.into()));
                put.map(|hash| entries.push((path, Entry::file(mode.unwrap_or(FILE_MODE), size, hash))))
            }
            (Sink::Contents(entries), Unpacked::Symlink(path, target)) => {
                let (path, entry) = (self.place(&path)?, Entry::symlink(&target));
                let put = self.handle.block_on(self.store.put_content(self.session, &path, target.into()));
                put.map(|_| entries.push((path, entry)))
            }
            (Sink::Contents(entries), Unpacked::Dir(path)) => {
                entries.push((self.place(&path)?, Entry::dir(DIR_MODE)));
                Ok(())
            }
            (_, Unpacked::Skipped(..)) => Ok(()),
        })
    }

    /// Where an archive's path goes.
    fn place(&self, path: &WorkspacePath) -> Result<WorkspacePath, Refused> {
        match &self.below {
            None => Ok(path.clone()),
            Some(folder) => folder.join(path.as_str()).map_err(|bad| Refused::Path(path.to_string(), bad)),
        }
    }
}

/// What is kept of an archive until the one commit.
enum Sink {
    /// Everything, and the folders that are there or will be.
    Batch { folders: HashSet<WorkspacePath>, ops: Vec<Op> },
    /// What is where; the contents are in the database already.
    Contents(Vec<(WorkspacePath, Entry)>),
}

fn problem(why: Refused) -> Problem {
    let detail = format!("{} Nothing was saved.", sentence(&why.to_string()));
    match &why {
        Refused::FileTooLarge(..) | Refused::TooLarge(_) | Refused::TooMany(_) | Refused::Bomb(_) => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why.code(), detail)
        }
        Refused::Sink => Problem::internal(&why),
        _ => Problem::bad(why.code(), detail),
    }
}
