//! The base: what database and pod last agreed on, kept over the agent's death in one file.
//!
//! A cache that the workspace's user can tamper with: what cannot be read is no base, and no base means that both
//! sides' files are united and nothing is deleted.

use super::scan::Stamp;
use serde::{Deserialize, Serialize};
use shared::id::{ItemId, Revision, VolumeId};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, digest};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of the hash before the rest.
const HASH_BYTES: usize = 32;

/// What both sides hold at a path, and how the pod's file looked when it was last read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agreed {
    pub entry: Entry,
    pub item: Option<ItemId>,
    pub stamp: Option<Stamp>,
}

#[derive(Debug)]
pub(super) struct Base {
    /// Everything up to here is in it.
    pub rev: Revision,
    pub tree: BTreeMap<WorkspacePath, Agreed>,
    /// Whether it differs from what the file holds.
    pub unsaved: bool,
    file: PathBuf,
    volume: VolumeId,
}

impl Base {
    /// Reads the base of this volume; an empty one if there is none, or it is damaged or another volume's.
    pub(super) fn load(state: &Path, volume: VolumeId) -> Self {
        let file = state.join("base");
        let (rev, tree) = match read(&file, volume) {
            Ok(Some(read)) => read,
            Ok(None) => Default::default(),
            Err(why) => {
                tracing::warn!(%why, "the base cannot be used; both sides' files are united");
                Default::default()
            }
        };
        Self { rev, tree, unsaved: false, file, volume }
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

    /// All below a folder, in order.
    pub(super) fn below<'a>(&'a self, folder: &'a WorkspacePath) -> impl Iterator<Item = &'a WorkspacePath> {
        let from = (std::ops::Bound::Excluded(folder), std::ops::Bound::Unbounded);
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
        self.rev = Revision::ZERO;
        self.unsaved = true;
    }

    /// Replaces the file. The workspace's contents must be on the disk before.
    pub(super) fn save(&mut self) -> io::Result<()> {
        let body = rmp_serde::to_vec(&(self.volume, self.rev, &self.tree)).map_err(io::Error::other)?;
        let fresh = self.file.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&Hash::of(&body).0)?;
        file.write_all(&body)?;
        file.sync_data()?;
        fs::rename(&fresh, &self.file)?;
        self.unsaved = false;
        Ok(())
    }
}

type Read = (Revision, BTreeMap<WorkspacePath, Agreed>);

fn read(file: &Path, volume: VolumeId) -> io::Result<Option<Read>> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(why),
    };
    let Some((hash, body)) = bytes.split_at_checked(HASH_BYTES) else {
        return Err(io::Error::other("it is cut short"));
    };
    if Hash::of(body).0 != *hash {
        return Err(io::Error::other("it is damaged"));
    }
    let (of, rev, tree): (VolumeId, Revision, _) = rmp_serde::from_slice(body).map_err(io::Error::other)?;
    if of != volume {
        return Err(io::Error::other("it is another volume's"));
    }
    Ok(Some((rev, tree)))
}
