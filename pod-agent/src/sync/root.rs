//! The workspace's folder: every path is opened beneath it, and no symlink is followed on the way.

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, fstat, open, openat, openat2, statx};
use rustix::io::Errno;
use shared::path::WorkspacePath;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The folder, held open.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    path: PathBuf,
    /// Whether the kernel has no `openat2` (gVisor, old ones); each part is then opened by itself.
    stepwise: AtomicBool,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, Errno> {
        let fd = open(path, FOLDER, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned(), stepwise: AtomicBool::new(false) })
    }

    /// Whether both are one folder.
    pub(super) fn is(&self, other: &Root) -> bool {
        let (Ok(here), Ok(there)) = (fstat(&self.fd), fstat(&other.fd)) else { return false };
        (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    }

    /// Another one for another folder. Of its inode, which the next folder may get, and its birth, where it is known.
    pub(super) fn number(&self) -> u64 {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let (inode, born) = match statx(&self.fd, "", AtFlags::EMPTY_PATH, wanted) {
            Ok(stat) if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME) => {
                (stat.stx_ino, Some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)))
            }
            _ => (fstat(&self.fd).map_or(0, |stat| stat.st_ino), None),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&inode.to_be_bytes());
        if let Some((seconds, nanoseconds)) = born {
            hasher.update(&seconds.to_be_bytes()).update(&nanoseconds.to_be_bytes());
        }
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Where the watcher looks for it.
    pub(super) fn watched(&self, folder: Option<&WorkspacePath>) -> PathBuf {
        folder.map_or_else(|| self.path.clone(), |folder| self.path.join(folder.as_str()))
    }

    /// The workspace path of a path that the watcher named. None for the root itself, and for what cannot be one.
    pub(super) fn relative(&self, path: &Path) -> Option<WorkspacePath> {
        WorkspacePath::new(path.strip_prefix(&self.path).ok()?.to_str()?).ok()
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Opens a folder beneath; none is the root.
    pub(super) fn folder(&self, path: Option<&WorkspacePath>) -> Result<OwnedFd, Errno> {
        match path {
            Some(path) => self.beneath(path.as_str(), FOLDER),
            None => openat(&self.fd, ".", FOLDER, Mode::empty()),
        }
    }

    /// The folder that holds `path`, opened, and the name there.
    pub(super) fn parent<'a>(&self, path: &'a WorkspacePath) -> Result<(OwnedFd, &'a str), Errno> {
        Ok((self.folder(path.parent().as_ref())?, path.name()))
    }

    fn beneath(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !self.stepwise.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                Err(Errno::NOSYS) => self.stepwise.store(true, Ordering::Relaxed),
                opened => return opened,
            }
        }
        let mut folder = openat(&self.fd, ".", FOLDER, Mode::empty())?;
        for part in path.split('/') {
            folder = openat(&folder, part, FOLDER, Mode::empty())?;
        }
        Ok(folder)
    }
}
