//! [`Store`]: every workspace of a database, and its commits from the API.

use super::blobs::{self, Blob, INLINE_BYTES};
use super::commit::{Locked, Needs, load, lock, write};
use super::draft::{Differences, Draft};
use super::range;
use super::sql::Sql;
use super::turns::Turns;
use super::types::*;
use super::uploads;
use super::{Database, Error, Result};
use crate::entities::now_ms;
use bytes::Bytes;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, SqlErr};
use shared::id::{BatchId, Revision, SessionId};
use shared::limits::SyncLimits;
use shared::path::WorkspacePath;
use shared::tree::{Hash, Item, Kind};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// Changes that a receiver may lag behind: some seconds of a busy server.
const CHANGES: usize = 1_024;
/// How long a caller waits for a commit: longer than any statement of it may take. A database that freezes, or is cut
/// off, says nothing at all.
const COMMIT_PATIENCE: Duration = Duration::from_secs(60);
/// How often a commit is tried that met another one.
const ATTEMPTS: usize = 3;

/// Every workspace of a database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) database: Database,
    pub(super) limits: SyncLimits,
    changes: broadcast::Sender<Change>,
    turns: Turns,
    patience: Duration,
}

/// Gives a new session its empty workspace, within the caller's transaction. `session_id` is the key of the
/// `sessions` row, which must be there; contents will be kept in the name of `owner_id`.
pub async fn create(
    db: &impl ConnectionTrait,
    session: SessionId,
    session_id: i64,
    owner_id: i64,
) -> Result<()> {
    Sql::of(
        db.get_database_backend(),
        "INSERT INTO workspace_state (session_uuid, session_id, owner_id, updated_at) VALUES ($1, $2, $3, $4)",
        [session.0.into(), session_id.into(), owner_id.into(), now_ms().into()],
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes a workspace with its history, within the caller's transaction. Contents go with the next sweeps.
pub async fn erase(db: &impl ConnectionTrait, session: SessionId) -> Result<()> {
    let backend = db.get_database_backend();
    Sql::of(backend, "DELETE FROM workspace_state WHERE session_uuid = $1", [session.0.into()])
        .execute(db)
        .await?;
    Ok(())
}

/// A commit that is done.
pub(super) struct Done<T> {
    /// The revision that holds it, or the one that stands if nothing changed.
    pub(super) rev: Revision,
    /// What changed.
    pub(super) differences: Differences,
    /// What the change answered.
    pub(super) answer: T,
}

/// What one attempt of a commit came to.
pub(super) struct Attempt<T> {
    pub(super) done: Done<T>,
    /// Whether there is more below the changed paths than they tell.
    pub(super) more: bool,
    /// Whether to commit; else the transaction is rolled back.
    pub(super) commit: bool,
}

/// A future that an attempt returns, borrowing its transaction.
pub(super) type Trying<'a, T> = Pin<Box<dyn Future<Output = Result<Attempt<T>>> + Send + 'a>>;

impl Store {
    /// Over `database`, refusing what is beyond `limits`.
    pub fn new(database: Database, limits: SyncLimits) -> Self {
        let (changes, _) = broadcast::channel(CHANGES);
        Self { database, limits, changes, turns: Turns::default(), patience: COMMIT_PATIENCE }
    }

    /// With another patience than a minute for a database that doesn't answer.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The database below, for tables that are not files.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// What is refused beyond.
    pub fn limits(&self) -> &SyncLimits {
        &self.limits
    }

    /// Every commit from now on, told after it is durable. A receiver that lags by over 1,000 is told so, and
    /// should look at [`Store::rev`] itself.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Saves a file, making its parents. A save of what stands there already changes nothing and answers the
    /// revision that stands.
    pub async fn save_file(
        &self,
        session: SessionId,
        path: &WorkspacePath,
        bytes: Bytes,
        mode: Option<u32>,
        precondition: Precondition,
        author: &Author,
    ) -> Result<Saved> {
        let op = Op::Write { path: path.clone(), bytes, mode, precondition };
        let done = self.apply(session, vec![op], author).await?;
        let item = done.answer.ok_or_else(|| Error::NotFound(path.clone()))?;
        let changed = done.differences.rows.iter().find(|row| row.path == *path);
        let rev = changed.map_or(item.rev, |row| row.item.rev);
        Ok(Saved { path: path.clone(), rev, hash: item.entry.hash, size: item.entry.size })
    }

    /// Applies `ops` in order, all or nothing, in one revision.
    pub async fn batch(&self, session: SessionId, ops: Vec<Op>, author: &Author) -> Result<BatchDone> {
        if ops.len() as u64 > self.limits.batch_items {
            return Err(Error::BatchTooLarge { limit: self.limits.batch_items, unit: "operations" });
        }
        Ok(self.apply(session, ops, author).await?.into())
    }

    /// Applies `ops`, and answers what then is at the first one's path.
    async fn apply(&self, session: SessionId, ops: Vec<Op>, author: &Author) -> Result<Done<Option<Item>>> {
        let mut contents = Vec::new();
        for op in &ops {
            match op {
                Op::Write { path, bytes, .. } => {
                    self.admit_size(path, bytes.len() as u64)?;
                    contents.push(bytes.clone());
                }
                Op::Symlink { path, target } => {
                    self.admit_size(path, target.len() as u64)?;
                    contents.push(Bytes::from(target.clone()));
                }
                _ => {}
            }
        }
        let bytes: usize = contents.iter().map(Bytes::len).sum();
        // One file may be larger than a batch may be.
        if ops.len() > 1 && bytes as u64 > self.limits.batch_bytes {
            return Err(Error::BatchTooLarge { limit: self.limits.batch_bytes, unit: "bytes" });
        }
        let contents = blobs::encode_all(contents).await?;
        if let [op @ (Op::Move { .. } | Op::Delete { .. })] = &ops[..] {
            return self.apply_to_folder(session, op.clone(), author.clone()).await;
        }
        let needs = needs_of(&ops);
        let first = ops.first().map(|op| changed_path(op).clone());
        self.change(session, author.clone(), contents, needs, move |draft| {
            for op in &ops {
                draft.apply(op)?;
            }
            Ok(first.as_ref().and_then(|path| draft.get(path)).copied())
        })
        .await
    }

    /// One move or delete, which may be of a large folder: what is in it is changed as a range.
    async fn apply_to_folder(
        &self,
        session: SessionId,
        op: Op,
        author: Author,
    ) -> Result<Done<Option<Item>>> {
        let limits = self.limits;
        self.committed(session, None, author.clone(), move |tx, locked| {
            let (op, author) = (op.clone(), author.clone());
            Box::pin(async move {
                let mut draft = Draft::new(locked.totals);
                let mut needs = Needs::default();
                let (Op::Move { from: path, .. } | Op::Delete { path, .. }) = &op else {
                    return Err(Error::Database(DbErr::Custom("neither a move nor a delete".into())));
                };
                needs.point(path).point(changed_path(&op));
                load(tx, session, &needs, &mut draft).await?;
                let is_folder = draft.get(path).is_some_and(|item| item.entry.kind == Kind::Dir);
                draft.apply(&op)?;
                draft.check_limits(locked.totals, &limits)?;
                let mut differences = draft.differences(locked.rev, &author);
                let mut more = false;
                if is_folder && !differences.is_empty() {
                    let inside = range::inside(tx, locked, path).await?;
                    more = inside.items > 0;
                    if more {
                        if let Op::Move { from, to, .. } = &op {
                            range::move_inside(tx, locked, &inside, from, to, &author).await?;
                        } else {
                            range::delete_inside(tx, locked, path, &author).await?;
                            differences.totals.items = differences.totals.items.saturating_sub(inside.items);
                            differences.totals.bytes = differences.totals.bytes.saturating_sub(inside.bytes);
                        }
                    }
                }
                let commit = !differences.is_empty();
                if commit {
                    write(tx, locked, &differences, &author, &[], None).await?;
                }
                let rev = if commit { locked.rev } else { locked.rev_before() };
                Ok(Attempt { done: Done { rev, differences, answer: None }, more, commit })
            })
        })
        .await
    }

    /// Commits a change that is made in memory: `contents` are stored, `needs` loaded, `change` applied. Contents that
    /// nothing refers to in the end are not kept.
    async fn change<T: Send + 'static>(
        &self,
        session: SessionId,
        author: Author,
        contents: Vec<Blob>,
        needs: Needs,
        change: impl Fn(&mut Draft) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Done<T>> {
        if !are_large(&contents) {
            return self.change_with(session, author, contents, Vec::new(), needs, change).await;
        }
        let uploading = tokio::time::timeout(self.patience, self.upload(session, &contents));
        // Cut short, it is undone; or charged until it is let go.
        let late = |_| Err(Error::Database(DbErr::Custom("no answer in time".into())));
        uploading.await.unwrap_or_else(late)?;
        let uploaded = contents.iter().map(|blob| blob.hash).collect();
        self.change_with(session, author, Vec::new(), uploaded, needs, change).await
    }

    /// [`Store::change`] with contents that are written by the commit itself, and others that were given to
    /// [`Store::upload`] before.
    pub(super) async fn change_with<T: Send + 'static>(
        &self,
        session: SessionId,
        author: Author,
        inline: Vec<Blob>,
        uploaded: Vec<Hash>,
        needs: Needs,
        change: impl Fn(&mut Draft) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Done<T>> {
        let (limits, uploaded) = (self.limits, Arc::new(uploaded));
        let (inline, needs, change) = (Arc::new(inline), Arc::new(needs), Arc::new(change));
        let of_commit = uploaded.clone();
        let committing = self.committed(session, None, author.clone(), move |tx, locked| {
            let (inline, uploaded, needs, change, author) =
                (inline.clone(), of_commit.clone(), needs.clone(), change.clone(), author.clone());
            Box::pin(async move {
                let mut draft = Draft::new(locked.totals);
                load(tx, session, &needs, &mut draft).await?;
                let answer = change(&mut draft)?;
                draft.check_limits(locked.totals, &limits)?;
                let differences = draft.differences(locked.rev, &author);
                let commit = !differences.is_empty();
                if commit {
                    let referred = differences.contents();
                    // One that a later operation of the same batch wrote over is in no version.
                    let inline: Vec<Blob> =
                        inline.iter().filter(|blob| referred.contains(&blob.hash)).cloned().collect();
                    write(tx, locked, &differences, &author, &inline, None).await?;
                    let kept: Vec<Hash> =
                        uploaded.iter().filter(|hash| referred.contains(*hash)).copied().collect();
                    uploads::committed(tx, session, locked.owner, &kept).await?;
                }
                let rev = if commit { locked.rev } else { locked.rev_before() };
                Ok(Attempt { done: Done { rev, differences, answer }, more: false, commit })
            })
        });
        let done = committing.await;
        let needless = match &done {
            Ok(done) => {
                let referred = done.differences.contents();
                uploaded.iter().any(|hash| !referred.contains(hash))
            }
            // Perhaps committed all the same, and not seen yet.
            Err(Error::Database(_) | Error::Unanswered) => false,
            Err(_) => true,
        };
        if needless {
            self.let_go(session, &uploaded).await;
        }
        done
    }

    /// [`Store::take_back`] for a change that was refused for a reason of its own, which is what counts.
    pub(super) async fn let_go(&self, session: SessionId, uploaded: &[Hash]) {
        if let Err(why) = self.take_back(session, uploaded).await {
            tracing::warn!(%session, %why, "contents that nothing refers to stay until the next sweep");
        }
    }

    /// Waits until all that began before to change the workspace here is done.
    pub async fn take_turn(&self, session: SessionId) {
        drop(self.turns.take(session).await);
    }

    /// Locks the workspace (and looks up the answer to `batch`), lets `attempt` change it, commits, and tells. Runs to
    /// its end even if the caller goes away meanwhile, or is told [`Error::Unanswered`]: a commit that nobody is told
    /// of would leave pod and page behind.
    pub(super) async fn committed<T: Send + 'static>(
        &self,
        session: SessionId,
        batch: Option<BatchId>,
        author: Author,
        attempt: impl for<'a> Fn(&'a DatabaseTransaction, &'a Locked) -> Trying<'a, T> + Send + Sync + 'static,
    ) -> Result<Done<T>> {
        let store = self.clone();
        let run = async move {
            let _turn = store.turns.take(session).await;
            for tried in 1.. {
                match store.try_once(session, batch, &attempt).await {
                    Err(Error::Database(error)) if tried < ATTEMPTS && met_another(&error) => {}
                    Err(error) => return Err(error),
                    Ok(attempt) => {
                        if attempt.commit {
                            store.tell(session, author.origin, &attempt.done, attempt.more);
                        }
                        return Ok(attempt.done);
                    }
                }
            }
            unreachable!("the loop ends by returning")
        };
        match tokio::time::timeout(self.patience, tokio::spawn(run)).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(Error::Database(DbErr::Custom(error.to_string()))),
            Err(_) => Err(Error::Unanswered),
        }
    }

    async fn try_once<T>(
        &self,
        session: SessionId,
        batch: Option<BatchId>,
        attempt: &(impl for<'a> Fn(&'a DatabaseTransaction, &'a Locked) -> Trying<'a, T> + Send + Sync),
    ) -> Result<Attempt<T>> {
        let tx = self.database.begin().await?;
        let outcome = async {
            let locked = lock(&tx, session, batch).await?;
            attempt(&tx, &locked).await
        }
        .await;
        match outcome {
            Ok(attempt) if attempt.commit => {
                tx.commit().await?;
                Ok(attempt)
            }
            other => {
                tx.rollback().await?;
                other
            }
        }
    }

    fn tell<T>(&self, session: SessionId, origin: Origin, done: &Done<T>, more: bool) {
        let rows = &done.differences.rows;
        let paths: Arc<[WorkspacePath]> =
            rows.iter().take(CHANGE_PATHS).map(|row| row.path.clone()).collect();
        let truncated = more || rows.len() > CHANGE_PATHS;
        // Nobody listening is fine.
        let _ = self.changes.send(Change { session, rev: done.rev, origin, paths, truncated });
    }

    /// Stores a pod's contents before the workspace is locked if they are many or large; gives back those that are
    /// not, for the commit itself. They are noted together under `upload`, until the commit says what became of each.
    pub(super) async fn store_large(
        &self,
        session: SessionId,
        contents: Vec<Blob>,
        upload: Hash,
    ) -> Result<Vec<Blob>> {
        if !are_large(&contents) {
            return Ok(contents);
        }
        let owner = self.owner(session).await?;
        let tx = self.database.begin().await?;
        let at = now_ms();
        let fresh: u64 = blobs::upload(&tx, owner, &contents, at).await?.iter().map(|(_, bytes)| bytes).sum();
        if fresh > 0 {
            self.charge(&tx, session, &[(upload, fresh)], at).await?;
        }
        tx.commit().await?;
        Ok(Vec::new())
    }

    pub(super) fn admit_size(&self, path: &WorkspacePath, size: u64) -> Result<()> {
        let limit = self.limits.file_bytes;
        if size > limit { Err(Error::FileTooLarge { path: path.clone(), size, limit }) } else { Ok(()) }
    }
}

