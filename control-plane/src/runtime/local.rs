//! The embedded default: agents as processes of this machine's account, without isolation.
//!
//! ```text
//! <data>/agent-address                   where agents dial, read afresh at each attempt
//! <data>/sessions/<uuid>/app/            the session's files
//!                        .berth/         the agent's own: credential, lock, base
//!                        agent.log       what it prints
//! ```
//! Agents are in sessions of their own and outlive the server. After a restart they are found by their arguments,
//! which name their state folder; nothing is remembered that could be wrong.

use super::process::{self, Process};
use super::{Ensured, Notice, Observed, Runtime, RuntimeError, Spec};
use crate::descriptors;
use async_trait::async_trait;
use shared::id::SessionId;
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// The variable that marks an agent and all that its shells start; its value is the session.
const SESSION_VARIABLE: &str = "BERTH_SESSION";
/// What of the server's environment an agent is given: who and where it is, never a secret.
const PASSED_ON: &[&str] =
    &["HOME", "USER", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "RUST_BACKTRACE", "BERTH_AGENT_SWEEP"];
/// Bytes of an agent's log beyond which the next start begins a new one; the one before is kept.
const LOG_BYTES: u64 = 1 << 20;
/// Bytes of a log's end that are looked at for its last lines.
const TAIL_BYTES: u64 = 2048;
/// Lines of a log that are shown.
const TAIL_LINES: usize = 3;
/// What a folder that is being removed is called until it is gone.
const REMOVED_PREFIX: &str = ".removed-";

/// Runs agents as processes of this machine.
#[derive(Clone, Debug)]
pub struct LocalRuntime(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    data: PathBuf,
    program: PathBuf,
    children: Mutex<HashMap<SessionId, Child>>,
}

/// An agent that this server started.
#[derive(Debug)]
enum Child {
    /// Being started, or running under this number.
    Runs(Option<u32>),
    /// It ended by itself: why.
    Ended(String),
}

impl LocalRuntime {
    /// Keeps sessions below the folder `data`; `program` is run with `agent` as its first argument.
    pub fn new(data: &Path, program: PathBuf) -> io::Result<Self> {
        let data = fs::canonicalize(data)?;
        make_folder(&data.join("sessions"))?;
        Ok(Self(Arc::new(Parts { data, program, children: Mutex::default() })))
    }

    /// Tells agents, also those that run already, where to dial.
    pub fn announce(&self, address: SocketAddr) -> io::Result<()> {
        write_whole(&self.address_file(), format!("ws://{address}\n").as_bytes())
    }

    fn address_file(&self) -> PathBuf {
        self.0.data.join("agent-address")
    }

    fn volume(&self, session: SessionId) -> PathBuf {
        self.0.data.join("sessions").join(session.to_string())
    }

    fn state(&self, session: SessionId) -> PathBuf {
        self.volume(session).join(".berth")
    }

    fn children(&self) -> MutexGuard<'_, HashMap<SessionId, Child>> {
        self.0.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agent(&self, session: SessionId) -> Option<Process> {
        process::agent(&self.state(session))
    }

    fn prepare_blocking(&self, session: SessionId) -> io::Result<()> {
        let volume = self.volume(session);
        for folder in [&volume, &volume.join("app"), &self.state(session)] {
            make_folder(folder)?;
        }
        Ok(())
    }

