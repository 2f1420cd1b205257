//! The links that are up here, one a session, and what happens to them.

use super::identity::AgentIdentity;
use super::link::Link;
use super::rows;
use crate::environment::Environments;
use crate::telemetry::metrics::Metrics;
use crate::workspace::{self, Store};
use shared::id::{InstanceId, LinkEpoch, SessionId};
use shared::limits::SyncLimits;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events that a listener may fall behind by before it must look afresh.
const EVENTS_WAITING: usize = 1024;
/// Superseded agents remembered for each session; they come back within seconds or never.
const SUPERSEDED_REMEMBERED: usize = 8;
/// How long a link's row counts without being renewed.
pub(super) const ROW_LIFETIME: Duration = Duration::from_secs(60);

/// Something happened to a session's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// Its link came up.
    Linked {
        /// Whose.
        session: SessionId,
    },
    /// Its link ended.
    Unlinked {
        /// Whose.
        session: SessionId,
        /// Set if the agent said that it ends: whether all its files reached the database.
        stopped: Option<bool>,
    },
    /// A terminal was opened, closed, or its program ended.
    Terminals {
        /// Whose.
        session: SessionId,
    },
    /// What file sync is doing changed: its state, the revision visible in the pod, or its problems.
    Sync {
        /// Whose; look at [`Link::sync`].
        session: SessionId,
    },
    /// Something for the session's timeline. From the pod: text only.
    Notice {
        /// Whose.
        session: SessionId,
        /// What kind.
        kind: String,
        /// For a person.
        message: String,
    },
}

/// All agents linked to this replica. Cheap to clone.
#[derive(Clone)]
pub struct Agents(pub(super) Arc<Parts>);

/// What agents are served with.
pub struct Settings {
    /// Variables and secrets of their sessions.
    pub environments: Environments,
    /// Says who they are.
    pub identity: Arc<dyn AgentIdentity>,
    /// The operator's limits for files.
    pub limits: SyncLimits,
    /// Where they are counted.
    pub metrics: Metrics,
    /// This replica's name.
    pub replica: String,
    /// Where other replicas reach it.
    pub address: String,
}

pub(super) struct Parts {
    pub settings: Settings,
    pub store: Store,
    pub events: broadcast::Sender<AgentEvent>,
    pub closing: CancellationToken,
    pub tasks: TaskTracker,
    /// Held while an agent is told its variables: the last that is sent must be the last that was read.
    telling: tokio::sync::Mutex<()>,
    links: Mutex<HashMap<SessionId, Slot>>,
    /// Told on every change of `links`.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Slot {
    link: Option<Link>,
    superseded: VecDeque<InstanceId>,
}

/// Why an agent may not link.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A newer agent serves the session.
    Superseded,
    /// The session is gone.
    NoSession,
    /// The database did not answer; a later try may work.
    Database(workspace::Error),
}

impl Agents {
    /// Nobody yet.
    pub fn new(store: Store, settings: Settings) -> Self {
        Self(Arc::new(Parts {
            settings,
            store,
            events: broadcast::channel(EVENTS_WAITING).0,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            telling: tokio::sync::Mutex::default(),
            links: Mutex::default(),
            changed: watch::channel(()).0,
        }))
    }

    /// The session's link, if it is up.
    pub fn get(&self, session: SessionId) -> Option<Link> {
        self.links().get(&session)?.link.clone().filter(|link| !link.is_closed())
    }

