//! Sessions: what their users want of them, and how that comes true.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`session`] | what a session looks like from outside |
//! | [`step`] | what is wanted and what is there → what to do next, as a pure function |
//! | [`records`] | sessions in the database |
//! | [`timeline`] | their timelines in the database |
//! | [`reconcile`] | notices what may have changed |
//! | [`worker`] | one task a session that takes steps until nothing is left to do |
//! | [`act`] | carries out the step that is due |
//! | [`attempt`] | what a worker remembers between its steps |
//! | [`heed`] | tells what is seen of what runs a session |
//! | [`ending`] | when a session ends by itself, as a pure function |
//! | [`retention`] | how long a volume is kept without a pod, as a pure function |
//! | [`watch`] | what happens in sessions; warns of their end, and ends them |
//! | [`watched`] | what is known of one session's use, and what is due for it |
//! | [`clock`] | a clock that never steps |
//!
//! Calls note in the database what is wanted and return; the reconciler makes it so, and tries again after a
//! restart of the server just as it would have without one.

mod act;
mod attempt;
pub mod clock;
pub mod ending;
mod heed;
mod reconcile;
mod records;
mod retention;
pub mod session;
pub mod step;
mod timeline;
mod watch;
mod watched;
mod worker;

pub use ending::Cause;
pub use session::{Activity, Change, Ending, Ends, New, Session, State, TimelineEvent};

use crate::agents::Agents;
use crate::runtime::Runtime;
use crate::templates::{self, Templates};
use crate::workspace::{self, Store};
use sea_orm::DbErr;
use shared::id::SessionId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use step::Want;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Characters a session's name may have.
pub const NAME_CHARACTERS: usize = 100;
/// Changes a listener may fall behind by before it must look afresh.
const CHANGES_WAITING: usize = 256;

/// What sessions are run with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a stopping session's last sync may take.
    pub stop_grace: Duration,
    /// How often everything is compared, whatever was said or missed in between.
    pub compare_every: Duration,
    /// What times are reckoned by.
    pub clock: clock::Clock,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stop_grace: Duration::from_secs(30),
            compare_every: Duration::from_secs(60),
            clock: clock::Clock::default(),
        }
    }
}

/// What the calls answer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call did nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such session.
    #[error("there is no session {0}")]
    NotFound(SessionId),
    /// The owner has one of that name.
    #[error("a session named {0:?} exists already")]
    NameTaken(String),
    /// Not a name.
    #[error(
        "a session's name has 1 to {NAME_CHARACTERS} characters, none of them a control character, and no space at its ends"
    )]
    BadName,
    /// Too long or none.
    #[error("a session is extended by 1 to {} seconds", watch::EXTENSION_MOST_S)]
    BadExtension,
    /// Only what runs can be extended.
    #[error("the session {0} does not run")]
    NotRunning(SessionId),
    /// There is no such template.
    #[error("there is no template named {0:?}")]
    NoTemplate(String),
    /// The session's workspace could not be made.
    #[error(transparent)]
    Workspace(#[from] workspace::Error),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] DbErr),
}

impl Error {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "session_not_found",
            Self::NameTaken(_) => "session_name_taken",
            Self::BadName => "bad_session_name",
            Self::BadExtension => "bad_extension",
            Self::NotRunning(_) => "session_not_running",
            Self::NoTemplate(_) => "no_such_template",
            Self::Workspace(why) => why.code(),
            Self::Database(_) => "database_unavailable",
        }
    }
}

impl From<templates::Error> for Error {
    fn from(why: templates::Error) -> Self {
        match why {
            templates::Error::NotFound(name) => Self::NoTemplate(name),
            templates::Error::Database(why) => Self::Database(why),
            // Refusals of changes, which no session's code asks for.
            other => Self::Database(DbErr::Custom(other.to_string())),
        }
    }
}

/// All sessions. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle(Arc<Parts>);

