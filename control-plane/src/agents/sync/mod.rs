//! The control plane's side of file sync: what is known of the pod's files, and what can be asked of it.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`serve`] | one sync stream: both its ways, and how they keep in step |
//! | [`codec`] | between the link's batches and the store's |
//! | [`pull`] | the agent's batches: put together, decoded, committed, answered |
//! | [`push`] | what changed in the database, as batches for the agent |
//! | [`ledger`] | which of the changes the agent has already, and how many go at once |
//! | [`upload`] | large contents from the agent, in parts |
//! | [`download`] | large contents for the agent, in parts |
//! | [`progress`] | how far a long transfer is |
//!
//! The database is the only state: what the agent lacks is always computed from the revision it was last sent.
//! So a lost wake-up, a failed read or a new link costs time and never a change.

mod codec;
mod download;
mod ledger;
mod progress;
mod pull;
mod push;
mod serve;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod upload;

use super::AskError;
use super::registry::Agents;
use shared::id::{LinkEpoch, Revision, SessionId};
use shared::link::sync::{Problem, State};
use shared::path::WorkspacePath;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

pub use progress::{To, Transfer};
pub(super) use serve::serve;

/// Items of an agent's batch whose answers fit into one link message, also if all of them are conflicts.
pub(super) const ANSWERED_ITEMS: u64 = 1_500;
/// Questions to an agent's sync engine that wait; each caller waits with a timeout of its own.
const ASKS_WAITING: usize = 16;

/// What the pod's sync engine last said of itself. From the pod: text only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What it is doing; none before it said so.
    pub state: Option<State>,
    /// The paths that cannot be synced now, at most 1,000.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more_problems: u64,
    /// A mass delete that waits for a decision.
    pub mass_delete: Option<MassDelete>,
    /// A transfer that takes a while; ours to know, not the pod's.
    pub transfer: Option<Transfer>,
}

/// So much was gone at a reconnect that nothing is deleted before a user says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MassDelete {
    /// How many items.
    pub items: u64,
    /// The topmost paths gone, at most 100.
    pub paths: Vec<WorkspacePath>,
}

/// File sync over one link, as the rest of the server sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SyncPart {
    visible: watch::Receiver<Revision>,
    status: watch::Receiver<Arc<Status>>,
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug)]
enum Ask {
    Settle(oneshot::Sender<Revision>),
    Decide { delete: bool },
}

impl SyncPart {
    /// The revision that the pod's folder shows; 0 before the agent said so on this link.
    pub fn visible(&self) -> Revision {
        *self.visible.borrow()
    }

    /// Waits until the pod's folder shows `rev`; answers whether it came in time.
    pub async fn wait_visible(&self, rev: Revision, timeout: Duration) -> bool {
        let mut visible = self.visible.clone();
        let shown = visible.wait_for(|shown| *shown >= rev);
        matches!(tokio::time::timeout(timeout, shown).await, Ok(Ok(_)))
    }

    /// What the sync engine last said of itself.
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// The revision by which everything written in the pod before this call is committed.
    pub async fn settle(&self, timeout: Duration) -> Result<Revision, AskError> {
        let (answer, settled) = oneshot::channel();
        let asking = async {
            self.asks.send(Ask::Settle(answer)).await.map_err(|_| AskError::Gone)?;
            settled.await.map_err(|_| AskError::Gone)
        };
        tokio::time::timeout(timeout, asking).await.unwrap_or(Err(AskError::Timeout))
    }

    /// Tells the agent what a user decided about a held mass delete.
    pub fn decide_mass_delete(&self, delete: bool) -> Result<(), AskError> {
        if self.status.borrow().mass_delete.is_none() {
            let failure = shared::link::Failure::new("nothing_held", "no mass delete waits for a decision");
            return Err(AskError::Refused(failure));
        }
        self.asks.try_send(Ask::Decide { delete }).map_err(|_| AskError::Gone)
    }
}

/// What a link's sync streams need, one after the other.
#[derive(Clone)]
pub(super) struct Context {
    agents: Agents,
    session: SessionId,
    epoch: LinkEpoch,
    visible: watch::Sender<Revision>,
    status: watch::Sender<Arc<Status>>,
    /// Held by the stream that serves.
    asks: Arc<Mutex<mpsc::Receiver<Ask>>>,
}

/// The two ends of a link's file sync: for the rest of the server, and for the link's streams.
pub(super) fn part(agents: &Agents, session: SessionId, epoch: LinkEpoch) -> (SyncPart, Context) {
    let (to_visible, visible) = watch::channel(Revision::ZERO);
    let (to_status, status) = watch::channel(Arc::default());
    let (to_asks, asks) = mpsc::channel(ASKS_WAITING);
    let context = Context {
        agents: agents.clone(),
        session,
        epoch,
        visible: to_visible,
        status: to_status,
        asks: Arc::new(Mutex::new(asks)),
    };
    (SyncPart { visible, status, asks: to_asks }, context)
}
