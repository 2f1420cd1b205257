//! The workspace, in step with the database. (Being written: the interface stands, the engine follows within minutes.)

use shared::id::{Revision, VolumeId};
use shared::link::hello::Accepted;
use shared::link::mux::LinkStream;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Where things are.
#[derive(Clone, Debug)]
pub struct SyncSettings {
    /// The folder that is kept in step.
    pub workspace: PathBuf,
    /// The agent's own folder, on the same mount.
    pub state: PathBuf,
    /// Which volume that is.
    pub volume: VolumeId,
}

/// The engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sync {
    visible: watch::Receiver<Revision>,
    _visible: Arc<watch::Sender<Revision>>,
}

impl Sync {
    /// Starts.
    pub fn start(_settings: SyncSettings) -> io::Result<Sync> {
        let (tx, visible) = watch::channel(Revision::ZERO);
        Ok(Self { visible, _visible: Arc::new(tx) })
    }

    /// The revision that the workspace shows.
    pub fn visible(&self) -> watch::Receiver<Revision> {
        self.visible.clone()
    }

    /// Runs one link's sync stream.
    pub async fn serve(&self, _stream: LinkStream, _accepted: &Accepted) {}

    /// Writes the last state; whether all reached the database.
    pub async fn end(&self, _grace: Duration) -> bool {
        false
    }
}
