//! Entries and trees: what the database (D), the base (B) and the pod (P) each hold.

use crate::id::{ItemId, Revision};
use crate::path::WorkspacePath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A BLAKE3 hash of a file's bytes, or of a symlink's target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Lower-case hexadecimal, 64 characters.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// Reads [`Hash::to_hex`]'s form.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex()[..12])
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.serialize_str(&self.to_hex()) } else { s.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = String::deserialize(d)?;
            Self::from_hex(&text).ok_or_else(|| serde::de::Error::custom("a hash is 64 hexadecimal digits"))
        } else {
            let bytes: serde_bytes::ByteArray<32> = Deserialize::deserialize(d)?;
            Ok(Self(bytes.into_array()))
        }
    }
}

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link; its content is its target's text, never followed.
    Symlink,
}

impl Kind {
    /// The name that JSON and the database use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "symlink",
        }
    }

    /// Reads [`Kind::as_str`]'s form.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "file" => Some(Self::File),
            "dir" => Some(Self::Dir),
            "symlink" => Some(Self::Symlink),
            _ => None,
        }
    }
}

/// What two trees compare: an item's content and permissions, apart from who knows it by which id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// File, folder or symlink.
    pub kind: Kind,
    /// Permission bits, at most 0o777; a symlink's are always 0o777.
    pub mode: u32,
    /// Bytes of the content; 0 for a folder.
    pub size: u64,
    /// Hash of the content; for a folder that of no bytes.
    pub hash: Hash,
}

impl Entry {
    /// A regular file.
    pub fn file(mode: u32, size: u64, hash: Hash) -> Self {
        Self { kind: Kind::File, mode: mode & 0o777, size, hash }
    }

    /// A folder.
    pub fn dir(mode: u32) -> Self {
        Self { kind: Kind::Dir, mode: mode & 0o777, size: 0, hash: Hash::of(b"") }
    }

    /// A symbolic link to `target`.
    pub fn symlink(target: &str) -> Self {
        Self {
            kind: Kind::Symlink,
            mode: 0o777,
            size: target.len() as u64,
            hash: Hash::of(target.as_bytes()),
        }
    }

    /// Whether kind and content are the same, whatever the mode.
    pub fn same_content(&self, other: &Entry) -> bool {
        self.kind == other.kind && self.hash == other.hash
    }
}

/// An entry as the database knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The item's id, kept over renames.
    pub id: ItemId,
    /// The revision that last changed it.
    pub rev: Revision,
    /// What it is.
    pub entry: Entry,
}

/// A tree of entries by path, folders before what they hold.
pub type Tree = BTreeMap<WorkspacePath, Entry>;

/// The digest of a tree: equal trees have equal digests. BLAKE3 over `path NUL kind mode hash`, in path order.
pub fn digest<'a>(entries: impl IntoIterator<Item = (&'a WorkspacePath, &'a Entry)>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for (path, entry) in entries {
        hasher.update(path.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(entry.kind.as_str().as_bytes());
        hasher.update(&entry.mode.to_be_bytes());
        hasher.update(&entry.hash.0);
    }
    Hash(*hasher.finalize().as_bytes())
}
