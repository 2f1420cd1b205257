//! Reading a workspace: trees, changes, files, contents. Each answer is of one revision.

use super::blobs;
use super::parts::Content;
use super::sql::{ITEM_COLUMNS, Sql, read_item, read_rev};
use super::types::{Changed, ChangesPage, Cursor, Snapshot};
use super::{Error, Result, Store};
use bytes::Bytes;
use sea_orm::QueryResult;
use shared::id::{ItemId, Revision, SessionId};
use shared::path::WorkspacePath;
use shared::tree::{Hash, Item, Kind};
use uuid::Uuid;

/// Entries of one page of changes.
const PAGE: u64 = 10_000;

impl Store {
    /// The workspace's revision.
    pub async fn rev(&self, session: SessionId) -> Result<Revision> {
        read_rev(&self.state(session).await?, "rev").map_err(Error::from)
    }

    /// In whose name the workspace's contents are kept.
    pub(super) async fn owner(&self, session: SessionId) -> Result<i64> {
        Ok(self.state(session).await?.try_get("", "owner_id")?)
    }

    async fn state(&self, session: SessionId) -> Result<QueryResult> {
        let db = self.database.reader();
        let text = "SELECT rev, owner_id FROM workspace_state WHERE session_uuid = $1";
        let row = Sql::of(db.get_database_backend(), text, [session.0.into()]).one(db).await?;
        row.ok_or(Error::NoWorkspace(session))
    }

    /// All items at one revision, folders before what they hold.
    pub async fn snapshot(&self, session: SessionId) -> Result<Snapshot> {
        let db = self.database.reader();
        // One statement sees one state of the database, so the revision is that of the items.
        let text = format!(
            "SELECT s.rev AS current_rev, {ITEM_COLUMNS} FROM workspace_state s
             LEFT JOIN workspace_items t ON t.session_uuid = s.session_uuid AND t.deleted_rev IS NULL
             WHERE s.session_uuid = $1"
        );
        let rows = Sql::of(db.get_database_backend(), &text, [session.0.into()]).all(db).await?;
        let rev = read_rev(rows.first().ok_or(Error::NoWorkspace(session))?, "current_rev")?;
        let mut snapshot = Snapshot { rev, items: Vec::with_capacity(rows.len()) };
        for row in &rows {
            if row.try_get::<Option<String>>("", "full_path")?.is_some() {
                snapshot.items.push(read_item(row)?);
            }
        }
        snapshot.items.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(snapshot)
    }

    /// What changed after `since`, or, from `cursor` on, the next page of it; at most `limit` entries, one a path,
    /// with what is there now. A path that was taken away and filled again since is told as it is now.
    pub async fn changes_since(
        &self,
        session: SessionId,
        since: Revision,
        cursor: Option<&Cursor>,
        limit: u64,
    ) -> Result<ChangesPage> {
        let db = self.database.reader();
        let limit = limit.clamp(1, PAGE);
        let mut sql = Sql::new(db.get_database_backend());
        sql.push("SELECT s.rev AS current_rev, s.pruned_rev, t.deleted_rev, t.moved_to, ").push(ITEM_COLUMNS);
        sql.push(" FROM workspace_state s LEFT JOIN workspace_items t ON t.session_uuid = s.session_uuid");
        sql.push(" AND t.rev > ").bind(since.0 as i64);
        if let Some(cursor) = cursor {
            sql.push(" AND (t.rev > ").bind(cursor.rev.0 as i64).push(" OR (t.rev = ");
            sql.bind(cursor.rev.0 as i64).push(" AND t.full_path > ").bind(cursor.path.as_str()).push("))");
        }
        sql.push(" WHERE s.session_uuid = ").bind(session.0);
        sql.push(" ORDER BY t.rev, t.full_path LIMIT ").bind(limit as i64);
        let rows = sql.all(db).await?;
        let first = rows.first().ok_or(Error::NoWorkspace(session))?;
        let mut page = ChangesPage {
            rev: read_rev(first, "current_rev")?,
            pruned: since < read_rev(first, "pruned_rev")?,
            changes: Vec::with_capacity(rows.len()),
            next: None,
        };
        for row in &rows {
            if row.try_get::<Option<String>>("", "full_path")?.is_none() {
                break; // Nothing changed: the outer join's empty row.
            }
            let (path, item) = read_item(row)?;
            page.changes.push(Changed {
                path,
                item,
                deleted: row.try_get::<Option<i64>>("", "deleted_rev")?.is_some(),
                moved_to: row.try_get::<Option<Uuid>>("", "moved_to")?.map(ItemId),
            });
        }
        if page.changes.len() as u64 == limit {
            page.next =
                page.changes.last().map(|last| Cursor { rev: last.item.rev, path: last.path.clone() });
        }
        Ok(page)
    }

