//! A commit's steps on the database: lock, load what is touched, write the differences.

use super::blobs::{self, Blob};
use super::draft::{Differences, Draft, NewVersion, RowChange, Totals};
use super::sql::{Column, ITEM_COLUMNS, Rows, Sql, read_item, read_path, read_rev};
use super::types::Author;
use super::{Error, Result};
use crate::entities::now_ms;
use sea_orm::{ConnectionTrait, DatabaseTransaction, QueryResult};
use shared::id::{BatchId, ItemId, LinkEpoch, Revision, SessionId};
use shared::path::WorkspacePath;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Paths asked for one by one, beyond which the whole tree is read instead: that is one range.
const POINTS: usize = 3_000;
/// Subtrees asked for one by one, beyond which the whole tree is read instead.
const SUBTREES: usize = 40;

/// A workspace whose row is locked and whose revision is raised, until the transaction ends.
#[derive(Clone, Debug)]
pub(super) struct Locked {
    /// The workspace.
    pub(super) session: SessionId,
    /// The key of its session.
    pub(super) session_id: i64,
    /// In whose name contents are kept.
    pub(super) owner: i64,
    /// The revision being made.
    pub(super) rev: Revision,
    /// The newest link.
    pub(super) epoch: LinkEpoch,
    /// What it holds before the commit.
    pub(super) totals: Totals,
    /// The answer that the batch asked about got before, encoded, with its revision.
    pub(super) answered: Option<(Revision, Vec<u8>)>,
}

impl Locked {
    /// The revision that stands if the transaction is rolled back.
    pub(super) fn rev_before(&self) -> Revision {
        Revision(self.rev.0.saturating_sub(1))
    }
}

/// Raises the revision. Its row is the lock that makes the order of revisions the order of commits.
///
/// In the same round trip it looks up the answer to `batch`. On PostgreSQL that look is from before the wait for
/// the lock, so the same batch sent twice at once may miss it; its key in `applied_batches` then stops it.
pub(super) async fn lock(
    tx: &DatabaseTransaction,
    session: SessionId,
    batch: Option<BatchId>,
) -> Result<Locked> {
    let mut sql = Sql::of(
        tx.get_database_backend(),
        "UPDATE workspace_state SET rev = rev + 1, updated_at = $2 WHERE session_uuid = $1
         RETURNING rev, epoch, session_id, owner_id, bytes, items",
        [session.0.into(), now_ms().into()],
    );
    if let Some(batch) = batch {
        for column in ["rev", "results"] {
            sql.push(&format!(", (SELECT b.{column} FROM applied_batches b WHERE b.session_uuid = $1"));
            sql.push(" AND b.batch_id = ").bind(batch.0).push(&format!(") AS answered_{column}"));
        }
    }
    let row = sql.one(tx).await?.ok_or(Error::NoWorkspace(session))?;
    let number = |column: &str| row.try_get::<i64>("", column);
    let mut answered = None;
    if batch.is_some() && row.try_get::<Option<i64>>("", "answered_rev")?.is_some() {
        answered = Some((read_rev(&row, "answered_rev")?, row.try_get("", "answered_results")?));
    }
    Ok(Locked {
        session,
        session_id: number("session_id")?,
        owner: number("owner_id")?,
        rev: read_rev(&row, "rev")?,
        epoch: LinkEpoch(number("epoch")?.max(0) as u64),
        totals: Totals { items: number("items")?.max(0) as u64, bytes: number("bytes")?.max(0) as u64 },
        answered,
    })
}

/// What a change needs to see.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    points: BTreeSet<WorkspacePath>,
    subtrees: BTreeSet<WorkspacePath>,
    ids: Vec<Uuid>,
    whole: bool,
    moves: bool,
}

impl Needs {
    /// Everything.
    pub(super) fn whole() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// A path and all above it.
    pub(super) fn point(&mut self, path: &WorkspacePath) -> &mut Self {
        if self.points.insert(path.clone()) {
            self.points.extend(path.ancestors());
        }
        self
    }

    /// All below a path.
    pub(super) fn subtree(&mut self, path: &WorkspacePath) -> &mut Self {
        // Below one that is asked for already: nothing to add.
        if !path.ancestors().any(|above| self.subtrees.contains(&above)) {
            self.subtrees.insert(path.clone());
        }
        self
    }

