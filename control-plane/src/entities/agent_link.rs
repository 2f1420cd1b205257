//! `agent_links`: which replica holds a session's link.

use sea_orm::entity::prelude::*;

/// Which replica holds a session's link.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_links")]
pub struct Model {
    /// The session.
    #[sea_orm(primary_key, auto_increment = false)]
    pub session_uuid: Uuid,
    /// The replica that owns the link.
    pub replica: String,
    /// Where the other replicas reach it.
    pub address: String,
    /// Rises with every link.
    pub epoch: i64,
    /// The run of the agent.
    pub instance: Uuid,
    /// When the link came up.
    pub connected_at: i64,
    /// When the row counts as stale unless renewed.
    pub expires_at: i64,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
