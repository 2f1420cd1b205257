//! The environment of shells and commands: built from nothing, never the agent's own.

use crate::settings::Settings;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Shells to try when none is set.
const SHELLS: &[&str] = &["/bin/bash", "/usr/bin/bash", "/bin/sh"];

/// What every shell and command of the session is started with. Cheap to clone; clones share the session's variables.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Where they start, and what they may not leave by `cwd`: the workspace by the name that users know.
    pub workspace: PathBuf,
    /// The shell of new terminals.
    pub shell: PathBuf,
    base: BTreeMap<String, OsString>,
    session: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Environment {
    /// Takes what of the agent's own surroundings a shell may know: home, user, locale's absence, nothing else.
    pub fn new(settings: &Settings) -> Self {
        let shell = settings
            .shell
            .clone()
            .or_else(|| std::env::var_os("SHELL").map(PathBuf::from).filter(|s| s.is_file()))
            .or_else(|| SHELLS.iter().map(PathBuf::from).find(|s| s.is_file()))
            .unwrap_or_else(|| PathBuf::from("/bin/sh"));
        let home = settings
            .home
            .clone()
            .or_else(|| std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_dir()))
            .unwrap_or_else(|| settings.shown().to_owned());
        let user = std::env::var_os("USER").unwrap_or_else(|| {
            let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            account(&accounts, rustix::process::getuid().as_raw()).unwrap_or("user").into()
        });
        // A user's own PATH matters locally (toolchains live in the home folder); a pod's image sets one too.
        let path = std::env::var_os("PATH").filter(|p| !p.is_empty()).unwrap_or_else(|| PATH.into());
        let base = BTreeMap::from([
            ("LANG".to_owned(), OsString::from("C.UTF-8")),
            ("HOME".to_owned(), home.into_os_string()),
            ("USER".to_owned(), user.clone()),
            ("LOGNAME".to_owned(), user),
            ("PATH".to_owned(), path),
            ("SHELL".to_owned(), shell.clone().into_os_string()),
        ]);
        Self { workspace: settings.shown().to_owned(), shell, base, session: Arc::default() }
    }

    /// Replaces the session's own variables, as the control plane sent them.
    pub fn set_session(&self, variables: BTreeMap<String, String>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = variables;
    }

    /// All variables for something started now.
    pub fn variables(&self) -> BTreeMap<String, OsString> {
        let mut all = self.base.clone();
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(session.iter().filter(|(k, v)| is_variable(k, v)).map(|(k, v)| (k.clone(), v.into())));
        all
    }

    /// The folder named by `cwd` below the workspace (empty: its top), if it is a folder.
    pub fn folder(&self, cwd: &str) -> Option<PathBuf> {
        let folder = if cwd.is_empty() {
            self.workspace.clone()
        } else {
            self.workspace.join(shared::path::WorkspacePath::new(cwd).ok()?.as_str())
        };
        folder.is_dir().then_some(folder)
    }

    /// The program that `name` means: looked up on `path` unless it has a slash, and executable.
    pub fn program(&self, name: &str, folder: &Path, path: &std::ffi::OsStr) -> Option<PathBuf> {
        if name.contains('/') {
            let program = folder.join(name);
            return is_executable(&program).then_some(program);
        }
        std::env::split_paths(path).map(|p| folder.join(p).join(name)).find(|p| is_executable(p))
    }
}

/// The name that the image's accounts, as `/etc/passwd` has them, give a user.
fn account(accounts: &str, user: u32) -> Option<&str> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(user)).then_some(name)
    })
}

/// Whether a name and value can stand in an environment at all.
pub fn is_variable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_called_what_the_images_accounts_say() {
        let accounts =
            "root:x:0:0:root:/root:/bin/bash\n\nbroken\n:x:7:\nberth:x:1000:1000::/home/berth:/bin/bash\n";
        assert_eq!(account(accounts, 0), Some("root"));
        assert_eq!(account(accounts, 1000), Some("berth"));
        assert_eq!(account(accounts, 7), None);
        assert_eq!(account("", 1000), None);
    }
}
