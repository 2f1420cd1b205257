//! What the history keeps, and sweeping what nothing refers to any more.
//!
//! All versions for a day, the last of each hour for a week, the last of each day for a month; losers of conflicts
//! for a month; the newest version of each live item for ever, and of each deleted one for a month. Beyond
//! [`HISTORY_BYTES`] a workspace's oldest go first, whatever their age.

use super::sql::{Sql, read_rev};
use super::uploads::UNREFERENCED;
use super::{Result, Store};
use sea_orm::{ConnectionTrait, DbBackend};
use shared::id::SessionId;
use std::time::Duration;
use uuid::Uuid;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// How long an answered batch is remembered; an agent that asks later finds its changes in the tree.
const BATCHES: i64 = 7 * DAY;
/// How long anything is kept that no live item needs: losers, versions of deleted items, tombstones.
const MONTH: i64 = 30 * DAY;
/// How long a content that nothing refers to stays: longer than any commit that may be about to refer to it.
pub const BLOB_GRACE: Duration = Duration::from_secs(24 * 3_600);
/// Bytes of superseded versions that one workspace may keep, each counted in full and with [`VERSION_BYTES`].
pub const HISTORY_BYTES: u64 = 4 << 30;
/// Bytes that a version counts beside its content's: about what its row and its places in the indexes take.
const VERSION_BYTES: u64 = 1024;
/// Versions that one statement reckons up or takes away, so that each is done in seconds.
const VERSIONS_AT_ONCE: i64 = 10_000;
/// Contents taken away by one statement.
const BLOBS_AT_ONCE: i64 = 1_000;

/// What a sweep took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Versions.
    pub versions: u64,
    /// Contents.
    pub blobs: u64,
    /// Answers to batches.
    pub batches: u64,
    /// Tombstones.
    pub tombstones: u64,
}

/// That no live item needs the version in question: it never stood in the tree, or is of a deletion, or another of its
/// item stood after it.
const SUPERSEDED: &str = "(op = 'loser' OR op = 'delete' OR EXISTS (
    SELECT 1 FROM item_versions newer
    WHERE newer.session_uuid = item_versions.session_uuid AND newer.item_id = item_versions.item_id
      AND newer.id > item_versions.id AND newer.op <> 'loser'))";

impl Store {
    /// Takes away what is past its time at `now` (milliseconds since 1970 UTC), workspace by workspace. Safe at any
    /// time, beside anything, by any number of replicas; what fails is left for the next time.
    pub async fn sweep(&self, now: i64) -> Result<Swept> {
        self.sweep_beyond(now, HISTORY_BYTES).await
    }

    /// [`Store::sweep`] with another bound on a workspace's history.
    pub async fn sweep_beyond(&self, now: i64, history_bytes: u64) -> Result<Swept> {
        let db = self.database.reader();
        let all = Sql::of(db.get_database_backend(), "SELECT session_uuid FROM workspace_state", []);
        let mut swept = Swept::default();
        for row in all.all(db).await? {
            let session = SessionId(row.try_get::<Uuid>("", "session_uuid")?);
            if let Err(why) = self.sweep_one(session, now, history_bytes, &mut swept).await {
                // One that fails each time must not keep all others from their turn.
                tracing::warn!(%session, %why, "a workspace's history could not be swept");
            }
        }
        swept.blobs = self.sweep_blobs(now).await?;
        Ok(swept)
    }

    async fn sweep_one(
        &self,
        session: SessionId,
        now: i64,
        history_bytes: u64,
        swept: &mut Swept,
    ) -> Result<()> {
        // Before the history: its times tell how old a tombstone is.
        swept.tombstones += self.prune_tombstones(session, now).await?;
        swept.versions += self.thin(session, now).await?;
        swept.versions += self.cap(session, history_bytes).await?;
        swept.batches += self.forget_batches(session, now).await?;
        self.forget_uploads(session, now).await?;
        Ok(())
    }