    /// The session's link, as soon as it is up; none after `deadline`.
    pub async fn wait(&self, session: SessionId, deadline: Instant) -> Option<Link> {
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(link) = self.get(session) {
                return Some(link);
            }
            tokio::time::timeout_at(deadline, changed.changed()).await.ok()?.ok()?;
        }
    }

    /// Gives the session's agent the variables that the database has, for what it starts from now on. Answers false if
    /// no agent is linked here that can be told; one that links later is given them then.
    pub async fn refresh_environment(&self, session: SessionId) -> Result<bool, sea_orm::DbErr> {
        let _telling = self.0.telling.lock().await;
        let Some(link) = self.get(session) else { return Ok(false) };
        let resolved = self.0.settings.environments.resolve(session).await?;
        self.tell_unopened(session, resolved.unopened);
        Ok(link.environment(resolved.variables).await.is_ok())
    }

    /// Says in the session's timeline which secrets its shells lack, and why.
    pub(super) fn tell_unopened(&self, session: SessionId, unopened: Vec<(String, String)>) {
        for (name, why) in unopened {
            tracing::warn!(%session, name, why, "a secret cannot be opened");
            let message = format!("The secret {name} cannot be opened: {why}. Set it anew.");
            self.publish(AgentEvent::Notice { session, kind: "secret_unreadable".to_owned(), message });
        }
    }

    /// What happens from now on. A listener that falls behind is told so and should look afresh.
    pub fn events(&self) -> broadcast::Receiver<AgentEvent> {
        self.0.events.subscribe()
    }

    /// The sessions whose links are up here.
    pub fn linked(&self) -> Vec<SessionId> {
        self.links().iter().filter(|(_, slot)| slot.link.is_some()).map(|(session, _)| *session).collect()
    }

    /// Resolves when the server goes: sockets relayed to agents should end then.
    pub async fn closing(&self) {
        self.0.closing.cancelled().await;
    }

    /// Ends all links and everything that is relayed over them, and waits for that. The agents live on and dial again.
    pub async fn close(&self) {
        self.0.closing.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub(super) fn publish(&self, event: AgentEvent) {
        // Nobody listening is fine.
        let _ = self.0.events.send(event);
    }

    /// Decides whether an agent may link, and fences all its predecessors in the database by a new epoch.
    pub(super) async fn admit(&self, session: SessionId, instance: InstanceId) -> Result<LinkEpoch, Refusal> {
        if self.links().get(&session).is_some_and(|slot| slot.superseded.contains(&instance)) {
            return Err(Refusal::Superseded);
        }
        let Parts { store, settings, .. } = &*self.0;
        let ttl = ROW_LIFETIME.as_millis() as i64;
        match rows::session_lives(store.database().reader(), session).await {
            Ok(true) => {}
            Ok(false) => return Err(Refusal::NoSession),
            Err(why) => return Err(Refusal::Database(why.into())),
        }
        let epoch = store.link_up(session, &settings.replica, &settings.address, instance, ttl).await;
        epoch.map_err(|why| match why {
            workspace::Error::NoWorkspace(_) => Refusal::NoSession,
            why => Refusal::Database(why),
        })
    }

    /// Makes `link` the session's, and cuts the one before. An older link than the present one is not taken.
    pub(super) fn enter(&self, link: Link) -> bool {
        let mut links = self.links();
        let slot = links.entry(link.session()).or_default();
        if let Some(present) = &slot.link {
            if present.epoch() > link.epoch() {
                return false;
            }
            if present.hello().instance != link.hello().instance {
                slot.superseded.push_back(present.hello().instance);
                if slot.superseded.len() > SUPERSEDED_REMEMBERED {
                    slot.superseded.pop_front();
                }
            }
            present.cut();
        }
        slot.superseded.retain(|instance| *instance != link.hello().instance);
        let session = link.session();
        if slot.link.replace(link).is_none() {
            self.0.settings.metrics.links.inc();
        }
        drop(links);
        self.0.changed.send_replace(());
        self.publish(AgentEvent::Linked { session });
        true
    }

    /// Takes `link` off, unless a newer one has its place.
    pub(super) fn leave(&self, link: &Link, stopped: Option<bool>) {
        let session = link.session();
        let mut links = self.links();
        let Some(slot) = links.get_mut(&session) else { return };
        if slot.link.as_ref().is_none_or(|present| present.epoch() != link.epoch()) {
            return;
        }
        slot.link = None;
        self.0.settings.metrics.links.dec();
        if slot.superseded.is_empty() {
            links.remove(&session);
        }
        drop(links);
        self.0.changed.send_replace(());
        self.publish(AgentEvent::Unlinked { session, stopped });
    }

    /// Forgets who was superseded: a deliberate new start may be of any agent.
    pub(crate) fn forget(&self, session: SessionId) {
        let mut links = self.links();
        if let Some(slot) = links.get_mut(&session) {
            slot.superseded.clear();
            if slot.link.is_none() {
                links.remove(&session);
            }
        }
    }

    fn links(&self) -> MutexGuard<'_, HashMap<SessionId, Slot>> {
        // No code that holds it can panic halfway through a change.
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
