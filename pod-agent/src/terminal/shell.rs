//! One terminal: its output, screen and viewers under one lock, and the two tasks that feed them.
//!
//! The lock is what makes attaching atomic with the output: a viewer gets a state, and then exactly what follows.

use super::Keeping;
use super::answers::{self, Kind};
use super::history::History;
use super::pty::Pty;
use super::screen::Screen;
use super::viewers::{Gap, Viewers};
use crate::environment::Environment;
use crate::processes::{self, Family};
use bytes::{Buf, Bytes};
use shared::id::{Epoch, InputSeq, Offset, Revision, TerminalId, ViewerId};
use shared::limits::{AFTER_REV_WAIT, INPUT_WINDOW_BYTES, LEAST_ROOM, TERMINAL_CHUNK_BYTES, VIEWER_GRACE};
use shared::link::Failure;
use shared::link::terminal::{Create, Exit, Size, Summary};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How long output is still read after the shell ended: a background job may hold the terminal for ever.
const DRAIN: Duration = Duration::from_millis(250);
/// Chunks of output read at most when that time is over: more than a terminal holds, and an end to a flood.
const LAST_READS: usize = 4;
/// Bytes of input, of all viewers, that wait for the shell to take them; then viewers' streams stall.
const INPUT_WAITING: usize = 4 * INPUT_WINDOW_BYTES as usize;
/// How long closing waits for the terminal's tasks after its processes are gone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Notices that wait for viewers; more are dropped, the oldest first.
const NOTICES: usize = 16;

/// A terminal and its shell.
pub struct Shell {
    id: TerminalId,
    epoch: Epoch,
    name: String,
    leader: i32,
    state: Mutex<State>,
    pty: Mutex<Option<Arc<Pty>>>,
    typed: mpsc::UnboundedSender<Typed>,
    typing: Arc<Semaphore>,
    /// Counts changes that viewers' streams may have to tell.
    news: watch::Sender<u64>,
    /// Told when the PTY may be read again.
    room: Notify,
    over: CancellationToken,
    tasks: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What a terminal's lock guards.
pub(super) struct State {
    pub(super) history: History,
    pub(super) screen: Screen,
    pub(super) viewers: Viewers,
    pub(super) size: Size,
    /// Where output stood at the last resize: a replay across it would paint for the wrong size.
    pub(super) resized_at: Offset,
    pub(super) exit: Option<Exit>,
    pub(super) notices: VecDeque<(ViewerId, Failure)>,
    /// Whether the PTY is not read because nobody has room.
    held: bool,
}

struct Typed {
    viewer: ViewerId,
    /// What the shell is given.
    data: Bytes,
    /// Bytes of the viewer's input that count as given without being so.
    dropped: usize,
    after_rev: Option<Revision>,
    arrived: Instant,
    _place: OwnedSemaphorePermit,
}

/// Why input was not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// Another stream of the viewer is the current one.
    Superseded,
    /// Bytes are missing before it.
    Gap(Gap),
    /// The viewer may only look.
    ReadOnly,
}

impl Shell {
    /// Starts a shell in a terminal of its own.
    pub(super) fn start(
        create: Create,
        environment: &Environment,
        keeping: Keeping,
        visible: watch::Receiver<Revision>,
        changed: &Arc<Notify>,
    ) -> Result<Arc<Self>, Failure> {
        let id = TerminalId::random();
        let (pty, name) = Pty::spawn(id, &create, environment)?;
        let leader = pty.leader();
        let pty = Arc::new(pty);
        let (typed, to_type) = mpsc::unbounded_channel();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let shell = Arc::new(Self {
            id,
            epoch: Epoch(u64::try_from(since_1970.as_millis()).unwrap_or_default()),
            name,
            leader,
            state: Mutex::new(State {
                history: History::new(keeping.history_bytes),
                screen: Screen::new(create.size, keeping.scrollback),
                viewers: Viewers::default(),
                size: create.size,
                resized_at: Offset(0),
                exit: None,
                notices: VecDeque::new(),
                held: false,
            }),
            pty: Mutex::new(Some(Arc::clone(&pty))),
            typed,
            typing: Arc::new(Semaphore::new(INPUT_WAITING)),
            news: watch::Sender::new(0),
            room: Notify::new(),
            over: CancellationToken::new(),
            tasks: Mutex::new(None),
        });
        let (running, changed) = (Arc::clone(&shell), Arc::clone(changed));
        let task = tokio::spawn(async move {
            let exit = {
                let mut typing = pin!(running.type_in(&pty, to_type, visible));
                let mut reading = pin!(running.read(&pty));
                loop {
                    tokio::select! {
                        exit = &mut reading => break exit,
                        () = &mut typing => {}
                    }
                }
            };
            // The last of the descriptor: whoever still holds the terminal is hung up.
            drop(pty);
            running.pty.lock().unwrap_or_else(PoisonError::into_inner).take();
            running.state().exit = Some(exit);
            running.tell();
            changed.notify_one();
        });
        *shell.tasks.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(task));
        Ok(shell)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which terminal this is.
    pub fn id(&self) -> TerminalId {
        self.id
    }

