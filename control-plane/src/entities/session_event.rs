//! `session_events`: one line of a session's timeline.

use sea_orm::entity::prelude::*;

/// One line of a session's timeline.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "session_events")]
pub struct Model {
    /// The key; rises with time.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The session.
    pub session_uuid: Uuid,
    /// When.
    pub at: i64,
    /// What kind of thing happened.
    pub kind: String,
    /// The state that followed, if it changed.
    pub state: Option<String>,
    /// A stable code of why.
    pub reason: Option<String>,
    /// For a person.
    pub message: String,
    /// Milliseconds since the start or stop began that this is a step of.
    pub elapsed_ms: Option<i64>,
    /// Who did it.
    pub actor: Option<String>,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
