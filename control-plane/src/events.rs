//! What happens in a workspace, told to whoever has it open: one task listens, and gives each session's
//! subscribers what is theirs. A subscriber has a bounded queue; one that falls behind is told to look afresh.

use crate::agents::sync::{Status, Transfer};
use crate::agents::{AgentEvent, Agents};
use crate::lifecycle::{self, Lifecycle, State};
use crate::workspace::{self, HistoryQuery, Origin, Store};
use serde::Serialize;
use shared::id::{Revision, SessionId};
use shared::link::sync::State as SyncState;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Events that one subscriber may have waiting: seconds of a busy workspace.
const WAITING: usize = 256;
/// Problems told one by one after a change; the rest is read at their own address.
const PROBLEMS_TOLD: usize = 20;
/// Conflicts told one by one after a change.
const CONFLICTS_TOLD: u64 = 20;

/// One event, as browsers are told it.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The first: the workspace's revision when the socket was opened.
    Hello {
        /// That revision.
        rev: Revision,
    },
    /// Files changed.
    Files {
        /// The workspace's revision that holds the change.
        rev: Revision,
        /// Where it came from; none if several changes were missed.
        origin: Option<Origin>,
        /// What changed, at most 100 paths.
        paths: &'a [shared::path::WorkspacePath],
        /// Whether that is not all: ask for the tree since the revision one has.
        truncated: bool,
    },
    /// The session's state.
    Session {
        /// `stopped`, `starting`, `running`, `stopping` or `failed`.
        state: State,
        /// Why, if that needs a word.
        reason: Option<&'a str>,
        /// The end that comes unless the session is used or extended; none if none comes soon.
        ending: Option<&'a lifecycle::Ending>,
    },
    /// Both sides changed a file, otherwise; the pod's bytes are kept as this version.
    Conflict {
        /// The file.
        path: &'a str,
        /// The revision that keeps them.
        rev: Revision,
        /// The version that holds them.
        version: i64,
    },
    /// A path cannot be synced now.
    Problem {
        /// The path.
        path: &'a str,
        /// Stable.
        code: &'a str,
        /// For a person.
        message: &'a str,
    },
    /// What file sync is doing.
    Sync {
        /// The revision that the session's folder shows.
        rev_in_pod: Revision,
        /// `live`, `catching-up`, `full`, `held` or `offline`.
        state: &'static str,
        /// How many paths cannot be synced now.
        problems: u64,
        /// A transfer that takes a while; none if there is none.
        transfer: Option<Transfer>,
    },
    /// A terminal was opened or closed, or its program ended.
    Terminals,
}

impl Event<'_> {
    /// The event as JSON.
    pub fn json(&self) -> String {
        // Strings and numbers under fixed keys cannot fail to become JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// An event as JSON.
    Event(Arc<str>),
    /// The session was deleted: nothing more will come.
    Gone,
}

/// All subscribers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<HashMap<SessionId, Vec<Subscriber>>>>);

struct Subscriber {
    queue: mpsc::Sender<Told>,
    behind: Arc<Behind>,
}

/// Whether a subscriber missed something, and what wakes it to hear so.
#[derive(Default)]
struct Behind {
    missed: AtomicBool,
    wake: Notify,
}

impl Behind {
    fn note(&self) {
        self.missed.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// One subscriber's end.
pub struct Subscription {
    queue: mpsc::Receiver<Told>,
    behind: Arc<Behind>,
}

/// What a subscriber gets next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// This.
    Told(Told),
    /// Something was missed: look afresh at everything.
    Missed,
}

impl Subscription {
    /// What comes next. Safe to cancel.
    pub async fn next(&mut self) -> Next {
        loop {
            // What is queued is older than what was missed.
            if self.queue.is_empty() && self.behind.missed.swap(false, Ordering::AcqRel) {
                return Next::Missed;
            }
            tokio::select! {
                biased;
                // The sender lives as long as this subscription is in the list, which holds it until it is dropped.
                told = self.queue.recv() => return told.map_or(Next::Missed, Next::Told),
                // Nothing may ever be queued again in a session where nothing happens.
                () = self.behind.wake.notified() => {}
            }
        }
    }
}

impl Events {
    /// Everything that happens in a session from now on.
    pub fn subscribe(&self, session: SessionId) -> Subscription {
        let (sender, queue) = mpsc::channel(WAITING);
        let behind = Arc::<Behind>::default();
        let subscriber = Subscriber { queue: sender, behind: Arc::clone(&behind) };
        let mut all = self.all();
        let subscribers = all.entry(session).or_default();
        // In a session where nothing happens nobody else would ever forget those who went.
        subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        subscribers.push(subscriber);
        drop(all);
        Subscription { queue, behind }
    }

