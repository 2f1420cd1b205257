//! What changed in the database, as batches for the agent.

use super::Context;
use super::codec::{self, Encoded};
use super::download::Download;
use super::ledger::{BATCH_ITEMS, Lacking, LeaveOut, Ledger, in_batch, take_group};
use super::progress::Progress;
use crate::workspace::{self, Changed, Cursor};
use bytes::Bytes;
use shared::id::{BatchId, Revision};
use shared::link::Failure;
use shared::link::frame::{self, FrameError};
use shared::link::sync::{Begin, FromControlPlane, Whole};
use shared::tree::Hash;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};
use tokio::io::WriteHalf;
use tokio::sync::{Mutex, mpsc};

use shared::link::mux::LinkStream;

/// How long an agent may take nothing of a message before it counts as gone; heartbeats notice sooner.
const SEND_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a push ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    /// The database failed; it is tried again.
    #[error(transparent)]
    Store(#[from] workspace::Error),
    /// The stream is gone.
    #[error(transparent)]
    Stream(#[from] FrameError),
    /// The agent takes nothing.
    #[error("the agent took nothing for too long")]
    Stuck,
    /// The agent asks for more than it can be sent.
    #[error("the agent asked for more than any may at once")]
    Greedy,
    /// A batch could not be made; a bug, or a stored content that is damaged.
    #[error("a batch could not be made: {0}")]
    Encode(Failure),
}

/// The way to the agent: its stream, and how far the agent has been sent.
pub(super) struct Push<'a> {
    pub context: &'a Context,
    pub stream: WriteHalf<LinkStream>,
    pub ledger: &'a Mutex<Ledger>,
    pub answers: mpsc::Receiver<FromControlPlane>,
    /// The revision that the agent has or has been sent.
    pub sent: Revision,
    /// Changes sent without their contents, which the agent may ask for.
    pub lacking: Lacking,
    /// Large contents that the agent asked for.
    pub download: Download,
    pub progress: Progress,
}

