//! [`Store`]: what the rest of the server calls.

use super::types::*;
use super::{Database, Result};
use bytes::Bytes;
use sea_orm::ConnectionTrait;
use shared::id::{InstanceId, LinkEpoch, Revision, SessionId, VolumeId};
use shared::limits::SyncLimits;
use shared::link::sync::Committed;
use shared::path::WorkspacePath;
use shared::tree::{Hash, Item};
use tokio::sync::broadcast;

/// Every workspace of a database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Database,
    limits: SyncLimits,
    changes: broadcast::Sender<Change>,
}

/// Gives a new session its empty workspace, within the caller's transaction. `session_id` is the key of the
/// `sessions` row, which must be there; contents will be kept in the name of `owner_id`.
pub async fn create(
    db: &impl ConnectionTrait,
    session: SessionId,
    session_id: i64,
    owner_id: i64,
) -> Result<()> {
    todo!()
}

/// Deletes a workspace with its history, within the caller's transaction. Contents go with the next sweeps.
pub async fn erase(db: &impl ConnectionTrait, session: SessionId) -> Result<()> {
    todo!()
}

impl Store {
    /// Over `database`, refusing what is beyond `limits`.
    pub fn new(database: Database, limits: SyncLimits) -> Self {
        let (changes, _) = broadcast::channel(1024);
        Self { database, limits, changes }
    }

    /// The database below, for tables that are not files.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// What is refused beyond.
    pub fn limits(&self) -> &SyncLimits {
        &self.limits
    }

    /// Every commit from now on, told after it is durable. A receiver that lags by 1,024 is told so, and should
    /// look at [`Store::rev`] itself.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Saves a file, making its parents.
    pub async fn save_file(
        &self,
        session: SessionId,
        path: &WorkspacePath,
        bytes: Bytes,
        mode: Option<u32>,
        precondition: Precondition,
        author: &Author,
    ) -> Result<Saved> {
        todo!()
    }

    /// Applies `ops` in order, all or nothing, in one revision.
    pub async fn batch(&self, session: SessionId, ops: Vec<Op>, author: &Author) -> Result<BatchDone> {
        todo!()
    }

    /// Commits what happened in the pod: see [`PodBatch`]. A batch sent again gets the same answer.
    pub async fn commit_pod_batch(&self, session: SessionId, batch: PodBatch) -> Result<Committed> {
        todo!()
    }

    /// A new link of the session's agent is up: older ones are refused from now on. Writes the row of
    /// `agent_links`, which counts as stale after `ttl_ms` unless renewed.
    pub async fn link_up(
        &self,
        session: SessionId,
        replica: &str,
        address: &str,
        instance: InstanceId,
        ttl_ms: i64,
    ) -> Result<LinkEpoch> {
        todo!()
    }

    /// Notes the volume that the agent's copy lies on; answers whether it is another one than last time.
    pub async fn see_volume(&self, session: SessionId, volume: VolumeId) -> Result<bool> {
        todo!()
    }

    /// The workspace's revision.
    pub async fn rev(&self, session: SessionId) -> Result<Revision> {
        todo!()
    }

    /// All items at one revision.
    pub async fn snapshot(&self, session: SessionId) -> Result<Snapshot> {
        todo!()
    }

    /// What changed after `since`, or, from `cursor` on, the next page of it; at most `limit` entries.
    pub async fn changes_since(
        &self,
        session: SessionId,
        since: Revision,
        cursor: Option<&Cursor>,
        limit: u64,
    ) -> Result<ChangesPage> {
        todo!()
    }

    /// What is at a path.
    pub async fn item(&self, session: SessionId, path: &WorkspacePath) -> Result<Item> {
        todo!()
    }

    /// A file with its bytes; a symlink's bytes are its target. [`super::Error::IsADirectory`] for a folder.
    pub async fn read_file(&self, session: SessionId, path: &WorkspacePath) -> Result<(Item, Bytes)> {
        todo!()
    }

    /// A content by its hash, if the session's owner has it.
    pub async fn blob(&self, session: SessionId, hash: Hash) -> Result<Option<Bytes>> {
        todo!()
    }

    /// Contents by their hashes; those that aren't stored are left out. The caller bounds how many and how large.
    pub async fn blobs(&self, session: SessionId, hashes: &[Hash]) -> Result<Vec<(Hash, Bytes)>> {
        todo!()
    }

    /// Which of these contents the session's owner already has.
    pub async fn known_blobs(&self, session: SessionId, hashes: &[Hash]) -> Result<Vec<Hash>> {
        todo!()
    }

    /// Versions, newest first.
    pub async fn history(&self, session: SessionId, query: &HistoryQuery) -> Result<Vec<Version>> {
        todo!()
    }

    /// A version and its bytes.
    pub async fn version(&self, session: SessionId, version: i64) -> Result<(Version, Bytes)> {
        todo!()
    }

    /// Marks a conflict as settled: the user chose.
    pub async fn settle_conflict(&self, session: SessionId, version: i64) -> Result<()> {
        todo!()
    }

    /// Brings a file, a folder with all it held, or (no path) the whole workspace back to how it was at `to`, as a
    /// new revision that can itself be undone.
    pub async fn restore(
        &self,
        session: SessionId,
        path: Option<&WorkspacePath>,
        to: Revision,
        author: &Author,
    ) -> Result<BatchDone> {
        todo!()
    }

    /// Undoes the last change at a path.
    pub async fn undo(&self, session: SessionId, path: &WorkspacePath, author: &Author) -> Result<BatchDone> {
        todo!()
    }
}
