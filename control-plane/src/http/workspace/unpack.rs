//! Archives that users send, taken apart without trust: every path is checked, every size counted as it is
//! unpacked, and nothing an archive says of itself is believed.

use shared::limits::SyncLimits;
use shared::path::{BadPath, WorkspacePath};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::rc::Rc;

/// Bytes that any archive may unpack to, however small it is; above, the ratio counts.
const ALWAYS_BYTES: u64 = 16 << 20;
/// Bytes of a symlink's target.
const TARGET_BYTES: u64 = 4096;
/// The largest window of zstd that is accepted, as a power of two: 8 MiB.
const WINDOW_LOG: u32 = 23;
/// Bytes between a tar's contents: heads, and long names and other attributes, which are held in memory. Real ones
/// have a few kilobytes.
const BETWEEN_BYTES: u64 = 1 << 20;
/// Bytes of a zip's directory for each item allowed: it is held in memory, with several times its size. Real ones
/// have some 100.
const DIRECTORY_BYTES_PER_ITEM: u64 = 256;
/// Characters of a name that are shown in an answer.
const SHOWN_CHARACTERS: usize = 200;

/// Something that an archive holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unpacked {
    /// A file with its bytes and permission bits.
    File(WorkspacePath, Vec<u8>, Option<u32>),
    /// A folder.
    Dir(WorkspacePath),
    /// A symlink and its target.
    Symlink(WorkspacePath, String),
    /// Something left out, and why: `hard_link`, `special_file`, `symlink_outside`.
    Skipped(String, &'static str),
}

/// Why an archive is refused as a whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// Neither zip nor tar.
    #[error("the body is not a zip, tar.zst, tar.gz or tar archive")]
    Unknown,
    /// It cannot be read to its end.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// It wants to write where it may not.
    #[error("the archive names {0:?}: {1}")]
    Path(String, BadPath),
    /// A name that isn't UTF-8.
    #[error("the archive names {0:?}, which is not UTF-8")]
    NotUtf8(String),
    /// A file over the limit.
    #[error("{0:?} in the archive is over the limit of {1} bytes")]
    FileTooLarge(String, u64),
    /// Too much together.
    #[error("the archive unpacks to more than the workspace's {0} bytes")]
    TooLarge(u64),
    /// Too many together.
    #[error("the archive holds more than the workspace's {0} items")]
    TooMany(u64),
    /// A bomb.
    #[error("the archive unpacks to over {0} times its size")]
    Bomb(u64),
    /// What came out of it could not be taken in.
    #[error("the archive could not be taken in")]
    Sink,
}

impl Refused {
    /// A stable name for programs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "bad_format",
            Self::Damaged(_) => "archive_damaged",
            Self::Path(_, bad) => bad.code(),
            Self::NotUtf8(_) => "path_not_utf8",
            Self::FileTooLarge(..) => "file_too_large",
            Self::TooLarge(_) => "workspace_full",
            Self::TooMany(_) => "too_many_items",
            Self::Bomb(_) => "archive_bomb",
            Self::Sink => "internal",
        }
    }
}

impl From<io::Error> for Refused {
    fn from(why: io::Error) -> Self {
        Self::Damaged(why.to_string())
    }
}

/// Takes an archive apart, in its order, and gives each piece to `sink`, which may stop it. Holds one file.
pub(super) fn unpack(
    archive: &mut File,
    limits: &SyncLimits,
    sink: &mut dyn FnMut(Unpacked) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let size = archive.seek(SeekFrom::End(0))?;
    archive.seek(SeekFrom::Start(0))?;
    let mut magic = Vec::new();
    archive.by_ref().take(4).read_to_end(&mut magic)?;
    archive.seek(SeekFrom::Start(0))?;
    let mut budget = Budget { limits, archive: size, bytes: 0, items: 0 };
    match magic.as_slice() {
        [b'P', b'K', 3, 4] | [b'P', b'K', 5, 6] => zip(archive, &mut budget, sink),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::Decoder::new(archive)?;
            decoder.window_log_max(WINDOW_LOG)?;
            tar(decoder, &mut budget, sink)
        }
        [0x1f, 0x8b, ..] => {
            tar(flate2::read::MultiGzDecoder::new(BufReader::new(archive)), &mut budget, sink)
        }
        [] => Err(Refused::Unknown),
        _ => match tar_magic(archive)? {
            true => tar(BufReader::new(archive), &mut budget, sink),
            false => Err(Refused::Unknown),
        },
    }
}