    fn start(&self, spec: &Spec) -> io::Result<tokio::process::Child> {
        let session = spec.session;
        let volume = self.volume(session);
        self.prepare_blocking(session)?;
        let credential = self.state(session).join("credential");
        write_whole(&credential, spec.credential.reveal().as_bytes())?;
        let log = open_log(&volume)?;
        let mut command = tokio::process::Command::new(self.program());
        command
            .arg("agent")
            .arg("--control-plane-file")
            .arg(self.address_file())
            .arg("--credential-file")
            .arg(credential)
            .arg("--workspace")
            .arg(volume.join("app"))
            .arg("--state")
            .arg(self.state(session))
            .env_clear()
            .env(SESSION_VARIABLE, session.to_string())
            .envs(PASSED_ON.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))))
            .current_dir(&volume)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(false);
        let child = command.spawn()?;
        child.id().into_iter().for_each(descriptors::restore);
        Ok(child)
    }

    /// The program to run: this very one even if its file was replaced since, as a rebuild does.
    fn program(&self) -> PathBuf {
        let replaced = !self.0.program.exists();
        if replaced { PathBuf::from("/proc/self/exe") } else { self.0.program.clone() }
    }

    fn observe_blocking(&self, session: SessionId) -> io::Result<Observed> {
        let volume = match fs::symlink_metadata(self.volume(session)) {
            Ok(_) => true,
            Err(why) if why.kind() == io::ErrorKind::NotFound => false,
            Err(why) => return Err(why),
        };
        let (started_here, ended) = match self.children().get(&session) {
            // Not to be seen in /proc by its arguments before it has begun to be the agent.
            Some(Child::Runs(_)) => (true, None),
            Some(Child::Ended(why)) => (false, Some(why.clone())),
            None => (false, None),
        };
        let running = started_here || self.agent(session).is_some();
        Ok(Observed { running, volume, ended: ended.filter(|_| !running), ..Observed::default() })
    }

    fn remove_blocking(&self, session: SessionId) -> io::Result<()> {
        let volume = self.volume(session);
        let removed = self.0.data.join("sessions").join(format!("{REMOVED_PREFIX}{session}"));
        match fs::rename(&volume, &removed) {
            Ok(()) => {}
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            Err(why) => return Err(why),
        }
        remove_tree(&removed)
    }

    fn list_blocking(&self) -> io::Result<Vec<(SessionId, Observed)>> {
        let mut there = HashMap::new();
        for entry in fs::read_dir(self.0.data.join("sessions"))? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(REMOVED_PREFIX) {
                // A removal that a crash cut short.
                remove_tree(&self.0.data.join("sessions").join(name))?;
            } else if let Ok(id) = Uuid::try_parse(name) {
                there.insert(SessionId(id), Observed { volume: true, ..Observed::default() });
            }
        }
        let sessions = self.0.data.join("sessions");
        for (_, state) in process::agents() {
            use std::os::unix::ffi::OsStrExt;
            let volume = Path::new(std::ffi::OsStr::from_bytes(&state)).parent().map(Path::to_owned);
            let id = volume
                .filter(|v| v.parent() == Some(&sessions))
                .and_then(|v| Uuid::try_parse(v.file_name()?.to_str()?).ok());
            if let Some(id) = id {
                there.entry(SessionId(id)).or_default().running = true;
            }
        }
        Ok(there.into_iter().collect())
    }
}

#[async_trait]
impl Runtime for LocalRuntime {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn prepare(&self, spec: &Spec) -> Result<Option<Notice>, RuntimeError> {
        let (this, session) = (self.clone(), spec.session);
        blocking("its folder could not be made", move || this.prepare_blocking(session)).await?;
        Ok(None)
    }

    async fn ensure(&self, spec: &Spec) -> Result<Ensured, RuntimeError> {
        let session = spec.session;
        let (this, agent_of) = (self.clone(), self.clone());
        let observed =
            blocking("it could not be looked at", move || agent_of.observe_blocking(session)).await?;
        if observed.running {
            return Ok(Ensured::Adopted);
        }
        // In the map before it runs, so that no second one is started meanwhile.
        self.children().insert(session, Child::Runs(None));
        let spec = spec.clone();
        let started = blocking("its agent could not be started", move || this.start(&spec)).await;
        let mut child = match started {
            Ok(child) => child,
            Err(why) => {
                self.children().remove(&session);
                return Err(why);
            }
        };
        let this = self.clone();
        let pid = child.id();
        self.children().insert(session, Child::Runs(pid));
        // Owned by the process itself: it ends when the child does, and reaps it.
        tokio::spawn(async move {
            let status = child.wait().await;
            let how = match status {
                Ok(status) => status.to_string(),
                Err(why) => why.to_string(),
            };
            let tail = this.log_tail(session).await.map(|tail| format!("; it last logged: {tail}"));
            let why = format!("its agent ended ({how}){}", tail.unwrap_or_default());
            // Unless it was ended on purpose, and perhaps another one was started since.
            let mut children = this.children();
            if let Some(child) = children.get_mut(&session)
                && matches!(child, Child::Runs(runs) if *runs == pid)
            {
                *child = Child::Ended(why);
            }
        });
        Ok(Ensured::Started)
    }

