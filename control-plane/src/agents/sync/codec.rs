//! Batches: between what the link carries and what the store takes and gives.

use crate::workspace::{Changed, PodOp};
use bytes::{Buf, Bytes};
use shared::batch::{self, BatchError, Op};
use shared::limits::SyncLimits;
use shared::link::Failure;
use shared::link::sync::{End, Whole};
use shared::tree::Hash;
use std::collections::HashMap;

/// A batch from a pod, taken apart and checked.
#[derive(Debug)]
pub(super) struct Decoded {
    /// In the manifest's order.
    pub ops: Vec<PodOp>,
    /// By hash, each verified.
    pub contents: HashMap<Hash, Bytes>,
}

/// A batch for an agent.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Operations in the manifest.
    pub items: u64,
    /// Uncompressed bytes of the tar.
    pub bytes: u64,
    /// The compressed batch.
    pub data: Bytes,
    /// Its end.
    pub end: End,
}

/// Takes a pod's batch apart, trusting nothing. Blocks: unpacks and hashes up to the limits' bytes.
pub(super) fn decode(whole: &Whole, limits: &SyncLimits) -> Result<Decoded, Failure> {
    let mut contents = HashMap::new();
    let ops = batch::decode(&whole.data[..], whole.claims(), limits, |hash, bytes| {
        contents.insert(hash, Bytes::from(bytes));
        Ok(())
    });
    match ops {
        Ok(ops) => Ok(Decoded { ops: ops.into_iter().map(from_pod).collect(), contents }),
        Err(why) => Err(Failure::new(code(&why), why.to_string())),
    }
}

fn code(why: &BatchError) -> &'static str {
    match why {
        BatchError::TooManyItems(..) | BatchError::TooLarge(_) | BatchError::FileTooLarge(..) => {
            "batch_too_large"
        }
        _ => "batch_malformed",
    }
}

fn from_pod(op: Op) -> PodOp {
    match op {
        Op::Put { path, entry, pre, .. } => PodOp::Put { path, entry, pre },
        Op::Delete { path, pre, .. } => PodOp::Delete { path, pre },
        Op::Rename { from, to, item, entry, pre } => PodOp::Rename { from, to, item, entry, pre },
    }
}

/// Makes a batch of changes and those of their contents that are given. Blocks: compresses and hashes them.
pub(super) fn encode(changes: &[Changed], contents: &HashMap<Hash, Bytes>) -> Result<Encoded, Failure> {
    let ops: Vec<Op> = changes.iter().map(to_pod).collect();
    let encoded = batch::encode(&ops, |hash| Ok(contents.get(&hash).map(|bytes| bytes.clone().reader())));
    let encoded = encoded.map_err(|why| Failure::new("internal", why.to_string()))?;
    Ok(Encoded {
        items: encoded.items,
        bytes: encoded.bytes,
        data: encoded.data.into(),
        end: End { tar_hash: encoded.tar_hash },
    })
}

fn to_pod(change: &Changed) -> Op {
    let (path, item) = (change.path.clone(), Some(change.item.id));
    // What the agent's base holds is the agent's to know.
    if change.deleted {
        Op::Delete { path, item, pre: None }
    } else {
        Op::Put { path, item, entry: change.item.entry, pre: None }
    }
}
