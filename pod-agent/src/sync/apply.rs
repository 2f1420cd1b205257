//! Putting what the database holds into the workspace: staged beside it, then renamed in, so that a running program
//! sees the old file or the new one and nothing between.

use super::disk::Applied;
use super::root::Root;
use super::stage::Stage;
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, fchmod, fstat, linkat, mkdirat, openat, renameat, renameat_with,
    unlinkat,
};
use rustix::io::Errno;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Kind};
use std::os::fd::{AsFd, OwnedFd};

pub(super) fn failed(why: Errno) -> Applied {
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
    if let Err(why) = stage.be_there() {
        let has_content = wanted.is_some_and(|wanted| wanted.kind != Kind::Dir);
        let why = format!("the agent cannot write to its own folder: {why}");
        return Err(if has_content { Applied::Lacking } else { Applied::Failed("unwritable", why) });
    }
    if wanted.is_some() {
        make_ancestors(root, path).map_err(failed)?;
    }
    let (folder, name) = match root.parent(path) {
        Ok(parent) => parent,
        Err(Errno::NOENT) if wanted.is_none() => return Ok(()),
        Err(why) => return Err(failed(why)),
    };
    let _unlocked = Unlocked::new(&folder);
    match (expected, wanted) {
        (None, None) => Ok(()),
        (Some(old), Some(new)) if old.same_content(new) && new.kind != Kind::Symlink => {
            chmod(&folder, name, new)
        }
        (Some(old), Some(new)) if old.kind != Kind::Dir && new.kind != Kind::Dir => {
            let fresh = stage.make(new, path)?;
            match renameat_with(stage.fd(), &fresh, &folder, name, RenameFlags::EXCHANGE) {
                Ok(()) if stage.holds(&fresh, old) => stage.discard(&fresh),
                Ok(()) => {
                    // Somebody wrote between the look and the exchange: theirs goes back, and is sent.
                    let back = renameat_with(stage.fd(), &fresh, &folder, name, RenameFlags::EXCHANGE);
                    if back.is_ok() && !stage.holds(&fresh, new) {
                        // And again before that: what came last stays.
                        let _ = renameat_with(stage.fd(), &fresh, &folder, name, RenameFlags::EXCHANGE);
                    }
                    stage.discard(&fresh);
                    return Err(Applied::Changed);
                }
                Err(Errno::INVAL | Errno::NOSYS) => {
                    let replaced = replace(stage, &fresh, &folder, name, old);
                    if replaced.is_err() {
                        stage.discard(&fresh);
                    }
                    return replaced;
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
                    place(stage.fd(), fresh, &folder, name).map_err(failed)?;
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

/// Replaces a file where kernel or file system know no exchange. The old one has a second name in the stage meanwhile:
/// what was written to it since the look is found, and stays or goes back.
///
/// What this cannot save is another file that a program renames to that name in the microseconds before ours; and where
/// there are no second names either, anything that comes between the look and the rename.
fn replace(stage: &mut Stage, fresh: &str, folder: &OwnedFd, name: &str, old: &Entry) -> Result<(), Applied> {
    let kept = stage.name();
    match linkat(folder, name, stage.fd(), &kept, AtFlags::empty()) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Err(Applied::Changed),
        Err(_) => return renameat(stage.fd(), fresh, folder, name).map_err(failed),
    }
    let replaced = if stage.holds(&kept, old) {
        renameat(stage.fd(), fresh, folder, name).map_err(failed)
    } else {
        Err(Applied::Changed)
    };
    if replaced.is_ok() && !stage.holds(&kept, old) {
        renameat(stage.fd(), &kept, folder, name).map_err(failed)?;
        return Err(Applied::Changed);
    }
    stage.discard(&kept);
    replaced
}

/// Moves a file out of the workspace and ends it, if it is what it should be; else puts it back.
fn take_out(stage: &mut Stage, folder: &OwnedFd, name: &str, old: &Entry) -> Result<(), Applied> {
    let out = stage.name();
    // Its name in the stage is nobody else's.
    match renameat(folder, name, stage.fd(), &out) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(why) => return Err(failed(why)),
    }
    if stage.holds(&out, old) {
        stage.discard(&out);
        return Ok(());
    }
    if let Err(why) = place(stage.fd(), &out, folder, name) {
        tracing::warn!(%why, "what a program wrote while its file was deleted could not be put back");
        // Who made the name anew meanwhile, or removed the folder, wrote over it or deleted it.
        stage.discard(&out);
    }
    Err(Applied::Changed)
}

/// Renames from the stage to where nothing may be replaced.
fn place(stage: impl AsFd, name: &str, to: &OwnedFd, new_name: &str) -> Result<(), Errno> {
    match renameat_with(&stage, name, to, new_name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        done => return done,
    }
    // A second name replaces nothing either. Folders get none, but a rename of one replaces an empty one alone; what
    // remains are file systems without second names.
    match linkat(&stage, name, to, new_name, AtFlags::empty()) {
        Ok(()) => unlinkat(&stage, name, AtFlags::empty()),
        Err(why @ (Errno::EXIST | Errno::NOENT)) => Err(why),
        Err(_) => renameat(&stage, name, to, new_name),
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
        let _unlocked = Unlocked::new(&above);
        match mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

/// A folder that its owner may not write to, and may while this lives: what is in it is the database's to say, and a
/// volume that begins empty gets such folders with all that they hold. Nothing where it may, or is another's.
struct Unlocked<'a> {
    folder: &'a OwnedFd,
    mode: Mode,
}

impl<'a> Unlocked<'a> {
    fn new(folder: &'a OwnedFd) -> Option<Self> {
        let mode = Mode::from_raw_mode(fstat(folder).ok()?.st_mode);
        let open = Mode::WUSR | Mode::XUSR;
        if mode.contains(open) {
            return None;
        }
        fchmod(folder, mode | open).ok()?;
        Some(Self { folder, mode })
    }
}

impl Drop for Unlocked<'_> {
    fn drop(&mut self) {
        if let Err(why) = fchmod(self.folder, self.mode) {
            tracing::warn!(%why, "a folder could not be given its mode again");
        }
    }
}
