//! File sync on the link: batches both ways, and what is said about them.
//!
//! ```text
//! agent ── Open::Sync(Hello{base_rev, …}) ─▶ control plane
//!       ◀─ Welcome{rev} ──
//!       ◀─ Begin{…}  Chunk…  End{…} ──          catch-up in one or several batches, then live ones
//!       ── Visible{rev} ─▶                      after the renames
//!       ── Begin{…}  Chunk…  End{…} ─▶          what changed in the pod
//!       ◀─ Committed{batch, rev, results} ──    after the database's commit
//! ```
//! A batch that fits goes in one message ([`Batch::Whole`]); a larger one is cut into chunks.
//! Batches of one direction never interleave.

use super::Failure;
use crate::id::{BatchId, ItemId, LinkEpoch, Revision, VolumeId};
use crate::path::WorkspacePath;
use crate::tree::{Entry, Hash};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of an encoded batch up to which it goes in one message; also the size of a chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The code of a refused operation whose content came neither with the batch nor is in the database: it is sent again
/// with its content.
pub const CONTENT_MISSING: &str = "content_missing";

/// What the agent's base holds when its sync stream opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The link's epoch, from the welcome.
    pub epoch: LinkEpoch,
    /// The revision of its base; 0 if it has none.
    pub base_rev: Revision,
    /// The digest of its base ([`crate::tree::digest`]); a digest that isn't the database's at that
    /// revision makes the control plane send the whole tree.
    pub base_digest: Hash,
    /// The volume it lies on. A volume the database doesn't know the session by drops the base.
    pub volume: VolumeId,
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromAgent {
    /// A batch of changes made in the pod, or a part of one.
    Batch(Batch),
    /// Every change up to this revision is in `/app`, by rename.
    Visible {
        /// The revision.
        rev: Revision,
    },
    /// Contents that the agent lacks, by hash: those of the control plane's last batch that came without.
    Need {
        /// At most [`crate::limits::SyncLimits::batch_items`] in all, cut into messages.
        hashes: Vec<Hash>,
    },
    /// The paths that cannot be synced now; each message replaces the whole list.
    Problems {
        /// At most 1,000; the rest is counted.
        problems: Vec<Problem>,
        /// How many more there are.
        more: u64,
    },
    /// What the engine is doing.
    State(State),
    /// A scan on reconnect found so much gone that it is held: at least half and at least ten items.
    MassDelete {
        /// How many items.
        items: u64,
        /// The topmost paths gone, at most 100.
        paths: Vec<WorkspacePath>,
    },
    /// The answer to [`FromControlPlane::Settle`]: all batches of changes made before the question are committed.
    Settled {
        /// The question's number.
        token: u64,
        /// The revision by which they are.
        rev: Revision,
    },
}

/// What the control plane says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromControlPlane {
    /// The first answer.
    Welcome {
        /// The database's revision now.
        rev: Revision,
        /// Whether the base is of no use: a batch with [`Begin::full`] follows.
        full: bool,
    },
    /// A batch of changes made in the database, or a part of one.
    Batch(Batch),
    /// The agent's batch is committed.
    Committed(Committed),
    /// The agent's batch is refused as a whole, and why: `superseded`, `batch_malformed`, `batch_too_large`,
    /// `database_unavailable`. `retry` says whether the same batch may be sent again.
    Refused {
        /// Which.
        batch: BatchId,
        /// Why.
        failure: Failure,
        /// Whether sending it again later can help.
        retry: bool,
    },
    /// Answer [`FromAgent::Settled`] once everything written before now is committed.
    Settle {
        /// Given back in the answer.
        token: u64,
    },
    /// What a user decided about a held mass delete.
    MassDeleteDecision {
        /// Delete them, or put them back.
        delete: bool,
    },
}

/// A batch on the wire, whole or in parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Batch {
    /// All in one message.
    Whole {
        /// Its head.
        begin: Begin,
        /// The encoded batch, at most [`CHUNK_BYTES`].
        data: Bytes,
        /// Its end.
        end: End,
    },
    /// The head of one in parts.
    Begin(Begin),
    /// A part, at most [`CHUNK_BYTES`].
    Chunk(Bytes),
    /// The end of one in parts.
    End(End),
}

/// A batch's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Unique: a batch sent again is answered again, and applied once.
    pub batch: BatchId,
    /// What the sender's changes are based on.
    pub base_rev: Revision,
    /// Control plane to agent: the revision reached when this batch is applied and it is the `last`.
    pub target_rev: Revision,
    /// Operations in the manifest.
    pub items: u64,
    /// Uncompressed bytes of the tar.
    pub bytes: u64,
    /// Control plane to agent: together with its successors up to `last` this names the *whole* tree, not a change.
    #[serde(default)]
    pub full: bool,
    /// Control plane to agent: no more batches follow for `target_rev`.
    #[serde(default = "yes")]
    pub last: bool,
}

fn yes() -> bool {
    true
}

/// A batch's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// BLAKE3 of the uncompressed tar.
    pub tar_hash: Hash,
}

/// The database's answer to a pod's batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Which batch.
    pub batch: BatchId,
    /// The revision that holds it.
    pub rev: Revision,
    /// What became of each operation, in manifest order.
    pub results: Vec<OpResult>,
}

/// What became of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResult {
    /// The database now holds what the pod has.
    Applied {
        /// The item's id.
        item: Option<ItemId>,
    },
    /// The database holds something else now (a merge, or, after a conflict, its own); the pod's bytes are in
    /// the history. The next batch from the control plane brings it; the pod's state counts as agreed until then.
    Superseded {
        /// Whether it was a conflict rather than a clean merge.
        conflict: bool,
        /// What the database holds, or none if nothing.
        now: Option<Entry>,
    },
    /// Not taken: `file_too_large`, `workspace_full`, `too_many_items`, `not_a_directory`, … The rest of the batch is.
    Refused(Failure),
}

/// A path that cannot be synced now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The path, as far as it can be told; names that aren't UTF-8 are escaped.
    pub path: String,
    /// `special_file`, `name_not_utf8`, `symlink_outside`, `unreadable`, `too_large`, `no_space`, `hot_file`, `in_the_way`, …
    pub code: String,
    /// For a person.
    pub message: String,
}

/// What the sync engine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Comparing and catching up.
    CatchingUp,
    /// Both sides agree, or will within milliseconds.
    Live,
    /// The workspace's file system has no room; saves wait in the database.
    Full,
    /// A mass delete waits for a decision.
    Held,
}
