//! Large contents: which parts make one up, putting one together from parts that were sent, and reading one piece
//! by piece. A part is a content of its own, so that versions which share bytes share the parts that hold them.

use super::blobs::{self, Blob};
use super::sql::{Column, Rows, Sql, read_hash};
use super::{Database, Error, Result, Store};
use crate::entities::now_ms;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, SqlErr};
use shared::chunk::{BadParts, Packed, Part, Recipe};
use shared::id::SessionId;
use shared::tree::Hash;
use std::collections::{HashMap, HashSet};

/// Parts that are read from the database at once: 1 MiB on average.
const READ_PARTS: usize = 8;

/// Which of these parts the owner has. Until the transaction ends, PostgreSQL keeps the sweep from taking them.
pub(super) async fn known(db: &impl ConnectionTrait, owner: i64, parts: &[Hash]) -> Result<HashSet<Hash>> {
    let mut known = HashSet::new();
    let backend = db.get_database_backend();
    for some in parts.chunks(10_000) {
        let mut sql = Sql::new(backend);
        sql.push("SELECT hash FROM blobs WHERE owner_id = ").bind(owner).push(" AND ");
        sql.one_of_bytes("hash", some.iter().map(|hash| hash.0.to_vec()).collect());
        if backend == DbBackend::Postgres {
            sql.push(" FOR KEY SHARE");
        }
        for row in sql.all(db).await? {
            known.insert(read_hash(&row, "hash")?);
        }
    }
    Ok(known)
}

/// Writes a large content's row, and what it is made of; its parts are there already.
pub(super) async fn write(db: &impl ConnectionTrait, owner: i64, large: &Blob, at: i64) -> Result<()> {
    let nothing = || Sql::of(db.get_database_backend(), "SELECT 1", []);
    Rows::write(vec![blobs::rows(owner, std::slice::from_ref(large), at)], nothing(), db).await?;
    Rows::write(vec![rows(owner, large.hash, large.parts())], nothing(), db).await?;
    Ok(())
}

fn rows(owner: i64, hash: Hash, parts: &[Part]) -> Rows {
    Rows::into_table("blob_parts", "ON CONFLICT (owner_id, hash, seq) DO NOTHING")
        .same("owner_id", "bigint", owner)
        .same("hash", "bytea", hash.0.to_vec())
        .column("seq", Column::Number((0..parts.len() as i64).collect()))
        .column("part_hash", Column::Bytes(parts.iter().map(|part| part.hash.0.to_vec()).collect()))
        .column("size", Column::Number(parts.iter().map(|part| i64::from(part.size)).collect()))
}

/// A content's parts in their order; none if it isn't kept so.
async fn of_content(db: &impl ConnectionTrait, owner: i64, hash: Hash) -> Result<Vec<Part>> {
    let text = "SELECT part_hash, size FROM blob_parts WHERE owner_id = $1 AND hash = $2 ORDER BY seq";
    let rows =
        Sql::of(db.get_database_backend(), text, [owner.into(), hash.0.to_vec().into()]).all(db).await?;
    rows.iter().map(read_part).collect()
}

fn read_part(row: &QueryResult) -> Result<Part> {
    let size = row.try_get::<i64>("", "size")?;
    let size = u32::try_from(size).map_err(|_| Error::Damaged(format!("a part of {size} bytes")))?;
    Ok(Part { hash: read_hash(row, "part_hash")?, size })
}

/// Some parts' bytes as they are packed; those that aren't there are left out.
async fn packed(db: &impl ConnectionTrait, owner: i64, parts: &[Part]) -> Result<HashMap<Hash, Packed>> {
    let mut sql = Sql::new(db.get_database_backend());
    sql.push("SELECT hash, encoding, data FROM blobs WHERE owner_id = ").bind(owner).push(" AND ");
    sql.one_of_bytes("hash", parts.iter().map(|part| part.hash.0.to_vec()).collect());
    let mut found = HashMap::new();
    for row in sql.all(db).await? {
        found.insert(read_hash(&row, "hash")?, blobs::read_packed(&row)?);
    }
    Ok(found)
}

