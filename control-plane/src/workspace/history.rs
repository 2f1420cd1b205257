//! The history: versions, their bytes, and going back to them.

use super::blobs;
use super::commit::{Needs, load, write};
use super::draft::{Draft, RowChange, new_item};
use super::sql::{Sql, read_entry, read_path, read_rev};
use super::store::{Attempt, Done};
use super::types::{Author, BatchDone, HistoryQuery, Origin, Version, VersionOp};
use super::{Content, Error, Result, Store};
use crate::entities::now_ms;
use bytes::Bytes;
use sea_orm::{DatabaseTransaction, DbErr, QueryResult};
use shared::id::{ItemId, Revision, SessionId};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Item, Kind};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// Versions of one page.
const PAGE: u64 = 1_000;
const COLUMNS: &str =
    "v.id, v.item_id, v.rev, v.path, v.op, v.kind, v.mode, v.size, v.hash, v.origin, v.actor,
    v.conflict_of, v.resolved_at, v.at";

impl Store {
    /// Versions, newest first.
    pub async fn history(&self, session: SessionId, query: &HistoryQuery) -> Result<Vec<Version>> {
        let db = self.database.reader();
        let mut sql = Sql::new(db.get_database_backend());
        sql.push("SELECT ")
            .push(COLUMNS)
            .push(" FROM item_versions v WHERE v.session_uuid = ")
            .bind(session.0);
        if let Some(path) = &query.path {
            sql.push(" AND (v.item_id IN (SELECT w.item_id FROM item_versions w WHERE w.session_uuid = ");
            sql.bind(session.0).push(" AND w.path = ").bind(path.as_str()).push(")");
            if query.below {
                let (low, high) = super::commit::below(path);
                sql.push(" OR (v.path >= ").bind(low).push(" AND v.path < ").bind(high).push(")");
            }
            sql.push(")");
        }
        if let Some(before) = query.before {
            sql.push(" AND v.id < ").bind(before);
        }
        if query.open_conflicts {
            sql.push(" AND v.conflict_of IS NOT NULL AND v.resolved_at IS NULL");
        }
        sql.push(" ORDER BY v.id DESC LIMIT ").bind(query.limit.clamp(1, PAGE) as i64);
        let rows = sql.all(db).await?;
        if rows.is_empty() {
            self.rev(session).await?; // Nothing yet, or no such workspace: that is another answer.
        }
        rows.iter().map(read_version).collect()
    }

    /// A version and its bytes; none for a folder's.
    pub async fn version(&self, session: SessionId, version: i64) -> Result<(Version, Bytes)> {
        let (found, owner) = self.version_of(session, version).await?;
        if found.kind == Kind::Dir {
            return Ok((found, Bytes::new()));
        }
        let mut contents = blobs::fetch(self.database.reader(), owner, &[found.hash]).await?;
        let bytes = contents.remove(&found.hash);
        bytes.map(|bytes| (found, bytes)).ok_or(Error::NoSuchVersion(version))
    }

    /// A version whose bytes are then read piece by piece; none for a folder's.
    pub async fn open_version(&self, session: SessionId, version: i64) -> Result<(Version, Option<Content>)> {
        let (found, _) = self.version_of(session, version).await?;
        let content = match found.kind {
            Kind::Dir => None,
            Kind::File | Kind::Symlink => Some(self.open_content(session, found.hash).await?),
        };
        Ok((found, content))
    }

    /// A version, and in whose name its content is kept.
    async fn version_of(&self, session: SessionId, version: i64) -> Result<(Version, i64)> {
        let db = self.database.reader();
        let text = format!(
            "SELECT {COLUMNS}, v.owner_id FROM item_versions v WHERE v.session_uuid = $1 AND v.id = $2"
        );
        let row =
            Sql::of(db.get_database_backend(), &text, [session.0.into(), version.into()]).one(db).await?;
        let row = row.ok_or(Error::NoSuchVersion(version))?;
        Ok((read_version(&row)?, row.try_get("", "owner_id")?))
    }

