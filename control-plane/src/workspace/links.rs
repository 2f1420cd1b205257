//! What the database knows of a session's agent: its newest link, and the volume that its copy lies on.

use super::sql::Sql;
use super::{Error, Result, Store};
use crate::entities::now_ms;
use sea_orm::ConnectionTrait;
use shared::id::{InstanceId, LinkEpoch, SessionId, VolumeId};
use uuid::Uuid;

impl Store {
    /// A new link of the session's agent is up: batches of older ones are refused from now on. Writes the row of
    /// `agent_links`, which counts as stale after `ttl_ms` unless renewed.
    pub async fn link_up(
        &self,
        session: SessionId,
        replica: &str,
        address: &str,
        instance: InstanceId,
        ttl_ms: i64,
    ) -> Result<LinkEpoch> {
        let tx = self.database.begin().await?;
        let backend = tx.get_database_backend();
        let raise = "UPDATE workspace_state SET epoch = epoch + 1 WHERE session_uuid = $1 RETURNING epoch";
        let row = Sql::of(backend, raise, [session.0.into()]).one(&tx).await?;
        let epoch: i64 = row.ok_or(Error::NoWorkspace(session))?.try_get("", "epoch")?;
        let now = now_ms();
        Sql::of(
            backend,
            "INSERT INTO agent_links (session_uuid, replica, address, epoch, instance, connected_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (session_uuid) DO UPDATE SET replica = excluded.replica, address = excluded.address,
                epoch = excluded.epoch, instance = excluded.instance, connected_at = excluded.connected_at,
                expires_at = excluded.expires_at",
            [
                session.0.into(),
                replica.into(),
                address.into(),
                epoch.into(),
                instance.0.into(),
                now.into(),
                now.saturating_add(ttl_ms).into(),
            ],
        )
        .execute(&tx)
        .await?;
        tx.commit().await?;
        Ok(LinkEpoch(epoch.max(0) as u64))
    }

    /// Notes the volume that the agent's copy lies on. Answers whether it is another one than last time: then the
    /// agent's base is older than it says.
    pub async fn see_volume(&self, session: SessionId, volume: VolumeId) -> Result<bool> {
        let tx = self.database.begin().await?;
        let backend = tx.get_database_backend();
        let read = "SELECT volume FROM workspace_state WHERE session_uuid = $1";
        let row = Sql::of(backend, read, [session.0.into()]).one(&tx).await?;
        let known: Option<Uuid> = row.ok_or(Error::NoWorkspace(session))?.try_get("", "volume")?;
        if known == Some(volume.0) {
            tx.rollback().await?;
            return Ok(false);
        }
        let note = "UPDATE workspace_state SET volume = $2 WHERE session_uuid = $1";
        Sql::of(backend, note, [session.0.into(), volume.0.into()]).execute(&tx).await?;
        tx.commit().await?;
        Ok(known.is_some())
    }
}