/// The bytes of parts that follow each other; reads as many as are given at once.
async fn bytes_of(db: &impl ConnectionTrait, owner: i64, parts: &[Part]) -> Result<Vec<Bytes>> {
    let found = packed(db, owner, parts).await?;
    let parts = parts.to_vec();
    let unpack = move || {
        let unpacked = parts.iter().map(|part| {
            let packed = found.get(&part.hash).ok_or(Error::PartsMissing)?;
            Ok(packed.unpack(*part)?)
        });
        unpacked.collect()
    };
    tokio::task::spawn_blocking(unpack).await.unwrap_or_else(|error| Err(Error::Damaged(error.to_string())))
}

/// A large content in memory, whole.
pub(super) async fn join(db: &impl ConnectionTrait, owner: i64, hash: Hash, size: usize) -> Result<Bytes> {
    let mut joined = BytesMut::with_capacity(size);
    for parts in of_content(db, owner, hash).await?.chunks(READ_PARTS) {
        for bytes in bytes_of(db, owner, parts).await.map_err(|why| damaged(hash, &why))? {
            joined.extend_from_slice(&bytes);
        }
    }
    if joined.len() != size {
        return Err(Error::Damaged(format!("{hash}: {} bytes instead of {size}", joined.len())));
    }
    Ok(joined.freeze())
}

/// What is stored does not fit together: nothing that whoever reads it could mend.
fn damaged(hash: Hash, why: &Error) -> Error {
    match why {
        Error::BadParts(_) | Error::PartsMissing => Error::Damaged(format!("{hash}: {why}")),
        Error::Database(why) => Error::Database(DbErr::Custom(why.to_string())),
        why => Error::Damaged(why.to_string()),
    }
}

impl Store {
    /// Which of these parts must be sent: the session's owner hasn't them.
    pub async fn lacking_parts(&self, session: SessionId, parts: &[Part]) -> Result<HashSet<Hash>> {
        let owner = self.owner(session).await?;
        let mut lacking: HashSet<Hash> = parts.iter().map(|part| part.hash).collect();
        let mut all: Vec<Hash> = lacking.iter().copied().collect();
        all.sort_unstable();
        for hash in known(self.database.reader(), owner, &all).await? {
            lacking.remove(&hash);
        }
        Ok(lacking)
    }

