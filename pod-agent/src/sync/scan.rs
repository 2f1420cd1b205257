//! What the pod holds at a path: read so that neither a program that writes meanwhile nor a swapped symlink deceives.

use super::disk::{Agreed, Seen, Stamp};
use super::root::Root;
use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, Stat, accessat, fstat, openat, readlinkat, statat,
};
use rustix::io::Errno;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a file that are read: the most that any server can be told to take. A file may claim any size at no cost,
/// and reading it would hold up all others.
const READ_BYTES: u64 = 1 << 30;

#[expect(clippy::unnecessary_cast, reason = "the fields' types differ between architectures")]
fn stamp_of(stat: &Stat, read_ns: i64) -> Stamp {
    let ns = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
    Stamp {
        dev: stat.st_dev as u64,
        ino: stat.st_ino as u64,
        size: stat.st_size as u64,
        mtime_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        mode: stat.st_mode as u32,
        read_ns,
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Looks at one path. What `known` says of it is believed if `stat` says that it still is.
pub(super) fn look(root: &Root, path: &WorkspacePath, known: Option<&Agreed>) -> Seen {
    let failed = |why: Errno| match why {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Seen::Nothing,
        why => Seen::Problem("unreadable", format!("it cannot be read: {why}")),
    };
    let (folder, name) = match root.parent(path) {
        Ok(parent) => parent,
        Err(why) => return failed(why),
    };
    let stat = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(why) => return failed(why),
    };
    let now = now_ns();
    let stamp = stamp_of(&stat, now);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            match accessat(&folder, name, Access::READ_OK | Access::EXEC_OK, AtFlags::EACCESS) {
                Ok(()) => Seen::Entry(Entry::dir(stat.st_mode), stamp),
                Err(why) => failed(why),
            }
        }
        FileType::Symlink => match readlinkat(&folder, name, Vec::new()) {
            Err(why) => failed(why),
            Ok(target) => match target.to_str() {
                Err(_) => Seen::Problem("name_not_utf8", "the symlink's target is not UTF-8".to_owned()),
                Ok(target) if leaves(path, target) => {
                    Seen::Problem("symlink_outside", "the symlink points outside the workspace".to_owned())
                }
                Ok(target) => Seen::Entry(Entry::symlink(target), stamp),
            },
        },
        FileType::RegularFile if stamp.size > READ_BYTES => {
            Seen::Problem("too_large", "the file is larger than any server takes".to_owned())
        }
        FileType::RegularFile => {
            if let Some(Agreed { entry, stamp: Some(old), .. }) = known
                && stamp.trusts(old)
                && entry.kind == Kind::File
            {
                return Seen::Entry(*entry, *old);
            }
            match read(&folder, name) {
                Ok(Some((entry, stamp))) => Seen::Entry(entry, stamp),
                Ok(None) => Seen::Hot,
                Err(why) => failed(Errno::from_io_error(&why).unwrap_or(Errno::IO)),
            }
        }
        _ => Seen::Problem("special_file", "only files, folders and symlinks are kept in step".to_owned()),
    }
}

/// The stamp of what was just put there, so that it need not be read to be known; none if it is something else.
pub(super) fn stamp(root: &Root, path: &WorkspacePath, entry: &Entry) -> Option<Stamp> {
    let (folder, name) = root.parent(path).ok()?;
    let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let stamp = stamp_of(&stat, now_ns());
    (entry.kind != Kind::File || stamp.size == entry.size).then_some(stamp)
}

/// Bytes of a regular file.
pub(super) fn size(root: &Root, path: &WorkspacePath) -> Option<u64> {
    let (folder, name) = root.parent(path).ok()?;
    let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let stamp = stamp_of(&stat, 0);
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stamp.size)
}

/// Whether a file's stamp makes it worth a second look.
pub(super) fn may_differ(root: &Root, path: &WorkspacePath, known: &Agreed) -> bool {
    let Ok((folder, name)) = root.parent(path) else { return true };
    stat_differs(&folder, name, known)
}

/// The same, in a folder that is open.
pub(super) fn stat_differs(folder: &impl std::os::fd::AsFd, name: &str, known: &Agreed) -> bool {
    let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return true };
    match (FileType::from_raw_mode(stat.st_mode), known.entry.kind) {
        (FileType::Directory, Kind::Dir) => Entry::dir(stat.st_mode).mode != known.entry.mode,
        _ => !known.stamp.is_some_and(|old| stamp_of(&stat, 0).trusts(&old)),
    }
}

/// Whether a name in a folder is a folder itself.
pub(super) fn is_dir(folder: &impl std::os::fd::AsFd, name: &std::ffi::CStr) -> bool {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn open_file(folder: &impl std::os::fd::AsFd, name: &str) -> Result<File, Errno> {
    // A FIFO put in its place must not make the agent wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(openat(folder, name, flags, Mode::empty())?))
}

/// Opens a regular file's or symlink's content for sending.
pub(super) fn content(root: &Root, path: &WorkspacePath, kind: Kind) -> io::Result<Box<dyn Read>> {
    let (folder, name) = root.parent(path)?;
    if kind == Kind::Symlink {
        let target = readlinkat(&folder, name, Vec::new())?;
        return Ok(Box::new(io::Cursor::new(target.into_bytes())));
    }
    Ok(Box::new(open_file(&folder, name)?))
}

/// Reads so many bytes of a file; fewer if it ends before.
pub(super) fn read_at(root: &Root, path: &WorkspacePath, offset: u64, size: u32) -> io::Result<Vec<u8>> {
    let (folder, name) = root.parent(path)?;
    let file = open_file(&folder, name)?;
    let mut bytes = vec![0; size as usize];
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(&mut bytes[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

/// Reads a file while nobody writes it; none if somebody does.
pub(super) fn read(folder: &impl std::os::fd::AsFd, name: &str) -> io::Result<Option<(Entry, Stamp)>> {
    let mut file = open_file(folder, name)?;
    let before = fstat(&file)?;
    if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let before = stamp_of(&before, now_ns());
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    // No further than it was long: one that grows as fast as it is read would never end.
    let mut left = before.size;
    loop {
        match file.read(&mut buffer)? as u64 {
            0 => break,
            n if n > left => return Ok(None),
            n => {
                hasher.update(&buffer[..n as usize]);
                left -= n;
            }
        };
    }
    let after = stamp_of(&fstat(&file)?, before.read_ns);
    let entry = Entry::file(after.mode, after.size, Hash(*hasher.finalize().as_bytes()));
    Ok((before == after).then_some((entry, after)))
}

/// Whether a symlink at `path` points outside the workspace, by its text alone.
pub(super) fn leaves(path: &WorkspacePath, target: &str) -> bool {
    if target.starts_with('/') || target.is_empty() {
        return true;
    }
    let mut depth = path.depth() - 1;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::open;

    #[test]
    fn a_file_that_claims_to_be_huge_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("huge")).unwrap().set_len(1 << 40).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let seen = look(&root, &WorkspacePath::new("huge").unwrap(), None);
        assert!(matches!(seen, Seen::Problem("too_large", _)), "{seen:?}");
    }

    #[test]
    fn a_file_that_goes_on_behind_its_end_is_read_no_further() {
        let folder = open("/proc/self", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        // The kernel says that it is empty.
        assert_eq!(read(&folder, "status").unwrap(), None);
    }
}