    async fn stop(&self, session: SessionId, grace: Duration) -> Result<(), RuntimeError> {
        let value = session.to_string();
        if !process::end(self.agent(session), (SESSION_VARIABLE, &value), grace).await {
            return Err(RuntimeError::Retry("some of its processes could not be ended".to_owned()));
        }
        // Its reaper may be a moment behind.
        self.children().remove(&session);
        Ok(())
    }

    async fn delete(&self, session: SessionId) -> Result<(), RuntimeError> {
        self.stop(session, Duration::ZERO).await?;
        let this = self.clone();
        blocking("its folder could not be removed", move || this.remove_blocking(session)).await
    }

    async fn release_volume(&self, session: SessionId) -> Result<(), RuntimeError> {
        if self.agent(session).is_some() {
            return Err(RuntimeError::Retry("its agent runs".to_owned()));
        }
        let this = self.clone();
        blocking("its folder could not be removed", move || this.remove_blocking(session)).await
    }

    async fn observe(&self, session: SessionId) -> Result<Observed, RuntimeError> {
        let this = self.clone();
        blocking("it could not be looked at", move || this.observe_blocking(session)).await
    }

    async fn list(&self) -> Result<Vec<(SessionId, Observed)>, RuntimeError> {
        let this = self.clone();
        blocking("the sessions' folders could not be listed", move || this.list_blocking()).await
    }

    async fn log_tail(&self, session: SessionId) -> Option<String> {
        let log = self.volume(session).join("agent.log");
        tokio::task::spawn_blocking(move || tail(&log)).await.ok()?
    }
}

async fn blocking<T, F>(what: &'static str, work: F) -> Result<T, RuntimeError>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(why)) => Err(RuntimeError::Retry(format!("{what}: {why}"))),
        Err(why) => Err(RuntimeError::Retry(format!("{what}: {why}"))),
    }
}

/// Makes a folder for its owner alone. A link in its place is refused, wherever it leads.
fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    if fs::symlink_metadata(folder)?.is_dir() {
        Ok(())
    } else {
        let why = format!("{} is in the way and not a folder", folder.display());
        Err(io::Error::new(io::ErrorKind::NotADirectory, why))
    }
}

/// Writes a file of its owner's alone, all of it or nothing.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension(format!("fresh-{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

fn open_log(volume: &Path) -> io::Result<File> {
    let log = volume.join("agent.log");
    if fs::symlink_metadata(&log).is_ok_and(|found| found.len() > LOG_BYTES || !found.is_file()) {
        fs::rename(&log, volume.join("agent.log.1"))?;
    }
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(no_follow).open(log)
}

/// The last lines of a log, without what a terminal would obey.
fn tail(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(TAIL_LINES)..].join(" / ");
    let clean: String = last.chars().filter(|c| !c.is_control()).collect();
    (!clean.is_empty()).then_some(clean)
}

/// Removes a folder and all in it, following no link; also folders whose owner took their own rights away.
fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::symlink_metadata(folder) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(why),
        Ok(found) if !found.is_dir() => return fs::remove_file(folder),
        Ok(_) => {}
    }
    match fs::remove_dir_all(folder) {
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
            open_up(folder)?;
            fs::remove_dir_all(folder)
        }
        done => done,
    }
}

/// Gives the owner all rights on a folder and those below it.
fn open_up(folder: &Path) -> io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            // A link's own type: it is not followed.
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
