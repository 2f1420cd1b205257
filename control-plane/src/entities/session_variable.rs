//! `session_variables`: a session's own variables and secrets.

use sea_orm::entity::prelude::*;

/// A variable with its value, or a sealed secret.
#[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "session_variables")]
pub struct Model {
    /// The session.
    #[sea_orm(primary_key, auto_increment = false)]
    pub session_uuid: Uuid,
    /// The variable's name.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// A variable's value.
    pub value: Option<String>,
    /// A secret's, sealed.
    pub sealed: Option<Vec<u8>>,
    /// When it was last set.
    pub updated_at: i64,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "session_variable({})", self.name)
    }
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