impl<T> From<Done<T>> for BatchDone {
    fn from(done: Done<T>) -> Self {
        let rows = done.differences.rows.into_iter().take(CHANGE_PATHS);
        Self {
            rev: done.rev,
            changed: rows.map(|row| (row.path, (!row.deleted).then_some(row.item))).collect(),
        }
    }
}

/// Whether contents are written before the workspace is locked, and not while it is.
fn are_large(contents: &[Blob]) -> bool {
    let bytes: usize = contents.iter().map(Blob::stored_bytes).sum();
    bytes > INLINE_BYTES || contents.iter().any(Blob::is_large)
}

/// What the operations look at. What an operation finds by an earlier one's doing was asked for by that one.
fn needs_of(ops: &[Op]) -> Needs {
    let mut needs = Needs::default();
    for op in ops {
        match op {
            Op::Move { from, to, .. } => {
                needs.point(from).subtree(from).point(to);
            }
            Op::Delete { path, .. } => {
                needs.point(path).subtree(path);
            }
            Op::Write { path, .. }
            | Op::Mkdir { path, .. }
            | Op::Symlink { path, .. }
            | Op::Chmod { path, .. } => {
                needs.point(path);
            }
        }
    }
    needs
}

fn changed_path(op: &Op) -> &WorkspacePath {
    match op {
        Op::Move { to, .. } => to,
        Op::Write { path, .. }
        | Op::Mkdir { path, .. }
        | Op::Symlink { path, .. }
        | Op::Delete { path, .. }
        | Op::Chmod { path, .. } => path,
    }
}

/// Whether a statement failed because another transaction did the same at the same time: trying again helps.
fn met_another(error: &DbErr) -> bool {
    if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) {
        return true;
    }
    let text = error.to_string();
    text.contains("deadlock detected") || text.contains("could not serialize access")
}
