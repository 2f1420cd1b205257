//! The batch: one atomic set of file changes, as tar in zstd.
//!
//! ```text
//! zstd( tar: entry 0   "manifest"      the operations, MessagePack
//!            then      "b/<blake3>"    their contents, in the manifest's order, each once )
//! ```
//! Paths stand only in the manifest, so no tar header can express traversal, links or duplicates; an entry of any
//! other type or name refuses the whole batch. Contents may be left out where the other side has them.

use crate::id::ItemId;
use crate::limits::{PATH_BYTES, SyncLimits};
use crate::path::WorkspacePath;
use crate::tree::{Entry, Hash, Kind};
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// The tar entry that holds the operations.
const MANIFEST: &str = "manifest";
/// Before a content's hash in its tar entry's name.
const CONTENT_PREFIX: &str = "b/";
/// Bytes of manifest for each item allowed, beside a path: ids, hashes, numbers and their names.
const MANIFEST_BYTES_PER_ITEM: u64 = 512;
/// How deep a manifest nests; lists of operations are flat, and deeper ones would only use up the stack.
const MANIFEST_DEPTH: usize = 32;
/// Log2 of the largest window that a batch may make the other side allocate.
const WINDOW_LOG: u32 = 23;
/// An encoder makes a batch at least this fraction of what it unpacks to; well below any limit on expansion.
const PADDED_RATIO: u64 = 100;
/// Up to this many bytes, a batch is compressed harder. What cannot be compressed is not sought out first: the
/// compressor itself stores it as it is, at half a gigabyte in a second and more.
const SMALL_BYTES: u64 = 4 << 20;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// The path holds this.
    Put {
        /// Where.
        path: WorkspacePath,
        /// Its id, where the sender knows one.
        item: Option<ItemId>,
        /// What.
        entry: Entry,
        /// What the sender's base holds there.
        pre: Option<Entry>,
    },
    /// Nothing is there.
    Delete {
        /// Where.
        path: WorkspacePath,
        /// Its id, where the sender knows one.
        item: Option<ItemId>,
        /// What the sender's base holds there.
        pre: Option<Entry>,
    },
    /// The item at `from`, and all it holds, is at `to`.
    Rename {
        /// From where.
        from: WorkspacePath,
        /// To where.
        to: WorkspacePath,
        /// Its id, where the sender knows one.
        item: Option<ItemId>,
        /// What is at `to`: a rename may come with an edit.
        entry: Entry,
        /// What the sender's base holds at `from`.
        pre: Option<Entry>,
    },
}

impl Op {
    /// Where its effect is.
    pub fn path(&self) -> &WorkspacePath {
        match self {
            Self::Put { path, .. } | Self::Delete { path, .. } => path,
            Self::Rename { to, .. } => to,
        }
    }

    /// What is there after it.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Put { entry, .. } | Self::Rename { entry, .. } => Some(entry),
            Self::Delete { .. } => None,
        }
    }

    /// The hash of the content that it needs.
    pub fn content(&self) -> Option<Hash> {
        self.entry().filter(|e| e.kind != Kind::Dir).map(|e| e.hash)
    }
}

