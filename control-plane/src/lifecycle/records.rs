//! Sessions in the database.

use super::retention;
use super::session::{New, Session, State};
use super::step::Want;
use super::timeline::{self, Line};
use super::{Error, Result};
use crate::entities::{now_ms, session};
use crate::environment;
use crate::templates;
use crate::workspace::{self, Database};
use jiff::Timestamp;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, SqlErr,
};
use shared::id::SessionId;

/// A session as its row has it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// What everyone sees.
    pub session: Session,
    /// What is wanted of it.
    pub want: Want,
    /// Rises with every start.
    pub generation: u64,
    /// What decides how long its volume is kept once it does not run.
    pub retention: retention::Facts,
}

/// A session that runs, as far as its end goes. Times are milliseconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub id: SessionId,
    pub generation: u64,
    pub template: String,
    pub active_at: i64,
    pub started_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub kept_until: Option<i64>,
}

pub(super) fn time(ms: i64) -> Timestamp {
    // The database holds what `now_ms` gave; anything else shows as the epoch rather than failing a list.
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn record(row: session::Model) -> Result<Record> {
    let broken = |what: &str| Error::Database(DbErr::Custom(format!("session {}: unknown {what}", row.uuid)));
    let want = Want::parse(&row.desired_state).ok_or_else(|| broken("desired state"))?;
    // A deleted session's last state is of no interest any more.
    let state = match State::parse(&row.observed_state) {
        Some(state) => state,
        None if want == Want::Deleted => State::Stopped,
        None => return Err(broken("state")),
    };
    let retention = retention::Facts {
        want,
        state,
        started_at: row.started_at,
        stopped_at: row.stopped_at,
        active_at: row.last_activity_at,
        complete: row.stop_complete.map(|complete| complete != 0),
        released: row.volume_released_at.is_some(),
    };
    let session = Session {
        id: SessionId(row.uuid),
        key: row.id,
        owner: row.owner_id,
        name: row.name,
        template: row.template,
        state,
        reason: row.reason,
        created_at: time(row.created_at),
        state_at: time(row.updated_at),
        active_at: Some(time(row.last_activity_at)),
        started_at: row.started_at.map(time),
        expires_at: row.expires_at.map(time),
        kept_until: row.kept_until.map(time),
    };
    Ok(Record { session, want, generation: row.generation as u64, retention })
}

/// Makes a session and its empty workspace.
pub(super) async fn create(
    database: &Database,
    New { id, owner, name, template, start, variables, actor }: New<'_>,
) -> Result<Record> {
    let want = if start { Want::Running } else { Want::Stopped };
    let now = now_ms();
    let state = if want == Want::Running { State::Starting } else { State::Stopped };
    let row = session::ActiveModel {
        id: NotSet,
        uuid: Set(id.0),
        owner_id: Set(owner),
        name: Set(name.to_owned()),
        desired_state: Set(want.as_str().to_owned()),
        observed_state: Set(state.as_str().to_owned()),
        reason: Set(None),
        generation: Set(i64::from(want == Want::Running)),
        template: Set(template.to_owned()),
        runtime_handle: Set(None),
        created_at: Set(now),
        updated_at: Set(now),
        last_activity_at: Set(now),
        started_at: Set(None),
        stopped_at: Set(None),
        expires_at: Set(None),
        kept_until: Set(None),
        stop_complete: Set(None),
        volume_released_at: Set(None),
        deleted_at: Set(None),
    };
    let transaction = database.begin().await?;
    templates::records::hold(&transaction, template).await?;
    let row = match session::Entity::insert(row).exec_with_returning(&transaction).await {
        Ok(row) => row,
        Err(why) if matches!(why.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
            return Err(Error::NameTaken(name.to_owned()));
        }
        Err(why) => return Err(why.into()),
    };
    workspace::create(&transaction, id, row.id, owner).await?;
    environment::records::insert(&transaction, id, variables).await?;
    let line =
        Line { kind: "created", message: "The session was created.".to_owned(), actor, ..Line::default() };
    timeline::insert(&transaction, id, line).await?;
    transaction.commit().await?;
    record(row)
}

/// One session that is not deleted.
pub(super) async fn get(database: &Database, id: SessionId) -> Result<Record> {
    let row = session::Entity::find()
        .filter(session::Column::Uuid.eq(id.0))
        .filter(session::Column::DeletedAt.is_null())
        .one(database.reader())
        .await?;
    record(row.ok_or(Error::NotFound(id))?)
}

/// One session, also while its deletion is not finished.
pub(super) async fn get_any(database: &Database, id: SessionId) -> Result<Option<Record>> {
    let row = session::Entity::find().filter(session::Column::Uuid.eq(id.0)).one(database.writer()).await?;
    row.filter(|row| !is_erased(row)).map(record).transpose()
}

fn is_erased(row: &session::Model) -> bool {
    row.desired_state == Want::Deleted.as_str() && row.observed_state == ERASED
}

/// The last state of a session of which nothing is left.
const ERASED: &str = "deleted";

/// Sessions that are not deleted, the newest first; of one owner, or of all.
pub(super) async fn list(database: &Database, owner: Option<i64>) -> Result<Vec<Session>> {
    let mut rows = session::Entity::find().filter(session::Column::DeletedAt.is_null());
    if let Some(owner) = owner {
        rows = rows.filter(session::Column::OwnerId.eq(owner));
    }
    let rows = rows.order_by_desc(session::Column::Id).all(database.reader()).await?;
    rows.into_iter().map(|row| record(row).map(|record| record.session)).collect()
}

/// Every session of which something may be left: those not yet erased.
pub(super) async fn unfinished(database: &Database) -> Result<Vec<Record>> {
    let rows = session::Entity::find()
        .filter(session::Column::ObservedState.ne(ERASED))
        .all(database.reader())
        .await?;
    rows.into_iter().map(record).collect()
}

/// Whether the session is neither there nor being deleted. Read from the writer: a decision to remove rests on it.
pub(super) async fn is_unknown(database: &Database, id: SessionId) -> Result<bool> {
    Ok(get_any(database, id).await?.is_none())
}

/// Says what is wanted of a session and what it therefore does now; a wish to run begins a new generation.
/// Answers false if the same was wanted already and `again` doesn't ask for a new beginning.
pub(super) async fn want(
    database: &Database,
    id: SessionId,
    want: Want,
    state: State,
    again: bool,
) -> Result<bool> {
    let now = now_ms();
    let mut update = session::Entity::update_many()
        .col_expr(session::Column::DesiredState, Expr::value(want.as_str()))
        .col_expr(session::Column::ObservedState, Expr::value(state.as_str()))
        .col_expr(session::Column::Reason, Expr::value(Option::<String>::None))
        .col_expr(session::Column::UpdatedAt, Expr::value(now))
        .filter(session::Column::Uuid.eq(id.0))
        .filter(session::Column::DeletedAt.is_null());
    if want == Want::Running {
        update = update
            .col_expr(session::Column::Generation, Expr::col(session::Column::Generation).add(1))
            .col_expr(session::Column::LastActivityAt, Expr::value(now))
            .col_expr(session::Column::ExpiresAt, Expr::value(Option::<i64>::None))
            .col_expr(session::Column::KeptUntil, Expr::value(Option::<i64>::None))
            .col_expr(session::Column::StopComplete, Expr::value(Option::<i64>::None))
            .col_expr(session::Column::VolumeReleasedAt, Expr::value(Option::<i64>::None));
    }
    if want == Want::Deleted {
        update = update.col_expr(session::Column::DeletedAt, Expr::value(now));
    }
    if !again {
        update = update.filter(session::Column::DesiredState.ne(want.as_str()));
    }
    Ok(update.exec(database.writer()).await?.rows_affected > 0)
}

/// Notes a session's state, unless a later wish has begun another generation meanwhile.
pub(super) async fn set_state(
    database: &Database,
    record: &Record,
    state: State,
    reason: Option<&str>,
) -> Result<bool> {
    let now = now_ms();
    let mut update = session::Entity::update_many()
        .col_expr(session::Column::ObservedState, Expr::value(state.as_str()))
        .col_expr(session::Column::Reason, Expr::value(reason.map(str::to_owned)))
        .col_expr(session::Column::UpdatedAt, Expr::value(now))
        .filter(session::Column::Uuid.eq(record.session.id.0))
        .filter(session::Column::Generation.eq(record.generation as i64))
        .filter(session::Column::DesiredState.eq(record.want.as_str()));
    update = match state {
        State::Running => update.col_expr(session::Column::StartedAt, Expr::value(now)),
        State::Stopped => update.col_expr(session::Column::StoppedAt, Expr::value(now)),
        // It ceased to run just now, whatever comes of it.
        _ if record.session.state == State::Running => {
            update.col_expr(session::Column::StoppedAt, Expr::value(now))
        }
        State::Failed => {
            update.col_expr(session::Column::StoppedAt, Expr::col(session::Column::StoppedAt).if_null(now))
        }
        _ => update,
    };
    Ok(update.exec(database.writer()).await?.rows_affected > 0)
}

/// Begins another generation of the same wish, unless a later wish has begun one already.
pub(super) async fn next_generation(database: &Database, record: &Record) -> Result<()> {
    session::Entity::update_many()
        .col_expr(session::Column::Generation, Expr::col(session::Column::Generation).add(1))
        .filter(session::Column::Uuid.eq(record.session.id.0))
        .filter(session::Column::Generation.eq(record.generation as i64))
        .exec(database.writer())
        .await?;
    Ok(())
}

/// Notes that a session stopped, and whether all its files had reached the database, if that is known.
pub(super) async fn set_stopped(
    database: &Database,
    record: &Record,
    reason: Option<&str>,
    complete: Option<bool>,
) -> Result<bool> {
    if !set_state(database, record, State::Stopped, reason).await? {
        return Ok(false);
    }
    session::Entity::update_many()
        .col_expr(session::Column::StopComplete, Expr::value(complete.map(i64::from)))
        .filter(session::Column::Uuid.eq(record.session.id.0))
        .filter(session::Column::Generation.eq(record.generation as i64))
        .filter(session::Column::ObservedState.eq(State::Stopped.as_str()))
        .exec(database.writer())
        .await?;
    Ok(true)
}

/// Notes that a session whose volume was given back gets one again.
pub(super) async fn unset_released(database: &Database, record: &Record) -> Result<()> {
    session::Entity::update_many()
        .col_expr(session::Column::VolumeReleasedAt, Expr::value(Option::<i64>::None))
        .filter(session::Column::Uuid.eq(record.session.id.0))
        .filter(session::Column::Generation.eq(record.generation as i64))
        .exec(database.writer())
        .await?;
    Ok(())
}

/// Notes that the volume of a session that does not run is no more.
pub(super) async fn set_released(database: &Database, record: &Record) -> Result<bool> {
    let update = session::Entity::update_many()
        .col_expr(session::Column::VolumeReleasedAt, Expr::value(now_ms()))
        .filter(session::Column::Uuid.eq(record.session.id.0))
        .filter(session::Column::Generation.eq(record.generation as i64))
        .filter(session::Column::VolumeReleasedAt.is_null());
    Ok(update.exec(database.writer()).await?.rows_affected > 0)
}

/// Every session that runs.
pub(super) async fn running(database: &Database) -> Result<Vec<Running>> {
    let rows = session::Entity::find()
        .filter(session::Column::DesiredState.eq(Want::Running.as_str()))
        .filter(session::Column::ObservedState.eq(State::Running.as_str()))
        .filter(session::Column::DeletedAt.is_null())
        .all(database.reader())
        .await?;
    let running = |row: session::Model| Running {
        id: SessionId(row.uuid),
        generation: row.generation as u64,
        template: row.template,
        active_at: row.last_activity_at,
        started_at: row.started_at,
        expires_at: row.expires_at,
        kept_until: row.kept_until,
    };
    Ok(rows.into_iter().map(running).collect())
}

/// Wants a session stopped because its end has come, unless anything that this was decided from has changed: it was
/// used, extended, stopped or started anew. Answers whether it is so.
pub(super) async fn end(database: &Database, row: &Running, reason: &str) -> Result<bool> {
    let same = |column: session::Column, value: Option<i64>| match value {
        Some(value) => column.eq(value),
        None => column.is_null(),
    };
    let update = session::Entity::update_many()
        .col_expr(session::Column::DesiredState, Expr::value(Want::Stopped.as_str()))
        .col_expr(session::Column::ObservedState, Expr::value(State::Stopping.as_str()))
        .col_expr(session::Column::Reason, Expr::value(reason))
        .col_expr(session::Column::UpdatedAt, Expr::value(now_ms()))
        .filter(session::Column::Uuid.eq(row.id.0))
        .filter(session::Column::DeletedAt.is_null())
        .filter(session::Column::DesiredState.eq(Want::Running.as_str()))
        .filter(session::Column::Generation.eq(row.generation as i64))
        .filter(session::Column::LastActivityAt.lte(row.active_at))
        .filter(same(session::Column::ExpiresAt, row.expires_at))
        .filter(same(session::Column::KeptUntil, row.kept_until));
    Ok(update.exec(database.writer()).await?.rows_affected > 0)
}

/// Sets when a session's lifetime ends, if this start of it has none yet.
pub(super) async fn begin_lifetime(database: &Database, record: &Record, end: i64) -> Result<()> {
    session::Entity::update_many()
        .col_expr(session::Column::ExpiresAt, Expr::value(end))
        .filter(session::Column::Uuid.eq(record.session.id.0))
        .filter(session::Column::Generation.eq(record.generation as i64))
        .filter(session::Column::ExpiresAt.is_null())
        .exec(database.writer())
        .await?;
    Ok(())
}

/// Moves the end of a session's lifetime, if it is still what it was.
pub(super) async fn move_end(database: &Database, id: SessionId, from: i64, to: i64) -> Result<bool> {
    let update = session::Entity::update_many()
        .col_expr(session::Column::ExpiresAt, Expr::value(to))
        .filter(session::Column::Uuid.eq(id.0))
        .filter(session::Column::ExpiresAt.eq(from));
    Ok(update.exec(database.writer()).await?.rows_affected > 0)
}

/// Lets neither want of activity nor the end of its lifetime stop a session before `until`. Answers false if it is not
/// wanted to run.
pub(super) async fn extend(database: &Database, id: SessionId, until: i64) -> Result<bool> {
    let column = |column: session::Column| Expr::col(column);
    let kept = Expr::case(column(session::Column::KeptUntil).gt(until), column(session::Column::KeptUntil));
    // Of one that never expires nothing is extended.
    let expires = Expr::case(column(session::Column::ExpiresAt).lt(until), Expr::value(until));
    let update = session::Entity::update_many()
        .col_expr(session::Column::KeptUntil, kept.finally(until).into())
        .col_expr(session::Column::ExpiresAt, expires.finally(column(session::Column::ExpiresAt)).into())
        .filter(session::Column::Uuid.eq(id.0))
        .filter(session::Column::DeletedAt.is_null())
        .filter(session::Column::DesiredState.eq(Want::Running.as_str()))
        .filter(session::Column::ObservedState.eq(State::Running.as_str()));
    Ok(update.exec(database.writer()).await?.rows_affected > 0)
}

/// Another name for a session.
pub(super) async fn rename(database: &Database, id: SessionId, name: &str) -> Result<()> {
    let renamed = session::Entity::update_many()
        .col_expr(session::Column::Name, Expr::value(name))
        .filter(session::Column::Uuid.eq(id.0))
        .filter(session::Column::DeletedAt.is_null())
        .exec(database.writer())
        .await;
    match renamed {
        Ok(done) if done.rows_affected == 0 => Err(Error::NotFound(id)),
        Ok(_) => Ok(()),
        Err(why) if matches!(why.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
            Err(Error::NameTaken(name.to_owned()))
        }
        Err(why) => Err(why.into()),
    }
}

/// Removes what the database holds of a deleted session; only a tombstone row stays.
pub(super) async fn erase(database: &Database, id: SessionId) -> Result<()> {
    let transaction = database.begin().await?;
    workspace::erase(&transaction, id).await?;
    crate::agents::revoke_credentials(&transaction, id, None).await?;
    environment::records::erase(&transaction, id).await?;
    timeline::erase(&transaction, id).await?;
    session::Entity::update_many()
        .col_expr(session::Column::ObservedState, Expr::value(ERASED))
        .col_expr(session::Column::UpdatedAt, Expr::value(now_ms()))
        .filter(session::Column::Uuid.eq(id.0))
        .filter(session::Column::DesiredState.eq(Want::Deleted.as_str()))
        .exec(&transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// Notes that sessions were used, at most once a minute each.
pub(super) async fn note_activity(database: &Database, uses: &[(SessionId, i64)]) -> Result<()> {
    for (id, at) in uses {
        session::Entity::update_many()
            .col_expr(session::Column::LastActivityAt, Expr::value(*at))
            .filter(session::Column::Uuid.eq(id.0))
            .filter(session::Column::LastActivityAt.lt(*at))
            .exec(database.writer())
            .await?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
