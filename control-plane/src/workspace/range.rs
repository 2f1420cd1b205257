//! Moving and deleting a folder with all it holds as ranges of paths: the rows never leave the database.

use super::commit::{Locked, REPLACE_ITEM, below};
use super::sql::Sql;
use super::types::Author;
use super::{Error, Result};
use crate::entities::now_ms;
use sea_orm::{ConnectionTrait, DatabaseTransaction};
use shared::limits::{PATH_BYTES, PATH_DEPTH};
use shared::path::{BadPath, WorkspacePath};

/// What is below a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inside {
    /// How many items.
    pub(super) items: u64,
    /// Bytes of their contents.
    pub(super) bytes: u64,
    longest: usize,
    deepest: usize,
}

/// Looks at what is below a folder.
pub(super) async fn inside(
    tx: &DatabaseTransaction,
    locked: &Locked,
    folder: &WorkspacePath,
) -> Result<Inside> {
    let (from, to) = below(folder);
    let sql = Sql::of(
        tx.get_database_backend(),
        "SELECT count(*) AS items, CAST(coalesce(sum(size), 0) AS BIGINT) AS bytes,
                CAST(coalesce(max(octet_length(full_path)), 0) AS BIGINT) AS longest,
                CAST(coalesce(max(length(full_path) - length(replace(full_path, '/', ''))), 0) AS BIGINT) AS deepest
         FROM workspace_items
         WHERE session_uuid = $1 AND full_path >= $2 AND full_path < $3 AND deleted_rev IS NULL",
        [locked.session.0.into(), from.into(), to.into()],
    );
    let Some(row) = sql.one(tx).await? else { return Ok(Inside::default()) };
    let number = |column: &str| row.try_get::<i64>("", column).map(|number| number.max(0) as u64);
    Ok(Inside {
        items: number("items")?,
        bytes: number("bytes")?,
        longest: number("longest")? as usize,
        deepest: number("deepest")? as usize + 1,
    })
}

/// Moves what is below `from` to below `to`; the folder itself is the caller's.
pub(super) async fn move_inside(
    tx: &DatabaseTransaction,
    locked: &Locked,
    inside: &Inside,
    from: &WorkspacePath,
    to: &WorkspacePath,
    author: &Author,
) -> Result<()> {
    if inside.longest + to.as_str().len() > PATH_BYTES + from.as_str().len() {
        return Err(Error::BadPath(BadPath::TooLong));
    }
    if inside.deepest + to.depth() > PATH_DEPTH + from.depth() {
        return Err(Error::BadPath(BadPath::TooDeep));
    }
    let (low, high) = below(from);
    let (new_low, new_high) = below(to);
    let rev = locked.rev.0 as i64;
    let backend = tx.get_database_backend();
    // What stays of the path is counted in characters, as substr does.
    let keep = from.as_str().chars().count() as i64 + 1;
    let mut sql = Sql::of(
        backend,
        "INSERT INTO workspace_items (session_uuid, full_path, session_id, id, parent_id, name, kind, mode, size,
                                      hash, rev, deleted_rev, moved_to)
         SELECT session_uuid, CAST($4 AS TEXT) || substr(full_path, CAST($5 AS INTEGER)), session_id, id, parent_id,
                name, kind, mode, size, hash, CAST($6 AS BIGINT), NULL, NULL
         FROM workspace_items
         WHERE session_uuid = $1 AND full_path >= $2 AND full_path < $3 AND deleted_rev IS NULL ",
        [
            locked.session.0.into(),
            low.clone().into(),
            high.clone().into(),
            to.as_str().into(),
            keep.into(),
            rev.into(),
        ],
    );
    sql.push(REPLACE_ITEM);
    sql.execute(tx).await?;
    keep_versions(tx, locked, "move", (new_low, new_high), author).await?;
    bury(tx, locked, (low, high), "id").await
}

/// Deletes what is below `folder`; the folder itself is the caller's.
pub(super) async fn delete_inside(
    tx: &DatabaseTransaction,
    locked: &Locked,
    folder: &WorkspacePath,
    author: &Author,
) -> Result<()> {
    keep_versions(tx, locked, "delete", below(folder), author).await?;
    bury(tx, locked, below(folder), "NULL").await
}

async fn keep_versions(
    tx: &DatabaseTransaction,
    locked: &Locked,
    op: &'static str,
    (low, high): (String, String),
    author: &Author,
) -> Result<()> {
    Sql::of(
        tx.get_database_backend(),
        "INSERT INTO item_versions (session_uuid, owner_id, item_id, rev, path, op, kind, mode, size, hash, origin,
                                    actor, at)
         SELECT session_uuid, CAST($4 AS BIGINT), id, CAST($5 AS BIGINT), full_path, CAST($6 AS TEXT), kind, mode,
                size, hash, CAST($7 AS TEXT), CAST($8 AS TEXT), CAST($9 AS BIGINT)
         FROM workspace_items
         WHERE session_uuid = $1 AND full_path >= $2 AND full_path < $3 AND deleted_rev IS NULL",
        [
            locked.session.0.into(),
            low.into(),
            high.into(),
            locked.owner.into(),
            (locked.rev.0 as i64).into(),
            op.into(),
            author.origin.as_str().into(),
            author.actor.clone().into(),
            now_ms().into(),
        ],
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn bury(
    tx: &DatabaseTransaction,
    locked: &Locked,
    (low, high): (String, String),
    moved_to: &'static str,
) -> Result<()> {
    let text = format!(
        "UPDATE workspace_items SET deleted_rev = $4, rev = $4, moved_to = {moved_to}
         WHERE session_uuid = $1 AND full_path >= $2 AND full_path < $3 AND deleted_rev IS NULL"
    );
    let rev = locked.rev.0 as i64;
    let values = [locked.session.0.into(), low.into(), high.into(), rev.into()];
    Sql::of(tx.get_database_backend(), &text, values).execute(tx).await?;
    Ok(())
}
