//! `workspace_items`: what stands, or last stood, at a path.

use sea_orm::entity::prelude::*;

/// What stands, or last stood, at a path.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "workspace_items")]
pub struct Model {
    /// The session.
    #[sea_orm(primary_key, auto_increment = false)]
    pub session_uuid: Uuid,
    /// The path.
    #[sea_orm(primary_key, auto_increment = false)]
    pub full_path: String,
    /// The session's key.
    pub session_id: i64,
    /// The item; kept over renames.
    pub id: Uuid,
    /// The folder that holds it; nil at the top.
    pub parent_id: Uuid,
    /// The path's last part.
    pub name: String,
    /// `file`, `dir` or `symlink`.
    pub kind: String,
    /// Permission bits.
    pub mode: i64,
    /// Bytes of its content.
    pub size: i64,
    /// The hash of its content.
    pub hash: Vec<u8>,
    /// The revision that last changed it.
    pub rev: i64,
    /// The revision that took it away; none while it is live.
    pub deleted_rev: Option<i64>,
    /// The item that was here and now is elsewhere.
    pub moved_to: Option<Uuid>,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
