//! One link: what is known of the agent at its other end, and streams to it.

use super::sync::SyncPart;
use shared::id::{LinkEpoch, SessionId};
use shared::link::hello::{FromControlPlane, Hello, Variables, Vitals};
use shared::link::mux::{LinkStream, Opener};
use shared::link::{Open, VERSION_ENVIRONMENT, frame};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How long opening a stream may take; it waits only for the link's own write buffer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands that wait to be sent on the control stream; there are few kinds and each matters once.
pub(super) const CONTROL_WAITING: usize = 16;

/// Why nothing can be asked over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It is gone, or so stuck that it may as well be.
    #[error("the link to the session's agent is gone")]
    Gone,
    /// It carries as many streams as it may.
    #[error("too many terminals and commands of this session are open at once")]
    Full,
}

/// An agent's link while it is up. Cheap to clone; keeping a clone keeps no link up.
#[derive(Clone, Debug)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    /// The session it serves.
    pub session: SessionId,
    /// Its number among the session's links.
    pub epoch: LinkEpoch,
    /// The protocol version both sides speak.
    pub version: u32,
    /// What the agent said of itself.
    pub hello: Hello,
    /// Opens streams.
    pub opener: Opener,
    /// What the pod used when it last said so.
    pub vitals: watch::Receiver<Vitals>,
    /// Whether the agent said that it ends, and whether all its files reached the database.
    pub stopped: watch::Receiver<Option<bool>>,
    /// To the control stream.
    pub control: mpsc::Sender<FromControlPlane>,
    /// File sync over this link.
    pub sync: SyncPart,
    /// Cancelled when the link is over; cancelling it ends the link.
    pub over: CancellationToken,
}

impl Link {
    pub(super) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// The session that its agent serves.
    pub fn session(&self) -> SessionId {
        self.0.session
    }

    /// Rises with each link of the session.
    pub fn epoch(&self) -> LinkEpoch {
        self.0.epoch
    }

    /// The protocol version that both sides speak.
    pub fn version(&self) -> u32 {
        self.0.version
    }

    /// What the agent said of itself when it dialled. From the pod: not to be trusted.
    pub fn hello(&self) -> &Hello {
        &self.0.hello
    }

    /// What the pod used when it last said so.
    pub fn vitals(&self) -> Vitals {
        *self.0.vitals.borrow()
    }

    /// File sync over this link.
    pub fn sync(&self) -> &SyncPart {
        &self.0.sync
    }

    /// Opens a stream and says what it is.
    pub async fn open(&self, what: Open) -> Result<LinkStream, LinkError> {
        let opening = async {
            let mut stream = self.0.opener.open().await.map_err(|why| match why.kind() {
                std::io::ErrorKind::QuotaExceeded => LinkError::Full,
                _ => LinkError::Gone,
            })?;
            frame::write(&mut stream, &what).await.map_err(|_| LinkError::Gone)?;
            Ok(stream)
        };
        tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or(Err(LinkError::Gone))
    }

    /// Whether the link is over.
    pub fn is_closed(&self) -> bool {
        self.0.over.is_cancelled()
    }

    /// Resolves once the link is over.
    pub async fn closed(&self) {
        self.0.over.cancelled().await;
    }

    /// Whether the agent said that it ends; if so, whether all its files reached the database.
    pub fn stopped(&self) -> Option<bool> {
        *self.0.stopped.borrow()
    }

    /// Gives the agent the session's variables, for what it starts from now on. Too old an agent is given them when it
    /// links anew, which [`LinkError::Gone`] stands for as well.
    pub async fn environment(&self, variables: BTreeMap<String, String>) -> Result<(), LinkError> {
        if self.0.version < VERSION_ENVIRONMENT {
            return Err(LinkError::Gone);
        }
        let message = FromControlPlane::Environment { variables: Variables(variables) };
        let sending = self.0.control.send_timeout(message, OPEN_TIMEOUT);
        sending.await.map_err(|_| LinkError::Gone)
    }

    /// Tells the agent to dial another replica and close this link itself.
    pub async fn drain(&self) -> Result<(), LinkError> {
        self.0.control.send(FromControlPlane::Drain).await.map_err(|_| LinkError::Gone)
    }

    /// Asks the agent to write its last state and end, within `grace`. Answers whether all files reached the
    /// database, or an error if the link ended without a word of that.
    pub async fn stop(&self, grace: Duration) -> Result<bool, LinkError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let mut stopped = self.0.stopped.clone();
        let asked = async {
            self.0.control.send(FromControlPlane::Stop { grace_ms }).await.map_err(|_| LinkError::Gone)?;
            let said = stopped.wait_for(Option::is_some).await.map_err(|_| LinkError::Gone)?;
            said.ok_or(LinkError::Gone)
        };
        tokio::select! {
            said = tokio::time::timeout(grace, asked) => said.unwrap_or(Err(LinkError::Gone)),
            () = self.0.over.cancelled() => self.0.stopped.borrow().ok_or(LinkError::Gone),
        }
    }

    /// Cuts the link; the agent, if it lives, dials again.
    pub fn cut(&self) {
        self.0.over.cancel();
    }
}
