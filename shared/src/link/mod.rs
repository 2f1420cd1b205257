//! The link: an agent's one WebSocket to the control plane, carrying many streams.
//!
//! Over the binary messages of the WebSocket ([`websocket`]) runs yamux ([`mux`]): either side opens
//! streams, each with its own window, so one slow consumer stalls only its own stream. A stream starts
//! with one [`Open`] that says what it is; from there it is that thing's messages ([`frame`]):
//!
//! | stream | opened by | messages there | messages back |
//! | --- | --- | --- | --- |
//! | [`Open::Control`] | agent, first, for the life of the link | [`hello::FromAgent`] | [`hello::Welcome`], then [`hello::FromControlPlane`] |
//! | [`Open::Sync`] | agent | [`sync::FromAgent`] | [`sync::FromControlPlane`] |
//! | [`Open::Attach`] | control plane, one a viewer | [`terminal::FromViewer`] | [`terminal::ToViewer`] |
//! | [`Open::Terminal`] | control plane | – | one [`terminal::Answer`] |
//! | [`Open::Exec`] | control plane | [`exec::Input`] | [`exec::Output`] |
//! | [`Open::Tunnel`] | control plane | raw bytes | one [`TunnelAnswer`], then raw bytes |
//!
//! Messages are MessagePack with named fields: a reader ignores fields it doesn't know and takes
//! defaults for those that are missing, so neighbouring protocol versions understand each other.
//! A new *kind* of message is sent only where the negotiated version has it.

pub mod exec;
pub mod frame;
pub mod frames;
pub mod hello;
pub mod mux;
pub mod socket;
pub mod sync;
pub mod terminal;
pub mod websocket;

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The path that agents dial on the agents' listener.
pub const LINK_PATH: &str = "/agent/v1/link";

/// The address in `ws://ADDRESS:PORT`, where agents dial. None of a name: the static program that an agent is would look
/// it up by libraries of the session's image, which may have none or others.
pub fn dialled(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("ws://")?.trim_end_matches('/').parse().ok()
}
/// The WebSocket subprotocol of the link.
pub const SUBPROTOCOL: &str = "berth.link.v1";
/// The oldest protocol version that this build speaks.
pub const VERSION_MIN: u32 = 1;
/// The newest protocol version that this build speaks.
pub const VERSION_MAX: u32 = 2;
/// The first version whose agents take [`hello::FromControlPlane::Environment`].
pub const VERSION_ENVIRONMENT: u32 = 2;

/// The first message of every stream: what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Open {
    /// Opened by the agent before all else.
    Control(hello::Hello),
    /// Opened by the agent once it is welcome.
    Sync(sync::Hello),
    /// One viewer of one terminal.
    Attach(terminal::Attach),
    /// One question about terminals and its answer.
    Terminal(terminal::Call),
    /// One command.
    Exec(exec::Command),
    /// A TCP connection to 127.0.0.1 inside the pod.
    Tunnel {
        /// The port dialled there.
        port: u16,
    },
}

/// Whether the tunnel's port could be dialled; raw bytes follow if so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelAnswer {
    /// Connected.
    Open,
    /// Not connected, and why.
    Refused {
        /// For a person.
        message: String,
    },
}

/// A failure told over the link: a stable `code` for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Stable, lower_snake_case.
    pub code: String,
    /// What happened, what is safe and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with its code and sentence.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// The version both sides speak, or none: the newest that lies in both ranges.
pub fn negotiate(theirs_min: u32, theirs_max: u32) -> Option<u32> {
    let version = theirs_max.min(VERSION_MAX);
    (version >= theirs_min.max(VERSION_MIN)).then_some(version)
}
