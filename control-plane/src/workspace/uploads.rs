//! What was uploaded to a workspace and not committed: bounded, so that neither a pod nor a client of the API can fill
//! the database with contents that no version will ever refer to. What is not committed is forgotten with the sweep that
//! takes it away; what the API refused goes at once.

use super::blobs::{self, Blob};
use super::sql::{Column, Rows, Sql, read_hash};
use super::{Error, Result, Store};
use crate::entities::now_ms;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend};
use shared::chunk::Recipe;
use shared::id::SessionId;
use shared::tree::Hash;
use std::time::Duration;

/// How long an upload may wait for its commit once the session has uploaded as much as it may.
const LET_GO_AFTER: Duration = Duration::from_secs(3_600);
/// Contents that one statement takes back; more are longer than a statement should be.
const TAKEN_BACK_AT_ONCE: usize = 5_000;

impl Store {
    /// Notes contents that are about to be stored before anything refers to them, or refuses them.
    pub(super) async fn charge(
        &self,
        tx: &DatabaseTransaction,
        session: SessionId,
        contents: &[(Hash, u64)],
        at: i64,
    ) -> Result<()> {
        let limit = self.limits.workspace_bytes;
        let more: u64 = contents.iter().map(|(_, bytes)| *bytes).sum();
        let full = async || Ok::<_, Error>(uploaded(tx, session).await?.saturating_add(more) > limit);
        if full().await? {
            let_go(tx, session, now_ms()).await?;
            if full().await? {
                return Err(Error::UploadsFull { limit });
            }
        }
        note(tx, session, contents, at).await
    }