/// Why a batch is refused as a whole.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// It has more operations than allowed, or than its head says.
    #[error("the batch has {0} operations, more than the {1} allowed")]
    TooManyItems(u64, u64),
    /// It unpacks to more bytes than allowed.
    #[error("the batch unpacks to more than the {0} bytes allowed")]
    TooLarge(u64),
    /// It unpacks to more for each of its bytes than any real files do.
    #[error("the batch unpacks to more than {0} times its size")]
    Bomb(u64),
    /// One file is larger than allowed.
    #[error("a file of the batch has {0} bytes, more than the {1} allowed")]
    FileTooLarge(u64, u64),
    /// A tar entry is none that a batch has.
    #[error("the batch has an entry that none may have")]
    ForeignEntry,
    /// The manifest is missing, unreadable or inconsistent.
    #[error("the batch's manifest is wrong: {0}")]
    Manifest(String),
    /// A content is not what its name says.
    #[error("a content of the batch does not have the hash it goes by")]
    WrongHash,
    /// A content is of no operation, out of order, or there twice.
    #[error("a content of the batch is out of place")]
    ContentOutOfPlace,
    /// Its numbers are not those of its head and end.
    #[error("the batch is not what its head and end say: {0}")]
    Inconsistent(&'static str),
    /// It is no zstd or no tar, or could not be read or written.
    #[error("the batch could not be unpacked: {0}")]
    Io(#[from] io::Error),
}

/// An encoded batch, with what its head and end say of it.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The compressed bytes.
    pub data: Vec<u8>,
    /// Operations.
    pub items: u64,
    /// Uncompressed bytes of the tar.
    pub bytes: u64,
    /// BLAKE3 of the uncompressed tar.
    pub tar_hash: Hash,
}

/// Encodes operations and those of their contents that `content` opens; one that it answers `None` for is left out.
///
/// A content that doesn't have the asked size and hash any more is [`BatchError::WrongHash`]: the file changed
/// meanwhile. Contents are streamed; only the compressed batch is held.
pub fn encode<R: Read>(
    ops: &[Op],
    mut content: impl FnMut(Hash) -> io::Result<Option<R>>,
) -> Result<Encoded, BatchError> {
    let manifest = rmp_serde::to_vec_named(ops).map_err(|e| BatchError::Manifest(e.to_string()))?;
    let expected: u64 = ops.iter().filter_map(Op::entry).map(|e| e.size).sum();
    let level = if expected <= SMALL_BYTES { 3 } else { 1 };
    let mut compressor = zstd::Encoder::new(Vec::new(), level)?;
    compressor.window_log(WINDOW_LOG.min(21))?;
    let mut tar = tar::Builder::new(Measured::new(compressor));
    append(&mut tar, MANIFEST, manifest.len() as u64, &manifest[..])?;
    let mut done = HashSet::new();
    for entry in ops.iter().filter_map(Op::entry).filter(|e| e.kind != Kind::Dir) {
        if !done.insert(entry.hash) {
            continue;
        }
        if let Some(reader) = content(entry.hash)? {
            // One byte more is asked for, so that a file that grew is noticed.
            let mut reader = Measured::new(reader.take(entry.size + 1));
            let mut exact = (&mut reader).take(entry.size);
            append(&mut tar, &format!("{CONTENT_PREFIX}{}", entry.hash), entry.size, &mut exact).map_err(
                |why| {
                    if why.kind() == io::ErrorKind::UnexpectedEof {
                        BatchError::WrongHash
                    } else {
                        why.into()
                    }
                },
            )?;
            let right = reader.bytes == entry.size && *reader.hasher.finalize().as_bytes() == entry.hash.0;
            if !right || reader.read(&mut [0])? > 0 {
                return Err(BatchError::WrongHash);
            }
        }
    }
    let measured = tar.into_inner()?;
    let (bytes, tar_hash) = (measured.bytes, Hash(*measured.hasher.finalize().as_bytes()));
    let mut data = measured.inner.finish()?;
    pad(&mut data, bytes);
    Ok(Encoded { data, items: ops.len() as u64, bytes, tar_hash })
}

/// Real files may be nothing but zeros. They are not to look like a bomb, so what they unpack to is paid for with a
/// frame that every decoder skips.
fn pad(data: &mut Vec<u8>, bytes: u64) {
    const SKIPPABLE: [u8; 4] = 0x184D_2A50u32.to_le_bytes();
    let least = bytes / PADDED_RATIO;
    if let Some(missing) = least.checked_sub(data.len() as u64).filter(|missing| *missing > 0) {
        // A batch's bytes, divided, fit in a u32.
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        data.extend_from_slice(&SKIPPABLE);
        data.extend_from_slice(&missing.to_le_bytes());
        data.resize(data.len() + missing as usize, 0);
    }
}

