//! The thread that an engine runs on: it reads and hashes files, and so must not hold up the link and the terminals.

use super::disk::Disk;
use super::engine::Engine;
use shared::id::{LinkEpoch, Revision, SessionId};
use shared::limits::SyncLimits;
use shared::link::sync::{FromAgent, FromControlPlane, Hello, Whole};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// What the thread hears.
#[derive(Debug)]
pub(super) enum Input {
    /// Marks were set.
    Wake,
    /// A link's sync stream is to begin.
    Linked {
        session: SessionId,
        epoch: LinkEpoch,
        limits: SyncLimits,
        out: mpsc::Sender<FromAgent>,
        hello: oneshot::Sender<Hello>,
    },
    /// It ended.
    Unlinked(LinkEpoch),
    /// The control plane was heard; with its place in the queue, free once it is dealt with.
    Heard(LinkEpoch, Heard, OwnedSemaphorePermit),
    /// Answer when everything written before now is committed; drop the answer if that cannot be.
    Settle(oneshot::Sender<()>),
    /// Write the base, answer, end.
    End(oneshot::Sender<()>),
    /// Nobody is left to ask anything.
    Gone,
}

/// What the control plane said.
#[derive(Debug)]
pub(super) enum Heard {
    Batch(Whole),
    Word(FromControlPlane),
}

/// An engine, and those who wait for it.
pub(super) struct Thread<D> {
    pub(super) engine: Engine<D>,
    /// Set when a wake-up is on its way: one is enough for many marks.
    pub(super) woken: Arc<AtomicBool>,
    pub(super) visible: watch::Sender<Revision>,
    pub(super) link: Option<(LinkEpoch, mpsc::Sender<FromAgent>)>,
    pub(super) settling: BTreeMap<u64, oneshot::Sender<()>>,
    pub(super) asked: u64,
}

impl<D: Disk> Thread<D> {
    /// Runs until told to end.
    pub(super) fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            let timeout = self.engine.next().saturating_duration_since(Instant::now());
            let input = match inputs.recv_timeout(timeout) {
                Ok(Input::Gone) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(Input::End(answer)) => {
                    self.engine.save(Instant::now());
                    let _ = answer.send(());
                    return;
                }
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
            };
            let _place = input.and_then(|input| self.hear(input));
            self.woken.store(false, Ordering::Release);
            self.engine.tick(Instant::now());
            self.tell();
        }
        self.engine.save(Instant::now());
    }

    /// Answers the input's place in the queue, to be given back when all is done that came of it.
    fn hear(&mut self, input: Input) -> Option<OwnedSemaphorePermit> {
        let now = Instant::now();
        match input {
            Input::Linked { session, epoch, limits, out, hello } => {
                self.engine.serves(session);
                let _ = hello.send(self.engine.link_up(epoch, limits, now));
                self.link = Some((epoch, out));
            }
            Input::Unlinked(epoch) => self.engine.link_down(epoch, now),
            Input::Heard(epoch, heard, place) => {
                match heard {
                    Heard::Batch(whole) => self.engine.hear_batch(epoch, &whole, now),
                    Heard::Word(said) => self.engine.hear(epoch, said, now),
                }
                return Some(place);
            }
            Input::Settle(answer) => {
                self.asked += 1;
                if self.engine.settle(self.asked, now) {
                    self.settling.insert(self.asked, answer);
                }
            }
            Input::Wake | Input::End(_) | Input::Gone => {}
        }
        None
    }

    /// Passes on what the engine has to say.
    fn tell(&mut self) {
        let shown = self.engine.visible();
        self.visible.send_if_modified(|visible| std::mem::replace(visible, shown) != shown);
        for token in self.engine.take_settled() {
            if let Some(answer) = self.settling.remove(&token) {
                // Whoever asked may have given up.
                let _ = answer.send(());
            }
        }
        self.settling.retain(|token, _| self.engine.is_asked(*token));
        let said = self.engine.take_outbox();
        if let Some((epoch, out)) = &self.link {
            for message in said {
                // A link that takes none is gone, which it will say itself.
                let _ = out.blocking_send(message);
            }
            if !self.engine.is_linked(*epoch) {
                self.link = None;
            }
        }
    }
}
