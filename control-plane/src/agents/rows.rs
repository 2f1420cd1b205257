//! Agents in the database: their credentials, and who holds their links.

use super::identity::{AgentIdentity, Credential, Identified, IdentityError};
use super::registry::ROW_LIFETIME;
use crate::entities::{agent_credential, agent_link, now_ms, session};
use crate::workspace::Database;
use async_trait::async_trait;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, QueryFilter,
    QuerySelect,
};
use shared::id::{LinkEpoch, SessionId};

/// Knows local agents by the random credential that their session was given.
pub struct StoredCredentials(pub Database);

#[async_trait]
impl AgentIdentity for StoredCredentials {
    async fn identify(&self, bearer: &str) -> Result<Option<Identified>, IdentityError> {
        let Some(credential) = Credential::parse(bearer) else { return Ok(None) };
        let known = agent_credential::Entity::find()
            .filter(agent_credential::Column::SessionUuid.eq(credential.session().0))
            .filter(agent_credential::Column::RevokedAt.is_null())
            .all(self.0.reader())
            .await
            .map_err(|e| IdentityError(e.to_string()))?;
        let now = now_ms();
        let opens = known
            .iter()
            .filter(|row| row.expires_at.is_none_or(|end| end > now))
            .fold(false, |opens, row| opens | credential.opens(&row.token_hash));
        Ok(opens.then(|| Identified::Session(credential.session())))
    }
}

/// Keeps a credential's hash, so that it opens its session.
pub(crate) async fn keep_credential(
    database: &DatabaseConnection,
    credential: &Credential,
    generation: u64,
) -> Result<(), DbErr> {
    let row = agent_credential::ActiveModel {
        token_hash: Set(credential.hash()),
        session_uuid: Set(credential.session().0),
        generation: Set(generation as i64),
        created_at: Set(now_ms()),
        expires_at: Set(None),
        revoked_at: Set(None),
    };
    agent_credential::Entity::insert(row).exec_without_returning(database).await?;
    Ok(())
}

/// Takes back every credential of a session but `keep`.
pub(crate) async fn revoke_credentials(
    database: &impl ConnectionTrait,
    session: SessionId,
    keep: Option<&Credential>,
) -> Result<(), DbErr> {
    let mut revoking =
        agent_credential::Entity::delete_many().filter(agent_credential::Column::SessionUuid.eq(session.0));
    if let Some(keep) = keep {
        revoking = revoking.filter(agent_credential::Column::TokenHash.ne(keep.hash()));
    }
    revoking.exec(database).await?;
    Ok(())
}

/// Takes back one credential.
pub(crate) async fn revoke_credential(
    database: &DatabaseConnection,
    credential: &Credential,
) -> Result<(), DbErr> {
    agent_credential::Entity::delete_by_id(credential.hash()).exec(database).await?;
    Ok(())
}

/// Whether there is such a session and it is not being deleted.
pub(super) async fn session_lives(database: &DatabaseConnection, session: SessionId) -> Result<bool, DbErr> {
    let state: Option<(String,)> = session::Entity::find()
        .select_only()
        .column(session::Column::DesiredState)
        .filter(session::Column::Uuid.eq(session.0))
        .filter(session::Column::DeletedAt.is_null())
        .into_tuple()
        .one(database)
        .await?;
    Ok(state.is_some_and(|(desired,)| desired != "deleted"))
}

/// Says that the link is still up. Touches nothing if a newer one has its place.
pub(super) async fn renew(
    database: &DatabaseConnection,
    session: SessionId,
    epoch: LinkEpoch,
) -> Result<(), DbErr> {
    set_expiry(database, session, epoch, now_ms() + ROW_LIFETIME.as_millis() as i64).await
}

/// Says that the link is over. The row stays: its epoch must go on rising.
pub(super) async fn expire(
    database: &DatabaseConnection,
    session: SessionId,
    epoch: LinkEpoch,
) -> Result<(), DbErr> {
    set_expiry(database, session, epoch, now_ms()).await
}

async fn set_expiry(
    database: &DatabaseConnection,
    session: SessionId,
    epoch: LinkEpoch,
    at: i64,
) -> Result<(), DbErr> {
    agent_link::Entity::update_many()
        .col_expr(agent_link::Column::ExpiresAt, Expr::value(at))
        .filter(agent_link::Column::SessionUuid.eq(session.0))
        .filter(agent_link::Column::Epoch.eq(epoch.0 as i64))
        .exec(database)
        .await?;
    Ok(())
}
