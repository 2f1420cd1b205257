//! What an agent has uploaded and not committed: bounded, so that no pod can fill the database with contents that
//! no version will ever refer to. What is not committed is forgotten with the sweep that takes it away.

use super::sql::{Column, Rows, Sql};
use super::{Error, Result, Store};
use crate::entities::now_ms;
use sea_orm::{ConnectionTrait, DatabaseTransaction};
use shared::chunk::Recipe;
use shared::id::SessionId;
use shared::tree::Hash;
use std::time::Duration;

/// How long an upload may wait for its commit once the session has uploaded as much as it may.
const LET_GO_AFTER: Duration = Duration::from_secs(3_600);

impl Store {
    /// Notes contents that are about to be stored before anything refers to them, or refuses them.
    pub(super) async fn charge(
        &self,
        tx: &DatabaseTransaction,
        session: SessionId,
        contents: &[(Hash, u64)],
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
        note(tx, session, contents).await
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
        if bytes == 0 { Ok(()) } else { note(tx, session, &[(recipe.hash, bytes)]).await }
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
    // Contents first: parts that one is made of are still referred to, and go the next time.
    let text = format!(
        "DELETE FROM blobs WHERE touched_at < $2
            AND owner_id = (SELECT s.owner_id FROM workspace_state s WHERE s.session_uuid = $1)
            AND hash IN (SELECT u.hash FROM uploads u WHERE u.session_uuid = $1 AND u.at < $2) AND {UNREFERENCED}"
    );
    Sql::of(backend, &text, [session.0.into(), before.into()]).execute(tx).await?;
    let text = "DELETE FROM uploads WHERE session_uuid = $1 AND at < $2";
    Sql::of(backend, text, [session.0.into(), before.into()]).execute(tx).await?;
    Ok(())
}

/// That no version is of a row of `blobs`, and no large content made of it.
pub(super) const UNREFERENCED: &str = "NOT EXISTS (
        SELECT 1 FROM item_versions v WHERE v.owner_id = blobs.owner_id AND v.hash = blobs.hash)
    AND NOT EXISTS (
        SELECT 1 FROM blob_parts p WHERE p.owner_id = blobs.owner_id AND p.part_hash = blobs.hash)";

/// Notes contents as uploaded and not committed.
pub(super) async fn note(
    tx: &DatabaseTransaction,
    session: SessionId,
    contents: &[(Hash, u64)],
) -> Result<()> {
    let rows =
        Rows::into_table("uploads", "ON CONFLICT (session_uuid, hash) DO UPDATE SET bytes = excluded.bytes")
            .same("session_uuid", "uuid", session.0)
            .same("at", "bigint", now_ms())
            .column("hash", Column::Bytes(contents.iter().map(|(hash, _)| hash.0.to_vec()).collect()))
            .column("bytes", Column::Number(contents.iter().map(|(_, bytes)| *bytes as i64).collect()));
    Rows::write(vec![rows], Sql::of(tx.get_database_backend(), "SELECT 1", []), tx).await?;
    Ok(())
}

/// Versions refer to these contents now: they count as history.
pub(super) async fn committed(tx: &DatabaseTransaction, session: SessionId, contents: &[Hash]) -> Result<()> {
    for some in contents.chunks(10_000) {
        let mut sql = Sql::new(tx.get_database_backend());
        sql.push("DELETE FROM uploads WHERE session_uuid = ").bind(session.0).push(" AND ");
        sql.one_of_bytes("hash", some.iter().map(|hash| hash.0.to_vec()).collect());
        sql.execute(tx).await?;
    }
    Ok(())
}
