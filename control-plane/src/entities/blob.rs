//! `blobs`: a content, kept once for each owner.

use sea_orm::entity::prelude::*;

/// A content, kept once for each owner.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "blobs")]
pub struct Model {
    /// In whose name it is kept.
    #[sea_orm(primary_key, auto_increment = false)]
    pub owner_id: i64,
    /// The hash of the content.
    #[sea_orm(primary_key, auto_increment = false)]
    pub hash: Vec<u8>,
    /// Bytes of the content.
    pub size: i64,
    /// How `data` is encoded.
    pub encoding: i64,
    /// How many rows of `blob_chunks` hold it; 0 if `data` does.
    pub chunks: i64,
    /// The encoded content, or nothing if it is in chunks.
    pub data: Vec<u8>,
    /// When somebody last said to need it.
    pub touched_at: i64,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
