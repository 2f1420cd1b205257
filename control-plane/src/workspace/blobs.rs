//! Contents: hashed, compressed where that helps, kept once for each owner; large ones as the parts they are made of.

use super::parts;
use super::sql::{Column, Rows, Sql, read_hash};
use super::{Error, Result};
use crate::entities::now_ms;
use bytes::{Bytes, BytesMut};
use sea_orm::{ConnectionTrait, QueryResult};
use shared::chunk::{self, Packed, Part, Recipe};
use shared::tree::Hash;
use std::collections::{HashMap, HashSet};

/// Bytes of each row of `blob_chunks`, in which large contents were kept before they were kept in parts.
const CHUNK_BYTES: usize = 1 << 20;
/// Encoded bytes of all contents of a commit up to which they are written while the workspace is locked.
pub(super) const INLINE_BYTES: usize = 256 * 1024;
/// Contents shorter than this gain nothing from compression.
const COMPRESS_FROM: usize = 64;
/// How much of a content is compressed to see whether it is worth it.
const PROBE_BYTES: usize = 64 * 1024;
/// Content bytes in one statement.
const STATEMENT_BYTES: usize = 8 << 20;
/// Bytes from which encoding moves off the async threads: it would take over a millisecond.
const BLOCKING_BYTES: usize = 128 * 1024;
/// zstd's level: 3 is the knee of its curve.
const LEVEL: i32 = 3;

const STORED: i64 = 0;
const ZSTD: i64 = 1;
/// The content is its parts, one after the other; the row holds no bytes.
const PARTS: i64 = 2;

/// A content, ready to be written.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) hash: Hash,
    pub(super) size: u64,
    encoding: i64,
    data: Bytes,
    /// What a large one is made of; its parts are written before it.
    parts: Vec<Part>,
}

impl Blob {
    /// Hashes and encodes a content that isn't large.
    pub(super) fn encode(bytes: Bytes) -> Self {
        let hash = Hash::of(&bytes);
        let size = bytes.len() as u64;
        match compress(&bytes) {
            Some(data) => Self { hash, size, encoding: ZSTD, data: data.into(), parts: Vec::new() },
            None => Self { hash, size, encoding: STORED, data: bytes, parts: Vec::new() },
        }
    }

    /// A part, as it was packed. The caller has verified that it is what it says.
    pub(super) fn part(part: Part, packed: Packed) -> Self {
        let encoding = if packed.zstd { ZSTD } else { STORED };
        Self { hash: part.hash, size: u64::from(part.size), encoding, data: packed.data, parts: Vec::new() }
    }

    /// A large content. The caller has verified that these are its parts.
    pub(super) fn made_of(recipe: Recipe) -> Self {
        let Recipe { hash, size, parts } = recipe;
        Self { hash, size, encoding: PARTS, data: Bytes::new(), parts }
    }

    /// The content again; a large one has none at hand.
    pub(super) fn decode(&self) -> Result<Bytes> {
        decode(self.hash, self.encoding, self.data.clone(), self.size as usize)
    }

    /// Bytes that are written.
    pub(super) fn stored_bytes(&self) -> usize {
        self.data.len()
    }

    /// What a large content is made of.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether it is kept as parts.
    pub(super) fn is_large(&self) -> bool {
        self.encoding == PARTS
    }
}

/// Encodes all, each content once, large ones with their parts, sorted by hash: commits that share contents then
/// meet in the same order and cannot block each other in a circle.
pub(super) async fn encode_all(contents: Vec<Bytes>) -> Result<Vec<Blob>> {
    let bytes: usize = contents.iter().map(Bytes::len).sum();
    let encode = move || {
        let mut blobs = Vec::with_capacity(contents.len());
        for content in contents {
            encode_one(content, &mut blobs)?;
        }
        blobs.sort_by_key(|blob| blob.hash);
        blobs.dedup_by_key(|blob| blob.hash);
        Ok(blobs)
    };
    if bytes <= BLOCKING_BYTES {
        return encode();
    }
    tokio::task::spawn_blocking(encode).await.unwrap_or_else(|error| Err(Error::Damaged(error.to_string())))
}

fn encode_one(bytes: Bytes, blobs: &mut Vec<Blob>) -> Result<()> {
    if !chunk::is_large(bytes.len() as u64) {
        blobs.push(Blob::encode(bytes));
        return Ok(());
    }
    let recipe = chunk::cut(&bytes[..], |part, data| {
        blobs.push(Blob::part(part, Packed::pack(data)));
        Ok(())
    });
    blobs.push(Blob::made_of(recipe.map_err(|error| Error::Damaged(error.to_string()))?));
    Ok(())
}

fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < COMPRESS_FROM {
        return None;
    }
    let worth_it = |input: &[u8], output: &[u8]| output.len() < input.len() - input.len() / 20;
    if bytes.len() > PROBE_BYTES {
        let probe = &bytes[..PROBE_BYTES];
        if !worth_it(probe, &zstd::bulk::compress(probe, LEVEL).ok()?) {
            return None;
        }
    }
    zstd::bulk::compress(bytes, LEVEL).ok().filter(|output| worth_it(bytes, output))
}

/// The rows that hold `blobs`, without what large ones are made of. Ones that are there already are only touched,
/// which keeps the sweep away; to another time than theirs in any case, so that whoever stored one can tell.
pub(super) fn rows(owner: i64, blobs: &[Blob], at: i64) -> Rows {
    let touch = "ON CONFLICT (owner_id, hash) DO UPDATE SET touched_at =
        CASE WHEN excluded.touched_at > blobs.touched_at THEN excluded.touched_at ELSE blobs.touched_at + 1 END";
    Rows::into_table("blobs", touch)
        .same("owner_id", "bigint", owner)
        .same("touched_at", "bigint", at)
        .column("hash", Column::Bytes(blobs.iter().map(|blob| blob.hash.0.to_vec()).collect()))
        .column("size", Column::Number(blobs.iter().map(|blob| blob.size as i64).collect()))
        .column("encoding", Column::Number(blobs.iter().map(|blob| blob.encoding).collect()))
        .column("chunks", Column::Number(blobs.iter().map(|blob| blob.parts.len() as i64).collect()))
        .column("data", Column::Bytes(blobs.iter().map(|blob| blob.data.to_vec()).collect()))
}

/// Writes contents in statements of a bounded size, those that the owner has already without their bytes. Answers
/// which were new and the bytes of each: none for a large one, whose parts count.
pub(super) async fn upload(
    db: &impl ConnectionTrait,
    owner: i64,
    blobs: &[Blob],
    at: i64,
) -> Result<Vec<(Hash, u64)>> {
    let of_large: HashSet<Hash> = blobs.iter().flat_map(|blob| &blob.parts).map(|part| part.hash).collect();
    let (of_large, whole): (Vec<Hash>, Vec<Hash>) =
        blobs.iter().map(|blob| blob.hash).partition(|hash| of_large.contains(hash));
    let mut known = touch(db, owner, &whole).await?;
    known.extend(parts::known(db, owner, &of_large).await?);
    let missing: Vec<&Blob> = blobs.iter().filter(|blob| !known.contains(&blob.hash)).collect();
    let (large, small): (Vec<&Blob>, Vec<&Blob>) = missing.iter().partition(|blob| blob.is_large());
    write_rows(db, owner, &small, at).await?;
    for large in large {
        parts::write(db, owner, large, at).await?;
    }
    Ok(missing.iter().map(|blob| (blob.hash, if blob.is_large() { 0 } else { blob.size })).collect())
}

/// Writes contents that aren't large.
pub(super) async fn write_rows(
    db: &impl ConnectionTrait,
    owner: i64,
    blobs: &[&Blob],
    at: i64,
) -> Result<()> {
    let mut rest = blobs;
    while !rest.is_empty() {
        let mut bytes = 0;
        let take = rest
            .iter()
            .take_while(|blob| {
                let first = bytes == 0;
                bytes += blob.data.len();
                first || bytes <= STATEMENT_BYTES
            })
            .count()
            .max(1);
        let part: Vec<Blob> = rest[..take].iter().map(|blob| (*blob).clone()).collect();
        let nothing = Sql::of(db.get_database_backend(), "SELECT 1", []);
        Rows::write(vec![rows(owner, &part, at)], nothing, db).await?;
        rest = &rest[take..];
    }
    Ok(())
}

/// Which of these the owner has; they are safe from the sweep for its grace from now on, and from whoever stored them
/// and has no need of them.
pub(super) async fn touch(db: &impl ConnectionTrait, owner: i64, hashes: &[Hash]) -> Result<HashSet<Hash>> {
    let mut known = HashSet::new();
    for part in hashes.chunks(10_000) {
        let mut sql = Sql::new(db.get_database_backend());
        let now = now_ms();
        sql.push("UPDATE blobs SET touched_at = CASE WHEN touched_at < ").bind(now).push(" THEN ").bind(now);
        sql.push(" ELSE touched_at + 1 END WHERE owner_id = ").bind(owner);
        sql.push(" AND ").one_of_bytes("hash", part.iter().map(|hash| hash.0.to_vec()).collect());
        sql.push(" RETURNING hash");
        for row in sql.all(db).await? {
            known.insert(read_hash(&row, "hash")?);
        }
    }
    Ok(known)
}

