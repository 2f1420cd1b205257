//! The stage: contents that wait to be renamed into the workspace, in a folder of the agent's own on the same mount.
//!
//! Whoever works in the pod may be able to touch it. Everything is reached through the folder as it was opened, and one
//! that was removed is made anew: what was in it is lacking then, and comes again.

use super::apply::failed;
use super::disk::Applied;
use super::scan;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fchmod, fstat, mkdirat, open, openat, readlinkat, renameat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use shared::chunk::Recipe;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where a content is put together of its parts.
const JOINED: &str = "joined";

/// The folder.
#[derive(Debug)]
pub(super) struct Stage {
    path: PathBuf,
    fd: OwnedFd,
    next: u64,
}

impl Stage {
    /// Opens it. Of what an agent before this one left there, whole contents stay: parts of a large one need not
    /// travel again.
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let path = state.join("stage");
        let stage = Self { fd: make_folder(&path)?, path, next: 0 };
        for left in fs::read_dir(&stage.path)?.flatten() {
            if !stage.is_whole(&left) {
                let left = left.path();
                fs::remove_file(&left).or_else(|_| fs::remove_dir_all(&left))?;
            }
        }
        Ok(stage)
    }

    /// Whether a file is the content that it goes by: a crash may have left less of it.
    fn is_whole(&self, file: &fs::DirEntry) -> bool {
        let name = file.file_name();
        let Some((name, hash)) = name.to_str().and_then(|name| Some((name, Hash::from_hex(name)?))) else {
            return false;
        };
        let is_file = file.file_type().is_ok_and(|kind| kind.is_file());
        is_file && matches!(scan::read(&self.fd, name), Ok(Some((entry, _))) if entry.hash == hash)
    }

    /// Makes the folder anew if it was removed.
    pub(super) fn be_there(&mut self) -> Result<(), Errno> {
        if fstat(&self.fd)?.st_nlink == 0 {
            self.fd =
                make_folder(&self.path).map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO))?;
        }
        Ok(())
    }

    /// The folder, for renames out of it and into it.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn create(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    fn read(&self, hash: Hash) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.fd, hash.to_hex(), flags, Mode::empty())?))
    }

    /// Keeps a content.
    pub(super) fn put(&mut self, hash: Hash, bytes: &[u8]) -> io::Result<()> {
        self.be_there()?;
        let name = hash.to_hex();
        let written = self.create(&name, OFlags::TRUNC).and_then(|mut file| file.write_all(bytes));
        if written.is_err() {
            // Half of it is not it.
            self.discard(&name);
        }
        written
    }

    pub(super) fn has(&self, hash: Hash) -> bool {
        statat(&self.fd, hash.to_hex(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Makes a content of its parts, which go as they are no longer needed: it takes no more room than it must.
    pub(super) fn join(&self, recipe: &Recipe) -> io::Result<bool> {
        let done = self.try_join(recipe);
        match done {
            Ok(true) => renameat(&self.fd, JOINED, &self.fd, recipe.hash.to_hex())?,
            _ => self.discard(JOINED),
        }
        done
    }

    fn try_join(&self, recipe: &Recipe) -> io::Result<bool> {
        let mut uses: HashMap<Hash, usize> = HashMap::new();
        for part in &recipe.parts {
            *uses.entry(part.hash).or_default() += 1;
        }
        let mut whole = self.create(JOINED, OFlags::TRUNC)?;
        let mut hasher = blake3::Hasher::new();
        for part in &recipe.parts {
            let mut bytes = Vec::new();
            self.read(part.hash)?.take(u64::from(part.size)).read_to_end(&mut bytes)?;
            hasher.update(&bytes);
            whole.write_all(&bytes)?;
            if let Some(left) = uses.get_mut(&part.hash) {
                *left -= 1;
                if *left == 0 {
                    unlinkat(&self.fd, part.hash.to_hex(), AtFlags::empty())?;
                }
            }
        }
        Ok(*hasher.finalize().as_bytes() == recipe.hash.0)
    }

    /// Forgets all contents.
    pub(super) fn clear(&self) {
        let Ok(files) = Dir::read_from(&self.fd) else { return };
        for file in files.flatten() {
            let _ = unlinkat(&self.fd, file.file_name(), AtFlags::empty());
        }
    }

    /// A name that nothing in it has.
    pub(super) fn name(&mut self) -> String {
        self.next += 1;
        format!("new-{}", self.next)
    }

    /// Makes a fresh file, symlink or folder in the stage; its name there.
    pub(super) fn make(&mut self, entry: &Entry, path: &WorkspacePath) -> Result<String, Applied> {
        let name = self.name();
        let mode = Mode::from_raw_mode(entry.mode);
        match entry.kind {
            Kind::Dir => {
                mkdirat(&self.fd, &name, Mode::RWXU).map_err(failed)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder = openat(&self.fd, &name, flags, Mode::empty()).map_err(failed)?;
                fchmod(&folder, mode).map_err(failed)?;
            }
            Kind::Symlink => {
                let mut target = String::new();
                let read = self.read(entry.hash).and_then(|mut file| file.read_to_string(&mut target));
                read.map_err(|_| Applied::Lacking)?;
                if scan::leaves(path, &target) {
                    let why = "the symlink points outside the workspace".to_owned();
                    return Err(Applied::Failed("symlink_outside", why));
                }
                symlinkat(target, &self.fd, &name).map_err(failed)?;
            }
            Kind::File => {
                let mut content = self.read(entry.hash).map_err(|_| Applied::Lacking)?;
                let copied = self.create(&name, OFlags::EXCL).and_then(|mut file| {
                    io::copy(&mut content, &mut file)?;
                    fchmod(&file, mode)?;
                    Ok(())
                });
                if let Err(why) = copied {
                    self.discard(&name);
                    return Err(failed(Errno::from_io_error(&why).unwrap_or(Errno::IO)));
                }
            }
        }
        Ok(name)
    }

    /// Whether what lies in the stage is `expected`.
    pub(super) fn holds(&self, name: &str, expected: &Entry) -> bool {
        let Ok(stat) = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                matches!(scan::read(&self.fd, name), Ok(Some((entry, _))) if entry.same_content(expected))
            }
            FileType::Symlink => {
                let target = readlinkat(&self.fd, name, Vec::new());
                target.is_ok_and(|t| t.to_str().is_ok_and(|t| Entry::symlink(t) == *expected))
            }
            _ => false,
        }
    }

    pub(super) fn discard(&self, name: &str) {
        if unlinkat(&self.fd, name, AtFlags::empty()).is_err() {
            let _ = unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
        }
    }
}

fn make_folder(path: &Path) -> io::Result<OwnedFd> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}