fn append<W: Write>(tar: &mut tar::Builder<W>, name: &str, size: u64, bytes: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(size);
    tar.append_data(&mut header, name, bytes)
}

/// What a batch's head and end say, against which it is checked.
#[derive(Clone, Copy, Debug)]
pub struct Claims {
    /// Operations.
    pub items: u64,
    /// Uncompressed bytes of the tar.
    pub bytes: u64,
    /// BLAKE3 of the uncompressed tar.
    pub tar_hash: Hash,
    /// Compressed bytes that came.
    pub compressed: u64,
}

/// Decodes a batch from `data`, trusting nothing. `content` is given each content once, its hash verified. Nothing
/// it was given counts unless this answers Ok.
pub fn decode(
    data: impl Read,
    claims: Claims,
    limits: &SyncLimits,
    mut content: impl FnMut(Hash, Vec<u8>) -> io::Result<()>,
) -> Result<Vec<Op>, BatchError> {
    if claims.items > limits.batch_items {
        return Err(BatchError::TooManyItems(claims.items, limits.batch_items));
    }
    let manifest_limit = (claims.items + 1) * (MANIFEST_BYTES_PER_ITEM + 2 * PATH_BYTES as u64);
    // Beside the contents: the manifest, and a header and padding for each entry.
    let room = limits.batch_bytes + manifest_limit + (claims.items + 3) * 1024;
    if claims.bytes > room {
        return Err(BatchError::TooLarge(room));
    }
    // Small batches may be mostly padding.
    let ratio = limits.expansion_ratio;
    if claims.bytes > claims.compressed.saturating_mul(ratio).saturating_add((claims.items + 4) * 2048) {
        return Err(BatchError::Bomb(ratio));
    }
    let mut decompressor = zstd::Decoder::new(data)?;
    decompressor.window_log_max(WINDOW_LOG)?;
    let measured = Arc::new(Mutex::new(Measured::new(io::sink())));
    let capped = Capped { inner: decompressor, left: claims.bytes, measured: Arc::clone(&measured) };
    let mut archive = tar::Archive::new(capped);
    // Raw: a header that only describes the next one is an entry like any other, so none can change a name or size.
    let mut entries = archive.entries()?.raw(true);

    let mut first = entries.next().ok_or_else(|| BatchError::Manifest("it is missing".into()))??;
    if name(&first)? != MANIFEST || first.size() > manifest_limit {
        return Err(BatchError::Manifest("it is missing or too large".into()));
    }
    let mut manifest = Vec::new();
    first.read_to_end(&mut manifest)?;
    let ops = read_ops(&manifest, claims.items)?;
    check(&ops, limits)?;

    let mut due = ops.iter().filter_map(Op::entry).filter(|e| e.kind != Kind::Dir);
    let mut seen = HashSet::new();
    for entry in entries {
        let mut entry = entry?;
        let name = name(&entry)?;
        let hash =
            name.strip_prefix(CONTENT_PREFIX).and_then(Hash::from_hex).ok_or(BatchError::ForeignEntry)?;
        let expected = due.by_ref().find(|e| e.hash == hash).ok_or(BatchError::ContentOutOfPlace)?;
        if !seen.insert(hash) {
            return Err(BatchError::ContentOutOfPlace);
        }
        if entry.size() != expected.size {
            return Err(BatchError::Inconsistent("a content's size"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if Hash::of(&bytes) != hash {
            return Err(BatchError::WrongHash);
        }
        if expected.kind == Kind::Symlink && std::str::from_utf8(&bytes).map_or(true, |t| t.contains('\0')) {
            return Err(BatchError::Manifest("a symlink's target is no text".into()));
        }
        content(hash, bytes)?;
    }
    // Up to the very end, so that the whole is what was hashed.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    let measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
    if measured.bytes != claims.bytes {
        return Err(BatchError::Inconsistent("its length"));
    }
    if Hash(*measured.hasher.finalize().as_bytes()) != claims.tar_hash {
        return Err(BatchError::Inconsistent("its hash"));
    }
    Ok(ops)
}

fn name<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String, BatchError> {
    let regular = entry.header().entry_type() == tar::EntryType::Regular;
    let name = String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| BatchError::ForeignEntry)?;
    if regular { Ok(name) } else { Err(BatchError::ForeignEntry) }
}

/// Reads the operations, and stops at the first beyond what was claimed: a short manifest can name millions.
fn read_ops(manifest: &[u8], claimed: u64) -> Result<Vec<Op>, BatchError> {
    let mut reader = rmp_serde::Deserializer::new(manifest);
    reader.set_max_depth(MANIFEST_DEPTH);
    let mut too_many = false;
    let ops = Ops { claimed, too_many: &mut too_many }.deserialize(&mut reader);
    if too_many {
        return Err(BatchError::Inconsistent("its number of operations"));
    }
    let ops = ops.map_err(|e| BatchError::Manifest(e.to_string()))?;
    if ops.len() as u64 != claimed {
        return Err(BatchError::Inconsistent("its number of operations"));
    }
    if !reader.get_ref().is_empty() {
        return Err(BatchError::Manifest("something follows its operations".into()));
    }
    Ok(ops)
}

/// A list of operations that is read no further than claimed.
struct Ops<'a> {
    claimed: u64,
    too_many: &'a mut bool,
}

impl<'de> DeserializeSeed<'de> for Ops<'_> {
    type Value = Vec<Op>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Ops<'_> {
    type Value = Vec<Op>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of operations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut ops = Vec::new();
        while let Some(op) = seq.next_element()? {
            if ops.len() as u64 == self.claimed {
                *self.too_many = true;
                return Err(serde::de::Error::custom("more operations than claimed"));
            }
            ops.push(op);
        }
        Ok(ops)
    }
}