    /// In each bucket of time the newest version of an item stays; so does its newest of all while it is live. The
    /// oldest are looked at first: an older version of a deleted item may go because of the deletion, which goes, too.
    async fn thin(&self, session: SessionId, now: i64) -> Result<u64> {
        let text = format!(
            "DELETE FROM item_versions
             WHERE session_uuid = $1 AND (rev, id) > ($2, $3) AND (rev, id) <= ($4, $5) AND (
                at < $6 AND {SUPERSEDED}
                OR op <> 'loser' AND at >= $6 AND at < $8 AND EXISTS (
                    SELECT 1 FROM item_versions newer
                    WHERE newer.session_uuid = item_versions.session_uuid AND newer.item_id = item_versions.item_id
                      AND newer.id > item_versions.id AND newer.op <> 'loser'
                      AND CASE WHEN item_versions.at < $7
                          THEN newer.at / {DAY} = item_versions.at / {DAY}
                          ELSE newer.at / {HOUR} = item_versions.at / {HOUR} END))"
        );
        let (month, week, day) = (now - MONTH, now - 7 * DAY, now - DAY);
        let mut gone = 0;
        let mut after = (0, 0);
        loop {
            let Some((last, versions)) = self.page_of_older(session, after, day).await? else {
                return Ok(gone);
            };
            let values = [
                session.0.into(),
                after.0.into(),
                after.1.into(),
                last.0.into(),
                last.1.into(),
                month.into(),
                week.into(),
                day.into(),
            ];
            gone += self.delete(&text, values).await?;
            if versions < VERSIONS_AT_ONCE {
                return Ok(gone);
            }
            after = last;
        }
    }

