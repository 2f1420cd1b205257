//! `sessions`: a session: what it should be and what was last seen of it.

use sea_orm::entity::prelude::*;

/// A session: what it should be and what was last seen of it.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "sessions")]
pub struct Model {
    /// The key.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The id that the API shows.
    pub uuid: Uuid,
    /// The user it belongs to.
    pub owner_id: i64,
    /// Unique among the owner's sessions that are not deleted.
    pub name: String,
    /// What it should be: `running`, `stopped`, `deleted`.
    pub desired_state: String,
    /// What was last seen of it.
    pub observed_state: String,
    /// Why it is in that state, for a person.
    pub reason: Option<String>,
    /// Rises with every start: names its runtime objects.
    pub generation: i64,
    /// The name of its template.
    pub template: String,
    /// What the runtime finds it by.
    pub runtime_handle: Option<String>,
    /// When it was made.
    pub created_at: i64,
    /// When its row last changed.
    pub updated_at: i64,
    /// When somebody or something last used it.
    pub last_activity_at: i64,
    /// When it last started.
    pub started_at: Option<i64>,
    /// When it last stopped.
    pub stopped_at: Option<i64>,
    /// When its lifetime ends.
    pub expires_at: Option<i64>,
    /// It does not end for want of activity before this.
    pub kept_until: Option<i64>,
    /// Whether all files had reached the database when it last stopped; none if that is not known.
    pub stop_complete: Option<i64>,
    /// When the volume of the last stop was released.
    pub volume_released_at: Option<i64>,
    /// When it was deleted.
    pub deleted_at: Option<i64>,
}

/// None: rows are joined by hand where they are.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
