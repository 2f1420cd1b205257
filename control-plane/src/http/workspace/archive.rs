//! The whole workspace at one revision, as an archive, streamed.

use super::super::openapi::ProblemBody;
use super::super::problem::Problem;
use super::super::request::Request;
use super::super::route::{Access, Route};
use super::files::attachment;
use super::{etag, refused};
use crate::accounts::Role;
use crate::app::App;
use crate::workspace::{self, Snapshot, Store};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http::Method;
use http::header::{self, HeaderValue};
use shared::chunk::is_large;
use shared::id::SessionId;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Item, Kind};
use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Write};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use utoipa::OpenApi;
use warp::Reply;
use warp::reply::Response;

/// Bytes of contents read from the database at once.
const READ_BYTES: u64 = 8 << 20;
/// Contents read from the database at once.
const READ_ITEMS: usize = 256;
/// Bytes of one piece of the answer.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that wait for a slow reader; then the archive waits.
const PIECES: usize = 8;
/// Compression level of zstd: its default.
const LEVEL: i32 = 3;
/// Archives that are written at once. Each has a thread of its own for as long as its reader takes, and there is an
/// end to those, which everything else needs, too.
const AT_ONCE: usize = 32;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

pub(super) fn routes() -> Vec<Route> {
    vec![Route::new(Method::GET, "/api/workspace/{uuid}/archive", Access::Session(Role::Viewer), export)]
}

#[derive(OpenApi)]
#[openapi(paths(export))]
pub(super) struct Document;

/// A form of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Zip,
    TarZst,
}

/// The whole workspace at one revision.
#[utoipa::path(get, path = "/api/workspace/{uuid}/archive", tag = "workspace",
    params(("uuid" = uuid::Uuid, Path), ("format" = Option<String>, Query, description = "`zip`, the default, or `tar.zst`")),
    responses(
        (status = 200, description = "The archive; its ETag is the revision", content_type = "application/zip"),
        (status = 400, description = "`bad_format`", body = ProblemBody),
        (status = 503, description = "`busy`, with Retry-After", body = ProblemBody),
    ))]