    /// Whether anyone has the session open.
    fn watched(&self, session: SessionId) -> bool {
        self.all()
            .get(&session)
            .is_some_and(|subscribers| subscribers.iter().any(|subscriber| !subscriber.queue.is_closed()))
    }

    fn tell(&self, session: SessionId, told: &Told) {
        let mut all = self.all();
        let Some(subscribers) = all.get_mut(&session) else { return };
        subscribers.retain(|subscriber| match subscriber.queue.try_send(told.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                subscriber.behind.note();
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        if subscribers.is_empty() {
            all.remove(&session);
        }
    }

    fn event(&self, session: SessionId, event: &Event<'_>) {
        if self.watched(session) {
            self.tell(session, &Told::Event(event.json().into()));
        }
    }

    /// This task missed something: so did everyone.
    fn everyone_missed(&self) {
        for subscriber in self.all().values().flatten() {
            subscriber.behind.note();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<SessionId, Vec<Subscriber>>> {
        // Nothing that holds it can panic halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens and tells until `shutdown`.
    pub async fn run(self, store: Store, lifecycle: Lifecycle, agents: Agents, shutdown: CancellationToken) {
        let (mut files, mut sessions, mut links) = (store.changes(), lifecycle.watch(), agents.events());
        let mut memory = Memory::default();
        loop {
            tokio::select! {
                // That a session stops comes before that its link and terminals went, or pages ask for them.
                biased;
                () = shutdown.cancelled() => return,
                change = sessions.recv() => match change {
                    Ok(change) => self.session(change, &mut memory),
                    Err(RecvError::Lagged(_)) => self.everyone_missed(),
                    Err(RecvError::Closed) => return,
                },
                event = links.recv() => match event {
                    Ok(event) => self.link(&agents, event, &mut memory),
                    Err(RecvError::Lagged(_)) => self.everyone_missed(),
                    Err(RecvError::Closed) => return,
                },
                change = files.recv() => match change {
                    Ok(change) => self.files(&store, change, &mut memory).await,
                    Err(RecvError::Lagged(_)) => self.everyone_missed(),
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    async fn files(&self, store: &Store, change: workspace::Change, memory: &mut Memory) {
        let workspace::Change { session, rev, origin, paths, truncated } = change;
        if !self.watched(session) {
            return;
        }
        self.event(session, &Event::Files { rev, origin: Some(origin), paths: &paths, truncated });
        if origin == Origin::Pod || origin == Origin::Merge {
            self.conflicts(store, session, rev, memory).await;
        }
    }

    /// Conflicts that came with a revision. A failed read is no reason to stop: they are in the history.
    async fn conflicts(&self, store: &Store, session: SessionId, rev: Revision, memory: &mut Memory) {
        let query = HistoryQuery { open_conflicts: true, limit: CONFLICTS_TOLD, ..HistoryQuery::default() };
        let Ok(versions) = store.history(session, &query).await else { return };
        let told = memory.conflicts.entry(session).or_default();
        for version in versions.iter().rev().filter(|version| version.rev >= rev && version.id > *told) {
            let path = version.path.as_str();
            self.event(session, &Event::Conflict { path, rev: version.rev, version: version.id });
        }
        *told = versions.first().map_or(*told, |newest| newest.id.max(*told));
    }

    fn session(&self, change: lifecycle::Change, memory: &mut Memory) {
        match change.state {
            Some(state) => self.event(
                change.session,
                &Event::Session { state, reason: change.reason.as_deref(), ending: change.ending.as_ref() },
            ),
            None => {
                memory.forget(change.session);
                self.tell(change.session, &Told::Gone);
            }
        }
    }

    fn link(&self, agents: &Agents, event: AgentEvent, memory: &mut Memory) {
        match event {
            AgentEvent::Terminals { session } => self.event(session, &Event::Terminals),
            AgentEvent::Sync { session } | AgentEvent::Linked { session } => {
                if self.watched(session) {
                    self.sync(agents, session, memory);
                }
            }
            AgentEvent::Unlinked { session, .. } => {
                memory.forget(session);
                self.event(session, &sync_state(agents, session));
                self.event(session, &Event::Terminals);
            }
            AgentEvent::Notice { session, kind, message } => {
                self.event(session, &Event::Problem { path: "", code: &kind, message: &message });
            }
        }
    }

    fn sync(&self, agents: &Agents, session: SessionId, memory: &mut Memory) {
        self.event(session, &sync_state(agents, session));
        let Some(link) = agents.get(session) else { return };
        let status: Arc<Status> = link.sync().status();
        let known = memory.problems.entry(session).or_default();
        let now: HashSet<(String, String)> =
            status.problems.iter().map(|problem| (problem.path.clone(), problem.code.clone())).collect();
        let fresh = status
            .problems
            .iter()
            .filter(|problem| !known.contains(&(problem.path.clone(), problem.code.clone())));
        for problem in fresh.take(PROBLEMS_TOLD) {
            self.event(
                session,
                &Event::Problem { path: &problem.path, code: &problem.code, message: &problem.message },
            );
        }
        *known = now;
    }
}

/// What was told of sessions that somebody has open.
#[derive(Default)]
struct Memory {
    problems: HashMap<SessionId, HashSet<(String, String)>>,
    conflicts: HashMap<SessionId, i64>,
}

impl Memory {
    fn forget(&mut self, session: SessionId) {
        self.problems.remove(&session);
        self.conflicts.remove(&session);
    }
}

/// What file sync of a session is doing now.
pub fn sync_state(agents: &Agents, session: SessionId) -> Event<'static> {
    let Some(link) = agents.get(session) else {
        return Event::Sync { rev_in_pod: Revision::ZERO, state: "offline", problems: 0, transfer: None };
    };
    let status = link.sync().status();
    Event::Sync {
        rev_in_pod: link.sync().visible(),
        state: sync_name(status.state),
        problems: status.problems.len() as u64 + status.more_problems,
        transfer: status.transfer,
    }
}

/// A sync state's name for browsers.
pub fn sync_name(state: Option<SyncState>) -> &'static str {
    match state {
        None | Some(SyncState::CatchingUp) => "catching-up",
        Some(SyncState::Live) => "live",
        Some(SyncState::Full) => "full",
        Some(SyncState::Held) => "held",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscriber_that_takes_nothing_costs_a_bounded_queue_and_is_told_that_it_missed_something() {
        let events = Events::default();
        let session = SessionId::random();
        let mut slow = events.subscribe(session);
        let mut other = events.subscribe(SessionId::random());
        for _ in 0..10 * WAITING {
            events.event(session, &Event::Terminals);
        }
        assert_eq!(slow.queue.len(), WAITING);
        for _ in 0..WAITING {
            assert_eq!(slow.next().await, Next::Told(Told::Event(r#"{"type":"terminals"}"#.into())));
        }
        assert_eq!(slow.next().await, Next::Missed);
        events.tell(session, &Told::Gone);
        assert_eq!(slow.next().await, Next::Told(Told::Gone));
        assert!(other.queue.try_recv().is_err(), "another session's subscriber heard of it");
    }

    #[tokio::test]
    async fn one_who_waits_hears_at_once_that_everyone_missed_something() {
        let events = Events::default();
        let mut waiting = events.subscribe(SessionId::random());
        let next = tokio::spawn(async move { waiting.next().await });
        tokio::task::yield_now().await;
        events.everyone_missed();
        let next = tokio::time::timeout(std::time::Duration::from_secs(10), next).await;
        assert_eq!(next.expect("it was never told").unwrap(), Next::Missed);
    }

    #[tokio::test]
    async fn coming_and_going_where_nothing_happens_costs_nothing() {
        let events = Events::default();
        let session = SessionId::random();
        for _ in 0..100 {
            drop(events.subscribe(session));
        }
        let stays = events.subscribe(session);
        assert_eq!(events.all()[&session].len(), 1);
        drop(stays);
    }

    #[tokio::test]
    async fn who_goes_is_forgotten() {
        let events = Events::default();
        let session = SessionId::random();
        drop(events.subscribe(session));
        assert!(!events.watched(session));
        events.tell(session, &Told::Gone);
        assert!(events.all().is_empty());
    }
}
