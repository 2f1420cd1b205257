//! Pods and volumes in the database, which alone says what serves which session: labels can be edited.

use crate::entities::{now_ms, pod, session};
use crate::workspace::Database;
use sea_orm::sea_query::{Expr, LockBehavior, LockType, OnConflict};
use sea_orm::{ActiveValue::Set, ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use shared::id::SessionId;
use std::collections::HashSet;
use std::time::Duration;
use uuid::Uuid;

pub(super) use pod::Model as PodRow;

/// How long a waiting agent counts as ready without saying so again.
const READY_FOR: Duration = Duration::from_secs(30);

/// The name of the volume that holds a session's files, if it has one.
pub(super) async fn volume(database: &Database, session: SessionId) -> Result<Option<String>, DbErr> {
    let found: Option<(Option<String>,)> = session::Entity::find()
        .select_only()
        .column(session::Column::RuntimeHandle)
        .filter(session::Column::Uuid.eq(session.0))
        .into_tuple()
        .one(database.writer())
        .await?;
    Ok(found.and_then(|(volume,)| volume))
}

/// Notes which volume holds a session's files.
pub(super) async fn set_volume(
    database: &Database,
    session: SessionId,
    volume: Option<&str>,
) -> Result<(), DbErr> {
    session::Entity::update_many()
        .col_expr(session::Column::RuntimeHandle, Expr::value(volume.map(str::to_owned)))
        .filter(session::Column::Uuid.eq(session.0))
        .exec(database.writer())
        .await?;
    Ok(())
}

/// Notes a pod. A second time changes nothing.
pub(super) async fn keep(
    database: &Database,
    uid: Uuid,
    name: &str,
    volume: &str,
    template_hash: &str,
    session: Option<SessionId>,
) -> Result<(), DbErr> {
    let row = pod::ActiveModel {
        uid: Set(uid),
        name: Set(name.to_owned()),
        volume: Set(volume.to_owned()),
        template_hash: Set(template_hash.to_owned()),
        session_uuid: Set(session.map(|session| session.0)),
        created_at: Set(now_ms()),
        waiting_until: Set(None),
        handed_over: Set(i64::from(session.is_some())),
    };
    pod::Entity::insert(row)
        .on_conflict(OnConflict::column(pod::Column::Uid).do_nothing().to_owned())
        .exec_without_returning(database.writer())
        .await?;
    Ok(())
}

/// A pod, by its uid.
pub(super) async fn get(database: &Database, uid: Uuid) -> Result<Option<PodRow>, DbErr> {
    pod::Entity::find_by_id(uid).one(database.writer()).await
}

/// A session's pods, the newest first.
pub(super) async fn of_session(database: &Database, session: SessionId) -> Result<Vec<PodRow>, DbErr> {
    pod::Entity::find()
        .filter(pod::Column::SessionUuid.eq(session.0))
        .order_by_desc(pod::Column::CreatedAt)
        .all(database.writer())
        .await
}

/// Pods that wait for a session, the oldest first.
pub(super) async fn waiting(database: &Database) -> Result<Vec<PodRow>, DbErr> {
    pod::Entity::find()
        .filter(pod::Column::SessionUuid.is_null())
        .order_by_asc(pod::Column::CreatedAt)
        .all(database.writer())
        .await
}

/// Forgets a pod that is gone.
pub(super) async fn forget(database: &Database, uid: Uuid) -> Result<(), DbErr> {
    pod::Entity::delete_by_id(uid).exec(database.writer()).await?;
    Ok(())
}

/// Forgets a pod that waits, unless it was given to a session meanwhile. Answers whether it was forgotten.
pub(super) async fn forget_waiting(database: &Database, uid: Uuid) -> Result<bool, DbErr> {
    let done = pod::Entity::delete_by_id(uid)
        .filter(pod::Column::SessionUuid.is_null())
        .exec(database.writer())
        .await?;
    Ok(done.rows_affected > 0)
}

/// Forgets pods made before `before` that are not among `there`.
pub(super) async fn forget_gone(
    database: &Database,
    there: &HashSet<Uuid>,
    before: i64,
) -> Result<(), DbErr> {
    let rows: Vec<(Uuid,)> = pod::Entity::find()
        .select_only()
        .column(pod::Column::Uid)
        .filter(pod::Column::CreatedAt.lt(before))
        .into_tuple()
        .all(database.writer())
        .await?;
    for (uid,) in rows.into_iter().filter(|(uid,)| !there.contains(uid)) {
        forget(database, uid).await?;
    }
    Ok(())
}

/// Notes that a pod's agent waits for a session.
pub(super) async fn note_waiting(database: &Database, uid: Uuid) -> Result<(), DbErr> {
    let until = now_ms() + READY_FOR.as_millis() as i64;
    pod::Entity::update_many()
        .col_expr(pod::Column::WaitingUntil, Expr::value(until))
        .filter(pod::Column::Uid.eq(uid))
        .exec(database.writer())
        .await?;
    Ok(())
}

/// Gives a session one of the pods that wait with that template, and the pod's volume. Two sessions never get the
/// same: whoever comes second takes another or none.
pub(super) async fn claim(
    database: &Database,
    session: SessionId,
    template_hash: &str,
) -> Result<Option<PodRow>, DbErr> {
    let transaction = database.begin().await?;
    let found = pod::Entity::find()
        .filter(pod::Column::SessionUuid.is_null())
        .filter(pod::Column::TemplateHash.eq(template_hash))
        .filter(pod::Column::WaitingUntil.gt(now_ms()))
        .order_by_asc(pod::Column::CreatedAt)
        .limit(1)
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .one(&transaction)
        .await?;
    let Some(mut row) = found else { return Ok(None) };
    pod::Entity::update_many()
        .col_expr(pod::Column::SessionUuid, Expr::value(session.0))
        .filter(pod::Column::Uid.eq(row.uid))
        .exec(&transaction)
        .await?;
    let given = session::Entity::update_many()
        .col_expr(session::Column::RuntimeHandle, Expr::value(row.volume.clone()))
        .filter(session::Column::Uuid.eq(session.0))
        .filter(session::Column::RuntimeHandle.is_null())
        .exec(&transaction)
        .await?;
    if given.rows_affected == 0 {
        // It has a volume after all: what is on it must not be left behind.
        transaction.rollback().await?;
        return Ok(None);
    }
    transaction.commit().await?;
    row.session_uuid = Some(session.0);
    Ok(Some(row))
}

/// Notes that a claimed pod carries its session's labels, so that its agent may be let in.
pub(super) async fn note_handed_over(database: &Database, uid: Uuid) -> Result<(), DbErr> {
    pod::Entity::update_many()
        .col_expr(pod::Column::HandedOver, Expr::value(1))
        .filter(pod::Column::Uid.eq(uid))
        .exec(database.writer())
        .await?;
    Ok(())
}

/// Whether a pod or a session uses a volume.
pub(super) async fn uses_volume(database: &Database, volume: &str) -> Result<bool, DbErr> {
    let pod = pod::Entity::find().filter(pod::Column::Volume.eq(volume)).one(database.writer()).await?;
    let session = session::Entity::find()
        .filter(session::Column::RuntimeHandle.eq(volume))
        .one(database.writer())
        .await?;
    Ok(pod.is_some() || session.is_some())
}
