//! What a pod's init container does, so that any image can be a session's: it copies this program to where the
//! image's container finds it, and makes the volume's folders.

use rustix::fs::{Access, access};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What the program is called where it is copied to.
const PROGRAM: &str = "pod-agent";
/// The mode of the copy: whoever the image's user is runs it, nobody but its owner writes it.
const PROGRAM_MODE: u32 = 0o755;
/// What a volume holds: the workspace, the home folder and the agent's own.
const FOLDERS: &[&str] = &["app", "home", ".berth"];
/// The mode of new folders: a session has one user.
const FOLDER_MODE: u32 = 0o700;

/// Where to install.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// The folder that gets the program, shared with the container that runs it
    #[arg(long, value_name = "FOLDER")]
    pub to: PathBuf,

    /// The volume's top, where the folders app, home and .berth are made
    #[arg(long, value_name = "FOLDER")]
    pub volume: PathBuf,
}

/// Why a pod could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The program could not be copied.
    #[error("the agent's program cannot be copied to {}: {why}", .to.display())]
    Program {
        /// The copy.
        to: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// A folder could not be made or looked at.
    #[error("{} cannot be made on the session's volume: {why}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// Something else has a folder's name, such as a link that leads who knows where.
    #[error("{} is in the way: a folder belongs there, and this is none. Move it, then start again", .0.display())]
    InTheWay(PathBuf),
    /// The folder is there and of no use.
    #[error(
        "{} belongs to user {owner} (mode {mode:03o}), and user {me} cannot write there. Give the volume's files to \
         that user, or the pod the fsGroup that owns them", .folder.display()
    )]
    NotOurs {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its permissions.
        mode: u32,
        /// Who this is.
        me: u32,
    },
}

/// Copies this program to `place.to` and makes the volume's folders. May be repeated: what is there stays, apart from
/// the program, which is replaced in one step, so that whoever starts it gets the old one or the new one.
pub fn run(place: &Place) -> Result<(), InstallError> {
    for name in FOLDERS {
        provide(&place.volume.join(name))?;
    }
    let to = place.to.join(PROGRAM);
    copy(Path::new("/proc/self/exe"), &to).map_err(|why| InstallError::Program { to, why })
}

/// Copies a program so that its name always means a whole one.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let fresh = to.with_extension("new");
    // What an earlier attempt left, or a link that would be written through.
    match fs::remove_file(&fresh) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut source = File::open(from)?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(PROGRAM_MODE).open(&fresh)?;
    io::copy(&mut source, &mut copy)?;
    // Whatever the umask is.
    copy.set_permissions(fs::Permissions::from_mode(PROGRAM_MODE))?;
    // A program that is open for writing cannot be executed.
    drop(copy);
    fs::rename(&fresh, to)
}

/// Makes a folder, or makes sure that the one there is one and can be used.
fn provide(folder: &Path) -> Result<(), InstallError> {
    let failed = |why| InstallError::Folder { folder: folder.to_owned(), why };
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(failed),
    }
    let found = fs::symlink_metadata(folder).map_err(failed)?;
    if !found.is_dir() {
        return Err(InstallError::InTheWay(folder.to_owned()));
    }
    if access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Err(InstallError::NotOurs {
            folder: folder.to_owned(),
            owner: found.uid(),
            mode: found.mode() & 0o777,
            me: rustix::process::getuid().as_raw(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pod {
        _folder: tempfile::TempDir,
        place: Place,
    }

    fn pod() -> Pod {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { to: folder.path().join("bin"), volume: folder.path().join("volume") };
        fs::create_dir(&place.to).unwrap();
        fs::create_dir(&place.volume).unwrap();
        Pod { _folder: folder, place }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_fresh_volume_gets_its_folders_and_the_image_a_program_that_anybody_can_run() {
        let Pod { place, _folder } = pod();
        run(&place).unwrap();
        for name in ["app", "home", ".berth"] {
            assert_eq!(mode(&place.volume.join(name)), 0o700, "{name}");
        }
        let program = place.to.join("pod-agent");
        assert_eq!(mode(&program), 0o755);
        assert_eq!(fs::read(&program).unwrap(), fs::read("/proc/self/exe").unwrap());
        let left: Vec<_> = fs::read_dir(&place.to).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["pod-agent"], "nothing else is left");
    }

    #[test]
    fn a_volume_that_was_used_keeps_its_files_and_modes_and_gets_the_new_program() {
        let Pod { place, _folder } = pod();
        run(&place).unwrap();
        fs::write(place.volume.join("app/main.py"), "print()").unwrap();
        fs::set_permissions(place.volume.join("app"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(place.to.join("pod-agent"), "an old one").unwrap();
        fs::write(place.to.join("pod-agent.new"), "half of one").unwrap();
        run(&place).unwrap();
        assert_eq!(fs::read(place.volume.join("app/main.py")).unwrap(), b"print()");
        assert_eq!(mode(&place.volume.join("app")), 0o755);
        assert!(fs::metadata(place.to.join("pod-agent")).unwrap().len() > 100_000);
        assert_eq!(mode(&place.to.join("pod-agent")), 0o755);
    }

    #[test]
    fn a_link_or_a_file_in_a_folders_place_is_refused_and_left_alone() {
        for name in ["app", "home", ".berth"] {
            let Pod { place, _folder } = pod();
            let elsewhere = place.to.join("elsewhere");
            fs::create_dir(&elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, place.volume.join(name)).unwrap();
            let why = run(&place).unwrap_err();
            assert!(matches!(&why, InstallError::InTheWay(path) if path.ends_with(name)), "{why}");
            assert!(fs::read_dir(&elsewhere).unwrap().next().is_none());
        }
        let Pod { place, _folder } = pod();
        fs::write(place.volume.join("home"), "a file").unwrap();
        assert!(matches!(run(&place).unwrap_err(), InstallError::InTheWay(_)));
        assert_eq!(fs::read(place.volume.join("home")).unwrap(), b"a file");
    }

    #[test]
    fn a_link_where_the_copy_is_made_is_not_written_through() {
        let Pod { place, _folder } = pod();
        let victim = place.volume.join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, place.to.join("pod-agent.new")).unwrap();
        std::os::unix::fs::symlink(&victim, place.to.join("pod-agent")).unwrap();
        run(&place).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(fs::symlink_metadata(place.to.join("pod-agent")).unwrap().is_file());
    }

    #[test]
    fn what_cannot_be_installed_is_told_with_its_place() {
        let Pod { mut place, _folder } = pod();
        place.to = place.volume.join("missing");
        let why = run(&place).unwrap_err().to_string();
        assert!(why.contains("missing/pod-agent") && why.contains("No such file"), "{why}");
        place.volume = place.volume.join("none");
        let why = run(&place).unwrap_err().to_string();
        assert!(why.contains("none/app"), "{why}");
    }
}