struct Parts {
    store: Store,
    agents: Agents,
    runtime: Arc<dyn Runtime>,
    settings: Settings,
    changes: broadcast::Sender<Change>,
    workers: Mutex<HashMap<SessionId, worker::Worker>>,
    watch: watch::Watch,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Lifecycle {
    /// Nothing happens before [`Lifecycle::run`].
    pub fn new(store: Store, agents: Agents, runtime: Arc<dyn Runtime>, settings: Settings) -> Self {
        Self(Arc::new(Parts {
            store,
            agents,
            runtime,
            settings,
            changes: broadcast::channel(CHANGES_WAITING).0,
            workers: Mutex::default(),
            watch: watch::Watch::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        }))
    }

    /// Makes what is wanted come true, until [`Lifecycle::close`].
    pub async fn run(&self) {
        tokio::join!(reconcile::run(self), self.watch_ends());
    }

    /// Lets the steps that are being taken finish, and takes no more. Agents live on.
    pub async fn close(&self) {
        self.0.closing.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        reconcile::write_uses(self).await;
    }

    /// Makes a session with an empty workspace, and starts it if told so.
    pub async fn create(&self, new: New<'_>) -> Result<Session> {
        check_name(new.name)?;
        let record = records::create(self.database(), new).await?;
        self.publish(record.session.id, Some(record.session.state), None);
        self.kick(record.session.id);
        Ok(record.session)
    }

    /// Sessions, the newest first: one owner's, or everyone's.
    pub async fn list(&self, owner: Option<i64>) -> Result<Vec<Session>> {
        records::list(self.database(), owner).await
    }

    /// One session.
    pub async fn get(&self, id: SessionId) -> Result<Session> {
        Ok(records::get(self.database(), id).await?.session)
    }

    /// Another name for a session.
    pub async fn rename(&self, id: SessionId, name: &str) -> Result<Session> {
        check_name(name)?;
        records::rename(self.database(), id, name).await?;
        self.get(id).await
    }

    /// Wants the session to run. One that runs stays as it is; one that failed is tried afresh.
    pub async fn start(&self, id: SessionId, actor: Option<String>) -> Result<Session> {
        let record = records::get(self.database(), id).await?;
        let again = record.session.state == State::Failed;
        if records::want(self.database(), id, Want::Running, State::Starting, again).await? {
            self.0.agents.forget(id);
            self.publish(id, Some(State::Starting), None);
            self.say(id, "start", "A start was asked for.", actor).await?;
            self.restart_attempts(id);
        }
        self.kick(id);
        self.get(id).await
    }

    /// Wants the session to stop: after its last files have reached the database, within a bound.
    pub async fn stop(&self, id: SessionId, actor: Option<String>) -> Result<Session> {
        records::get(self.database(), id).await?;
        if records::want(self.database(), id, Want::Stopped, State::Stopping, false).await? {
            // At once: a worker may be at it already, and its agent's terminals go.
            self.publish(id, Some(State::Stopping), None);
            self.say(id, "stop", "A stop was asked for.", actor).await?;
            self.restart_attempts(id);
        }
        self.kick(id);
        self.get(id).await
    }

    /// Wants nothing to be left of the session. It is gone for its users at once; its agent, folder and rows follow.
    pub async fn delete(&self, id: SessionId) -> Result<()> {
        if !records::want(self.database(), id, Want::Deleted, State::Stopping, true).await? {
            return Err(Error::NotFound(id));
        }
        self.publish(id, None, None);
        self.restart_attempts(id);
        self.kick(id);
        Ok(())
    }

    /// What happened to a session, the oldest first.
    pub async fn timeline(&self, id: SessionId) -> Result<Vec<TimelineEvent>> {
        records::get(self.database(), id).await?;
        timeline::newest(self.database(), id).await
    }

    /// Every change of a session's state from now on. A listener that falls behind is told so and should look afresh.
    pub fn watch(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }

    fn templates(&self) -> Templates {
        Templates::new(self.database().clone())
    }

    fn database(&self) -> &workspace::Database {
        self.0.store.database()
    }

    fn publish(&self, session: SessionId, state: Option<State>, reason: Option<String>) {
        // Nobody listening is fine.
        let ending = state.and_then(|state| self.ending(session, state));
        let _ = self.0.changes.send(Change { session, state, reason, ending });
    }

    async fn say(&self, id: SessionId, kind: &str, message: &str, actor: Option<String>) -> Result<()> {
        let line = timeline::Line { kind, message: message.to_owned(), actor, ..timeline::Line::default() };
        timeline::add(self.database(), id, line).await
    }
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=NAME_CHARACTERS).contains(&name.chars().count());
    if fits && name.trim() == name && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(Error::BadName)
    }
}

/// A session's rows, for tests that need no lifecycle.
#[cfg(test)]
pub(crate) async fn test_session(database: &workspace::Database, owner: i64, name: &str) -> SessionId {
    let record = records::create(database, New::named(owner, name)).await.unwrap();
    record.session.id
}

/// Its deletion is wanted.
#[cfg(test)]
pub(crate) async fn test_want_deleted(database: &workspace::Database, session: SessionId) {
    assert!(records::want(database, session, Want::Deleted, State::Stopping, true).await.unwrap());
}
