//! What is to be pushed to an agent: not what it has already, and in groups that fit into one batch. No I/O.

use crate::workspace::{Changed, PodOp};
use shared::chunk::is_large;
use shared::id::{ItemId, Revision};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Bytes of contents that one batch gathers; what is beyond goes in the next.
const BATCH_BYTES: u64 = 16 << 20;
/// Items that one batch gathers.
pub(super) const BATCH_ITEMS: u64 = 2_000;
/// Paths of own changes that are remembered; beyond, they are sent back to the agent, who has them already.
const OWN_PATHS: usize = 100_000;

/// A change that the agent made itself: a path and what it holds there now.
#[derive(Debug)]
pub(super) struct Own(Vec<(WorkspacePath, Option<Entry>)>);

impl Own {
    /// What the agent has after `op`.
    pub(super) fn of(op: &PodOp) -> Self {
        Self(match op {
            PodOp::Put { path, entry, .. } => vec![(path.clone(), Some(*entry))],
            PodOp::Delete { path, .. } => vec![(path.clone(), None)],
            PodOp::Rename { from, to, entry, .. } => vec![(from.clone(), None), (to.clone(), Some(*entry))],
        })
    }
}

/// Which of the changes still to be pushed the agent has already, since it made them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    own: HashMap<WorkspacePath, (Revision, Option<Entry>)>,
}

impl Ledger {
    /// The agent's change stands in the database, at `rev` or before.
    pub(super) fn note(&mut self, own: Own, rev: Revision) {
        for (path, entry) in own.0 {
            if self.own.len() < OWN_PATHS {
                self.own.insert(path, (rev, entry));
            }
        }
    }

    /// Whether the agent has `change`: the same thing at the same path, last changed no later than its own batch.
    pub(super) fn has(&self, change: &Changed) -> bool {
        self.own.get(&change.path).is_some_and(|(rev, entry)| {
            *rev >= change.item.rev && *entry == (!change.deleted).then_some(change.item.entry)
        })
    }

    /// All up to `rev` is pushed.
    pub(super) fn forget_through(&mut self, rev: Revision) {
        self.own.retain(|_, (at, _)| *at > rev);
    }
}

/// Which contents a batch comes without. The agent asks for those that it lacks.
#[derive(Clone, Copy)]
pub(super) enum LeaveOut<'a> {
    Nothing,
    /// Those of items that were elsewhere before: the agent has them there.
    Moved(&'a HashSet<ItemId>),
    All,
}

impl LeaveOut<'_> {
    /// Whether a change has a content that goes with the batch.
    pub(super) fn travels(self, change: &Changed) -> bool {
        let left_out = match self {
            Self::Nothing => false,
            Self::Moved(items) => items.contains(&change.item.id),
            Self::All => true,
        };
        in_batch(change) && !left_out
    }
}

/// What was sent without its content, path by path: as many as the workspace has items.
#[derive(Debug, Default)]
pub(super) struct Lacking(BTreeMap<WorkspacePath, Changed>);

impl Lacking {
    /// The whole tree is sent anew.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// These go, some of them without the contents that they have.
    pub(super) fn note(&mut self, group: &[Changed], leave_out: LeaveOut<'_>) {
        let without = group.iter().filter(|change| has_content(change) && !leave_out.travels(change));
        self.0.extend(without.map(|change| (change.path.clone(), change.clone())));
    }

    /// These are newer, whether they are sent or the agent has them. An old change sent for its content would
    /// otherwise undo them.
    pub(super) fn forget(&mut self, newer: &[Changed]) {
        for change in newer {
            self.0.remove(&change.path);
        }
    }

    /// For each content asked for, a change that still stands and has it.
    pub(super) fn needed(&self, hashes: Vec<Hash>) -> VecDeque<Changed> {
        let mut hashes: HashSet<Hash> = hashes.into_iter().collect();
        self.0.values().filter(|change| hashes.remove(&change.item.entry.hash)).cloned().collect()
    }
}

/// Whether a change is of something that has a content.
fn has_content(change: &Changed) -> bool {
    !change.deleted && change.item.entry.kind != Kind::Dir
}

/// Whether its content travels in the batch itself.
pub(super) fn in_batch(change: &Changed) -> bool {
    has_content(change) && !is_large(change.item.entry.size)
}

/// The next changes that fit into one batch; at least one if any are left.
pub(super) fn take_group(changes: &mut VecDeque<Changed>) -> Vec<Changed> {
    let mut group = Vec::new();
    let mut bytes = 0;
    while let Some(next) = changes.front() {
        let size = if in_batch(next) { next.item.entry.size } else { 0 };
        if !group.is_empty() && (bytes + size > BATCH_BYTES || group.len() as u64 >= BATCH_ITEMS) {
            break;
        }
        bytes += size;
        group.extend(changes.pop_front());
    }
    group
}