    /// The process id of its shell, and so of the session of what runs in it.
    pub fn leader(&self) -> i32 {
        self.leader
    }

    /// The epoch of its offsets.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What a list shows of it.
    pub fn summary(&self) -> Summary {
        let state = self.state();
        let title = Some(state.screen.title()).filter(|t| !t.is_empty()).unwrap_or(&self.name).to_owned();
        Summary { terminal: self.id, size: state.size, title, exit: state.exit.clone() }
    }

    /// Resolves when the terminal is closed.
    pub(super) async fn closed(&self) {
        self.over.cancelled().await;
    }

    /// Yields when there may be something to tell viewers.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn tell(&self) {
        self.news.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Ends it and all it started.
    pub async fn close(&self) {
        let ended = self.state().exit.is_some();
        processes::end(Family::of_job(self.leader, ended, &self.id.to_string()), true).await;
        self.over.cancel();
        let task = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, task).await;
        }
    }

    /// Forgets a terminal whose shell ended.
    pub(super) fn retire(&self) {
        self.over.cancel();
    }

    /// Settles what a viewer's coming, going or turning changed: the size, the pace, what others are told.
    pub(super) fn viewers_changed(&self, state: &mut State) {
        self.settle(state);
        self.room.notify_one();
        self.tell();
    }

    fn settle(&self, state: &mut State) {
        if let Some(size) = state.viewers.size()
            && size != state.size
        {
            state.size = size;
            state.resized_at = state.history.end();
            state.screen.resize(size);
            if let Some(pty) = &*self.pty.lock().unwrap_or_else(PoisonError::into_inner) {
                pty.resize(size);
            }
            self.tell();
        }
    }

    /// Output was parsed by a viewer, or taken by the socket of one that doesn't say.
    pub(super) fn parsed(&self, viewer: &ViewerId, stream: u64, up_to: Option<Offset>) {
        let mut state = self.state();
        let Some(viewer) = state.viewers.get(viewer, stream) else { return };
        let sent = viewer.sent;
        match up_to {
            Some(offset) => {
                viewer.acks = true;
                viewer.acked = viewer.acked.max(offset.min(viewer.sent));
            }
            None if !viewer.acks => viewer.acked = viewer.sent,
            None => return,
        }
        // Only those are woken who wait for just this.
        let waits = sent < state.history.end() && up_to.is_some();
        let held = state.held;
        drop(state);
        if held {
            self.room.notify_one();
        }
        if waits {
            self.tell();
        }
    }

    /// Takes input from a viewer, at most a chunk. Waits while too much waits for the shell already.
    pub(super) async fn input(
        &self,
        viewer: &ViewerId,
        stream: u64,
        seq: InputSeq,
        after_rev: Option<Revision>,
        data: Bytes,
    ) -> Result<(), NotTaken> {
        let bytes = u32::try_from(data.len().min(INPUT_WAITING)).unwrap_or(u32::MAX);
        // First the place, then the taking, without a pause between: a viewer that goes meanwhile loses nothing.
        let Ok(place) = Arc::clone(&self.typing).acquire_many_owned(bytes).await else { return Ok(()) };
        let mut state = self.state();
        let from = state.viewers.get(viewer, stream).ok_or(NotTaken::Superseded)?;
        if !from.writable {
            return Err(NotTaken::ReadOnly);
        }
        let new = from.take(seq, &data).map_err(NotTaken::Gap)?;
        let mut data = data.slice_ref(new);
        if data.is_empty() {
            return Ok(());
        }
        let arrived = Instant::now();
        let kind = match answers::kind(&data) {
            Kind::CursorOrKey if state.screen.cursor_was_asked_for(arrived) => Kind::Answers,
            Kind::CursorOrKey => Kind::Typed,
            kind => kind,
        };
        if kind == Kind::Typed {
            state.viewers.typed(viewer);
        }
        // One question gets one answer, however many look on.
        let mut dropped = 0;
        if kind == Kind::Answers && !state.viewers.controls(viewer) {
            dropped = data.len();
            data.clear();
        }
        // Fails only once the terminal is over, when there is nobody to type to.
        let typed = Typed { viewer: viewer.clone(), data, dropped, after_rev, arrived, _place: place };
        let _ = self.typed.send(typed);
        Ok(())
    }

    /// Feeds history, screen and viewers until the shell ended. Answers how.
    async fn read(&self, pty: &Pty) -> Exit {
        let mut buffer = vec![0; TERMINAL_CHUNK_BYTES];
        let mut exit = pin!(pty.wait());
        let mut ended: Option<Exit> = None;
        let mut at_end = false;
        let mut deadline = Instant::now();
        loop {
            let (allowed, expiry) = self.allowed(ended.is_some());
            tokio::select! {
                biased;
                how = &mut exit, if ended.is_none() => {
                    ended = Some(how);
                    deadline = Instant::now() + DRAIN;
                }
                () = tokio::time::sleep_until(deadline.into()), if ended.is_some() => {
                    // Late on a busy machine, or held up by a background job: what is there now is the last.
                    for _ in 0..LAST_READS {
                        match pty.read_now(&mut buffer) {
                            Ok(n @ 1..) => self.output(&buffer[..n]),
                            _ => break,
                        }
                    }
                    at_end = true;
                }
                read = pty.read(&mut buffer[..allowed.max(1)]), if allowed > 0 && !at_end => match read {
                    Ok(0) | Err(_) => at_end = true,
                    Ok(n) => {
                        self.output(&buffer[..n]);
                        // A flood is always readable. Whoever waits on this thread, such as the viewer just told and
                        // another terminal's key, comes before its next chunk.
                        tokio::task::yield_now().await;
                    }
                },
                () = self.room.notified() => {}
                () = tokio::time::sleep_until(expiry.unwrap_or(deadline).into()), if expiry.is_some() => {}
            }
            if at_end && let Some(exit) = ended.take() {
                return exit;
            }
        }
    }

    /// How many bytes may be read now, and when that changes by itself.
    fn allowed(&self, ended: bool) -> (usize, Option<Instant>) {
        let mut state = self.state();
        let expired = state.viewers.expire(Instant::now(), VIEWER_GRACE);
        if expired.any {
            self.settle(&mut state);
        }
        let end = state.history.end().0;
        let limit = state.viewers.read_limit(state.history.capacity());
        let allowed = match limit {
            // What the kernel still holds of an ended shell's output is little, and lost if not read now.
            Some(limit) if !ended => limit.0.saturating_sub(end),
            _ => u64::MAX,
        };
        // Room for little is no room yet: read as it comes, each acknowledgement would make a frame of its own.
        let allowed = if allowed < LEAST_ROOM { 0 } else { allowed };
        state.held = allowed == 0;
        (usize::try_from(allowed).unwrap_or(usize::MAX).min(TERMINAL_CHUNK_BYTES), expired.next)
    }

    fn output(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.history.push(bytes);
        state.screen.push(bytes);
        drop(state);
        self.tell();
    }

    /// Says something of the agent's own, on a line of its own amid the output, where every viewer sees it.
    pub fn say(&self, message: &str) {
        let message: String = message.chars().filter(|c| !c.is_control()).collect();
        if self.state().exit.is_none() {
            self.output(format!("\r\n\x1b[m[Berth: {message}]\r\n").as_bytes());
        }
    }

    /// Gives the shell what viewers typed, in the order it came.
    async fn type_in(
        &self,
        pty: &Pty,
        mut typed: mpsc::UnboundedReceiver<Typed>,
        mut visible: watch::Receiver<Revision>,
    ) {
        while let Some(mut input) = typed.recv().await {
            if let Some(rev) = input.after_rev {
                let patience = (input.arrived + AFTER_REV_WAIT).saturating_duration_since(Instant::now());
                let waited = tokio::time::timeout(patience, visible.wait_for(|v| *v >= rev)).await;
                if waited.is_err() {
                    let message =
                        format!("typed before revision {rev} was in the workspace: it did not arrive in 2 s");
                    self.notice(input.viewer.clone(), Failure::new("revision_not_visible", message));
                }
            }
            self.given(&input.viewer, input.dropped);
            while !input.data.is_empty() {
                let Ok(written) = pty.write(&input.data).await else { break };
                input.data.advance(written);
                self.given(&input.viewer, written);
            }
        }
        // Never: the sender lives as long as `self`.
        std::future::pending::<()>().await;
    }

    /// So many more bytes of a viewer's input are done with.
    fn given(&self, viewer: &ViewerId, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = self.state();
        if let Some(viewer) = state.viewers.any(viewer) {
            viewer.given = viewer.given.plus(bytes);
        }
        drop(state);
        self.tell();
    }

    fn notice(&self, viewer: ViewerId, failure: Failure) {
        let mut state = self.state();
        state.notices.push_back((viewer, failure));
        if state.notices.len() > NOTICES {
            state.notices.pop_front();
        }
        drop(state);
        self.tell();
    }
}