    /// An item, wherever it is. Its ancestors are not loaded with it.
    pub(super) fn id(&mut self, id: ItemId) -> &mut Self {
        self.ids.push(id.0);
        self
    }

    /// Where the items asked for by id are.
    pub(super) fn found_in(&self, draft: &Draft) -> Vec<WorkspacePath> {
        self.ids.iter().filter_map(|id| draft.find(ItemId(*id))).collect()
    }

    /// Where items went that were at the paths asked for.
    pub(super) fn moves(&mut self) -> &mut Self {
        self.moves = true;
        self
    }
}

/// Reads what `needs` asks for into the draft, in one query.
pub(super) async fn load(
    db: &impl ConnectionTrait,
    session: SessionId,
    needs: &Needs,
    draft: &mut Draft,
) -> Result<()> {
    let whole = needs.whole
        || needs.points.len() > POINTS
        || needs.subtrees.len() > SUBTREES
        || needs.ids.len() > POINTS;
    let mut sql = Sql::new(db.get_database_backend());
    sql.push("SELECT ").push(ITEM_COLUMNS).push(", t.deleted_rev, t.moved_to FROM workspace_items t");
    sql.push(" WHERE t.session_uuid = ").bind(session.0);
    if needs.moves {
        sql.push(" AND (t.deleted_rev IS NULL OR t.moved_to IS NOT NULL)");
    } else {
        sql.push(" AND t.deleted_rev IS NULL");
    }
    if !whole {
        sql.push(" AND (");
        sql.one_of_texts("t.full_path", needs.points.iter().map(|path| path.as_str().to_owned()).collect());
        for folder in &needs.subtrees {
            let (from, to) = below(folder);
            sql.push(" OR (t.full_path >= ").bind(from).push(" AND t.full_path < ").bind(to).push(")");
        }
        if !needs.ids.is_empty() {
            // Tombstones keep the id; the place that counts is the live one.
            sql.push(" OR (t.deleted_rev IS NULL AND ").one_of_ids("t.id", needs.ids.clone()).push(")");
        }
        sql.push(")");
    }
    for row in sql.all(db).await? {
        take_in(&row, draft)?;
    }
    Ok(())
}

fn take_in(row: &QueryResult, draft: &mut Draft) -> Result<()> {
    if row.try_get::<Option<i64>>("", "deleted_rev")?.is_none() {
        let (path, item) = read_item(row)?;
        draft.load(path, item);
    } else if let Some(moved) = row.try_get::<Option<Uuid>>("", "moved_to")? {
        draft.load_moved(read_path(row, "full_path")?, ItemId(moved));
    }
    Ok(())
}

/// The range of paths below a folder: from `folder/`, up to but without `folder0` (`0` follows `/`).
pub(super) fn below(folder: &WorkspacePath) -> (String, String) {
    (format!("{folder}/"), format!("{folder}0"))
}

/// What to do where a row for the path is there already: it is the same path's, so all of it is replaced.
pub(super) const REPLACE_ITEM: &str = "ON CONFLICT (session_uuid, full_path) DO UPDATE SET
    id = excluded.id, parent_id = excluded.parent_id, kind = excluded.kind, mode = excluded.mode,
    size = excluded.size, hash = excluded.hash, rev = excluded.rev,
    deleted_rev = excluded.deleted_rev, moved_to = excluded.moved_to";

/// A batch of a pod's, as it is noted with the answer that it got.
pub(super) struct Applied {
    pub(super) batch: BatchId,
    /// With which batch the removal began that it goes on with, or itself.
    pub(super) removal: BatchId,
    /// Its answer, encoded.
    pub(super) results: Vec<u8>,
}

