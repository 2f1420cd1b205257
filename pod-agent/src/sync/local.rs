//! A real folder, with inotify: the [`Disk`] of every agent.

use super::SyncSettings;
use super::apply;
use super::disk::{Agreed, Applied, Disk, Listed, Presence, Seen, Stamp, Taken};
use super::root::Root;
use super::scan;
use super::stage::Stage;
use super::watch::Watch;
use rustix::fs::{Dir, FileType, Mode, OFlags, StatVfsMountFlags, open};
use rustix::io::Errno;
use shared::chunk::Recipe;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes of a base beyond which it is none. A million items take some 200 MB; more can only be what the workspace's
/// user put there, and would take the agent's memory.
const BASE_BYTES: u64 = 256 << 20;

/// A workspace's folder and the agent's own beside it, on one mount.
pub(super) struct LocalDisk {
    workspace: PathBuf,
    base: PathBuf,
    root: Root,
    stage: Stage,
    watch: Watch,
}

impl LocalDisk {
    /// Opens both. `wake` is called when marks were set after all were taken.
    pub(super) fn open(settings: &SyncSettings, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        Ok(Self {
            workspace: settings.workspace.clone(),
            base: settings.state.join("base"),
            root: Root::open(&settings.workspace)?,
            stage: Stage::open(&settings.state)?,
            watch: Watch::new(wake),
        })
    }
}

impl Disk for LocalDisk {
    fn reopen(&mut self) {
        if let Ok(root) = Root::open(&self.workspace) {
            self.root = root;
        }
    }

    fn presence(&self) -> Presence {
        match Root::open(&self.workspace) {
            Ok(root) if root.is(&self.root) => Presence::Same,
            Ok(_) => Presence::Other,
            Err(_) => Presence::Gone,
        }
    }

    fn folder(&self) -> u64 {
        self.root.number()
    }

    fn has_room(&self, bytes: u64) -> bool {
        // Staged first, then in its place: the stage's copy is on the same volume.
        let free = rustix::fs::fstatvfs(self.root.fd());
        free.is_ok_and(|free| {
            !free.f_flag.contains(StatVfsMountFlags::RDONLY) && free.f_bavail * free.f_frsize > bytes
        })
    }

    fn look(&self, path: &WorkspacePath, known: Option<&Agreed>) -> Seen {
        scan::look(&self.root, path, known)
    }

    fn size(&self, path: &WorkspacePath) -> Option<u64> {
        scan::size(&self.root, path)
    }

    fn may_differ(&self, path: &WorkspacePath, known: &Agreed) -> bool {
        scan::may_differ(&self.root, path, known)
    }

    fn stamp(&self, path: &WorkspacePath, entry: &Entry) -> Option<Stamp> {
        scan::stamp(&self.root, path, entry)
    }

    fn is_folder(&self, path: &WorkspacePath) -> bool {
        self.root.folder(Some(path)).is_ok()
    }

    fn list(&self, folder: Option<&WorkspacePath>) -> io::Result<Vec<Listed>> {
        let fd = match self.root.folder(folder) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(why) => return Err(why.into()),
        };
        let mut listed = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Unknown => scan::is_dir(&fd, entry.file_name()),
                kind => kind == FileType::Directory,
            };
            listed.push(Listed { name: OsStr::from_bytes(name).to_owned(), is_dir });
        }
        Ok(listed)
    }

    fn read(&self, path: &WorkspacePath, kind: Kind) -> io::Result<Box<dyn Read + '_>> {
        scan::content(&self.root, path, kind)
    }

    fn read_at(&self, path: &WorkspacePath, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        scan::read_at(&self.root, path, offset, size)
    }

    fn stage(&mut self, hash: Hash, bytes: &[u8]) -> io::Result<()> {
        self.stage.put(hash, bytes)
    }

    fn is_staged(&self, hash: Hash) -> bool {
        self.stage.has(hash)
    }

    fn join_staged(&mut self, recipe: &Recipe) -> io::Result<bool> {
        self.stage.join(recipe)
    }

    fn clear_stage(&mut self) {
        self.stage.clear();
    }

    fn apply(&mut self, path: &WorkspacePath, expected: Option<&Entry>, wanted: Option<&Entry>) -> Applied {
        apply::apply(&self.root, &mut self.stage, path, expected, wanted)
    }

    fn load_base(&self) -> io::Result<Option<Vec<u8>>> {
        // The workspace's user may have put anything there: a FIFO must not block, a link not lead elsewhere.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match open(&self.base, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => File::from(opened?),
        };
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        if about.len() > BASE_BYTES {
            return Err(io::Error::other(format!("it has {} bytes, and may have {BASE_BYTES}", about.len())));
        }
        let mut bytes = Vec::with_capacity(about.len() as usize);
        // It may grow meanwhile.
        file.take(BASE_BYTES).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn store_base(&mut self, write: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        // The contents first: else a crash leaves empty files that look like a user's edits.
        rustix::fs::syncfs(self.root.fd())?;
        let fresh = self.base.with_extension("new");
        // A new file, whatever the workspace's user put in its place.
        match fs::remove_file(&fresh) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        let mut file = BufWriter::new(OpenOptions::new().write(true).create_new(true).open(&fresh)?);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
        fs::rename(&fresh, &self.base)
    }

    fn watch(&mut self, folder: Option<&WorkspacePath>) {
        self.watch.add(&self.root.watched(folder));
    }

    fn is_blind(&self) -> bool {
        self.watch.is_blind()
    }

    fn next_mark(&self) -> Option<Instant> {
        self.watch.next()
    }

    fn take_marks(&mut self, now: Instant) -> Taken {
        let (paths, mut all) = self.watch.take(now);
        // The workspace itself was moved or removed.
        all |= paths.contains(&self.workspace);
        let paths = paths.iter().filter_map(|path: &PathBuf| self.root.relative(Path::new(path))).collect();
        Taken { paths, all }
    }
}