    /// Stores parts that an agent sent, each verified here. They count against what the session may have uploaded
    /// and not committed; what no content is then made of goes with the sweep.
    pub async fn put_parts(&self, session: SessionId, parts: Vec<(Part, Packed)>) -> Result<()> {
        let verify = move || {
            let mut blobs = Vec::with_capacity(parts.len());
            for (part, packed) in parts {
                packed.unpack(part)?;
                blobs.push(Blob::part(part, packed));
            }
            blobs.sort_by_key(|blob| blob.hash);
            blobs.dedup_by_key(|blob| blob.hash);
            Ok::<_, Error>(blobs)
        };
        let blobs = tokio::task::spawn_blocking(verify).await;
        let blobs = blobs.unwrap_or_else(|error| Err(Error::Damaged(error.to_string())))?;
        let owner = self.owner(session).await?;
        let hashes: Vec<Hash> = blobs.iter().map(|blob| blob.hash).collect();
        let tx = self.database.begin().await?;
        let known = known(&tx, owner, &hashes).await?;
        let fresh: Vec<&Blob> = blobs.iter().filter(|blob| !known.contains(&blob.hash)).collect();
        if !fresh.is_empty() {
            let charges = fresh.iter().map(|blob| (blob.hash, blob.size)).collect::<Vec<_>>();
            let at = now_ms();
            self.charge(&tx, session, &charges, at).await?;
            blobs::write_rows(&tx, owner, &fresh, at).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Puts a content together from parts that are there, and makes it count if they are what it says: an agent
    /// cannot give a hash to bytes that are not its own, which another session of the owner might ask for.
    pub async fn assemble(&self, session: SessionId, recipe: &Recipe) -> Result<()> {
        recipe.check()?;
        let owner = self.owner(session).await?;
        let mut hasher = blake3::Hasher::new();
        for parts in recipe.parts.chunks(READ_PARTS) {
            let all = bytes_of(self.database.reader(), owner, parts).await?;
            let hashing = tokio::task::spawn_blocking(move || {
                for bytes in all {
                    hasher.update(&bytes);
                }
                hasher
            });
            hasher = hashing.await.map_err(|error| Error::Damaged(error.to_string()))?;
        }
        if Hash(*hasher.finalize().as_bytes()) != recipe.hash {
            return Err(Error::BadParts(BadParts::Content));
        }
        let tx = self.database.begin().await?;
        let written = write(&tx, owner, &Blob::made_of(recipe.clone()), now_ms()).await;
        if let Err(Error::Database(why)) = &written
            && matches!(why.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_)))
        {
            // The sweep was quicker.
            tx.rollback().await?;
            return Err(Error::PartsMissing);
        }
        written?;
        self.charge_content(&tx, session, recipe).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What a large content is made of; none if the session's owner hasn't it. One that is not kept in parts yet
    /// is from now on.
    pub async fn recipe(&self, session: SessionId, hash: Hash) -> Result<Option<Recipe>> {
        let owner = self.owner(session).await?;
        let db = self.database.reader();
        let text = "SELECT size, encoding FROM blobs WHERE owner_id = $1 AND hash = $2";
        let values = [owner.into(), hash.0.to_vec().into()];
        let Some(row) = Sql::of(db.get_database_backend(), text, values).one(db).await? else {
            return Ok(None);
        };
        let size = row.try_get::<i64>("", "size")?.max(0) as u64;
        if !blobs::is_in_parts(&row)? {
            self.convert(owner, hash).await?;
        }
        let parts = of_content(db, owner, hash).await?;
        Ok(Some(Recipe { hash, size, parts }))
    }

    async fn convert(&self, owner: i64, hash: Hash) -> Result<()> {
        let whole = blobs::fetch(self.database.reader(), owner, &[hash]).await?.remove(&hash);
        let Some(whole) = whole else { return Ok(()) };
        let all = blobs::encode_all(vec![whole]).await?;
        let Some(large) = all.iter().find(|blob| blob.is_large()) else { return Ok(()) };
        let tx = self.database.begin().await?;
        let backend = tx.get_database_backend();
        blobs::upload(&tx, owner, &all, now_ms()).await?;
        // The row is there, so only its parts are new.
        Rows::write(vec![rows(owner, hash, large.parts())], Sql::of(backend, "SELECT 1", []), &tx).await?;
        let text = "UPDATE blobs SET encoding = $3, chunks = $4, data = $5 WHERE owner_id = $1 AND hash = $2";
        let mut values = vec![owner.into(), hash.0.to_vec().into()];
        values.extend(blobs::in_parts_values(large.parts().len()));
        Sql::of(backend, text, values).execute(&tx).await?;
        let text = "DELETE FROM blob_chunks WHERE owner_id = $1 AND hash = $2";
        Sql::of(backend, text, [owner.into(), hash.0.to_vec().into()]).execute(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Parts as they are packed, in the order asked for; all are in memory at once. One that is missing is an
    /// error: a recipe names only what is there.
    pub async fn packed_parts(&self, session: SessionId, parts: &[Part]) -> Result<Vec<Packed>> {
        let owner = self.owner(session).await?;
        let found = packed(self.database.reader(), owner, parts).await?;
        let missing = |part: &Part| Error::Damaged(format!("a part is missing: {}", part.hash));
        parts.iter().map(|part| found.get(&part.hash).cloned().ok_or_else(|| missing(part))).collect()
    }

    /// A content of the session's owner, to be read piece by piece.
    pub async fn open_content(&self, session: SessionId, hash: Hash) -> Result<Content> {
        let owner = self.owner(session).await?;
        let db = self.database.reader();
        let text = format!("SELECT {} FROM blobs b WHERE b.owner_id = $1 AND b.hash = $2", blobs::COLUMNS);
        let values = [owner.into(), hash.0.to_vec().into()];
        let row = Sql::of(db.get_database_backend(), &text, values).one(db).await?;
        self.content_in(&row.ok_or_else(|| Error::Damaged(format!("{hash} is missing")))?).await
    }

    /// The content in a row with [`blobs::COLUMNS`].
    pub(super) async fn content_in(&self, row: &QueryResult) -> Result<Content> {
        let database = self.database.clone();
        let (owner, hash) = (row.try_get::<i64>("", "blob_owner")?, read_hash(row, "blob_hash")?);
        let pieces = if blobs::is_in_parts(row)? {
            Pieces::Parts(of_content(database.reader(), owner, hash).await?)
        } else {
            Pieces::Whole(blobs::read(database.reader(), row).await?.1)
        };
        Ok(Content { database, owner, hash, pieces })
    }
}

/// A content that is read piece by piece; a large one is never in memory whole.
#[derive(Clone, Debug)]
pub struct Content {
    database: Database,
    owner: i64,
    hash: Hash,
    pieces: Pieces,
}

#[derive(Clone, Debug)]
enum Pieces {
    Whole(Bytes),
    Parts(Vec<Part>),
}

impl Content {
    /// The content itself, if it isn't large.
    pub fn whole(&self) -> Option<&Bytes> {
        match &self.pieces {
            Pieces::Whole(bytes) => Some(bytes),
            Pieces::Parts(_) => None,
        }
    }

    /// Its first bytes, some kilobytes at least if it has as many.
    pub async fn head(&self) -> Result<Bytes> {
        match &self.pieces {
            Pieces::Whole(bytes) => Ok(bytes.clone()),
            Pieces::Parts(parts) => {
                let first = &parts[..parts.len().min(1)];
                let bytes = bytes_of(self.database.reader(), self.owner, first).await;
                Ok(bytes.map_err(|why| damaged(self.hash, &why))?.pop().unwrap_or_default())
            }
        }
    }

    /// The bytes from `from` up to, not with, `to`. An error breaks it off: what was given is right, and not all.
    pub fn read(self, from: u64, to: u64) -> BoxStream<'static, Result<Bytes>> {
        let parts = match self.pieces {
            Pieces::Whole(bytes) => {
                let end = bytes.len();
                let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(end);
                let piece = bytes.slice(cut(from)..cut(to).max(cut(from)));
                return stream::once(async move { Ok(piece) }).boxed();
            }
            Pieces::Parts(parts) => parts,
        };
        // The parts that hold any of it, and where in the content each begins.
        let mut at = 0;
        let mut wanted = Vec::new();
        for part in parts {
            let end = at + u64::from(part.size);
            if end > from && at < to {
                wanted.push((at, part));
            }
            at = end;
        }
        let (database, owner, hash) = (self.database, self.owner, self.hash);
        let groups: Vec<Vec<(u64, Part)>> = wanted.chunks(READ_PARTS).map(<[_]>::to_vec).collect();
        stream::iter(groups)
            .then(move |group| {
                let database = database.clone();
                async move {
                    let parts: Vec<Part> = group.iter().map(|(_, part)| *part).collect();
                    let all = bytes_of(database.reader(), owner, &parts).await;
                    let all = all.map_err(|why| damaged(hash, &why))?;
                    let pieces = group.into_iter().zip(all).map(move |((at, _), bytes)| {
                        let low = from.saturating_sub(at) as usize;
                        let high = (to - at).min(bytes.len() as u64) as usize;
                        Ok(bytes.slice(low..high))
                    });
                    Ok::<_, Error>(stream::iter(pieces.collect::<Vec<_>>()))
                }
            })
            .try_flatten()
            .boxed()
    }
}
