//! `pods`: which session each pod serves.

use sea_orm::entity::prelude::*;

/// A pod that Berth made.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "pods")]
pub struct Model {
    /// The cluster's own id of it, never used twice.
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: Uuid,
    /// Its name.
    pub name: String,
    /// The name of its volume.
    pub volume: String,
    /// The hash of the template that shaped it.
    pub template_hash: String,
    /// The session it serves; none while it waits for one.
    pub session_uuid: Option<Uuid>,
    /// When it was made.
    pub created_at: i64,
    /// Until when its agent, linked and without a session, counts as ready; renewed while it waits.
    pub waiting_until: Option<i64>,
    /// Whether it carries its session's labels, so that its agent may be let in.
    pub handed_over: i64,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
