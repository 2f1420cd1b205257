//! The agent's batches: decoded, committed, answered.

use super::Context;
use super::codec;
use super::ledger::{Ledger, Own};
use crate::workspace::{self, PodBatch};
use shared::id::BatchId;
use shared::link::Failure;
use shared::link::frame;
use shared::link::sync::{Assembled, Committed, FromControlPlane, OpResult};
use tokio::sync::{Mutex, Semaphore};

/// Batches above this many bytes are decoded [`LARGE_AT_ONCE`] at a time, over all agents.
const LARGE_BYTES: u64 = 1 << 20;
/// How many large batches are in memory at once, decoded.
const LARGE_AT_ONCE: usize = 4;

static LARGE: Semaphore = Semaphore::const_new(LARGE_AT_ONCE);

/// The answer to a batch over the limits.
pub(super) fn too_large(batch: BatchId) -> FromControlPlane {
    let failure = Failure::new("batch_too_large", "the batch is larger than this server takes");
    FromControlPlane::Refused { batch, failure, retry: false }
}

/// Commits a batch and answers it. Notes in the ledger what the agent therefore has.
///
/// `ledger` is held over the commit, so that nothing is pushed meanwhile that takes this batch's own changes
/// for news; the answer is given before it is free again, so that no push overtakes it.
pub(super) async fn commit(
    context: &Context,
    ledger: &Mutex<Ledger>,
    assembled: Assembled,
    answer: impl FnOnce(FromControlPlane),
) {
    let whole = match assembled {
        Assembled::Whole(whole) => whole,
        Assembled::TooLarge(batch) => return answer(too_large(batch)),
    };
    let (batch, base_rev, removal) = (whole.begin.batch, whole.begin.base_rev, whole.begin.removal);
    let refuse = |failure, retry| FromControlPlane::Refused { batch, failure, retry };
    let place = if whole.begin.bytes > LARGE_BYTES { LARGE.acquire().await.ok() } else { None };
    let limits = context.agents.0.settings.limits;
    let decoding = tokio::task::spawn_blocking(move || codec::decode(&whole, &limits));
    let decoded = match decoding.await {
        Ok(Ok(decoded)) => decoded,
        Ok(Err(failure)) => return answer(refuse(failure, false)),
        Err(_) => {
            return answer(refuse(Failure::new("batch_malformed", "the batch could not be read"), false));
        }
    };
    let done: Vec<_> = decoded.ops.iter().map(Own::of).collect();
    let pod_batch = PodBatch {
        id: batch,
        epoch: context.epoch,
        base_rev,
        removal,
        ops: decoded.ops,
        contents: decoded.contents,
    };
    let mut ledger = ledger.lock().await;
    // Where no answer comes in time it may be committed all the same: then the agent begins a stream anew, to be told.
    let outcome = context.agents.0.store.commit_pod_batch(context.session, pod_batch).await;
    drop(place);
    answer(match outcome {
        Ok(committed) => {
            for (own, result) in done.into_iter().zip(&committed.results) {
                if matches!(result, OpResult::Applied { .. }) {
                    ledger.note(own, committed.rev);
                }
            }
            fitted(committed)
        }
        Err(why) => {
            if matches!(why, workspace::Error::Database(_) | workspace::Error::Damaged(_)) {
                tracing::warn!(session = %context.session, %why, "a pod's batch was not committed");
            }
            refuse(Failure::from(&why), why.is_transient())
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