async fn export(app: App, request: Request) -> Result<Response, Problem> {
    let session = request.session()?;
    let (format, kind, extension) = match request.query("format").unwrap_or("zip") {
        "zip" => (Format::Zip, "application/zip", "zip"),
        "tar.zst" => (Format::TarZst, "application/zstd", "tar.zst"),
        _ => return Err(Problem::bad("bad_format", "The format must be zip or tar.zst.")),
    };
    let place = PLACES.try_acquire().map_err(|_| {
        Problem::unavailable("busy", "Too many archives are being written. Try again in a moment.")
            .retry_after(Duration::from_secs(5))
    })?;
    let name = request.session.as_ref().map_or("workspace", |session| session.name.as_str());
    let disposition = attachment(&format!("{name}.{extension}"));
    let snapshot = app.store.snapshot(session).await.map_err(refused)?;
    let etag = etag::of(snapshot.rev);
    let (sender, mut pieces) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let store = app.store.clone();
    let handle = Handle::current();
    // Its end is the reader's: with the answer dropped, the next piece cannot be sent, and it stops.
    tokio::task::spawn_blocking(move || {
        let out = BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
        let contents = Contents { store, session, handle, ahead: HashMap::new() };
        let written = match format {
            Format::Zip => zip(&snapshot, contents, out),
            Format::TarZst => tar_zst(&snapshot, contents, out),
        };
        if let Err(why) = written
            && why.kind() != io::ErrorKind::BrokenPipe
        {
            tracing::warn!(%session, %why, "an archive was cut short");
            // The answer began long ago: breaking it off is the only way left to say that it is not whole.
            let _ = sender.blocking_send(Err(why));
        }
        drop(place);
    });
    let mut response = warp::reply::stream(stream::poll_fn(move |cx| pieces.poll_recv(cx))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in [(header::CONTENT_DISPOSITION, disposition), (header::ETAG, etag)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

/// Writes pieces of the answer.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Contents by hash, read some ahead so that small files don't cost a query each.
struct Contents {
    store: Store,
    session: SessionId,
    handle: Handle,
    ahead: HashMap<Hash, Bytes>,
}

impl Contents {
    /// A large content, read as it is written.
    fn large(&self, entry: &Entry) -> io::Result<Reading> {
        let opening = self.store.open_content(self.session, entry.hash);
        let content = self.handle.block_on(opening).map_err(io::Error::other)?;
        Ok(Reading { handle: self.handle.clone(), pieces: content.read(0, entry.size), piece: Bytes::new() })
    }

    /// The content of `items[0]`; those of the items behind it may be read along.
    fn of(&mut self, items: &[(WorkspacePath, Item)]) -> io::Result<Bytes> {
        let Some((path, item)) = items.first() else { return Ok(Bytes::new()) };
        if item.entry.size == 0 {
            return Ok(Bytes::new());
        }
        let hash = item.entry.hash;
        if !self.ahead.contains_key(&hash) {
            let mut bytes = 0;
            let wanted = items
                .iter()
                .map(|(_, item)| item.entry)
                .filter(|entry| entry.size > 0 && !is_large(entry.size));
            let wanted = wanted.take(READ_ITEMS);
            let mut hashes: Vec<Hash> = wanted
                .take_while(|entry| {
                    let fits = bytes == 0 || bytes + entry.size <= READ_BYTES;
                    bytes += entry.size;
                    fits
                })
                .map(|entry| entry.hash)
                .collect();
            hashes.sort_unstable();
            hashes.dedup();
            let read =
                self.handle.block_on(self.store.blobs(self.session, &hashes)).map_err(io::Error::other)?;
            self.ahead = read.into_iter().collect();
        }
        // Kept: the next file may be the same.
        self.ahead
            .get(&hash)
            .cloned()
            .ok_or_else(|| io::Error::other(format!("the content of {path:?} is missing")))
    }
}

/// Reads a content's pieces, blocking.
struct Reading {
    handle: Handle,
    pieces: BoxStream<'static, workspace::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.handle.block_on(self.pieces.next()) {
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let some = self.piece.len().min(buffer.len());
        buffer[..some].copy_from_slice(&self.piece.split_to(some));
        Ok(some)
    }
}

/// Text of a symlink.
fn target(bytes: &Bytes) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(io::Error::other)
}

fn zip(snapshot: &Snapshot, mut contents: Contents, out: impl Write) -> io::Result<()> {
    let mut zip = zip::ZipWriter::new_stream(out);
    for (i, (path, item)) in snapshot.items.iter().enumerate() {
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .unix_permissions(item.entry.mode)
            .large_file(item.entry.size > u64::from(u32::MAX));
        match item.entry.kind {
            Kind::Dir => zip.add_directory(path.as_str(), options).map_err(io::Error::other)?,
            Kind::Symlink => {
                let bytes = contents.of(&snapshot.items[i..])?;
                zip.add_symlink(path.as_str(), target(&bytes)?, options).map_err(io::Error::other)?;
            }
            Kind::File if is_large(item.entry.size) => {
                zip.start_file(path.as_str(), options).map_err(io::Error::other)?;
                io::copy(&mut contents.large(&item.entry)?, &mut zip)?;
            }
            Kind::File => {
                let bytes = contents.of(&snapshot.items[i..])?;
                zip.start_file(path.as_str(), options).map_err(io::Error::other)?;
                zip.write_all(&bytes)?;
            }
        }
    }
    zip.finish().map_err(io::Error::other)?.into_inner().flush()
}

fn tar_zst(snapshot: &Snapshot, mut contents: Contents, out: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(zstd::Encoder::new(out, LEVEL)?);
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    for (i, (path, item)) in snapshot.items.iter().enumerate() {
        let mut header = tar::Header::new_gnu();
        header.set_mode(item.entry.mode);
        header.set_mtime(now);
        match item.entry.kind {
            Kind::Dir => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                tar.append_data(&mut header, format!("{path}/"), io::empty())?;
            }
            Kind::Symlink => {
                let bytes = contents.of(&snapshot.items[i..])?;
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path.as_str(), target(&bytes)?)?;
            }
            Kind::File if is_large(item.entry.size) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(item.entry.size);
                tar.append_data(&mut header, path.as_str(), contents.large(&item.entry)?)?;
            }
            Kind::File => {
                let bytes = contents.of(&snapshot.items[i..])?;
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path.as_str(), &bytes[..])?;
            }
        }
    }
    tar.into_inner()?.finish()?.flush()
}
