//! `leases`: who does a leader's work, and until when.

use sea_orm::entity::prelude::*;

/// Who does a leader's work, and until when.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "leases")]
pub struct Model {
    /// Which work.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// The replica that does it.
    pub holder: String,
    /// Rises with every change of hands.
    pub epoch: i64,
    /// When it may be taken.
    pub expires_at: i64,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