    /// Marks a conflict as settled: a user chose. It stays in the history.
    pub async fn settle_conflict(&self, session: SessionId, version: i64) -> Result<()> {
        let db = self.database.writer();
        let done = Sql::of(
            db.get_database_backend(),
            "UPDATE item_versions SET resolved_at = COALESCE(resolved_at, $3)
             WHERE session_uuid = $1 AND id = $2 AND conflict_of IS NOT NULL",
            [session.0.into(), version.into(), now_ms().into()],
        )
        .execute(db)
        .await?;
        if done.rows_affected() == 0 { Err(Error::NoSuchVersion(version)) } else { Ok(()) }
    }

    /// Brings a file, a folder with all it held, or (no path) the whole workspace back to how it was at `to`, as a
    /// new revision that can itself be undone. Where the history was thinned, the nearest older version stands in.
    pub async fn restore(
        &self,
        session: SessionId,
        path: Option<&WorkspacePath>,
        to: Revision,
        author: &Author,
    ) -> Result<BatchDone> {
        if to > self.rev(session).await? {
            return Err(Error::NoSuchRevision(to));
        }
        self.restore_scopes(session, path.map(|path| vec![path.clone()]), to, author).await
    }

    /// Undoes the last change at a path, or below it if it is a folder. Undone twice, it stands again.
    pub async fn undo(&self, session: SessionId, path: &WorkspacePath, author: &Author) -> Result<BatchDone> {
        let db = self.database.reader();
        let (low, high) = super::commit::below(path);
        // The newest change that ended here, or that took something away from here.
        let text = "SELECT max(rev) AS rev FROM (
                SELECT rev FROM item_versions
                WHERE session_uuid = $1 AND op <> 'loser' AND (path = $2 OR (path >= $3 AND path < $4))
                UNION ALL
                SELECT rev FROM workspace_items
                WHERE session_uuid = $1 AND moved_to IS NOT NULL
                      AND (full_path = $2 OR (full_path >= $3 AND full_path < $4))
            ) AS changes";
        let values = [session.0.into(), path.as_str().into(), low.into(), high.into()];
        let row = Sql::of(db.get_database_backend(), text, values).one(db).await?;
        let newest = row.map(|row| row.try_get::<Option<i64>>("", "rev")).transpose()?.flatten();
        let Some(newest) = newest.filter(|rev| *rev > 0) else {
            return Err(Error::NothingToUndo(path.clone()));
        };
        let mut scopes = vec![path.clone()];
        scopes.extend(self.other_ends_of_moves(session, path, newest).await?);
        let before = self.before_removal(session, path, newest).await?.unwrap_or(newest - 1);
        self.restore_scopes(session, Some(scopes), Revision(before as u64), author).await
    }

    /// If revision `newest` only took away something at `path` or below, as part of a removal that came in several
    /// batches: the revision before the first of them, or the last one until then that did something else there.
    async fn before_removal(
        &self,
        session: SessionId,
        path: &WorkspacePath,
        newest: i64,
    ) -> Result<Option<i64>> {
        let db = self.database.reader();
        let (low, high) = super::commit::below(path);
        let text = "SELECT
                (SELECT min(b.rev) FROM applied_batches b JOIN applied_batches n
                    ON n.session_uuid = b.session_uuid AND n.removal = b.removal
                    WHERE b.session_uuid = $1 AND n.rev = $5) AS first,
                (SELECT max(v.rev) FROM item_versions v
                    WHERE v.session_uuid = $1 AND v.rev <= $5 AND v.op NOT IN ('delete', 'loser')
                          AND (v.path = $2 OR (v.path >= $3 AND v.path < $4))) AS other";
        let values = [session.0.into(), path.as_str().into(), low.into(), high.into(), newest.into()];
        let row = Sql::of(db.get_database_backend(), text, values).one(db).await?;
        let Some(row) = row else { return Ok(None) };
        let first = row.try_get::<Option<i64>>("", "first")?;
        let other = row.try_get::<Option<i64>>("", "other")?.unwrap_or(0);
        Ok(first.filter(|_| other < newest).map(|first| other.max(first - 1)))
    }

    /// For the moves of revision `rev` that start or end at `path`: where they end or start.
    async fn other_ends_of_moves(
        &self,
        session: SessionId,
        path: &WorkspacePath,
        rev: i64,
    ) -> Result<Vec<WorkspacePath>> {
        let db = self.database.reader();
        let backend = db.get_database_backend();
        let mut ends = Vec::new();
        let text = "SELECT v.path, (SELECT p.path FROM item_versions p WHERE p.session_uuid = v.session_uuid
                        AND p.item_id = v.item_id AND p.id < v.id AND p.op <> 'loser' ORDER BY p.id DESC LIMIT 1)
                        AS was_at
                    FROM item_versions v WHERE v.session_uuid = $1 AND v.rev = $2 AND v.op = 'move'";
        for row in Sql::of(backend, text, [session.0.into(), rev.into()]).all(db).await? {
            if row.try_get::<Option<String>>("", "was_at")?.is_none() {
                continue; // Thinned away.
            }
            let (now, was) = (read_path(&row, "path")?, read_path(&row, "was_at")?);
            let inside = |place: &WorkspacePath| place == path || place.is_below(path);
            match (inside(&now), inside(&was)) {
                (true, false) => ends.push(was),
                (false, true) => ends.push(now),
                _ => {}
            }
        }
        Ok(ends)
    }

    async fn restore_scopes(
        &self,
        session: SessionId,
        scopes: Option<Vec<WorkspacePath>>,
        to: Revision,
        author: &Author,
    ) -> Result<BatchDone> {
        // What was is not changed by what is committed meanwhile.
        let target = self.tree_at(session, to).await?;
        if let Some([scope]) = scopes.as_deref() {
            let there = |path: &WorkspacePath| path == scope || path.is_below(scope);
            if !target.keys().any(there) && self.item(session, scope).await.is_err() {
                return Err(Error::NotFound(scope.clone()));
            }
        }
        let author = Author { origin: Origin::Restore, actor: author.actor.clone() };
        let (limits, wanted) = (self.limits, Arc::new((target, scopes)));
        let done = self
            .committed(session, None, author.clone(), move |tx, locked| {
                let (wanted, author) = (wanted.clone(), author.clone());
                Box::pin(async move {
                    let mut draft = Draft::new(locked.totals);
                    load(tx, session, &Needs::whole(), &mut draft).await?;
                    bring_back(&mut draft, &wanted.0, wanted.1.as_deref())?;
                    draft.check_limits(locked.totals, &limits)?;
                    let differences = draft.differences(locked.rev, &author);
                    let commit = !differences.is_empty();
                    if commit {
                        keep(tx, locked.owner, &differences.rows).await?;
                        write(tx, locked, &differences, &author, &[], None).await?;
                    }
                    let rev = if commit { locked.rev } else { locked.rev_before() };
                    Ok(Attempt { done: Done { rev, differences, answer: () }, more: false, commit })
                })
            })
            .await?;
        Ok(done.into())
    }

    /// The tree as it was at a revision.
    async fn tree_at(&self, session: SessionId, rev: Revision) -> Result<BTreeMap<WorkspacePath, Item>> {
        let db = self.database.reader();
        let text = format!(
            "SELECT {COLUMNS} FROM item_versions v
             JOIN (SELECT max(id) AS id FROM item_versions
                   WHERE session_uuid = $1 AND rev <= $2 AND op <> 'loser' GROUP BY item_id) newest
               ON newest.id = v.id
             WHERE v.op <> 'delete' ORDER BY v.id"
        );
        let values = [session.0.into(), (rev.0 as i64).into()];
        let mut tree = BTreeMap::new();
        for row in Sql::of(db.get_database_backend(), &text, values).all(db).await? {
            let version = read_version(&row)?;
            let entry =
                Entry { kind: version.kind, mode: version.mode, size: version.size, hash: version.hash };
            // Of two that a thinned history puts at one path, the newer.
            tree.insert(version.path, Item { id: version.item, rev: version.rev, entry });
        }
        Ok(tree)
    }
}

