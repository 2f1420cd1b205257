//! Agents: their links, and what the rest of the server does over them.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`listener`] | the agents' own listener: upgrade, credential, nothing else |
//! | [`identity`] | which session a dialling agent may serve |
//! | [`registry`] | the links that are up, one a session, and what happens to them |
//! | [`link`], [`serve`] | one link: hello, heartbeats, streams |
//! | `pace` | how often a pod's words may wake the rest of the server |
//! | [`rows`] | agents' credentials and links in the database |
//! | [`sync`] | the control plane's side of file sync |
//! | [`terminals`] | opening, listing, closing terminals; the relay between a viewer and its terminal |
//! | [`wire`] | the frames that viewers speak |
//! | [`exec`] | one command in a session |

pub mod exec;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod identity;
pub mod link;
#[cfg(test)]
mod link_tests;
pub mod listener;
mod pace;
pub mod registry;
#[cfg(test)]
mod relay_tests;
mod rows;
mod serve;
pub mod sync;
pub mod terminals;
pub mod wire;

pub use link::{Link, LinkError};
pub use registry::{AgentEvent, Agents, Settings};
pub use rows::StoredCredentials;
pub(crate) use rows::{keep_credential, revoke_credential, revoke_credentials};

use shared::link::Failure;

/// Why something asked of a session's agent was not done.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No agent of the session is linked here.
    #[error("the session is not running")]
    NotRunning,
    /// The link went away before the answer came; whether it was done is not known.
    #[error("the connection to the session was lost before it answered")]
    Gone,
    /// So much is open in the session that its link carries no more; nothing was done.
    #[error("too many terminals and commands of this session are open at once; close some and try again")]
    Full,
    /// The agent did not answer in time; whether it was done is not known.
    #[error("the session did not answer in time")]
    Timeout,
    /// The agent said no, and why. Code and message come from the pod and are shown as text only.
    #[error("{0}")]
    Refused(Failure),
    /// The agent's answer made no sense.
    #[error("the session's agent gave an answer that makes no sense: {0}")]
    Nonsense(String),
}

impl AskError {
    /// A stable name for programs. An agent's own codes pass if they are well formed.
    pub fn code(&self) -> &str {
        match self {
            Self::NotRunning => "session_not_running",
            Self::Gone => "link_lost",
            Self::Full => "too_many_viewers",
            Self::Timeout => "agent_timeout",
            Self::Refused(failure) if is_code(&failure.code) => &failure.code,
            Self::Refused(_) | Self::Nonsense(_) => "agent_error",
        }
    }
}

impl From<LinkError> for AskError {
    fn from(why: LinkError) -> Self {
        match why {
            LinkError::Gone => Self::Gone,
            LinkError::Full => Self::Full,
        }
    }
}

impl From<shared::link::frame::FrameError> for AskError {
    fn from(error: shared::link::frame::FrameError) -> Self {
        match error {
            shared::link::frame::FrameError::Io(_) => Self::Gone,
            other => Self::Nonsense(other.to_string()),
        }
    }
}

/// Whether a text from a pod has the form of a code: it may then stand in an answer as one.
fn is_code(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
