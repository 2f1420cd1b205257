//! Sessions' timelines in the database.

use super::Result;
use super::records::time;
use super::session::{State, TimelineEvent};
use crate::entities::{now_ms, session_event};
use crate::workspace::Database;
use jiff::Timestamp;
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use shared::id::SessionId;

/// Lines of a timeline that are given at once: the newest.
const TIMELINE_LINES: u64 = 500;

/// Lines that a timeline keeps, whatever happens to its session: the newest.
pub(super) const KEPT: u64 = 2_000;

/// A line for the timeline.
#[derive(Clone, Debug, Default)]
pub(super) struct Line<'a> {
    /// What kind of thing happened.
    pub kind: &'a str,
    /// The state that followed, if it changed.
    pub state: Option<State>,
    /// Which step it was.
    pub step: Option<&'a str>,
    /// For a person.
    pub message: String,
    /// Milliseconds since the start or stop began.
    pub elapsed_ms: Option<i64>,
    /// Who did it.
    pub actor: Option<String>,
}

/// Adds a line to a session's timeline. Agents and people may make many: what is oldest goes.
pub(super) async fn add(database: &Database, id: SessionId, line: Line<'_>) -> Result<()> {
    insert(database.writer(), id, line).await?;
    let of_session = || session_event::Column::SessionUuid.eq(id.0);
    let beyond: Option<i64> = session_event::Entity::find()
        .select_only()
        .column(session_event::Column::Id)
        .filter(of_session())
        .order_by_desc(session_event::Column::Id)
        .offset(KEPT)
        .into_tuple()
        .one(database.writer())
        .await?;
    if let Some(beyond) = beyond {
        session_event::Entity::delete_many()
            .filter(of_session())
            .filter(session_event::Column::Id.lte(beyond))
            .exec(database.writer())
            .await?;
    }
    Ok(())
}

/// Adds one within a transaction.
pub(super) async fn insert(db: &impl ConnectionTrait, id: SessionId, line: Line<'_>) -> Result<()> {
    let row = session_event::ActiveModel {
        id: NotSet,
        session_uuid: Set(id.0),
        at: Set(now_ms()),
        kind: Set(line.kind.to_owned()),
        state: Set(line.state.map(|state| state.as_str().to_owned())),
        reason: Set(line.step.map(str::to_owned)),
        message: Set(line.message),
        elapsed_ms: Set(line.elapsed_ms),
        actor: Set(line.actor),
    };
    session_event::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

/// Whether a session's timeline says something already.
pub(super) async fn is_told(
    database: &Database,
    id: SessionId,
    step: &str,
    message: &str,
    since: Timestamp,
) -> Result<bool> {
    let found = session_event::Entity::find()
        .filter(session_event::Column::SessionUuid.eq(id.0))
        .filter(session_event::Column::At.gte(since.as_millisecond()))
        .filter(session_event::Column::Reason.eq(step))
        .filter(session_event::Column::Message.eq(message))
        .one(database.reader())
        .await?;
    Ok(found.is_some())
}

/// The newest lines of a session's timeline, the oldest of them first.
pub(super) async fn newest(database: &Database, id: SessionId) -> Result<Vec<TimelineEvent>> {
    let rows = session_event::Entity::find()
        .filter(session_event::Column::SessionUuid.eq(id.0))
        .order_by_desc(session_event::Column::Id)
        .limit(TIMELINE_LINES)
        .all(database.reader())
        .await?;
    let line = |row: session_event::Model| TimelineEvent {
        at: time(row.at),
        kind: row.kind,
        message: row.message,
        step: row.reason,
        elapsed_ms: row.elapsed_ms,
    };
    Ok(rows.into_iter().rev().map(line).collect())
}

/// Removes a session's timeline.
pub(super) async fn erase(db: &impl ConnectionTrait, id: SessionId) -> Result<()> {
    session_event::Entity::delete_many().filter(session_event::Column::SessionUuid.eq(id.0)).exec(db).await?;
    Ok(())
}
