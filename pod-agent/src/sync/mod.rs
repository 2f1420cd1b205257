//! The workspace, in step with the database.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`engine`] | decides: marks → looks → batches; batches → the workspace. No I/O |
//! | [`base`] | what both sides agreed on |
//! | [`disk`] | what the engine needs of a file system |
//! | [`local`] | a real folder: [`root`] opens beneath it, [`watch`] marks, [`scan`] looks, [`apply`] renames into it |
//! | [`stage`] | what waits to be renamed |
//! | [`thread`] | the thread that the engine runs on |
//!
//! What is to be done is computed afresh from the three trees by [`shared::plan`]; nothing here is a log of intentions.
//! So a crash anywhere is finished by looking again.

mod apply;
mod base;
pub mod disk;
pub mod engine;
mod local;
mod root;
mod scan;
mod stage;
#[cfg(test)]
mod tests;
mod thread;
mod watch;

use engine::Engine;
use local::LocalDisk;
use shared::id::{LinkEpoch, Revision, VolumeId};
use shared::limits::SyncLimits;
use shared::link::hello::Accepted;
use shared::link::sync::{Assembled, Assembly, FromAgent, FromControlPlane};
use shared::link::{Open, frame};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use thread::{Heard, Input, Thread};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot, watch as channel};

/// Messages for the control plane that wait to be written; a batch is cut into at most as many at once.
const OUT_WAITING: usize = 64;
/// Messages from the control plane that the engine hasn't looked at; a batch counts as one.
const IN_WAITING: usize = 4;
/// How long the control plane may take nothing of a message before the stream counts as dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Where things are.
#[derive(Clone, Debug)]
pub struct SyncSettings {
    /// The folder that is kept in step.
    pub workspace: PathBuf,
    /// The agent's own folder, on the same mount.
    pub state: PathBuf,
    /// Which volume that is.
    pub volume: VolumeId,
    /// How often everything is looked at, for what raises no event.
    pub sweep: Duration,
}

/// The engine's handle. Cheap to clone; the engine ends with [`Sync::end`] or when the last handle is gone.
#[derive(Clone, Debug)]
pub struct Sync {
    inputs: Sender<Input>,
    visible: channel::Receiver<Revision>,
    _alive: Arc<Alive>,
}

#[derive(Debug)]
struct Alive(Sender<Input>);

impl Drop for Alive {
    fn drop(&mut self) {
        let _ = self.0.send(Input::Gone);
    }
}

impl Sync {
    /// Opens the workspace and the base, and starts the engine: a thread of its own, since it reads and hashes files.
    pub fn start(settings: SyncSettings) -> io::Result<Sync> {
        let (inputs, received) = std::sync::mpsc::channel();
        let (told, visible) = channel::channel(Revision::ZERO);
        let woken = Arc::new(AtomicBool::new(false));
        let (flag, wake) = (Arc::clone(&woken), inputs.clone());
        let disk = LocalDisk::open(&settings, move || {
            // One wake-up for many marks.
            if !flag.swap(true, Ordering::AcqRel) {
                let _ = wake.send(Input::Wake);
            }
        })?;
        let run = move || {
            let mut engine = Engine::start(disk, settings.volume, Instant::now());
            engine.sweep_every(settings.sweep);
            let (link, settling) = (None, BTreeMap::new());
            Thread { engine, woken, visible: told, link, settling, asked: 0 }.run(&received);
        };
        std::thread::Builder::new().name("sync".to_owned()).spawn(run)?;
        Ok(Self { _alive: Arc::new(Alive(inputs.clone())), inputs, visible })
    }

    /// The revision that the workspace shows.
    pub fn visible(&self) -> channel::Receiver<Revision> {
        self.visible.clone()
    }

    /// Serves one link's sync stream, freshly opened, until it ends.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        accepted: &Accepted,
    ) {
        let ended = self.stream(stream, accepted).await;
        tracing::debug!(why = ended.err().unwrap_or_default(), "the stream for files ended");
    }

    async fn stream<S>(&self, stream: S, accepted: &Accepted) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Accepted { session, epoch, limits, .. } = *accepted;
        let (mut from, mut to) = tokio::io::split(stream);
        let (out, mut to_write) = mpsc::channel::<FromAgent>(OUT_WAITING);
        let (answer, hello) = oneshot::channel();
        let linked = Input::Linked { session, epoch, limits, out, hello: answer };
        self.inputs.send(linked).map_err(|_| "the engine is gone".to_owned())?;
        let hello = hello.await.map_err(|_| "the engine is gone".to_owned())?;
        frame::write(&mut to, &Open::Sync(hello)).await.map_err(|why| why.to_string())?;
        let writing = async {
            while let Some(message) = to_write.recv().await {
                match tokio::time::timeout(SEND_TIMEOUT, frame::write(&mut to, &message)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => return Err(why.to_string()),
                    Err(_) => return Err("the control plane took nothing for too long".to_owned()),
                }
            }
            // The engine lets go of a link to begin it anew.
            let _ = to.shutdown().await;
            Ok(())
        };
        let reading = self.read(&mut from, epoch, limits);
        let ended = tokio::select! { ended = writing => ended, ended = reading => ended };
        let _ = self.inputs.send(Input::Unlinked(epoch));
        ended
    }

    async fn read(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        epoch: LinkEpoch,
        limits: SyncLimits,
    ) -> Result<(), String> {
        let places = Arc::new(Semaphore::new(IN_WAITING));
        let limits = engine::of_control_plane(limits);
        let mut assembly = Assembly::default();
        loop {
            let message = frame::read::<_, FromControlPlane>(from).await.map_err(|why| why.to_string())?;
            let Some(message) = message else { return Ok(()) };
            let heard = match message {
                FromControlPlane::Batch(part) => {
                    match assembly.take(part, &limits).map_err(|why| why.to_string())? {
                        None => continue,
                        Some(Assembled::Whole(whole)) => Heard::Batch(whole),
                        Some(Assembled::TooLarge(_)) => {
                            return Err("a batch is longer than any may be".to_owned());
                        }
                    }
                }
                other => Heard::Word(other),
            };
            // Given back when the engine has dealt with it: the control plane can't fill the agent's memory.
            let place = Arc::clone(&places).acquire_owned().await.map_err(|why| why.to_string())?;
            self.inputs
                .send(Input::Heard(epoch, heard, place))
                .map_err(|_| "the engine is gone".to_owned())?;
        }
    }

    /// Resolves when everything written to the workspace before this call is committed; false if it isn't in time,
    /// or there is no link.
    pub async fn settle(&self, within: Duration) -> bool {
        let (answer, settled) = oneshot::channel();
        let sent = self.inputs.send(Input::Settle(answer)).is_ok();
        sent && matches!(tokio::time::timeout(within, settled).await, Ok(Ok(())))
    }

    /// Writes the last state and ends the engine. Answers whether all files reached the database.
    pub async fn end(&self, grace: Duration) -> bool {
        let complete = self.settle(grace).await;
        let (answer, ended) = oneshot::channel();
        let sent = self.inputs.send(Input::End(answer)).is_ok();
        // Writing the base takes a moment; without it the next start takes one more.
        let saved = sent && matches!(tokio::time::timeout(Duration::from_secs(5), ended).await, Ok(Ok(())));
        complete && saved
    }
}