/// Keeps the sweep from what is brought back, or refuses: the versions it was of may have gone since they were read,
/// and their contents with them.
async fn keep(tx: &DatabaseTransaction, owner: i64, rows: &[RowChange]) -> Result<()> {
    let back = || rows.iter().filter(|row| !row.deleted && row.item.entry.kind != Kind::Dir);
    let mut wanted: Vec<_> = back().map(|row| row.item.entry.hash).collect();
    // In one order, so that two commits cannot block each other in a circle.
    wanted.sort_unstable();
    wanted.dedup();
    let known = blobs::touch(tx, owner, &wanted).await?;
    match back().find(|row| !known.contains(&row.item.entry.hash)) {
        Some(row) => Err(Error::ContentGone(row.path.clone())),
        None => Ok(()),
    }
}

/// Makes what is in the scopes as the target has it, keeping ids where that is possible.
fn bring_back(
    draft: &mut Draft,
    target: &BTreeMap<WorkspacePath, Item>,
    scopes: Option<&[WorkspacePath]>,
) -> Result<()> {
    let in_scope = |path: &WorkspacePath| {
        scopes.is_none_or(|scopes| scopes.iter().any(|scope| path == scope || path.is_below(scope)))
    };
    let now: BTreeMap<WorkspacePath, Item> =
        draft.iter().filter(|(path, _)| in_scope(path)).map(|(path, item)| (path.clone(), *item)).collect();
    let mut taken: HashSet<ItemId> =
        draft.iter().filter(|(path, _)| !in_scope(path)).map(|(_, item)| item.id).collect();

    for (path, item) in now.iter().rev() {
        if target.get(path).is_none_or(|then| then.entry.kind != item.entry.kind) {
            draft.set(path, None);
        }
    }
    for (path, then) in target.iter().filter(|(path, _)| in_scope(path)) {
        if draft.blocked_by(path).is_some() {
            continue; // A thinned history can put an item into a file; the file is the newer.
        }
        draft.make_parents(path)?;
        let here = draft.get(path).copied();
        // The item itself if it is free; else what is here goes on under its own id.
        let id = if taken.insert(then.id) {
            then.id
        } else {
            here.map(|here| here.id).filter(|id| taken.insert(*id)).unwrap_or_else(ItemId::random)
        };
        let rev = here.map_or(Revision::ZERO, |here| here.rev);
        let restored = Item { id, rev, ..new_item(then.entry) };
        if here != Some(restored) {
            draft.set(path, Some(restored));
        }
    }
    Ok(())
}

fn read_version(row: &QueryResult) -> Result<Version> {
    let text = |column: &str| row.try_get::<String>("", column);
    let unknown =
        |what: &str| Error::Database(DbErr::Type(format!("a stored version has an unknown {what}")));
    let entry = read_entry(row)?;
    let conflict_of = row.try_get::<Option<i64>>("", "conflict_of")?;
    let resolved = row.try_get::<Option<i64>>("", "resolved_at")?.is_some();
    Ok(Version {
        id: row.try_get("", "id")?,
        item: ItemId(row.try_get::<Uuid>("", "item_id")?),
        rev: read_rev(row, "rev")?,
        path: read_path(row, "path")?,
        op: VersionOp::parse(&text("op")?).ok_or_else(|| unknown("operation"))?,
        kind: entry.kind,
        mode: entry.mode,
        size: entry.size,
        hash: entry.hash,
        origin: Origin::parse(&text("origin")?).ok_or_else(|| unknown("origin"))?,
        actor: row.try_get("", "actor")?,
        conflict_of: conflict_of.map(|rev| Revision(rev.max(0) as u64)),
        open_conflict: conflict_of.is_some() && !resolved,
        at: row.try_get("", "at")?,
    })
}