    /// Revision and id of the last of the versions that follow `after` and are of before `day`, and how many there are
    /// up to it: [`VERSIONS_AT_ONCE`], or all. None if there is none.
    async fn page_of_older(
        &self,
        session: SessionId,
        after: (i64, i64),
        day: i64,
    ) -> Result<Option<((i64, i64), i64)>> {
        let db = self.database.reader();
        let text = "SELECT rev, id, COUNT(*) OVER () AS versions FROM (
                SELECT rev, id FROM item_versions WHERE session_uuid = $1 AND (rev, id) > ($2, $3) AND at < $4
                ORDER BY rev, id LIMIT $5) page
             ORDER BY rev DESC, id DESC LIMIT 1";
        let values = [session.0.into(), after.0.into(), after.1.into(), day.into(), VERSIONS_AT_ONCE.into()];
        let Some(row) = Sql::of(db.get_database_backend(), text, values).one(db).await? else {
            return Ok(None);
        };
        Ok(Some(((row.try_get("", "rev")?, row.try_get("", "id")?), row.try_get("", "versions")?)))
    }

    /// Takes the oldest versions away that no live item needs, until the rest is within the bound.
    async fn cap(&self, session: SessionId, history_bytes: u64) -> Result<u64> {
        let Some(cut) = self.first_beyond(session, history_bytes).await? else { return Ok(0) };
        // The oldest first: an older version of a deleted item may go because of the deletion, which goes, too.
        let text = format!(
            "DELETE FROM item_versions WHERE id IN (
                SELECT id FROM item_versions WHERE session_uuid = $1 AND id <= $2 AND {SUPERSEDED}
                ORDER BY rev, id LIMIT $3)"
        );
        let mut all = 0;
        loop {
            let values = [session.0.into(), cut.into(), VERSIONS_AT_ONCE.into()];
            let gone = self.delete(&text, values).await?;
            all += gone;
            if gone < VERSIONS_AT_ONCE as u64 {
                return Ok(all);
            }
        }
    }

    /// The newest superseded version with which the history is over its bound, if it is.
    async fn first_beyond(&self, session: SessionId, history_bytes: u64) -> Result<Option<i64>> {
        let db = self.database.reader();
        // In the order of an index; within a workspace revisions and ids rise together.
        let text = format!(
            "SELECT COUNT(*) AS versions, MIN(rev) AS rev, MIN(id) AS id,
                    CAST(MAX(running) AS BIGINT) AS bytes, MAX(CASE WHEN running > $4 THEN id END) AS cut
             FROM (SELECT rev, id, SUM(cost) OVER (ORDER BY rev DESC, id DESC) AS running
                   FROM (SELECT rev, id, size + {VERSION_BYTES} AS cost FROM item_versions
                         WHERE session_uuid = $1 AND (rev, id) < ($2, $3) AND {SUPERSEDED}
                         ORDER BY rev DESC, id DESC LIMIT $5) page) counted"
        );
        let mut left = i64::try_from(history_bytes).unwrap_or(i64::MAX);
        let mut before = (i64::MAX, i64::MAX);
        loop {
            let values =
                [session.0.into(), before.0.into(), before.1.into(), left.into(), VERSIONS_AT_ONCE.into()];
            let page = Sql::of(db.get_database_backend(), &text, values).one(db).await?;
            let Some(page) = page else { return Ok(None) };
            let cut = page.try_get::<Option<i64>>("", "cut")?;
            if cut.is_some() || page.try_get::<i64>("", "versions")? < VERSIONS_AT_ONCE {
                return Ok(cut);
            }
            left -= page.try_get::<i64>("", "bytes")?;
            before = (page.try_get("", "rev")?, page.try_get("", "id")?);
        }
    }

    /// Takes tombstones away, and notes up to which revision.
    async fn prune_tombstones(&self, session: SessionId, now: i64) -> Result<u64> {
        let tx = self.database.begin().await?;
        let backend = tx.get_database_backend();
        let text = "SELECT max(rev) AS rev FROM item_versions WHERE session_uuid = $1 AND at < $2";
        let values = [session.0.into(), (now - MONTH).into()];
        let Some(row) = Sql::of(backend, text, values).one(&tx).await? else { return Ok(0) };
        if row.try_get::<Option<i64>>("", "rev")?.is_none() {
            tx.rollback().await?;
            return Ok(0);
        }
        let old = read_rev(&row, "rev")?.0 as i64;
        let text =
            "DELETE FROM workspace_items WHERE session_uuid = $1 AND rev <= $2 AND deleted_rev IS NOT NULL";
        let gone = Sql::of(backend, text, [session.0.into(), old.into()]).execute(&tx).await?.rows_affected();
        if gone > 0 {
            let text =
                "UPDATE workspace_state SET pruned_rev = $2 WHERE session_uuid = $1 AND pruned_rev < $2";
            Sql::of(backend, text, [session.0.into(), old.into()]).execute(&tx).await?;
        }
        tx.commit().await?;
        Ok(gone)
    }

    async fn forget_batches(&self, session: SessionId, now: i64) -> Result<u64> {
        let text = "DELETE FROM applied_batches WHERE session_uuid = $1 AND at < $2";
        self.delete(text, [session.0.into(), (now - BATCHES).into()]).await
    }

    /// What was uploaded and not committed goes with the contents below.
    async fn forget_uploads(&self, session: SessionId, now: i64) -> Result<u64> {
        let before = now - BLOB_GRACE.as_millis() as i64;
        let text = "DELETE FROM uploads WHERE session_uuid = $1 AND at < $2";
        self.delete(text, [session.0.into(), before.into()]).await
    }

    /// Takes contents away that no version refers to. One that a commit says to need meanwhile is looked at again
    /// under its row's lock, and stays.
    async fn sweep_blobs(&self, now: i64) -> Result<u64> {
        let before = now - BLOB_GRACE.as_millis() as i64;
        let mut all = 0;
        loop {
            let tx = self.database.begin().await?;
            let backend = tx.get_database_backend();
            if backend == DbBackend::Postgres {
                // It looks at every old content, which may be more than a request may take.
                tx.execute_unprepared("SET LOCAL statement_timeout = '10min'").await?;
            }
            let text = format!(
                "DELETE FROM blobs WHERE touched_at < $1 AND (owner_id, hash) IN (
                    SELECT blobs.owner_id, blobs.hash FROM blobs WHERE blobs.touched_at < $1 AND {UNREFERENCED}
                    LIMIT $2)"
            );
            let sql = Sql::of(backend, &text, [before.into(), BLOBS_AT_ONCE.into()]);
            let gone = sql.execute(&tx).await?.rows_affected();
            tx.commit().await?;
            all += gone;
            // What a large content was made of is free once that is gone.
            if gone == 0 {
                return Ok(all);
            }
        }
    }

    async fn delete<const N: usize>(&self, text: &str, values: [sea_orm::Value; N]) -> Result<u64> {
        let db = self.database.writer();
        Ok(Sql::of(db.get_database_backend(), text, values).execute(db).await?.rows_affected())
    }
}
