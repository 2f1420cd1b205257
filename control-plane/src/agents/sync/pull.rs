//! The agent's batches: put together, decoded, committed, answered.

use super::Context;
use super::codec;
use super::ledger::{Ledger, Own};
use crate::workspace::{self, PodBatch};
use bytes::Bytes;
use shared::id::BatchId;
use shared::limits::SyncLimits;
use shared::link::Failure;
use shared::link::frame;
use shared::link::sync::{Batch, Begin, CHUNK_BYTES, Committed, End, FromControlPlane, OpResult};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};

/// How long one commit may take before the agent is told to send the batch again.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Batches above this many bytes are decoded [`LARGE_AT_ONCE`] at a time, over all agents.
const LARGE_BYTES: u64 = 1 << 20;
/// How many large batches are in memory at once, decoded.
const LARGE_AT_ONCE: usize = 4;
/// Bytes that a batch may be longer than its contents: tar heads, the manifest, a codec's frame.
const OVERHEAD_BYTES: u64 = 16 << 20;

static LARGE: Semaphore = Semaphore::const_new(LARGE_AT_ONCE);

/// A batch that arrives in parts.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    begin: Option<Begin>,
    data: Vec<u8>,
    /// Set once it is over a limit: the rest is dropped as it comes.
    refused: Option<Failure>,
}

/// A batch that is here whole, or is refused.
#[derive(Debug)]
pub(super) enum Arrived {
    /// All of it.
    Whole(Begin, Bytes, End),
    /// Not taken.
    Refused(BatchId, Failure),
}

impl Incoming {
    /// Takes a part. An error is a peer that doesn't keep to the protocol; the stream ends.
    pub(super) fn take(&mut self, part: Batch, limits: &SyncLimits) -> Result<Option<Arrived>, &'static str> {
        match part {
            Batch::Whole { .. } | Batch::Begin(_) if self.begin.is_some() => {
                Err("a batch began inside another")
            }
            Batch::Whole { begin, data, .. } if data.len() > CHUNK_BYTES => {
                Ok(Some(Arrived::Refused(begin.batch, too_large())))
            }
            Batch::Whole { begin, data, end } => match check(&begin, limits) {
                Ok(()) => Ok(Some(Arrived::Whole(begin, data, end))),
                Err(failure) => Ok(Some(Arrived::Refused(begin.batch, failure))),
            },
            Batch::Begin(begin) => {
                self.refused = check(&begin, limits).err();
                self.begin = Some(begin);
                Ok(None)
            }
            Batch::Chunk(bytes) => {
                let begin = self.begin.as_ref().ok_or("a part of no batch")?;
                let most = begin.bytes.saturating_add(OVERHEAD_BYTES);
                if bytes.len() > CHUNK_BYTES || (self.data.len() + bytes.len()) as u64 > most {
                    self.refused = Some(too_large());
                }
                if self.refused.is_some() {
                    self.data = Vec::new();
                } else {
                    self.data.extend_from_slice(&bytes);
                }
                Ok(None)
            }
            Batch::End(end) => {
                let begin = self.begin.take().ok_or("the end of no batch")?;
                let data = std::mem::take(&mut self.data);
                Ok(Some(match self.refused.take() {
                    Some(failure) => Arrived::Refused(begin.batch, failure),
                    None => Arrived::Whole(begin, data.into(), end),
                }))
            }
        }
    }
}

fn too_large() -> Failure {
    Failure::new("batch_too_large", "the batch is larger than this server takes")
}

fn check(begin: &Begin, limits: &SyncLimits) -> Result<(), Failure> {
    let most = limits.batch_bytes.saturating_add(OVERHEAD_BYTES);
    if begin.items > limits.batch_items || begin.bytes > most { Err(too_large()) } else { Ok(()) }
}

/// Commits a batch and answers it. Notes in the ledger what the agent therefore has.
///
/// `ledger` is held over the commit, so that nothing is pushed meanwhile that takes this batch's own changes
/// for news; the answer is given before it is free again, so that no push overtakes it.
pub(super) async fn commit(
    context: &Context,
    ledger: &Mutex<Ledger>,
    arrived: Arrived,
    answer: impl FnOnce(FromControlPlane),
) {
    let (begin, data, end) = match arrived {
        Arrived::Whole(begin, data, end) => (begin, data, end),
        Arrived::Refused(batch, failure) => {
            return answer(FromControlPlane::Refused { batch, failure, retry: false });
        }
    };
    let batch = begin.batch;
    let refuse = |failure, retry| FromControlPlane::Refused { batch, failure, retry };
    let place = if begin.bytes > LARGE_BYTES { LARGE.acquire().await.ok() } else { None };
    let limits = context.agents.0.settings.limits;
    let base_rev = begin.base_rev;
    let decoding = tokio::task::spawn_blocking(move || codec::decode(&begin, &data, &end, &limits));
    let decoded = match decoding.await {
        Ok(Ok(decoded)) => decoded,
        Ok(Err(failure)) => return answer(refuse(failure, false)),
        Err(_) => {
            return answer(refuse(Failure::new("batch_malformed", "the batch could not be read"), false));
        }
    };
    let done: Vec<_> = decoded.ops.iter().map(Own::of).collect();
    let pod_batch =
        PodBatch { id: batch, epoch: context.epoch, base_rev, ops: decoded.ops, contents: decoded.contents };
    let mut ledger = ledger.lock().await;
    let committing = context.agents.0.store.commit_pod_batch(context.session, pod_batch);
    let outcome = tokio::time::timeout(COMMIT_TIMEOUT, committing).await;
    drop(place);
    answer(match outcome {
        Ok(Ok(committed)) => {
            for (own, result) in done.into_iter().zip(&committed.results) {
                if matches!(result, OpResult::Applied { .. }) {
                    ledger.note(own, committed.rev);
                }
            }
            fitted(committed)
        }
        Ok(Err(why)) => {
            if matches!(why, workspace::Error::Database(_) | workspace::Error::Damaged(_)) {
                tracing::warn!(session = %context.session, %why, "a pod's batch was not committed");
            }
            refuse(Failure::from(&why), why.is_transient())
        }
        Err(_) => {
            let message = "the database did not answer in time; nothing is lost, send it again";
            refuse(Failure::new("database_unavailable", message), true)
        }
    });
}

/// The answer, cut to what one message can carry: only failures' sentences can make it too long.
fn fitted(mut committed: Committed) -> FromControlPlane {
    if frame::encode(&FromControlPlane::Committed(committed.clone())).is_err() {
        for result in &mut committed.results {
            if let OpResult::Refused(failure) = result {
                failure.message.clear();
            }
        }
    }
    FromControlPlane::Committed(committed)
}
