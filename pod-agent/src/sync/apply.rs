//! Putting what the database holds into the workspace: staged beside it, then renamed in, so that a running program
//! sees the old file or the new one and nothing between.

use super::disk::Applied;
use super::root::Root;
use super::scan;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, fchmod, mkdirat, open, openat, readlinkat, renameat,
    renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use shared::chunk::Recipe;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Contents that wait to be renamed into the workspace; on the same mount.
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
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = open(&path, flags, Mode::empty())?;
        let stage = Self { path, fd, next: 0 };
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

    fn file(&self, hash: Hash) -> PathBuf {
        self.path.join(hash.to_hex())
    }

    /// Keeps a content.
    pub(super) fn put(&self, hash: Hash, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(hash);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&file)
            .and_then(|mut file| file.write_all(bytes));
        if written.is_err() {
            // Half of it is not it.
            let _ = fs::remove_file(&file);
        }
        written
    }

    pub(super) fn has(&self, hash: Hash) -> bool {
        self.file(hash).exists()
    }

    /// Makes a content of its parts, which go as they are no longer needed: it takes no more room than it must.
    pub(super) fn join(&self, recipe: &Recipe) -> io::Result<bool> {
        let joined = self.path.join("joined");
        let done = self.try_join(recipe, &joined);
        match done {
            Ok(true) => fs::rename(&joined, self.file(recipe.hash))?,
            _ => {
                let _ = fs::remove_file(&joined);
            }
        }
        done
    }

    fn try_join(&self, recipe: &Recipe, joined: &Path) -> io::Result<bool> {
        let mut uses: HashMap<Hash, usize> = HashMap::new();
        for part in &recipe.parts {
            *uses.entry(part.hash).or_default() += 1;
        }
        let mut whole =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(joined)?;
        let mut hasher = blake3::Hasher::new();
        for part in &recipe.parts {
            let file = self.file(part.hash);
            let bytes = fs::read(&file)?;
            hasher.update(&bytes);
            whole.write_all(&bytes)?;
            if let Some(left) = uses.get_mut(&part.hash) {
                *left -= 1;
                if *left == 0 {
                    fs::remove_file(&file)?;
                }
            }
        }
        Ok(*hasher.finalize().as_bytes() == recipe.hash.0)
    }

    /// Forgets all contents.
    pub(super) fn clear(&self) {
        let Ok(files) = fs::read_dir(&self.path) else { return };
        for file in files.flatten() {
            let _ = fs::remove_file(file.path());
        }
    }

    fn name(&mut self) -> String {
        self.next += 1;
        format!("new-{}", self.next)
    }

    /// Makes a fresh file, symlink or folder in the stage; its name there.
    fn make(&mut self, entry: &Entry, path: &WorkspacePath) -> Result<String, Applied> {
        let name = self.name();
        let mode = Mode::from_raw_mode(entry.mode);
        match entry.kind {
            Kind::Dir => {
                mkdirat(&self.fd, &name, Mode::RWXU).map_err(failed)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let folder = openat(&self.fd, &name, flags, Mode::empty()).map_err(failed)?;
                fchmod(&folder, mode).map_err(failed)?;
            }
            Kind::Symlink => {
                let target = fs::read_to_string(self.file(entry.hash)).map_err(|_| Applied::Lacking)?;
                if scan::leaves(path, &target) {
                    let why = "the symlink points outside the workspace".to_owned();
                    return Err(Applied::Failed("symlink_outside", why));
                }
                symlinkat(target, &self.fd, &name).map_err(failed)?;
            }
            Kind::File => {
                let mut content = File::open(self.file(entry.hash)).map_err(|_| Applied::Lacking)?;
                let copied = File::create_new(self.path.join(&name)).and_then(|mut file| {
                    io::copy(&mut content, &mut file)?;
                    fchmod(&file, mode)?;
                    Ok(())
                });
                if let Err(why) = copied {
                    let _ = unlinkat(&self.fd, &name, AtFlags::empty());
                    return Err(failed(Errno::from_io_error(&why).unwrap_or(Errno::IO)));
                }
            }
        }
        Ok(name)
    }

    /// Whether what lies in the stage is `expected`.
    fn holds(&self, name: &str, expected: &Entry) -> bool {
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

    fn discard(&self, name: &str) {
        if unlinkat(&self.fd, name, AtFlags::empty()).is_err() {
            let _ = unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
        }
    }
}

fn failed(why: Errno) -> Applied {
    match why {
        Errno::NOSPC | Errno::DQUOT => Applied::NoSpace,
        Errno::EXIST => Applied::Changed,
        Errno::NOTEMPTY => {
            let why = "the folder still holds files that are not kept in step".to_owned();
            Applied::Failed("in_the_way", why)
        }
        Errno::NOTDIR | Errno::LOOP => {
            Applied::Failed("in_the_way", "something that is no folder is in the way".to_owned())
        }
        why => Applied::Failed("unwritable", format!("it cannot be written: {why}")),
    }
}

