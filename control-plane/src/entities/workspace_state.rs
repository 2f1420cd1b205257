//! `workspace_state`: a workspace's revision and totals; its row is the lock of every commit.

use sea_orm::entity::prelude::*;

/// A workspace's revision and totals; its row is the lock of every commit.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "workspace_state")]
pub struct Model {
    /// The session.
    #[sea_orm(primary_key, auto_increment = false)]
    pub session_uuid: Uuid,
    /// The session's key.
    pub session_id: i64,
    /// The user in whose name contents are kept.
    pub owner_id: i64,
    /// The newest revision.
    pub rev: i64,
    /// Bytes of all live items.
    pub bytes: i64,
    /// How many items are live.
    pub items: i64,
    /// The newest link's epoch; batches of older links are refused.
    pub epoch: i64,
    /// Tombstones up to here are gone: who knows less must be sent the whole tree.
    pub pruned_rev: i64,
    /// The volume that the pod's copy was last seen on.
    pub volume: Option<Uuid>,
    /// When it last changed.
    pub updated_at: i64,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
