//! Batches: between what the link carries and what the store takes and gives.

use crate::workspace::{Changed, PodOp};
use bytes::Bytes;
use shared::limits::SyncLimits;
use shared::link::Failure;
use shared::link::sync::{Begin, End};
use shared::tree::Hash;
use std::collections::HashMap;

/// A batch from a pod, taken apart and checked.
pub(super) struct Decoded {
    /// In the manifest's order.
    pub ops: Vec<PodOp>,
    /// By hash, each verified.
    pub contents: HashMap<Hash, Bytes>,
}

/// A batch for an agent.
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

pub(super) fn decode(begin: &Begin, data: &[u8], end: &End, limits: &SyncLimits) -> Result<Decoded, Failure> {
    todo!()
}

pub(super) fn encode(changes: &[Changed], contents: &HashMap<Hash, Bytes>) -> Result<Encoded, Failure> {
    todo!()
}