impl Push<'_> {
    /// Writes one message.
    pub(super) async fn say(&mut self, message: &FromControlPlane) -> Result<(), PushError> {
        match tokio::time::timeout(SEND_TIMEOUT, frame::write(&mut self.stream, message)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(PushError::Stuck),
        }
    }

    /// Writes the answers that are waiting. They go before any batch: a batch may rest on what they say.
    async fn say_answers(&mut self) -> Result<(), PushError> {
        while let Ok(answer) = self.answers.try_recv() {
            self.say(&answer).await?;
        }
        Ok(())
    }

    /// Sends the whole tree: `bare` without contents, which the agent then asks for as far as it lacks them.
    pub(super) async fn push_all(&mut self, bare: bool) -> Result<(), PushError> {
        let (session, store) = (self.context.session, &self.context.agents.0.store);
        let held = self.ledger.lock().await;
        let snapshot = store.snapshot(session).await?;
        drop(held);
        let target = snapshot.rev;
        let changes = snapshot.items.into_iter().map(|(path, item)| Changed {
            path,
            item,
            deleted: false,
            moved_to: None,
        });
        let mut changes: VecDeque<_> = changes.collect();
        self.lacking.clear();
        if !bare {
            self.expect(&changes);
        }
        loop {
            let group = take_group(&mut changes);
            let last = changes.is_empty();
            let leave_out = if bare { LeaveOut::All } else { LeaveOut::Nothing };
            self.send_group(group, Revision::ZERO, target, true, last, leave_out).await?;
            if last {
                break;
            }
        }
        self.transferred();
        self.ledger.lock().await.forget_through(target);
        self.sent = target;
        Ok(())
    }

    fn transferred(&mut self) {
        if self.download.is_due() {
            // Parts of large contents go on; what is told of is theirs.
            self.progress.end();
        } else {
            self.context.transferred(&mut self.progress);
        }
    }

    fn expect(&mut self, changes: &VecDeque<Changed>) {
        let bytes = changes.iter().filter(|change| in_batch(change)).map(|change| change.item.entry.size);
        self.progress.expect(bytes.sum(), Instant::now());
    }

    /// Sends what changed since the agent was last sent something. Answers whether the tombstones it would need
    /// are gone, so that the whole tree must be sent.
    pub(super) async fn push_changes(&mut self) -> Result<bool, PushError> {
        let (session, store) = (self.context.session, &self.context.agents.0.store);
        let since = self.sent;
        let mut cursor: Option<Cursor> = None;
        let mut moved = HashSet::new();
        loop {
            let held = self.ledger.lock().await;
            let page = store.changes_since(session, since, cursor.as_ref(), BATCH_ITEMS).await?;
            self.lacking.forget(&page.changes);
            let mut changes: VecDeque<_> = page.changes.into_iter().filter(|c| !held.has(c)).collect();
            drop(held);
            if page.pruned {
                return Ok(true);
            }
            let target = page.rev;
            if target <= since {
                return Ok(false);
            }
            moved.extend(changes.iter().filter_map(|change| change.moved_to));
            self.expect(&changes);
            loop {
                let group = take_group(&mut changes);
                let end = changes.is_empty();
                let last = end && page.next.is_none();
                // The last one goes also when it is empty: it tells the revision.
                if last || !group.is_empty() {
                    self.send_group(group, since, target, false, last, LeaveOut::Moved(&moved)).await?;
                }
                if end {
                    break;
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => {
                    self.transferred();
                    self.ledger.lock().await.forget_through(target);
                    self.sent = target;
                    return Ok(false);
                }
            }
        }
    }

    /// Sends the contents that the agent asks for, each with the change that needs it.
    pub(super) async fn push_needed(&mut self, hashes: Vec<Hash>) -> Result<(), PushError> {
        let (mut changes, large): (VecDeque<Changed>, VecDeque<Changed>) =
            self.lacking.needed(hashes).into_iter().partition(in_batch);
        for change in large {
            self.send_recipe(change.item.entry.hash).await?;
        }
        while !changes.is_empty() {
            let group = take_group(&mut changes);
            let last = changes.is_empty();
            self.send_group(group, self.sent, self.sent, false, last, LeaveOut::Nothing).await?;
        }
        Ok(())
    }

    async fn send_group(
        &mut self,
        group: Vec<Changed>,
        base: Revision,
        target: Revision,
        full: bool,
        last: bool,
        leave_out: LeaveOut<'_>,
    ) -> Result<(), PushError> {
        self.lacking.note(&group, leave_out);
        let (contents, unavailable) =
            self.contents(group.iter().filter(|change| leave_out.travels(change))).await?;
        let bytes_of_contents = contents.values().map(|bytes| bytes.len() as u64).sum();
        let encoding = tokio::task::spawn_blocking(move || codec::encode(&group, &contents));
        let encoded = match encoding.await {
            Ok(encoded) => encoded.map_err(PushError::Encode)?,
            Err(why) => return Err(PushError::Encode(Failure::new("internal", why.to_string()))),
        };
        let Encoded { items, bytes, data, end } = encoded;
        let batch = BatchId::random();
        let begin =
            Begin { batch, base_rev: base, target_rev: target, items, bytes, removal: None, full, last };
        self.say_answers().await?;
        for message in (Whole { begin, data, end }).into_messages() {
            self.say(&FromControlPlane::Batch(message)).await?;
        }
        self.context.went(&mut self.progress, bytes_of_contents);
        self.say_unavailable(unavailable).await
    }

    /// Tells of contents that the agent waits for in vain. Nothing if there are none.
    pub(super) async fn say_unavailable(&mut self, hashes: Vec<Hash>) -> Result<(), PushError> {
        if hashes.is_empty() {
            return Ok(());
        }
        tracing::error!(session = %self.context.session, ?hashes, "contents are damaged or gone");
        self.say(&FromControlPlane::Unavailable { hashes }).await
    }

    /// Those contents that can be had, and those that cannot: one that is damaged must not hold up the others.
    async fn contents<'c>(
        &self,
        of: impl Iterator<Item = &'c Changed>,
    ) -> Result<(HashMap<Hash, Bytes>, Vec<Hash>), PushError> {
        let wanted: HashSet<Hash> = of.map(|change| change.item.entry.hash).collect();
        let wanted: Vec<Hash> = wanted.into_iter().collect();
        if wanted.is_empty() {
            return Ok(Default::default());
        }
        let (store, session) = (&self.context.agents.0.store, self.context.session);
        let mut found = HashMap::new();
        match store.blobs(session, &wanted).await {
            Err(workspace::Error::Damaged(_)) => {
                for hash in &wanted {
                    match store.blobs(session, &[*hash]).await {
                        Err(workspace::Error::Damaged(_)) => {}
                        one => found.extend(one?),
                    }
                }
            }
            all => found.extend(all?),
        }
        found.retain(|hash, bytes| Hash::of(bytes) == *hash);
        let unavailable = wanted.into_iter().filter(|hash| !found.contains_key(hash)).collect();
        Ok((found, unavailable))
    }
}