    /// Stores contents before the workspace is locked and anything refers to them, each charged to the session until
    /// a commit says [`committed`] of it or [`Store::take_back`] takes it away.
    pub(super) async fn upload(&self, session: SessionId, contents: &[Blob]) -> Result<()> {
        let owner = self.owner(session).await?;
        let tx = self.database.begin().await?;
        let at = now_ms();
        let fresh = blobs::upload(&tx, owner, contents, at).await?;
        let limit = self.limits.workspace_bytes;
        if fresh.iter().map(|(_, bytes)| *bytes).sum::<u64>() > limit {
            return Err(Error::WorkspaceFull { limit });
        }
        if !fresh.is_empty() {
            self.charge(&tx, session, &fresh, at).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Takes away what [`Store::upload`] stored of these and nothing refers to: its commit was refused. What somebody
    /// else has said to need since stays, and stays charged until the sweep.
    pub(super) async fn take_back(&self, session: SessionId, contents: &[Hash]) -> Result<()> {
        let owner = self.owner(session).await?;
        for some in contents.chunks(TAKEN_BACK_AT_ONCE) {
            let tx = self.database.begin().await?;
            take_back(&tx, session, owner, some).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// The parts of a content that is put together now are its own; it is what may be committed.
    pub(super) async fn charge_content(
        &self,
        tx: &DatabaseTransaction,
        session: SessionId,
        recipe: &Recipe,
    ) -> Result<()> {
        let mut parts: Vec<Hash> = recipe.parts.iter().map(|part| part.hash).collect();
        parts.sort_unstable();
        parts.dedup();
        let mut bytes = 0u64;
        for some in parts.chunks(10_000) {
            let mut sql = Sql::new(tx.get_database_backend());
            sql.push("DELETE FROM uploads WHERE session_uuid = ").bind(session.0).push(" AND ");
            sql.one_of_bytes("hash", some.iter().map(|hash| hash.0.to_vec()).collect());
            sql.push(" RETURNING bytes");
            for row in sql.all(tx).await? {
                bytes = bytes.saturating_add(row.try_get::<i64>("", "bytes")?.max(0) as u64);
            }
        }
        if bytes == 0 { Ok(()) } else { note(tx, session, &[(recipe.hash, bytes)], now_ms()).await }
    }
}

/// Bytes that the session has uploaded and not committed.
async fn uploaded(tx: &DatabaseTransaction, session: SessionId) -> Result<u64> {
    let text = "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes FROM uploads WHERE session_uuid = $1";
    let row = Sql::of(tx.get_database_backend(), text, [session.0.into()]).one(tx).await?;
    Ok(row.map_or(Ok(0), |row| row.try_get::<i64>("", "bytes"))?.max(0) as u64)
}

/// Takes the session's uploads away that are past any commit which was about to refer to them.
async fn let_go(tx: &DatabaseTransaction, session: SessionId, now: i64) -> Result<()> {
    let backend = tx.get_database_backend();
    let before = now - LET_GO_AFTER.as_millis() as i64;
    let owner = "(SELECT s.owner_id FROM workspace_state s WHERE s.session_uuid = $1)";
    // Once a content is gone, nothing says any more what it was made of.
    let text = format!(
        "SELECT DISTINCT p.part_hash FROM blob_parts p JOIN uploads u ON u.hash = p.hash
         WHERE u.session_uuid = $1 AND u.at < $2 AND p.owner_id = {owner}"
    );
    let parts = Sql::of(backend, &text, [session.0.into(), before.into()]).all(tx).await?;
    let parts: Vec<Hash> = parts.iter().map(|row| read_hash(row, "part_hash")).collect::<Result<_, _>>()?;
    let unneeded =
        format!("DELETE FROM blobs WHERE touched_at < $2 AND owner_id = {owner} AND {UNREFERENCED} AND ");
    let noted = "hash IN (SELECT u.hash FROM uploads u WHERE u.session_uuid = $1 AND u.at < $2)";
    let all = format!("{unneeded}{noted}");
    Sql::of(backend, &all, [session.0.into(), before.into()]).execute(tx).await?;
    for some in parts.chunks(TAKEN_BACK_AT_ONCE) {
        let mut sql = Sql::of(backend, &unneeded, [session.0.into(), before.into()]);
        sql.one_of_bytes("hash", some.iter().map(|hash| hash.0.to_vec()).collect());
        sql.execute(tx).await?;
    }
    let text = "DELETE FROM uploads WHERE session_uuid = $1 AND at < $2";
    Sql::of(backend, text, [session.0.into(), before.into()]).execute(tx).await?;
    Ok(())
}

/// That no version is of a row of `blobs`, and no large content made of it.
pub(super) const UNREFERENCED: &str = "NOT EXISTS (
        SELECT 1 FROM item_versions v WHERE v.owner_id = blobs.owner_id AND v.hash = blobs.hash)
    AND NOT EXISTS (
        SELECT 1 FROM blob_parts p WHERE p.owner_id = blobs.owner_id AND p.part_hash = blobs.hash)";

/// Notes contents as uploaded at a time (milliseconds since 1970 UTC) and not committed.
pub(super) async fn note(
    tx: &DatabaseTransaction,
    session: SessionId,
    contents: &[(Hash, u64)],
    at: i64,
) -> Result<()> {
    let again = "ON CONFLICT (session_uuid, hash) DO UPDATE SET bytes = excluded.bytes, at = excluded.at";
    let rows = Rows::into_table("uploads", again)
        .same("session_uuid", "uuid", session.0)
        .same("at", "bigint", at)
        .column("hash", Column::Bytes(contents.iter().map(|(hash, _)| hash.0.to_vec()).collect()))
        .column("bytes", Column::Number(contents.iter().map(|(_, bytes)| *bytes as i64).collect()));
    Rows::write(vec![rows], Sql::of(tx.get_database_backend(), "SELECT 1", []), tx).await?;
    Ok(())
}

/// Versions refer to these contents now: they, and what they are made of, count as history.
pub(super) async fn committed(
    tx: &DatabaseTransaction,
    session: SessionId,
    owner: i64,
    contents: &[Hash],
) -> Result<()> {
    for some in contents.chunks(10_000) {
        let mut sql = Sql::new(tx.get_database_backend());
        sql.push("DELETE FROM uploads WHERE session_uuid = ").bind(session.0).push(" AND (");
        with_parts(&mut sql, "hash", owner, some);
        sql.push(")");
        sql.execute(tx).await?;
    }
    Ok(())
}

/// Adds that `column` is one of these contents or of what they are made of.
fn with_parts(sql: &mut Sql, column: &str, owner: i64, contents: &[Hash]) {
    let all = || contents.iter().map(|hash| hash.0.to_vec()).collect();
    sql.one_of_bytes(column, all()).push(" OR ").push(column);
    sql.push(" IN (SELECT part_hash FROM blob_parts WHERE owner_id = ").bind(owner).push(" AND ");
    sql.one_of_bytes("hash", all()).push(")");
}

async fn take_back(
    tx: &DatabaseTransaction,
    session: SessionId,
    owner: i64,
    contents: &[Hash],
) -> Result<()> {
    let backend = tx.get_database_backend();
    // Parts, too: once what they make up is gone, nothing says so any more.
    let mut noted =
        Sql::of(backend, "SELECT hash FROM uploads WHERE session_uuid = $1 AND (", [session.0.into()]);
    with_parts(&mut noted, "hash", owner, contents);
    noted.push(")");
    let noted = noted.all(tx).await?;
    let noted = noted.iter().map(|row| Ok(read_hash(row, "hash")?.0.to_vec())).collect::<Result<Vec<_>>>()?;
    if noted.is_empty() {
        return Ok(());
    }
    loop {
        let mut sql = Sql::of(backend, "DELETE FROM blobs WHERE owner_id = $1 AND hash IN (", [owner.into()]);
        sql.push("SELECT blobs.hash FROM blobs JOIN uploads u ON u.hash = blobs.hash AND u.session_uuid = ");
        sql.bind(session.0).push(" WHERE blobs.owner_id = $1 AND blobs.touched_at = u.at AND ");
        sql.one_of_bytes("blobs.hash", noted.clone()).push(" AND ").push(UNREFERENCED);
        if backend == DbBackend::Postgres {
            // What somebody touches right now is needed.
            sql.push(" FOR UPDATE OF blobs SKIP LOCKED");
        }
        sql.push(")");
        // What a large content was made of is free once that is gone.
        if sql.execute(tx).await?.rows_affected() == 0 {
            break;
        }
    }
    let text = "DELETE FROM uploads WHERE session_uuid = $1
        AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.owner_id = $2 AND b.hash = uploads.hash) AND ";
    let mut sql = Sql::of(backend, text, [session.0.into(), owner.into()]);
    sql.one_of_bytes("hash", noted);
    sql.execute(tx).await?;
    Ok(())
}
