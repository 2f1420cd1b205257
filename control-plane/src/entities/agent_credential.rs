//! `agent_credentials`: what a session's agent shows to be let in.

use sea_orm::entity::prelude::*;

/// What a session's agent shows to be let in.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "agent_credentials")]
pub struct Model {
    /// The hash of the token.
    #[sea_orm(primary_key, auto_increment = false)]
    pub token_hash: Vec<u8>,
    /// The one session that it opens.
    pub session_uuid: Uuid,
    /// The session's generation that it was made for.
    pub generation: i64,
    /// When it was made.
    pub created_at: i64,
    /// When it ends.
    pub expires_at: Option<i64>,
    /// When it was taken back.
    pub revoked_at: Option<i64>,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