fn tar_magic(archive: &mut File) -> io::Result<bool> {
    let mut head = Vec::new();
    archive.by_ref().take(512).read_to_end(&mut head)?;
    archive.seek(SeekFrom::Start(0))?;
    Ok(head.get(257..262) == Some(b"ustar"))
}

/// What is still allowed to come out.
struct Budget<'a> {
    limits: &'a SyncLimits,
    archive: u64,
    bytes: u64,
    items: u64,
}

impl Budget<'_> {
    fn item(&mut self) -> Result<(), Refused> {
        self.items += 1;
        let limit = self.limits.workspace_items;
        if self.items > limit { Err(Refused::TooMany(limit)) } else { Ok(()) }
    }

    fn spend(&mut self, bytes: u64) -> Result<(), Refused> {
        self.bytes += bytes;
        let (limit, ratio) = (self.limits.workspace_bytes, self.limits.expansion_ratio);
        if self.bytes > limit {
            return Err(Refused::TooLarge(limit));
        }
        if self.bytes > ALWAYS_BYTES && self.bytes > self.archive.saturating_mul(ratio) {
            return Err(Refused::Bomb(ratio));
        }
        Ok(())
    }

    /// Passes over what is left of an entry.
    fn skip(&mut self, mut from: impl Read) -> Result<(), Refused> {
        let mut piece = [0; 4096];
        loop {
            match from.read(&mut piece)? {
                0 => return Ok(()),
                read => self.spend(read as u64)?,
            }
        }
    }

    /// All of a file, stopped as soon as it is too much of any kind.
    fn read(&mut self, name: &str, mut from: impl Read) -> Result<Vec<u8>, Refused> {
        let limit = self.limits.file_bytes;
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut piece)?;
            if read == 0 {
                return Ok(bytes);
            }
            self.spend(read as u64)?;
            if (bytes.len() + read) as u64 > limit {
                return Err(Refused::FileTooLarge(name.to_owned(), limit));
            }
            bytes.extend_from_slice(&piece[..read]);
        }
    }
}

/// Reads no more than is allowed just now, which its other holder says: what the archive's own readers hold in memory
/// is not for the archive to decide.
struct Gated<R> {
    inner: R,
    allowed: Rc<Cell<u64>>,
}

impl<R> Gated<R> {
    fn new(inner: R) -> (Self, Rc<Cell<u64>>) {
        let allowed = Rc::new(Cell::new(0));
        (Self { inner, allowed: Rc::clone(&allowed) }, allowed)
    }
}

impl<R: Read> Read for Gated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = self.allowed.get();
        if allowed == 0 && !buffer.is_empty() {
            return Err(io::Error::other("its names and attributes are longer than any real ones"));
        }
        let most = usize::try_from(allowed).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        self.allowed.set(allowed - read as u64);
        Ok(read)
    }
}

