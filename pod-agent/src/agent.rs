//! A run of the agent: alone on its volume, link after link, until it is told to end or gives up.

use crate::environment::Environment;
use crate::events::Events;
use crate::link::{self, Ended, Up};
use crate::memory::Watching;
use crate::pass::Pass;
use crate::processes::{self, Family};
use crate::settings::{Settings, address};
use crate::sync::{Sync, SyncSettings};
use crate::terminal::{Keeping, Terminals};
use crate::volume::{Volume, VolumeError};
use rand::Rng;
use shared::id::{InstanceId, VolumeId};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// The longest first pause after a good link: a cut, or a server that restarts, should hardly be felt.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest second pause; each next one is at most twice as long.
const SECOND_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A link that stood this long was a good one: the pauses begin anew.
const GOOD_LINK: Duration = Duration::from_secs(5);
/// How long the last state may take to be written when nobody said how long.
pub(crate) const LAST_STATE: Duration = Duration::from_secs(20);

/// What a link needs of the agent. Cheap to clone.
#[derive(Clone)]
pub struct Parts {
    /// This run.
    pub instance: InstanceId,
    /// The workspace's volume.
    pub volume: VolumeId,
    /// The session's terminals.
    pub terminals: Terminals,
    /// What commands are started with.
    pub environment: Environment,
    /// File sync.
    pub sync: Sync,
    /// Words for the session's timeline.
    pub events: Events,
    /// The credential that the control plane gave for dialling again.
    pub pass: Pass,
}

