//! Every bound that both ends enforce, each with its unit and its reason.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bytes of one part of a workspace path: what Linux file systems allow.
pub const PATH_PART_BYTES: usize = 255;
/// Bytes of a whole workspace path: Linux' PATH_MAX.
pub const PATH_BYTES: usize = 4096;
/// Parts of a workspace path; deeper trees are almost always an accident.
pub const PATH_DEPTH: usize = 64;

/// Bytes of one message on a link's stream, its length field aside.
pub const MESSAGE_BYTES: usize = 256 * 1024;
/// Bytes of terminal output or input in one message.
pub const TERMINAL_CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of output sent to a viewer and not yet acknowledged as parsed: with xterm.js, 128 KiB gives
/// 10.5 MB/s at 19 ms of queueing, and no limit gives 600 ms.
pub const VIEWER_WINDOW_BYTES: u64 = 128 * 1024;
/// Bytes of room in a viewer's window below which none of it is used: else each acknowledgement of 16 KiB would make
/// a frame of its own, and every frame costs a wake-up of each hop. So a client must acknowledge before the rest of
/// the window is full.
pub const LEAST_ROOM: u64 = 32 * 1024;
/// Bytes of a viewer's input that a client may have unacknowledged.
pub const INPUT_WINDOW_BYTES: u64 = 64 * 1024;
/// Streams of one link that either side may have opened at once; one more is refused, and the link stays.
pub const LINK_STREAMS: usize = 256;
/// Bytes of one WebSocket message on the link: a yamux frame and its header, with room.
pub const LINK_WEBSOCKET_BYTES: usize = 512 * 1024;
/// How often each hop asks the next one whether it is there; load balancers cut idle sockets at 60 s.
pub const PING_EVERY: Duration = Duration::from_secs(15);
/// How long an asked hop may take to answer.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a viewer that vanished without a goodbye keeps its place in the history.
pub const VIEWER_GRACE: Duration = Duration::from_secs(30);
/// How long input may wait for a revision to become visible before it passes with a notice.
pub const AFTER_REV_WAIT: Duration = Duration::from_secs(2);
/// Terminals that one session may have open.
pub const TERMINALS: usize = 64;
/// Columns and rows a terminal may have; vt100 and programs alike go wrong beyond.
pub const TERMINAL_SIDE: std::ops::RangeInclusive<u16> = 1..=1000;

/// What a workspace and a batch may hold. The control plane sends its own in the hello; the agent obeys the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncLimits {
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of all files of a workspace.
    pub workspace_bytes: u64,
    /// Items of a workspace.
    pub workspace_items: u64,
    /// Uncompressed bytes of one batch.
    pub batch_bytes: u64,
    /// Items of one batch.
    pub batch_items: u64,
    /// Uncompressed bytes for each compressed one, beyond which a batch is a bomb.
    pub expansion_ratio: u64,
}

impl Default for SyncLimits {
    fn default() -> Self {
        Self {
            file_bytes: 50 << 20,
            workspace_bytes: 1 << 30,
            workspace_items: 50_000,
            batch_bytes: 64 << 20,
            batch_items: 10_000,
            expansion_ratio: 200,
        }
    }
}
