//! `blob_chunks`: a part of a large content.

use sea_orm::entity::prelude::*;

/// A part of a large content.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "blob_chunks")]
pub struct Model {
    /// In whose name it is kept.
    #[sea_orm(primary_key, auto_increment = false)]
    pub owner_id: i64,
    /// The hash of the whole content.
    #[sea_orm(primary_key, auto_increment = false)]
    pub hash: Vec<u8>,
    /// Which part, counted from 0.
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    /// The part.
    pub data: Vec<u8>,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