/// Why an agent could not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its folder could not be had.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The workspace could not be made or read.
    #[error("the workspace cannot be used: {0}")]
    Workspace(io::Error),
    /// Users would be shown other files than those kept in step.
    #[error("{} cannot be shown as the workspace {}: {why}", .shown.display(), .workspace.display())]
    Shown {
        /// What users would see.
        shown: PathBuf,
        /// What is kept in step.
        workspace: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The operating system refused something it needs.
    #[error("the agent cannot start: {0}")]
    Io(#[from] io::Error),
    /// The control plane wants no link of it, now or later.
    #[error("the control plane refused this agent for good: {0}")]
    Refused(shared::link::Failure),
}

/// Runs until told to end (by the control plane or SIGTERM), refused, or out of patience.
pub async fn run(settings: Settings) -> Result<(), AgentError> {
    // Of a session of its own: what ends the control plane's terminal must not end this.
    let _ = rustix::process::setsid();
    // Other processes of the same user read neither its memory nor its environment.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let volume = Volume::take(&settings.state)?;
    std::fs::create_dir_all(&settings.workspace).map_err(AgentError::Workspace)?;
    check_shown(&settings.workspace, settings.shown())?;
    let environment = Environment::new(&settings);
    let sync = Sync::start(SyncSettings {
        workspace: settings.workspace.clone(),
        state: settings.state.clone(),
        volume: volume.id,
        sweep: Duration::from_secs(settings.sweep),
    })?;
    let keeping = Keeping {
        history_bytes: settings.history_kib as usize * 1024,
        scrollback: settings.scrollback as usize,
    };
    let terminals = Terminals::new(environment.clone(), keeping, sync.visible());
    let events = Events::default();
    let _watching = Watching::own(&terminals, &events);
    let parts = Parts {
        instance: InstanceId::random(),
        volume: volume.id,
        terminals,
        environment,
        sync,
        events,
        pass: Pass::default(),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let ending = CancellationToken::new();
    let told = ending.clone();
    let _telling = AbortOnDropHandle::new(tokio::spawn(async move {
        terminate.recv().await;
        tracing::info!("told to end");
        told.cancel();
    }));
    match links(&settings, &parts, &ending).await {
        // The link is still up, so the last state goes out by it.
        Ok(Some((up, grace))) => {
            let complete = up.meanwhile(&parts.terminals, last_state(&parts, grace)).await;
            up.stopped(complete).await;
            Ok(())
        }
        Ok(None) => {
            last_state(&parts, LAST_STATE).await;
            Ok(())
        }
        Err(why) => {
            last_state(&parts, LAST_STATE).await;
            Err(why)
        }
    }
}

/// Makes sure that both names mean one folder.
fn check_shown(workspace: &Path, shown: &Path) -> Result<(), AgentError> {
    let one = || -> io::Result<bool> {
        let (kept, seen) = (std::fs::metadata(workspace)?, std::fs::metadata(shown)?);
        Ok((kept.dev(), kept.ino()) == (seen.dev(), seen.ino()))
    };
    let why = match one() {
        Ok(true) => return Ok(()),
        Ok(false) => "that is another folder".to_owned(),
        Err(why) => why.to_string(),
    };
    Err(AgentError::Shown { shown: shown.to_owned(), workspace: workspace.to_owned(), why })
}

/// Closes the shells first: what they still write belongs to the last state. Answers whether all of it is saved.
async fn last_state(parts: &Parts, grace: Duration) -> bool {
    let deadline = Instant::now() + grace;
    parts.terminals.close_all().await;
    // Commands are what is left of this process' children; they end with it.
    if let Ok(me) = i32::try_from(std::process::id()) {
        processes::end(Family::of_job(me, false, ""), false).await;
    }
    parts.sync.end(deadline.saturating_duration_since(Instant::now())).await
}

/// Links again and again. Returns when the agent is to end: with the link and the time left for it, if one is up.
async fn links(
    settings: &Settings,
    parts: &Parts,
    ending: &CancellationToken,
) -> Result<Option<(Box<Up>, Duration)>, AgentError> {
    let mut pause = FIRST_PAUSE;
    let mut alone_since = Instant::now();
    loop {
        let give_up_at = alone_since + settings.patience();
        let attempted = Instant::now();
        let mut linked = false;
        let ended = match dial_with(settings) {
            Ok((address, credential)) => {
                let credential = parts.pass.get().unwrap_or(credential);
                let attempt = link::run(parts, address, &credential, ending, || linked = true);
                attempt.await
            }
            Err(why) => Ended::Lost(format!("it is not known where to dial: {why}")),
        };
        match ended {
            Ended::Lost(why) if linked => {
                tracing::info!(why, "the link is lost");
                alone_since = Instant::now();
                if attempted.elapsed() >= GOOD_LINK {
                    pause = FIRST_PAUSE;
                }
            }
            Ended::Lost(why) => tracing::debug!(why, "no link"),
            Ended::Refused(failure) => return Err(AgentError::Refused(failure)),
            Ended::Stop(up, grace) => {
                tracing::info!(?grace, "the control plane ends this session");
                return Ok(Some((up, grace)));
            }
        }
        if Instant::now() >= give_up_at && !linked {
            tracing::warn!(
                "no control plane for {:?}: this agent writes its last state and ends",
                settings.patience()
            );
            return Ok(None);
        }
        if ending.is_cancelled() {
            return Ok(None);
        }
        // Full jitter: a thousand agents whose control plane restarted must not come all at once.
        let longest = if is_local(settings) { SECOND_PAUSE } else { LONGEST_PAUSE };
        let jitter = rand::rng().random_range(Duration::ZERO..pause.min(longest));
        pause = (pause * 2).max(SECOND_PAUSE).min(longest);
        tokio::select! {
            () = sleep(jitter) => {}
            () = sleep_until(give_up_at) => {}
            () = ending.cancelled() => {}
        }
    }
}

/// Whether the control plane is on this machine, where asking often costs nobody anything.
fn is_local(settings: &Settings) -> bool {
    settings.control_plane_file.is_some()
}

/// Where to dial and with what, as it stands now.
fn dial_with(settings: &Settings) -> io::Result<(SocketAddr, String)> {
    let address = match (&settings.control_plane, &settings.control_plane_file) {
        (Some(address), _) => *address,
        (None, Some(file)) => address(std::fs::read_to_string(file)?.trim()).map_err(io::Error::other)?,
        (None, None) => return Err(io::Error::other("neither an address nor a file with one is set")),
    };
    let credential = std::fs::read_to_string(&settings.credential_file)?.trim().to_owned();
    Ok((address, credential))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_shown_the_folder_that_is_kept_in_step_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let [app, other, link] = ["app", "other", "link"].map(|name| folder.path().join(name));
        std::fs::create_dir(&app).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&app, &link).unwrap();
        check_shown(&app, &app).unwrap();
        check_shown(&app, &link).unwrap();
        let why = check_shown(&app, &other).unwrap_err().to_string();
        assert!(why.contains("another folder"), "{why}");
        assert!(
            check_shown(&app, &folder.path().join("none")).unwrap_err().to_string().contains("No such file")
        );
    }
}