/// Writes the differences, the contents that come with them, and the answer to a batch of the pod.
pub(super) async fn write(
    tx: &DatabaseTransaction,
    locked: &Locked,
    differences: &Differences,
    author: &Author,
    contents: &[Blob],
    applied: Option<Applied>,
) -> Result<()> {
    let mut all = Vec::new();
    if !contents.is_empty() {
        all.push(blobs::rows(locked.owner, contents, now_ms()));
    }
    all.push(item_rows(locked, &differences.rows));
    all.push(version_rows(locked, &differences.versions, author));
    if let Some(Applied { batch, removal, results }) = applied {
        all.push(
            Rows::into_table("applied_batches", "")
                .same("session_uuid", "uuid", locked.session.0)
                .same("rev", "bigint", locked.rev.0 as i64)
                .same("at", "bigint", now_ms())
                .same("removal", "uuid", removal.0)
                .column("batch_id", Column::Id(vec![batch.0]))
                .column("results", Column::Bytes(vec![results])),
        );
    }
    let totals = Sql::of(
        tx.get_database_backend(),
        "UPDATE workspace_state SET bytes = $2, items = $3 WHERE session_uuid = $1",
        [
            locked.session.0.into(),
            (differences.totals.bytes as i64).into(),
            (differences.totals.items as i64).into(),
        ],
    );
    Rows::write(all, totals, tx).await?;
    Ok(())
}

fn item_rows(locked: &Locked, rows: &[RowChange]) -> Rows {
    let numbers = |read: fn(&RowChange) -> u64| Column::Number(rows.iter().map(|r| read(r) as i64).collect());
    let texts =
        |read: fn(&RowChange) -> &str| Column::Text(rows.iter().map(|r| read(r).to_owned()).collect());
    let or_nil = |id: Option<ItemId>| id.map_or(Uuid::nil(), |id| id.0);
    Rows::into_table("workspace_items", REPLACE_ITEM)
        .same("session_uuid", "uuid", locked.session.0)
        .same("session_id", "bigint", locked.session_id)
        .same("rev", "bigint", locked.rev.0 as i64)
        .column("full_path", texts(|row| row.path.as_str()))
        .column("id", Column::Id(rows.iter().map(|row| row.item.id.0).collect()))
        .column("parent_id", Column::Id(rows.iter().map(|row| or_nil(row.parent)).collect()))
        .column("name", texts(|row| row.path.name()))
        .column("kind", texts(|row| row.item.entry.kind.as_str()))
        .column("mode", numbers(|row| u64::from(row.item.entry.mode)))
        .column("size", numbers(|row| row.item.entry.size))
        .column("hash", Column::Bytes(rows.iter().map(|row| row.item.entry.hash.0.to_vec()).collect()))
        .nullable("deleted_rev", numbers(|row| if row.deleted { row.item.rev.0 } else { 0 }))
        .nullable("moved_to", Column::Id(rows.iter().map(|row| or_nil(row.moved_to)).collect()))
}

fn version_rows(locked: &Locked, versions: &[NewVersion], author: &Author) -> Rows {
    let now = now_ms();
    let numbers = |read: &dyn Fn(&NewVersion) -> i64| Column::Number(versions.iter().map(read).collect());
    let texts =
        |read: fn(&NewVersion) -> &str| Column::Text(versions.iter().map(|v| read(v).to_owned()).collect());
    Rows::into_table("item_versions", "")
        .same("session_uuid", "uuid", locked.session.0)
        .same("owner_id", "bigint", locked.owner)
        .same("rev", "bigint", locked.rev.0 as i64)
        .same("actor", "text", author.actor.clone())
        .same("at", "bigint", now)
        .column("item_id", Column::Id(versions.iter().map(|version| version.item.0).collect()))
        .column("path", texts(|version| version.path.as_str()))
        .column("op", texts(|version| version.op.as_str()))
        .column("kind", texts(|version| version.entry.kind.as_str()))
        .column("mode", numbers(&|version| i64::from(version.entry.mode)))
        .column("size", numbers(&|version| version.entry.size as i64))
        .column("hash", Column::Bytes(versions.iter().map(|version| version.entry.hash.0.to_vec()).collect()))
        .column("origin", texts(|version| version.origin.as_str()))
        .nullable("conflict_of", numbers(&|version| version.conflict_of.map_or(0, |rev| rev.0 as i64)))
        .nullable(
            "resolved_at",
            numbers(&|version| if version.conflict_of.is_some() && !version.open_conflict { now } else { 0 }),
        )
}
