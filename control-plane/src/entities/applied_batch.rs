//! `applied_batches`: a batch that was committed, with the answer it got.

use sea_orm::entity::prelude::*;

/// A batch that was committed, with the answer it got.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "applied_batches")]
pub struct Model {
    /// The session.
    #[sea_orm(primary_key, auto_increment = false)]
    pub session_uuid: Uuid,
    /// The batch.
    #[sea_orm(primary_key, auto_increment = false)]
    pub batch_id: Uuid,
    /// The revision that holds it.
    pub rev: i64,
    /// The answer, encoded.
    pub results: Vec<u8>,
    /// When.
    pub at: i64,
    /// With which batch the removal began that this one tells, or goes on with: perhaps its own.
    pub removal: Option<Uuid>,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
