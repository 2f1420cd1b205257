//! `users`: a user, or the one local user of the embedded default.

use sea_orm::entity::prelude::*;

/// A user, or the one local user of the embedded default.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "users")]
pub struct Model {
    /// The key.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The id that the API shows.
    pub uuid: Uuid,
    /// What they sign in with; unique.
    pub name: String,
    /// Their address, if known; unique.
    pub email: Option<String>,
    /// argon2id in PHC form; none for users who sign in otherwise.
    pub password_hash: Option<String>,
    /// 1 for those who may do everything.
    pub admin: i64,
    /// When they came.
    pub created_at: i64,
    /// Since when they may not enter.
    pub disabled_at: Option<i64>,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
