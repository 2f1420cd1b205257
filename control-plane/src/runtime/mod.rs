//! Runtimes: what runs agents. [`kubernetes`] for production, [`local`] as the embedded default.
//!
//! The lifecycle says what should be; a runtime makes it so in steps that may be repeated. Every call is
//! idempotent, finishes in bounded time, and never infers a wish: only what is named is touched.

pub mod kubernetes;
pub mod local;
mod process;

use crate::templates::Template;
use async_trait::async_trait;
use shared::id::SessionId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// What a runtime must know to run a session's agent.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Which session.
    pub session: SessionId,
    /// Rises with every start, so that a late step of an earlier start touches nothing of a later one.
    pub generation: u64,
    /// What the agent dials with, for runtimes whose agents have no identity of their own.
    pub credential: crate::agents::identity::Credential,
    /// What the session is made from.
    pub template: Arc<Template>,
}

/// What a runtime sees of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether the agent's process or pod is there, working or not.
    pub running: bool,
    /// Whether files are kept for it: a folder or a volume.
    pub volume: bool,
    /// If it ran and ended by itself, or is about to: why, in words for a person.
    pub ended: Option<String>,
    /// What keeps it from starting.
    pub trouble: Option<Trouble>,
    /// That what it runs on does not answer.
    pub lost: Option<Lost>,
    /// What may be in the way of an agent that runs, for a person, should it not link for long.
    pub unlinked: Option<String>,
    /// What has happened to it so far, for the timeline.
    pub notices: Vec<Notice>,
    /// Made so recently that its session may not be known everywhere: never to be taken for an orphan.
    pub young: bool,
}

/// What keeps an agent from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For a person.
    pub message: String,
    /// Whether somebody must change something before trying again can help.
    pub hopeless: bool,
    /// Whether what ran well before runs better made anew than left to come right by itself.
    pub anew: bool,
}

impl Trouble {
    /// One that passes by itself, perhaps.
    pub fn passing(message: String) -> Self {
        Self { message, hopeless: false, anew: false }
    }
}

/// What runs a session does not answer: nobody knows whether it still does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// What does not answer, for a person.
    pub message: String,
    /// How long it is waited for.
    pub patience: Duration,
    /// Whether that is over: [`Runtime::stop`] waits for its end no more, and another may take its place.
    pub given_up: bool,
}

/// Something that happened to what runs a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Stable: `scheduled`, `container_started`, `out_of_memory`, …
    pub code: &'static str,
    /// The same for the same happening, so that it is told once.
    pub key: String,
    /// For a person.
    pub message: String,
}

/// What [`Runtime::ensure`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It was there already.
    Adopted,
    /// It was started just now.
    Started,
    /// One that waited for a session was given this one.
    Claimed,
}

/// Why a runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Trying again later can help.
    #[error("{0}")]
    Retry(String),
    /// Trying again cannot help before somebody changes something: a quota, a missing image, a broken folder.
    #[error("{0}")]
    Permanent(String),
}

/// Runs sessions' agents.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// The name that settings use.
    fn name(&self) -> &'static str;

    /// Makes room for the session's files, if there is none yet or too little. Answers what is to be told of that.
    async fn prepare(&self, spec: &Spec) -> Result<Option<Notice>, RuntimeError>;

    /// Makes sure that exactly one agent runs for the session: adopts one that is there, else starts one.
    async fn ensure(&self, spec: &Spec) -> Result<Ensured, RuntimeError>;

    /// Ends the session's agent and all it started: politely, and by force after `grace`. Files stay.
    async fn stop(&self, session: SessionId, grace: Duration) -> Result<(), RuntimeError>;

    /// Ends the session's agent and removes its files.
    async fn delete(&self, session: SessionId) -> Result<(), RuntimeError>;

    /// Gives a stopped session's volume back: its files are in the database, from where the next start brings them.
    /// A runtime that has nothing to give back does nothing.
    async fn release_volume(&self, _session: SessionId) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// What is there of one session.
    async fn observe(&self, session: SessionId) -> Result<Observed, RuntimeError>;

    /// Every session of which anything is there. The caller, who knows which sessions exist, finds the orphans.
    async fn list(&self) -> Result<Vec<(SessionId, Observed)>, RuntimeError>;

    /// The last lines that the session's agent logged, for a person who wonders why it does not start.
    async fn log_tail(&self, session: SessionId) -> Option<String>;

    /// Whether its agents dial with [`Spec::credential`], for want of an identity of their own.
    fn needs_credential(&self) -> bool {
        true
    }

    /// How long a started agent may take to link, if nothing is known to be in its way.
    fn start_patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// How often what runs without a link is looked at, whatever is told of it.
    fn look_again(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Runs for as long as the server does: tells `changed` of each session of which something changed by itself,
    /// and keeps in order what belongs to no session.
    async fn run(&self, changed: UnboundedSender<SessionId>) {
        // Nothing changes by itself where nothing watches; held, so that nobody takes the end for a failure.
        let _changed = changed;
        std::future::pending().await
    }
}
