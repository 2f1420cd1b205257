//! A run of the agent: alone on its volume, link after link, until it is told to end or gives up.

use crate::environment::Environment;
use crate::link::{self, Ended};
use crate::settings::Settings;
use crate::sync::{Sync, SyncSettings};
use crate::terminal::{Keeping, Terminals};
use crate::volume::{Volume, VolumeError};
use rand::Rng;
use shared::id::{InstanceId, VolumeId};
use std::io;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

/// The first pause between two attempts to link, at most; each next one is at most twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A link that stood this long was a good one: the pauses begin anew.
const GOOD_LINK: Duration = Duration::from_secs(5);
/// How long the last state may take to be written when nobody said how long.
const LAST_STATE: Duration = Duration::from_secs(20);

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
    let environment = Environment::new(&settings);
    let sync = Sync::start(SyncSettings {
        workspace: settings.workspace.clone(),
        state: settings.state.clone(),
        volume: volume.id,
    })?;
    let keeping = Keeping {
        history_bytes: settings.history_kib as usize * 1024,
        scrollback: settings.scrollback as usize,
    };
    let terminals = Terminals::new(environment.clone(), keeping, sync.visible());
    let parts = Parts { instance: InstanceId::random(), volume: volume.id, terminals, environment, sync };
    let mut terminate = signal(SignalKind::terminate())?;
    let outcome = tokio::select! {
        outcome = links(&settings, &parts) => outcome,
        _ = terminate.recv() => {
            tracing::info!("told to end");
            Ok(())
        }
    };
    // Shells first: what they still write belongs to the last state.
    parts.terminals.close_all().await;
    parts.sync.end(LAST_STATE).await;
    outcome
}

/// Links again and again. Returns when the agent is to end.
async fn links(settings: &Settings, parts: &Parts) -> Result<(), AgentError> {
    let mut pause = FIRST_PAUSE;
    let mut alone_since = Instant::now();
    loop {
        let give_up_at = alone_since + settings.patience();
        let attempted = Instant::now();
        let mut linked = false;
        let ended = match dial_with(settings) {
            Ok((address, credential)) => {
                let attempt = link::run(parts, &address, &credential, || linked = true);
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
                parts.terminals.close_all().await;
                let complete = parts.sync.end(grace).await;
                up.stopped(complete).await;
                return Ok(());
            }
        }
        if Instant::now() >= give_up_at && !linked {
            tracing::warn!(
                "no control plane for {:?}: this agent writes its last state and ends",
                settings.patience()
            );
            return Ok(());
        }
        // Full jitter: a thousand agents whose control plane restarted must not come all at once.
        let jitter = rand::rng().random_range(Duration::ZERO..pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
        tokio::select! {
            () = sleep(jitter) => {}
            () = sleep_until(give_up_at) => {}
        }
    }
}

/// Where to dial and with what, as it stands now.
fn dial_with(settings: &Settings) -> io::Result<(String, String)> {
    let address = match (&settings.control_plane, &settings.control_plane_file) {
        (Some(address), _) => address.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)?.trim().to_owned(),
        (None, None) => return Err(io::Error::other("neither an address nor a file with one is set")),
    };
    let credential = std::fs::read_to_string(&settings.credential_file)?.trim().to_owned();
    Ok((address, credential))
}
