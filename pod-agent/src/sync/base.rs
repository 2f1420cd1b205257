//! The base: what database and pod last agreed on, kept over the agent's death in one file.
//!
//! A cache that the workspace's user can tamper with: what cannot be read is no base, and no base means that both
//! sides' files are united and nothing is deleted.

use super::disk::Agreed;
use shared::id::{Revision, SessionId, VolumeId};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, digest};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Bound;

/// Bytes of the hash after the rest.
const HASH_BYTES: usize = 32;

/// What is at some paths; nothing at those with none.
pub(super) type Exchanged = BTreeMap<WorkspacePath, Option<Agreed>>;

/// What both sides hold.
#[derive(Debug)]
pub(super) struct Base {
    /// Everything up to here is in it.
    pub(super) rev: Revision,
    pub(super) tree: BTreeMap<WorkspacePath, Agreed>,
    /// What was sent and not answered, until the next link has told what the database holds: where that is the same,
    /// it was committed.
    pub(super) unsure: BTreeMap<WorkspacePath, Option<Entry>>,
    /// Whether it differs from what is stored.
    pub(super) unsaved: bool,
    /// Whose files it is about; none if that was never said.
    pub(super) session: Option<SessionId>,
    /// Which folder its files were in: [`super::disk::Disk::folder`].
    pub(super) folder: Option<u64>,
    volume: VolumeId,
}

impl Base {
    /// Reads a stored base of this volume; an empty one if there is none, or it is damaged or another volume's.
    pub(super) fn load(stored: io::Result<Option<Vec<u8>>>, volume: VolumeId) -> Self {
        let (session, folder, rev, tree, unsure) =
            match stored.and_then(|stored| stored.map(|bytes| read(&bytes, volume)).transpose()) {
                Ok(read) => read.unwrap_or_default(),
                Err(why) => {
                    tracing::warn!(%why, "the base cannot be used; both sides' files are united");
                    Default::default()
                }
            };
        Self { rev, tree, unsure, unsaved: false, session, folder, volume }
    }

    /// Writes what [`Base::load`] reads.
    pub(super) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut hashed = Hashed { to, hasher: blake3::Hasher::new() };
        rmp_serde::encode::write(
            &mut hashed,
            &(self.volume, self.session, self.folder, self.rev, &self.tree, &self.unsure),
        )
        .map_err(io::Error::other)?;
        let Hashed { to, hasher } = hashed;
        to.write_all(hasher.finalize().as_bytes())
    }

    pub(super) fn entry(&self, path: &WorkspacePath) -> Option<&Entry> {
        self.tree.get(path).map(|agreed| &agreed.entry)
    }

    /// What both sides hold there from now on.
    pub(super) fn set(&mut self, path: &WorkspacePath, agreed: Option<Agreed>) {
        self.unsaved = true;
        match agreed {
            Some(agreed) => drop(self.tree.insert(path.clone(), agreed)),
            None => drop(self.tree.remove(path)),
        }
    }

    /// Puts these in the place of what is there, and answers that.
    pub(super) fn exchange(&mut self, these: Exchanged) -> Exchanged {
        let put = |(path, agreed): (WorkspacePath, Option<Agreed>)| {
            let before = match agreed {
                Some(agreed) => self.tree.insert(path.clone(), agreed),
                None => self.tree.remove(&path),
            };
            (path, before)
        };
        these.into_iter().map(put).collect()
    }

    /// All below a folder, in order.
    pub(super) fn below<'a>(&'a self, folder: &'a WorkspacePath) -> impl Iterator<Item = &'a WorkspacePath> {
        let from = (Bound::Excluded(folder), Bound::Unbounded);
        self.tree
            .range::<WorkspacePath, _>(from)
            .map(|(path, _)| path)
            .take_while(|path| path.is_below(folder))
    }

    pub(super) fn digest(&self) -> Hash {
        digest(self.tree.iter().map(|(path, agreed)| (path, &agreed.entry)))
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.tree.clear();
        self.unsure.clear();
        self.rev = Revision::ZERO;
        self.unsaved = true;
    }
}

type Read = (
    Option<SessionId>,
    Option<u64>,
    Revision,
    BTreeMap<WorkspacePath, Agreed>,
    BTreeMap<WorkspacePath, Option<Entry>>,
);

fn read(bytes: &[u8], volume: VolumeId) -> io::Result<Read> {
    let Some((body, hash)) = bytes.split_last_chunk::<HASH_BYTES>() else {
        return Err(io::Error::other("it is cut short"));
    };
    if Hash::of(body).0 != *hash {
        return Err(io::Error::other("it is damaged"));
    }
    let (of, session, folder, rev, tree, unsure): (VolumeId, _, _, _, _, _) =
        rmp_serde::from_slice(body).map_err(io::Error::other)?;
    if of != volume {
        return Err(io::Error::other("it is another volume's"));
    }
    Ok((session, folder, rev, tree, unsure))
}

/// Hashes what passes.
struct Hashed<'a> {
    to: &'a mut dyn Write,
    hasher: blake3::Hasher,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