/// Makes `path` hold `wanted`, if it still holds `expected`.
pub(super) fn apply(
    root: &Root,
    stage: &mut Stage,
    path: &WorkspacePath,
    expected: Option<&Entry>,
    wanted: Option<&Entry>,
) -> Applied {
    match try_apply(root, stage, path, expected, wanted) {
        Ok(()) => Applied::Done,
        Err(applied) => applied,
    }
}

fn try_apply(
    root: &Root,
    stage: &mut Stage,
    path: &WorkspacePath,
    expected: Option<&Entry>,
    wanted: Option<&Entry>,
) -> Result<(), Applied> {
    if wanted.is_some() {
        make_ancestors(root, path).map_err(failed)?;
    }
    let (folder, name) = match root.parent(path) {
        Ok(parent) => parent,
        Err(Errno::NOENT) if wanted.is_none() => return Ok(()),
        Err(why) => return Err(failed(why)),
    };
    match (expected, wanted) {
        (None, None) => Ok(()),
        (Some(old), Some(new)) if old.same_content(new) && new.kind != Kind::Symlink => {
            chmod(&folder, name, new)
        }
        (Some(old), Some(new)) if old.kind != Kind::Dir && new.kind != Kind::Dir => {
            let fresh = stage.make(new, path)?;
            match renameat_with(&stage.fd, &fresh, &folder, name, RenameFlags::EXCHANGE) {
                Ok(()) if stage.holds(&fresh, old) => stage.discard(&fresh),
                Ok(()) => {
                    // Somebody wrote between the look and the exchange: theirs goes back, and is sent.
                    let back = renameat_with(&stage.fd, &fresh, &folder, name, RenameFlags::EXCHANGE);
                    if back.is_ok() && !stage.holds(&fresh, new) {
                        // And again before that: what came last stays.
                        let _ = renameat_with(&stage.fd, &fresh, &folder, name, RenameFlags::EXCHANGE);
                    }
                    stage.discard(&fresh);
                    return Err(Applied::Changed);
                }
                Err(Errno::INVAL | Errno::NOSYS) => {
                    renameat(&stage.fd, &fresh, &folder, name).map_err(failed)?;
                }
                Err(why) => {
                    stage.discard(&fresh);
                    return Err(if why == Errno::NOENT { Applied::Changed } else { failed(why) });
                }
            }
            Ok(())
        }
        (old, new) => {
            // Made before the old goes, so that a full disk loses nothing.
            let fresh = new.map(|new| stage.make(new, path)).transpose()?;
            let placed = (|| {
                match old {
                    Some(old) if old.kind == Kind::Dir => {
                        unlinkat(&folder, name, AtFlags::REMOVEDIR).map_err(failed)?;
                    }
                    Some(old) => take_out(stage, &folder, name, old)?,
                    None => {}
                }
                if let Some(fresh) = &fresh {
                    place(&stage.fd, fresh, &folder, name).map_err(failed)?;
                }
                Ok(())
            })();
            if let (Err(_), Some(fresh)) = (&placed, &fresh) {
                stage.discard(fresh);
            }
            placed
        }
    }
}

/// Moves a file out of the workspace and ends it, if it is what it should be; else puts it back.
fn take_out(stage: &mut Stage, folder: &OwnedFd, name: &str, old: &Entry) -> Result<(), Applied> {
    let out = stage.name();
    match place(folder, name, &stage.fd, &out) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(why) => return Err(failed(why)),
    }
    if stage.holds(&out, old) {
        stage.discard(&out);
        return Ok(());
    }
    if let Err(why) = place(&stage.fd, &out, folder, name) {
        tracing::warn!(%why, "what a program wrote while its file was deleted could not be put back");
        // Who made the name anew meanwhile, or removed the folder, wrote over it or deleted it.
        stage.discard(&out);
    }
    Err(Applied::Changed)
}

/// Renames where nothing may be replaced.
fn place(from: impl AsFd, name: &str, to: &OwnedFd, new_name: &str) -> Result<(), Errno> {
    match renameat_with(&from, name, to, new_name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => renameat(&from, name, to, new_name),
        done => done,
    }
}

fn chmod(folder: &OwnedFd, name: &str, new: &Entry) -> Result<(), Applied> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty()).map_err(failed)?;
    fchmod(&file, Mode::from_raw_mode(new.mode)).map_err(failed)
}

fn make_ancestors(root: &Root, path: &WorkspacePath) -> Result<(), Errno> {
    match root.folder(path.parent().as_ref()) {
        Err(Errno::NOENT) => {}
        other => return other.map(drop),
    }
    for folder in path.ancestors() {
        let (above, name) = root.parent(&folder)?;
        match mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}
