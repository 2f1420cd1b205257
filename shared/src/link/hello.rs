//! The control stream: hello and welcome, heartbeats, vitals, drain and stop.

use crate::id::{InstanceId, LinkEpoch, SessionId, VolumeId};
use crate::limits::SyncLimits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The agent's first word on a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest protocol version the agent speaks.
    pub version_min: u32,
    /// The newest.
    pub version_max: u32,
    /// The agent's build, for people.
    pub build: String,
    /// This run of the agent; the same over its reconnects.
    pub instance: InstanceId,
    /// The workspace volume it sits on.
    pub volume: VolumeId,
    /// The agent's process id where it runs; the local runtime ends it by this.
    pub pid: u32,
    /// The host's or pod's name, for people.
    pub host: String,
    /// Terminals alive in the agent.
    pub terminals: u32,
}

/// The control plane's answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Welcome {
    /// The link is up.
    Accepted(Accepted),
    /// There is no session for it yet. Another welcome follows, at the latest after
    /// [`crate::limits::PING_EVERY`] and [`crate::limits::PING_TIMEOUT`].
    Waiting,
    /// The link is refused; the control plane closes it.
    Refused {
        /// Why, with a stable code: `version`, `superseded`, `no_session`, `draining`.
        failure: super::Failure,
        /// Whether dialling again later can help. If not, the agent ends.
        retry: bool,
    },
}

/// Variables for shells and commands. Their values may be secrets: `Debug` shows names alone.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(pub BTreeMap<String, String>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What an accepted agent is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The version that both sides speak from here on.
    pub version: u32,
    /// The session that this agent serves.
    pub session: SessionId,
    /// This link's epoch; every batch carries it.
    pub epoch: LinkEpoch,
    /// Variables for the session's shells and commands.
    #[serde(default)]
    pub environment: Variables,
    /// The operator's limits for files.
    #[serde(default)]
    pub limits: SyncLimits,
    /// What to dial with from now on, kept in memory alone; without it, what the agent had.
    #[serde(default)]
    pub credential: Option<Pass>,
}

/// What an agent may dial with. Prints as nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pass(pub String);

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass(…)")
    }
}

/// What the agent says on the control stream after its hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromAgent {
    /// Sent every [`crate::limits::PING_EVERY`], with what the pod needs.
    Heartbeat(Vitals),
    /// The answer to the control plane's heartbeat.
    HeartbeatAnswer,
    /// The set of terminals changed: one was opened, closed, or its program ended.
    TerminalsChanged,
    /// Something that the session's users should know, for the timeline.
    Event {
        /// Stable: `oom_kill`, `folder_full`, `folder_has_room`, …
        kind: String,
        /// For a person.
        message: String,
    },
    /// The last state is written; the agent ends now. The answer to [`FromControlPlane::Stop`].
    Stopped {
        /// Whether all files reached the database.
        complete: bool,
    },
}

/// What the control plane says on the control stream after its welcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromControlPlane {
    /// Sent every [`crate::limits::PING_EVERY`].
    Heartbeat,
    /// The answer to the agent's heartbeat.
    HeartbeatAnswer,
    /// Dial again, now: this replica goes away. The link stays up until the agent closes it.
    Drain,
    /// End the session: close the shells, send what is unsent, answer [`FromAgent::Stopped`], exit.
    Stop {
        /// Milliseconds until the runtime ends the agent by force.
        grace_ms: u64,
    },
    /// The session's variables are these from now on, for what is started later. From version 2 on.
    Environment {
        /// All of them.
        variables: Variables,
    },
}

/// What a pod uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vitals {
    /// Resident bytes of the agent.
    pub agent_rss: u64,
    /// Resident bytes of all processes of the session, the agent's included.
    pub memory: u64,
    /// The limit on that, or 0 where there is none.
    pub memory_limit: u64,
    /// CPU time used by the session, in milliseconds; where it is added up from its processes, it may fall.
    pub cpu_ms: u64,
    /// Bytes that the terminals there are have put out.
    pub output_bytes: u64,
    /// Processes of the session.
    pub processes: u32,
}