/// Which of these the owner has, and how large they are.
pub(super) async fn sizes(
    db: &impl ConnectionTrait,
    owner: i64,
    hashes: &[Hash],
) -> Result<HashMap<Hash, u64>> {
    let mut known = HashMap::new();
    for part in hashes.chunks(10_000) {
        let mut sql = Sql::new(db.get_database_backend());
        sql.push("SELECT hash, size FROM blobs WHERE owner_id = ").bind(owner).push(" AND ");
        sql.one_of_bytes("hash", part.iter().map(|hash| hash.0.to_vec()).collect());
        for row in sql.all(db).await? {
            known.insert(read_hash(&row, "hash")?, row.try_get::<i64>("", "size")?.max(0) as u64);
        }
    }
    Ok(known)
}

/// A content's bytes as they are packed, from a row with `encoding` and `data`; not a large one's.
pub(super) fn read_packed(row: &QueryResult) -> Result<Packed> {
    let zstd = row.try_get::<i64>("", "encoding")? == ZSTD;
    Ok(Packed { zstd, data: row.try_get::<Vec<u8>>("", "data")?.into() })
}

/// Whether a row with `encoding` is that of a content in parts.
pub(super) fn is_in_parts(row: &QueryResult) -> Result<bool> {
    Ok(row.try_get::<i64>("", "encoding")? == PARTS)
}

/// The columns that [`read`] needs, of the table or alias `b`.
pub(super) const COLUMNS: &str =
    "b.owner_id AS blob_owner, b.hash AS blob_hash, b.size AS blob_size, b.encoding, b.chunks, b.data";

/// The content in a row with [`COLUMNS`]; large ones take a query of their own.
pub(super) async fn read(db: &impl ConnectionTrait, row: &QueryResult) -> Result<(Hash, Bytes)> {
    let hash = read_hash(row, "blob_hash")?;
    let size = row.try_get::<i64>("", "blob_size")?.max(0) as usize;
    let encoding: i64 = row.try_get("", "encoding")?;
    let chunks: i64 = row.try_get("", "chunks")?;
    let mut data = Bytes::from(row.try_get::<Vec<u8>>("", "data")?);
    if encoding == PARTS {
        let owner: i64 = row.try_get("", "blob_owner")?;
        return Ok((hash, parts::join(db, owner, hash, size).await?));
    }
    if chunks > 0 {
        let owner: i64 = row.try_get("", "blob_owner")?;
        let parts = Sql::of(
            db.get_database_backend(),
            "SELECT data FROM blob_chunks WHERE owner_id = $1 AND hash = $2 ORDER BY seq",
            [owner.into(), hash.0.to_vec().into()],
        );
        let mut joined = BytesMut::with_capacity(chunks as usize * CHUNK_BYTES);
        for part in parts.all(db).await? {
            joined.extend_from_slice(&part.try_get::<Vec<u8>>("", "data")?);
        }
        data = joined.freeze();
    }
    let bytes = if size > BLOCKING_BYTES {
        tokio::task::spawn_blocking(move || decode(hash, encoding, data, size))
            .await
            .unwrap_or_else(|error| Err(Error::Damaged(format!("{hash}: {error}"))))?
    } else {
        decode(hash, encoding, data, size)?
    };
    Ok((hash, bytes))
}

fn decode(hash: Hash, encoding: i64, data: Bytes, size: usize) -> Result<Bytes> {
    let bytes = match encoding {
        STORED => data,
        ZSTD => zstd::bulk::decompress(&data, size)
            .map(Bytes::from)
            .map_err(|error| Error::Damaged(format!("{hash}: {error}")))?,
        other => return Err(Error::Damaged(format!("{hash}: unknown encoding {other}"))),
    };
    if bytes.len() != size {
        return Err(Error::Damaged(format!("{hash}: {} bytes instead of {size}", bytes.len())));
    }
    Ok(bytes)
}

/// Contents by their hashes; those that the owner hasn't are left out.
pub(super) async fn fetch(
    db: &impl ConnectionTrait,
    owner: i64,
    hashes: &[Hash],
) -> Result<HashMap<Hash, Bytes>> {
    let mut found = HashMap::with_capacity(hashes.len());
    // A statement's answer is held in memory at once: not more than a batch may bring.
    for part in hashes.chunks(1_000) {
        let mut sql = Sql::new(db.get_database_backend());
        sql.push("SELECT ").push(COLUMNS).push(" FROM blobs b WHERE b.owner_id = ").bind(owner).push(" AND ");
        sql.one_of_bytes("b.hash", part.iter().map(|hash| hash.0.to_vec()).collect());
        for row in sql.all(db).await? {
            let (hash, bytes) = read(db, &row).await?;
            found.insert(hash, bytes);
        }
    }
    Ok(found)
}

/// Encoding, number of parts and bytes of a row that is in parts from now on.
pub(super) fn in_parts_values(parts: usize) -> [sea_orm::Value; 3] {
    [PARTS.into(), (parts as i64).into(), Vec::<u8>::new().into()]
}
