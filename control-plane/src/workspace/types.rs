//! What goes into the store and comes out of it.

use bytes::Bytes;
use serde::Serialize;
use shared::id::{BatchId, ItemId, LinkEpoch, Revision, SessionId};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Item, Kind};
use std::collections::HashMap;
use std::sync::Arc;

/// Paths named in one [`Change`]; more are counted by `truncated` alone.
pub const CHANGE_PATHS: usize = 100;
/// The mode of a file that nobody gave one.
pub const FILE_MODE: u32 = 0o644;
/// The mode of a folder that nobody gave one.
pub const DIR_MODE: u32 = 0o755;

/// Where a change came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The page, or a client of the API.
    Editor,
    /// The pod.
    Pod,
    /// Somebody went back to an older version.
    Restore,
    /// Two changes were merged.
    Merge,
    /// An archive was taken in.
    Import,
}

impl Origin {
    /// The name that JSON and the database use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Editor => "editor",
            Self::Pod => "pod",
            Self::Restore => "restore",
            Self::Merge => "merge",
            Self::Import => "import",
        }
    }

    /// Reads [`Origin::as_str`]'s form.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "editor" => Self::Editor,
            "pod" => Self::Pod,
            "restore" => Self::Restore,
            "merge" => Self::Merge,
            "import" => Self::Import,
            _ => return None,
        })
    }
}

/// From where and by whom a change is made, as the history tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// From where.
    pub origin: Origin,
    /// By whom, if that is known: a user's name.
    pub actor: Option<String>,
}

impl Author {
    /// Somebody at the page or the API.
    pub fn editor(actor: impl Into<String>) -> Self {
        Self { origin: Origin::Editor, actor: Some(actor.into()) }
    }

    /// The pod.
    pub fn pod() -> Self {
        Self { origin: Origin::Pod, actor: None }
    }
}

/// What must hold at a path for a change to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    Any,
    /// The item is at this revision (`If-Match`).
    Rev(Revision),
    /// Nothing is there (`If-None-Match: *`).
    NotExists,
}

/// What a save made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// Where.
    pub path: WorkspacePath,
    /// The item's revision. A save that changes nothing answers the one that stands.
    pub rev: Revision,
    /// The hash of the bytes.
    pub hash: Hash,
    /// How many bytes.
    pub size: u64,
}

/// One operation of a batch of the API. Parents are made where they are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A file holds these bytes from now on.
    Write {
        /// The file.
        path: WorkspacePath,
        /// Its bytes.
        bytes: Bytes,
        /// Its mode; none keeps the file's, or is [`FILE_MODE`] for a new one.
        mode: Option<u32>,
        /// What must hold.
        precondition: Precondition,
    },
    /// A new folder.
    Mkdir {
        /// The folder; nothing may be there.
        path: WorkspacePath,
        /// Its mode, or [`DIR_MODE`].
        mode: Option<u32>,
    },
    /// A symbolic link to a text, never followed here.
    Symlink {
        /// The link. Replaces a file or a link, not a folder.
        path: WorkspacePath,
        /// Where it points.
        target: String,
    },
    /// An item and all it holds goes elsewhere and keeps its id.
    Move {
        /// From where.
        from: WorkspacePath,
        /// To where; its parents are made.
        to: WorkspacePath,
        /// Whether a file or link at `to` is replaced. A folder never is.
        overwrite: bool,
        /// What must hold at `from`.
        precondition: Precondition,
    },
    /// An item and all it holds is deleted; the history keeps it.
    Delete {
        /// The item.
        path: WorkspacePath,
        /// What must hold.
        precondition: Precondition,
    },
    /// Other permission bits.
    Chmod {
        /// The item.
        path: WorkspacePath,
        /// At most 0o777.
        mode: u32,
    },
}

/// What a batch of the API made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchDone {
    /// The workspace's revision that holds it, or the one that stands if nothing changed.
    pub rev: Revision,
    /// The paths changed, with what is there now; at most [`CHANGE_PATHS`].
    pub changed: Vec<(WorkspacePath, Option<Item>)>,
}

/// A batch from the pod.
#[derive(Clone, Debug)]
pub struct PodBatch {
    /// Unique: a batch sent again is answered again, and applied once.
    pub id: BatchId,
    /// The link that brought it.
    pub epoch: LinkEpoch,
    /// The revision of the agent's base.
    pub base_rev: Revision,
    /// With which batch the removal began that this one goes on with: they are undone together.
    pub removal: Option<BatchId>,
    /// What was done, in the manifest's order; the answers keep it.
    pub ops: Vec<PodOp>,
    /// Contents by hash. One that is stored for the same owner may be missing.
    pub contents: HashMap<Hash, Bytes>,
}