fn check(ops: &[Op], limits: &SyncLimits) -> Result<(), BatchError> {
    let mut paths = HashSet::with_capacity(ops.len());
    for op in ops {
        if !paths.insert(op.path()) {
            return Err(BatchError::Manifest(format!("{:?} is named twice", op.path())));
        }
        for entry in [op.entry()].into_iter().flatten() {
            let fits = match entry.kind {
                Kind::File => true,
                Kind::Dir => entry.size == 0 && entry.hash == Hash::of(b""),
                Kind::Symlink => entry.size <= PATH_BYTES as u64 && entry.mode == 0o777,
            };
            if entry.mode > 0o777 || !fits {
                return Err(BatchError::Manifest(format!("{:?} cannot be like that", op.path())));
            }
            if entry.size > limits.file_bytes {
                return Err(BatchError::FileTooLarge(entry.size, limits.file_bytes));
            }
        }
    }
    Ok(())
}

/// Counts and hashes what passes.
struct Measured<W> {
    inner: W,
    bytes: u64,
    hasher: blake3::Hasher,
}

impl<W> Measured<W> {
    fn new(inner: W) -> Self {
        Self { inner, bytes: 0, hasher: blake3::Hasher::new() }
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes += n as u64;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.bytes += n as u64;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Reads no more than was claimed, and measures it.
struct Capped<R> {
    inner: R,
    left: u64,
    measured: Arc<Mutex<Measured<io::Sink>>>,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // One byte more is asked for, so that a longer stream is noticed and not just cut.
        let most = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX).min(buf.len());
        let n = self.inner.read(&mut buf[..most])?;
        if n as u64 > self.left {
            return Err(io::Error::other("it is longer than it claims"));
        }
        self.left -= n as u64;
        self.measured.lock().unwrap_or_else(PoisonError::into_inner).write_all(&buf[..n])?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
