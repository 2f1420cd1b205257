//! A session as everyone but the database sees it.

use super::ending::Cause;
use crate::environment::Row;
use crate::templates;
use jiff::Timestamp;
use serde::Serialize;
use shared::id::SessionId;
use std::fmt;

/// Where a session is between not running and running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing runs; its files are in the database.
    Stopped,
    /// Its agent is being started, or its link is awaited.
    Starting,
    /// Its agent is linked.
    Running,
    /// It is being stopped: the last files are on their way to the database.
    Stopping,
    /// It should run and does not; the reason says why and what to do.
    Failed,
}

impl State {
    /// The name that JSON and the database use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }

    /// Reads [`State::as_str`]'s form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Stopped, Self::Starting, Self::Running, Self::Stopping, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A session.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Its public id.
    pub id: SessionId,
    /// Its row's key, which the workspace's tables refer to.
    pub key: i64,
    /// The user who owns it, by row.
    pub owner: i64,
    /// What its owner calls it.
    pub name: String,
    /// The name of the template it was made from.
    pub template: String,
    /// Where it is between not running and running.
    pub state: State,
    /// Why it is there, if that needs a word.
    pub reason: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its state last changed.
    pub state_at: Timestamp,
    /// When it was last used, to the minute.
    pub active_at: Option<Timestamp>,
    /// When it last began to run.
    pub started_at: Option<Timestamp>,
    /// When its lifetime ends; none for never.
    pub expires_at: Option<Timestamp>,
    /// It does not end for want of activity before this.
    pub kept_until: Option<Timestamp>,
}

/// When a session ends by itself if nothing more happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// For want of activity; none for never.
    pub idle_at: Option<Timestamp>,
    /// Because its lifetime is over; none for never.
    pub expires_at: Option<Timestamp>,
    /// The end that its users were warned of.
    pub ending: Option<Ending>,
}

/// An end that comes soon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
}

/// What a new session is to be.
#[derive(Clone, Debug)]
pub struct New<'a> {
    /// Its id.
    pub id: SessionId,
    /// The user who owns it, by row.
    pub owner: i64,
    /// What its owner calls it.
    pub name: &'a str,
    /// The name of the template it is made from.
    pub template: &'a str,
    /// Whether it starts at once.
    pub start: bool,
    /// Its own variables and secrets, made for this id.
    pub variables: Vec<Row>,
    /// Who makes it, for the timeline.
    pub actor: Option<String>,
}

impl<'a> New<'a> {
    /// One of the default template that starts at once.
    pub fn named(owner: i64, name: &'a str) -> Self {
        Self {
            id: SessionId::random(),
            owner,
            name,
            template: templates::DEFAULT,
            start: true,
            variables: Vec::new(),
            actor: None,
        }
    }
}

/// A session's state changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which session.
    pub session: SessionId,
    /// Where it is now; none if it is deleted.
    pub state: Option<State>,
    /// Why, if that needs a word.
    pub reason: Option<String>,
    /// The end that its users are to be warned of, if it runs.
    pub ending: Option<Ending>,
}

/// One line of a session's timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TimelineEvent {
    /// When.
    pub at: Timestamp,
    /// What kind: `created`, `start`, `step`, `running`, `stop`, `stopped`, `failed`, `agent`, …
    pub kind: String,
    /// For a person.
    pub message: String,
    /// Which step of a start or stop it was, such as `folder_ready` or `connected`.
    pub step: Option<String>,
    /// Milliseconds from the start's or stop's beginning to this step.
    pub elapsed_ms: Option<i64>,
}

/// What counts as using a session. Pings and open pages do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Keys in a terminal.
    Input,
    /// A file saved, moved or deleted.
    Save,
    /// A command run, a terminal opened, another call.
    Call,
    /// Files changed in the pod.
    Sync,
    /// Its processor was at work.
    Processor,
    /// Its terminals put something out; counts only so far.
    Output,
}
