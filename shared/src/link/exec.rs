//! One command on the link: its input, its two outputs apart, its end.

use super::Failure;
use super::terminal::Exit;
use crate::id::Revision;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments. A shell line is `["sh", "-c", line]`.
    pub argv: Vec<String>,
    /// Folder below the workspace, empty for its top.
    #[serde(default)]
    pub cwd: String,
    /// Variables on top of the session's own.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The command and all it started are killed after this many milliseconds.
    pub timeout_ms: u64,
    /// Started only once this revision is visible in the workspace.
    #[serde(default)]
    pub after_rev: Option<Revision>,
}

/// What a command is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Bytes for its standard input, at most [`crate::limits::TERMINAL_CHUNK_BYTES`].
    Stdin(Bytes),
    /// The end of its standard input.
    StdinEnd,
    /// A signal for its process group, by number. The end of the stream kills the group.
    Signal(i32),
}

/// What a command gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// It runs.
    Started {
        /// Its process id in the pod.
        pid: u32,
    },
    /// Bytes of its standard output.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// It ended; the last message.
    Exit {
        /// How.
        exit: Exit,
        /// Whether its time was over.
        timed_out: bool,
    },
    /// It could not be started: `not_found`, `cwd_missing`, `bad_command`, `revision_not_visible`; the last message.
    Failed(Failure),
}
