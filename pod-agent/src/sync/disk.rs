//! What the engine needs of a file system: looking, listing, renaming into place, the base's file, and marks of what
//! may have changed. The engine itself does no I/O, so that it runs over a real folder and in simulations alike.

use serde::{Deserialize, Serialize};
use shared::chunk::Recipe;
use shared::id::ItemId;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::time::Instant;

/// File systems stamp changes by a clock that ticks this coarsely, in nanoseconds: a file changed within one tick
/// of being read may look the same and be another.
const TICK_NS: i64 = 10_000_000;

/// What `stat` says of a file, and when that was. Times in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of stat")]
pub struct Stamp {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub mode: u32,
    /// When its content began to be read.
    pub read_ns: i64,
}

impl Stamp {
    /// Whether a file that looks like this is surely still what it was when `old` was taken.
    pub fn trusts(&self, old: &Stamp) -> bool {
        let same = Stamp { read_ns: old.read_ns, ..*self } == *old;
        same && old.mtime_ns.max(old.ctime_ns) + TICK_NS < old.read_ns
    }
}

/// What both sides hold at a path, and how the pod's file looked when it was last read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// What it is.
    pub entry: Entry,
    /// By which id the database knows it; none where it never said so.
    pub item: Option<ItemId>,
    /// How it looked; none if it must be read to be known.
    pub stamp: Option<Stamp>,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, or something is in the way above it.
    Nothing,
    /// This.
    Entry(Entry, Stamp),
    /// It changes while it is read.
    Hot,
    /// Something that cannot be in step: a stable code, and a sentence.
    Problem(&'static str, String),
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// As the file system has it: perhaps no text.
    pub name: OsString,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// What became of a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is in the workspace.
    Done,
    /// The pod holds something else there by now; nothing was done.
    Changed,
    /// The content isn't staged.
    Lacking,
    /// The file system has no room.
    NoSpace,
    /// It cannot be done: a stable code, and a sentence.
    Failed(&'static str, String),
}

/// What is to be looked at now.
#[derive(Debug, Default)]
pub struct Taken {
    /// These paths.
    pub paths: Vec<WorkspacePath>,
    /// Everything: events were lost.
    pub all: bool,
}

/// Whether the workspace is where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Same,
    /// Another folder has its place.
    Other,
    /// Nothing has.
    Gone,
}

/// A workspace's file system, with the agent's own folder beside it.
pub trait Disk {
    /// Finds the workspace anew, if another folder took its place.
    fn reopen(&mut self);

    /// Whether the workspace is still the folder that was found last.
    fn presence(&self) -> Presence {
        Presence::Same
    }

    /// Which folder the workspace is: another one has another number, also under the same name.
    fn folder(&self) -> u64 {
        0
    }

    /// Whether so many bytes may fit. Only a guess that spares a vain try.
    fn has_room(&self, _bytes: u64) -> bool {
        true
    }

    /// Looks at one path. What `known` says of it is believed if `stat` says that it still is.
    fn look(&self, path: &WorkspacePath, known: Option<&Agreed>) -> Seen;

    /// Bytes of a regular file by `stat` alone, so that one that is too large is not read.
    fn size(&self, path: &WorkspacePath) -> Option<u64>;

    /// Whether `stat` alone makes a known path worth a look.
    fn may_differ(&self, path: &WorkspacePath, known: &Agreed) -> bool;

    /// The stamp of what was just put there, so that it need not be read to be known; none if it is something else.
    fn stamp(&self, path: &WorkspacePath, entry: &Entry) -> Option<Stamp>;

    /// Whether a folder is there, itself and not by a symlink.
    fn is_folder(&self, path: &WorkspacePath) -> bool;

    /// What is in a folder (none: the workspace itself), in any order. Empty if it is none; an error if it cannot be
    /// told.
    fn list(&self, folder: Option<&WorkspacePath>) -> io::Result<Vec<Listed>>;

    /// Opens a regular file's or symlink's content.
    fn read(&self, path: &WorkspacePath, kind: Kind) -> io::Result<Box<dyn Read + '_>>;

    /// Reads so many bytes of a regular file, from `offset` on; fewer if it ends before.
    fn read_at(&self, path: &WorkspacePath, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let mut content = self.read(path, Kind::File)?;
        io::copy(&mut content.by_ref().take(offset), &mut io::sink())?;
        let mut bytes = Vec::new();
        content.take(u64::from(size)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Keeps a content in the stage, from where it can be put into the workspace.
    fn stage(&mut self, hash: Hash, bytes: &[u8]) -> io::Result<()>;

    /// Whether the stage has a content.
    fn is_staged(&self, hash: Hash) -> bool;

    /// Makes one content of parts that are in the stage, each by its own hash, and that may leave it with that.
    /// Answers whether they make up the content; if not, nothing is staged.
    /// A disk that cannot has no large files.
    fn join_staged(&mut self, _recipe: &Recipe) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Empties the stage.
    fn clear_stage(&mut self);

    /// Makes `path` hold `wanted`, whose content is staged, if it still holds `expected`. Running programs see the
    /// old or the new and nothing between.
    fn apply(&mut self, path: &WorkspacePath, expected: Option<&Entry>, wanted: Option<&Entry>) -> Applied;

    /// What [`Disk::store_base`] wrote last; none if it never did.
    fn load_base(&self) -> io::Result<Option<Vec<u8>>>;

    /// Makes all contents durable, then replaces the base by what `write` writes: all of it or nothing.
    fn store_base(&mut self, write: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()>;

    /// Marks from now on what changes in a folder (none: the workspace itself), not what is below its folders.
    fn watch(&mut self, folder: Option<&WorkspacePath>);

    /// Whether some folders cannot be watched, and must be polled.
    fn is_blind(&self) -> bool;

    /// When the next mark is due.
    fn next_mark(&self) -> Option<Instant>;

    /// Takes the marks that are due.
    fn take_marks(&mut self, now: Instant) -> Taken;
}