/// One change seen in the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodOp {
    /// The path holds this now.
    Put {
        /// Where.
        path: WorkspacePath,
        /// What.
        entry: Entry,
        /// What the agent's base holds there.
        pre: Option<Entry>,
    },
    /// Nothing is there any more. A folder goes only if nothing is left in it.
    Delete {
        /// Where.
        path: WorkspacePath,
        /// What the agent's base holds there.
        pre: Option<Entry>,
    },
    /// The item that the base has at `from`, and all it holds, is at `to` now, as `entry`.
    Rename {
        /// From where.
        from: WorkspacePath,
        /// To where.
        to: WorkspacePath,
        /// The item, if the base knows it: found by it wherever the database has moved it meanwhile.
        item: Option<ItemId>,
        /// What is at `to` now: a rename may come with an edit.
        entry: Entry,
        /// What the base holds at `from`.
        pre: Option<Entry>,
    },
}

impl PodOp {
    /// The path that the operation's answer is about.
    pub fn path(&self) -> &WorkspacePath {
        match self {
            Self::Put { path, .. } | Self::Delete { path, .. } => path,
            Self::Rename { to, .. } => to,
        }
    }
}

/// A workspace's items at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub rev: Revision,
    /// Each item, folders before what they hold.
    pub items: Vec<(WorkspacePath, Item)>,
}

/// What stands, or no longer stands, at a path that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Where.
    pub path: WorkspacePath,
    /// The item that is, or was, there. Its `rev` is that of the change.
    pub item: Item,
    /// Whether it is gone.
    pub deleted: bool,
    /// If it is gone by a rename: the item, now live elsewhere under this id.
    pub moved_to: Option<ItemId>,
}

/// Where to go on in a list of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The revision of the last one given.
    pub rev: Revision,
    /// Its path.
    pub path: WorkspacePath,
}

/// A part of what changed after a revision, in the order of revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesPage {
    /// The workspace's revision when the page was read.
    pub rev: Revision,
    /// Whether tombstones after the asked revision are gone: the whole tree must be sent instead.
    pub pruned: bool,
    /// One entry a path.
    pub changes: Vec<Changed>,
    /// Where the next page starts, if there is one.
    pub next: Option<Cursor>,
}

/// Told after each commit, in this process. Two commits of one workspace may be told in the wrong order; the
/// receiver takes the highest revision.
#[derive(Clone, Debug)]
pub struct Change {
    /// The workspace.
    pub session: SessionId,
    /// Its new revision.
    pub rev: Revision,
    /// Where the change came from.
    pub origin: Origin,
    /// The paths changed, at most [`CHANGE_PATHS`].
    pub paths: Arc<[WorkspacePath]>,
    /// Whether there are more.
    pub truncated: bool,
}

/// What was done to make a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionOp {
    /// The item is new.
    Create,
    /// Its content is another.
    Write,
    /// It is elsewhere; its content may be another, too.
    Move,
    /// Its mode is another.
    Chmod,
    /// It is gone; the version tells what it was.
    Delete,
    /// Bytes that lost a conflict, or one parent of a merge: never in the tree.
    Loser,
}

impl VersionOp {
    /// The name that JSON and the database use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Write => "write",
            Self::Move => "move",
            Self::Chmod => "chmod",
            Self::Delete => "delete",
            Self::Loser => "loser",
        }
    }

    /// Reads [`VersionOp::as_str`]'s form.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "create" => Self::Create,
            "write" => Self::Write,
            "move" => Self::Move,
            "chmod" => Self::Chmod,
            "delete" => Self::Delete,
            "loser" => Self::Loser,
            _ => return None,
        })
    }
}

/// One version of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Its number; rises with time.
    pub id: i64,
    /// The item.
    pub item: ItemId,
    /// The revision that made it.
    pub rev: Revision,
    /// Where the item then was.
    pub path: WorkspacePath,
    /// What was done.
    pub op: VersionOp,
    /// File, folder or symlink.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes of the content.
    pub size: u64,
    /// The content.
    pub hash: Hash,
    /// Where it came from.
    pub origin: Origin,
    /// Who did it.
    pub actor: Option<String>,
    /// If it lost: the revision of what stood at the path instead.
    pub conflict_of: Option<Revision>,
    /// Whether it lost a conflict that nobody has settled yet.
    pub open_conflict: bool,
    /// When, in milliseconds since 1970 UTC.
    pub at: i64,
}

/// What of the history is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only this path: every item that ever was there, and where those items were before.
    pub path: Option<WorkspacePath>,
    /// With a path: also what is or was below it.
    pub below: bool,
    /// Only versions with a lower number: the next page.
    pub before: Option<i64>,
    /// Only conflicts that nobody has settled.
    pub open_conflicts: bool,
    /// At most so many, newest first; 1 to 1,000.
    pub limit: u64,
}
