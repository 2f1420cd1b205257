//! `item_versions`: one version of an item.

use sea_orm::entity::prelude::*;

/// One version of an item.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "item_versions")]
pub struct Model {
    /// The key; rises with time.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The session.
    pub session_uuid: Uuid,
    /// In whose name its content is kept.
    pub owner_id: i64,
    /// The item.
    pub item_id: Uuid,
    /// The revision that made it.
    pub rev: i64,
    /// Where the item then was.
    pub path: String,
    /// What was done.
    pub op: String,
    /// `file`, `dir` or `symlink`.
    pub kind: String,
    /// Permission bits.
    pub mode: i64,
    /// Bytes of its content.
    pub size: i64,
    /// The hash of its content.
    pub hash: Vec<u8>,
    /// Where it came from.
    pub origin: String,
    /// Who did it.
    pub actor: Option<String>,
    /// The revision of the version that stood instead, if this one lost.
    pub conflict_of: Option<i64>,
    /// When a user settled the conflict.
    pub resolved_at: Option<i64>,
    /// When it was made.
    pub at: i64,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
