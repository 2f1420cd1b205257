//! The agent's own folder: who holds it, and which volume it is.

use rustix::fs::{FlockOperation, flock};
use shared::id::VolumeId;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The state folder, held for as long as this lives: no second agent gets it.
#[derive(Debug)]
pub struct Volume {
    /// Which volume this is; a copy of its files elsewhere is another one only if this file is left out.
    pub id: VolumeId,
    _lock: File,
}

/// Why the state folder could not be had.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Another agent holds it.
    #[error("another agent serves this folder already; its process id stands in agent.lock")]
    Held,
    /// It cannot be used.
    #[error("the agent's folder cannot be used: {0}")]
    Io(#[from] io::Error),
}

impl Volume {
    /// Makes the state folder if it isn't there, and takes it.
    pub fn take(state: &Path) -> Result<Self, VolumeError> {
        DirBuilder::new().recursive(true).mode(0o700).create(state)?;
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            options
        };
        let mut lock = open().open(state.join("agent.lock"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(VolumeError::Held),
            Err(why) => return Err(io::Error::from(why).into()),
        }
        sign(&mut lock)?;

        let mut file = open().open(state.join("volume"))?;
        let mut text = String::new();
        // Not UTF-8 means damaged, which means another volume.
        let _ = file.read_to_string(&mut text);
        let id = match text.trim().parse() {
            Ok(id) => id,
            Err(_) => {
                let id = VolumeId::random();
                let fresh = state.join("volume.new");
                fs::write(&fresh, format!("{id}\n"))?;
                File::open(&fresh)?.sync_all()?;
                fs::rename(&fresh, state.join("volume"))?;
                id
            }
        };
        Ok(Self { id, _lock: lock })
    }
}

/// Writes this process' number over the last one's, which needs no room on a volume that is full. Where it does,
/// the number stays unknown: an agent must start there, too, or nobody could make room.
fn sign(lock: &mut File) -> io::Result<()> {
    let number = format!("{}\n", std::process::id());
    lock.rewind()?;
    match lock.write_all(number.as_bytes()) {
        Ok(()) => lock.set_len(number.len() as u64),
        Err(why) if matches!(why.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Ok(()),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_tells_who_holds_it_whoever_did_before() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("agent.lock"), "1234567890123\n").unwrap();
        let _held = Volume::take(folder.path()).unwrap();
        let told = std::fs::read_to_string(folder.path().join("agent.lock")).unwrap();
        assert_eq!(told, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_folder_has_one_agent_at_a_time_and_stays_the_same_volume() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join(".berth");
        let first = Volume::take(&state).unwrap();
        assert!(matches!(Volume::take(&state), Err(VolumeError::Held)));
        let id = first.id;
        drop(first);
        assert_eq!(Volume::take(&state).unwrap().id, id);
    }
}
