//! Terminals on the link: opening and listing them, and one stream for each viewer.

use super::Failure;
use crate::id::{Epoch, InputSeq, Offset, Revision, TerminalId, ViewerId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A terminal's size in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns, within [`crate::limits::TERMINAL_SIDE`].
    pub cols: u16,
    /// Rows, likewise.
    pub rows: u16,
}

/// One question about terminals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Start a shell.
    Create(Create),
    /// All terminals, the oldest first.
    List,
    /// End a terminal and all it started.
    Close {
        /// Which.
        terminal: TerminalId,
    },
}

/// A new terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// Its size until a viewer says otherwise.
    pub size: Size,
    /// Program and arguments; empty for the session's shell.
    #[serde(default)]
    pub command: Vec<String>,
    /// Folder below the workspace, empty for its top.
    #[serde(default)]
    pub cwd: String,
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The new terminal.
    Created(Summary),
    /// All of them.
    Listed(Vec<Summary>),
    /// It is closed, and its processes are gone.
    Closed,
    /// `terminal_gone`, `too_many_terminals`, `shell_missing`, `bad_size`, `cwd_missing`, …
    Failed(Failure),
}

/// What a list of terminals shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Which.
    pub terminal: TerminalId,
    /// Its size now.
    pub size: Size,
    /// What the program set as title, or the program's name. From the pod: not to be trusted.
    pub title: String,
    /// How its program ended, if it did.
    #[serde(default)]
    pub exit: Option<Exit>,
}

/// How a program ended: one of the two is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code.
    pub code: Option<i32>,
    /// The name of the signal that ended it, such as `SIGKILL`.
    pub signal: Option<String>,
}

/// The opening of a viewer's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Which terminal.
    pub terminal: TerminalId,
    /// Who looks; input is numbered per viewer.
    pub viewer: ViewerId,
    /// The viewer's size.
    pub size: Size,
    /// Where the viewer stopped, if it was here before.
    #[serde(default)]
    pub resume: Option<Resume>,
    /// Whether keys count. A viewer that may only read still sizes, acknowledges and sees.
    pub writable: bool,
    /// Whether the viewer acknowledges output; else its socket alone paces it until its first ack.
    #[serde(default)]
    pub acks: bool,
}

/// Where a returning viewer stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The epoch its offsets belong to.
    pub epoch: Epoch,
    /// The first byte it has not parsed.
    pub from: Offset,
}

/// What a viewer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromViewer {
    /// Keys, at most [`crate::limits::TERMINAL_CHUNK_BYTES`].
    Input {
        /// The number of the first byte. What the agent has already is dropped; a gap is an error.
        seq: InputSeq,
        /// Held until this revision is visible in the workspace.
        #[serde(default)]
        after_rev: Option<Revision>,
        /// The bytes.
        data: Bytes,
    },
    /// Output up to here is parsed.
    Ack {
        /// The first byte that isn't.
        offset: Offset,
    },
    /// The viewer's size changed.
    Resize(Size),
    /// Whether the viewer is looked at. A hidden one gets no bytes and doesn't count for the size.
    Visible(bool),
    /// A proper goodbye: its place need not be kept.
    Detach,
}

/// What a viewer is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToViewer {
    /// The first answer.
    Hello {
        /// The terminal.
        terminal: TerminalId,
        /// The epoch of all offsets and input numbers that follow.
        epoch: Epoch,
        /// Bytes of this viewer's input that the shell has been given.
        input_seq: InputSeq,
        /// Where output ended at the moment of attaching. What a resumed viewer is sent up to here is a
        /// replay: queries in it were answered before and must not be again.
        #[serde(default)]
        end: Offset,
    },
    /// A screen to paint from nothing; output goes on at `offset`. May take several messages: all but
    /// the last have `more`.
    Snapshot {
        /// The offset at which output goes on.
        offset: Offset,
        /// The size the screen was rendered for.
        size: Size,
        /// Escape sequences and text that paint it, without any query.
        data: Bytes,
        /// Whether the next message is another piece of the same snapshot.
        #[serde(default)]
        more: bool,
    },
    /// Output, at most [`crate::limits::TERMINAL_CHUNK_BYTES`].
    Output {
        /// The number of the first byte.
        offset: Offset,
        /// The bytes.
        data: Bytes,
    },
    /// Bytes of this viewer's input that the shell has been given.
    InputAck {
        /// The first byte that hasn't.
        seq: InputSeq,
    },
    /// The terminal's size changed, for this viewer too.
    Resized(Size),
    /// The program ended; all its output was sent before.
    Exit(Exit),
    /// Something a person should see, such as input that did not wait for its revision any longer; or, as
    /// the last message, why the stream ends: `terminal_gone`, `input_gap`, `bad_message`.
    Notice(Failure),
}

/// How many bytes at the end are the beginning of a character that may yet be completed: 0 to 3.
pub fn cut_character(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let tail = &bytes[bytes.len() - back..];
        match tail[0] {
            0x80..=0xbf => continue,
            _ => {
                let incomplete = std::str::from_utf8(tail).is_err_and(|e| e.error_len().is_none());
                return if incomplete { back } else { 0 };
            }
        }
    }
    0
}