impl<R: Seek> Seek for Gated<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// A name for people, cut to what an answer should carry.
fn shown(name: &str) -> String {
    match name.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// The path that an archive names; none for the archive's own top, `./`.
fn path(name: &[u8]) -> Result<Option<WorkspacePath>, Refused> {
    let text =
        std::str::from_utf8(name).map_err(|_| Refused::NotUtf8(shown(&String::from_utf8_lossy(name))))?;
    let mut relative = text;
    while let Some(rest) = relative.strip_prefix("./") {
        relative = rest;
    }
    let relative = relative.strip_suffix('/').unwrap_or(relative);
    if relative.is_empty() || relative == "." {
        return if text.starts_with('/') {
            Err(Refused::Path(shown(text), BadPath::Absolute))
        } else {
            Ok(None)
        };
    }
    // Some Windows programs write these; they would become part of a name.
    let relative = if relative.contains('\\') && !relative.contains('/') {
        relative.replace('\\', "/")
    } else {
        relative.to_owned()
    };
    WorkspacePath::new(relative).map(Some).map_err(|bad| Refused::Path(shown(text), bad))
}

/// A symlink, unless it points out of the workspace.
fn symlink(path: WorkspacePath, target: String) -> Unpacked {
    let mut depth = path.depth() as i64 - 1;
    let mut outside = target.starts_with('/') || target.is_empty() || target.contains('\0');
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        outside |= depth < 0;
    }
    if outside {
        Unpacked::Skipped(path.to_string(), "symlink_outside")
    } else {
        Unpacked::Symlink(path, target)
    }
}

fn zip(
    archive: &mut File,
    budget: &mut Budget<'_>,
    sink: &mut dyn FnMut(Unpacked) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let damaged = |why: zip::result::ZipError| Refused::Damaged(why.to_string());
    let (gated, allowed) = Gated::new(archive);
    allowed.set(budget.limits.workspace_items.saturating_mul(DIRECTORY_BYTES_PER_ITEM) + BETWEEN_BYTES);
    let mut zip = zip::ZipArchive::new(BufReader::new(gated)).map_err(damaged)?;
    // From here on, what is unpacked counts.
    allowed.set(u64::MAX);
    if zip.len() as u64 > budget.limits.workspace_items {
        return Err(Refused::TooMany(budget.limits.workspace_items));
    }
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).map_err(damaged)?;
        let name = entry.name_raw().to_vec();
        budget.item()?;
        let Some(path) = path(&name)? else { continue };
        let unpacked = if entry.is_dir() {
            Unpacked::Dir(path)
        } else if entry.is_symlink() {
            let target = budget.read(path.as_str(), (&mut entry).take(TARGET_BYTES))?;
            let target = String::from_utf8(target).map_err(|_| Refused::NotUtf8(path.to_string()))?;
            symlink(path, target)
        } else {
            let mode = entry.unix_mode().map(|mode| mode & 0o777).filter(|mode| *mode != 0);
            let bytes = budget.read(path.as_str(), &mut entry)?;
            Unpacked::File(path, bytes, mode)
        };
        sink(unpacked)?;
    }
    Ok(())
}

fn tar(
    from: impl Read,
    budget: &mut Budget<'_>,
    sink: &mut dyn FnMut(Unpacked) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let (gated, allowed) = Gated::new(from);
    let mut tar = tar::Archive::new(gated);
    let mut entries = tar.entries()?;
    loop {
        allowed.set(BETWEEN_BYTES);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry?;
        // From here on, what is unpacked counts.
        allowed.set(u64::MAX);
        budget.item()?;
        let name = entry.path_bytes().into_owned();
        let Some(path) = path(&name)? else {
            budget.skip(entry)?;
            continue;
        };
        let kind = entry.header().entry_type();
        let unpacked = match kind {
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let mode = entry.header().mode().ok().map(|mode| mode & 0o777);
                let bytes = budget.read(path.as_str(), &mut entry)?;
                Unpacked::File(path, bytes, mode)
            }
            tar::EntryType::Directory => Unpacked::Dir(path),
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
                let target = String::from_utf8(target).map_err(|_| Refused::NotUtf8(path.to_string()))?;
                symlink(path, target)
            }
            tar::EntryType::Link => Unpacked::Skipped(path.to_string(), "hard_link"),
            tar::EntryType::XGlobalHeader => {
                budget.skip(entry)?;
                continue;
            }
            _ => Unpacked::Skipped(path.to_string(), "special_file"),
        };
        sink(unpacked)?;
        budget.skip(entry)?;
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