    /// What is at a path.
    pub async fn item(&self, session: SessionId, path: &WorkspacePath) -> Result<Item> {
        let db = self.database.reader();
        let text = format!(
            "SELECT {ITEM_COLUMNS} FROM workspace_items t
             WHERE t.session_uuid = $1 AND t.full_path = $2 AND t.deleted_rev IS NULL"
        );
        let values = [session.0.into(), path.as_str().into()];
        let row = Sql::of(db.get_database_backend(), &text, values).one(db).await?;
        let (_, item) = read_item(&row.ok_or_else(|| Error::NotFound(path.clone()))?)?;
        Ok(item)
    }

    /// A file with its bytes; a symlink's bytes are its target. [`Error::IsADirectory`] for a folder.
    pub async fn read_file(&self, session: SessionId, path: &WorkspacePath) -> Result<(Item, Bytes)> {
        let (item, row) = self.file_row(session, path).await?;
        let (_, bytes) = blobs::read(self.database.reader(), &row).await?;
        Ok((item, bytes))
    }

    /// A file or symlink, whose content is then read piece by piece: what stood there when it was opened, whatever
    /// is saved meanwhile. [`Error::IsADirectory`] for a folder.
    pub async fn open_file(&self, session: SessionId, path: &WorkspacePath) -> Result<(Item, Content)> {
        let (item, row) = self.file_row(session, path).await?;
        Ok((item, self.content_in(&row).await?))
    }

    /// A file or symlink, and its row with [`blobs::COLUMNS`].
    async fn file_row(&self, session: SessionId, path: &WorkspacePath) -> Result<(Item, QueryResult)> {
        let db = self.database.reader();
        let text = format!(
            "SELECT {ITEM_COLUMNS}, {} FROM workspace_items t
             JOIN workspace_state s ON s.session_uuid = t.session_uuid
             LEFT JOIN blobs b ON b.owner_id = s.owner_id AND b.hash = t.hash AND t.kind <> 'dir'
             WHERE t.session_uuid = $1 AND t.full_path = $2 AND t.deleted_rev IS NULL",
            blobs::COLUMNS
        );
        let values = [session.0.into(), path.as_str().into()];
        let row = Sql::of(db.get_database_backend(), &text, values).one(db).await?;
        let row = row.ok_or_else(|| Error::NotFound(path.clone()))?;
        let (_, item) = read_item(&row)?;
        if item.entry.kind == Kind::Dir {
            return Err(Error::IsADirectory(path.clone()));
        }
        if row.try_get::<Option<Vec<u8>>>("", "blob_hash")?.is_none() {
            return Err(Error::Damaged(format!("{} is missing", item.entry.hash)));
        }
        Ok((item, row))
    }

    /// A content by its hash, if the session's owner has it.
    pub async fn blob(&self, session: SessionId, hash: Hash) -> Result<Option<Bytes>> {
        let found = self.blobs(session, &[hash]).await?;
        Ok(found.into_iter().next().map(|(_, bytes)| bytes))
    }

    /// Contents by their hashes; those that aren't stored are left out. All are held in memory at once: the caller
    /// bounds how many and how large.
    pub async fn blobs(&self, session: SessionId, hashes: &[Hash]) -> Result<Vec<(Hash, Bytes)>> {
        let owner = self.owner(session).await?;
        Ok(blobs::fetch(self.database.reader(), owner, hashes).await?.into_iter().collect())
    }

    /// Which of these contents the session's owner has already.
    pub async fn known_blobs(&self, session: SessionId, hashes: &[Hash]) -> Result<Vec<Hash>> {
        let owner = self.owner(session).await?;
        Ok(blobs::sizes(self.database.reader(), owner, hashes).await?.into_keys().collect())
    }
}
