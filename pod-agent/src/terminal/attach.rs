//! One viewer's stream: what it says is taken, what it must know is told, each at its own pace.

use super::shell::{NotTaken, Shell, State};
use bytes::Bytes;
use shared::id::{InputSeq, ViewerId};
use shared::limits::{LEAST_ROOM, TERMINAL_CHUNK_BYTES, TERMINAL_SIDE};
use shared::link::Failure;
use shared::link::frame::{self, FrameError};
use shared::link::terminal::{Attach, FromViewer, Size, ToViewer};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

/// How long a last word may take to leave.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(5);

/// How a viewer's side of the stream ended.
enum Left {
    /// With a goodbye.
    Goodbye,
    /// Cut off; it may come back.
    Vanished,
    /// It is attached again by another stream.
    Superseded,
    /// It broke the rules, and is told how.
    Expelled(Failure),
}

/// What was told already, and so need not be again.
struct Told {
    given: InputSeq,
    size: Size,
    exit: bool,
    reveals: u64,
}

/// A viewer's presence. Dropped without a goodbye, as when a link is lost in the middle of anything, it keeps the
/// viewer's place for a while.
struct Presence<'a> {
    shell: &'a Shell,
    viewer: ViewerId,
    number: u64,
    goodbye: bool,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        let mut state = self.shell.state();
        state.viewers.detach(&self.viewer, self.number, self.goodbye, Instant::now());
        self.shell.viewers_changed(&mut state);
    }
}

/// Serves one viewer until it goes or the terminal does.
pub async fn serve<S>(shell: Arc<Shell>, attach: Attach, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shell = &*shell;
    let (mut from_viewer, mut to_viewer) = tokio::io::split(stream);
    let viewer = attach.viewer.clone();
    let (number, first, mut told) = enter(shell, attach);
    let mut presence = Presence { shell, viewer: viewer.clone(), number, goodbye: false };
    let (expel, expelled) = watch::channel(None);
    // Runs to an end of its own wherever somebody may still read: dropped in the middle of a message, it would
    // leave half of one before the last word.
    let mut telling = pin!(async {
        for message in first {
            frame::write(&mut to_viewer, &message).await?;
        }
        let last_word = tell(shell, &viewer, number, &mut told, expelled, &mut to_viewer).await?;
        frame::write(&mut to_viewer, &ToViewer::Notice(last_word)).await?;
        to_viewer.shutdown().await.map_err(FrameError::from)
    });
    let last_word = tokio::select! {
        left = listen(shell, &viewer, number, &mut from_viewer) => match left {
            Left::Goodbye => {
                presence.goodbye = true;
                return;
            }
            Left::Vanished => return,
            // The other way finds out, too, and says so.
            Left::Superseded => None,
            Left::Expelled(failure) => Some(failure),
        },
        _ = &mut telling => return,
        () = shell.closed() => Some(Failure::new("terminal_gone", "this terminal was closed")),
    };
    presence.goodbye = last_word.is_some();
    drop(presence);
    if last_word.is_some() {
        expel.send_replace(last_word);
    }
    let _ = tokio::time::timeout(LAST_WORD_TIMEOUT, telling).await;
}

/// Enters a viewer, and decides under the same lock what it is told first.
fn enter(shell: &Shell, attach: Attach) -> (u64, Vec<ToViewer>, Told) {
    let mut state = shell.state();
    let size = Size { cols: clamp(attach.size.cols), rows: clamp(attach.size.rows) };
    let end = state.history.end();
    let resume = attach.resume.filter(|r| r.epoch == shell.epoch()).map(|r| r.from);
    let at = resume.unwrap_or(end).min(end);
    let (number, given) = state.viewers.attach(attach.viewer.clone(), size, attach.writable, attach.acks, at);
    // May resize, and so rule out the replay.
    shell.viewers_changed(&mut state);
    let replays =
        resume.is_some_and(|from| from >= state.history.start() && from <= end && from >= state.resized_at);
    let mut first =
        vec![ToViewer::Hello { terminal: shell.id(), epoch: shell.epoch(), input_seq: given, end }];
    if !replays {
        if let Some(viewer) = state.viewers.get(&attach.viewer, number) {
            viewer.sent = end;
            viewer.acked = end;
        }
        first.extend(snapshot(&mut state));
    }
    let told = Told { given, size: state.size, exit: false, reveals: 0 };
    (number, first, told)
}

fn clamp(side: u16) -> u16 {
    side.clamp(*TERMINAL_SIDE.start(), *TERMINAL_SIDE.end())
}

fn snapshot(state: &mut State) -> Vec<ToViewer> {
    let (offset, size) = (state.history.end(), state.size);
    let painted = Bytes::from(state.screen.snapshot());
    let mut pieces = Vec::new();
    let mut from = 0;
    loop {
        let to = painted.len().min(from + TERMINAL_CHUNK_BYTES);
        let more = to < painted.len();
        pieces.push(ToViewer::Snapshot { offset, size, data: painted.slice(from..to), more });
        if !more {
            return pieces;
        }
        from = to;
    }
}

async fn listen<R>(shell: &Shell, viewer: &ViewerId, number: u64, from_viewer: &mut R) -> Left
where
    R: AsyncRead + Unpin,
{
    loop {
        let said = match frame::read::<_, FromViewer>(from_viewer).await {
            Ok(Some(said)) => said,
            Ok(None) | Err(FrameError::Io(_)) => return Left::Vanished,
            Err(why) => return Left::Expelled(Failure::new("bad_message", why.to_string())),
        };
        match said {
            FromViewer::Input { data, .. } if data.len() > TERMINAL_CHUNK_BYTES => {
                let message = format!("input comes in pieces of at most {TERMINAL_CHUNK_BYTES} bytes");
                return Left::Expelled(Failure::new("bad_message", message));
            }
            FromViewer::Input { seq, after_rev, data } => {
                match shell.input(viewer, number, seq, after_rev, data).await {
                    Ok(()) => {}
                    Err(NotTaken::Superseded) => return Left::Superseded,
                    // Dropped, no more: a terminal emulator answers queries on its own.
                    Err(NotTaken::ReadOnly) => {}
                    Err(NotTaken::Gap(gap)) => {
                        let message = format!("input is missing before byte {seq}: {} is due", gap.expected);
                        return Left::Expelled(Failure::new("input_gap", message));
                    }
                }
            }
            FromViewer::Ack { offset } => shell.parsed(viewer, number, Some(offset)),
            FromViewer::Resize(size) => {
                let mut state = shell.state();
                if let Some(viewer) = state.viewers.get(viewer, number) {
                    viewer.size = Size { cols: clamp(size.cols), rows: clamp(size.rows) };
                }
                shell.viewers_changed(&mut state);
            }
            FromViewer::Visible(visible) => {
                let mut state = shell.state();
                let resized_at = state.resized_at;
                if let Some(viewer) = state.viewers.get(viewer, number) {
                    viewer.turn(visible, resized_at);
                }
                shell.viewers_changed(&mut state);
            }
            FromViewer::Detach => return Left::Goodbye,
        }
    }
}

/// Tells the viewer what it must know, as it can take it. Answers the last word that it should be told.
async fn tell<W>(
    shell: &Shell,
    viewer: &ViewerId,
    number: u64,
    told: &mut Told,
    mut expelled: watch::Receiver<Option<Failure>>,
    to_viewer: &mut W,
) -> Result<Failure, FrameError>
where
    W: AsyncWrite + Unpin,
{
    let mut news = shell.news();
    loop {
        if let Some(failure) = &*expelled.borrow_and_update() {
            return Ok(failure.clone());
        }
        news.mark_unchanged();
        let messages = match next(shell, &mut shell.state(), viewer, number, told) {
            Some(messages) => messages,
            None => return Ok(Failure::new("superseded", "this viewer attached again, elsewhere")),
        };
        if messages.is_empty() {
            // Neither sender ends before this does: the shell holds one, `serve` the other.
            tokio::select! {
                _ = news.changed() => {}
                _ = expelled.changed() => {}
            }
            continue;
        }
        for message in &messages {
            frame::write(to_viewer, message).await?;
            if matches!(message, ToViewer::Output { .. }) {
                shell.parsed(viewer, number, None);
            }
        }
    }
}

/// What the viewer must be told next; nothing if it knows all; none if this stream of it is over.
fn next(
    shell: &Shell,
    state: &mut State,
    viewer: &ViewerId,
    number: u64,
    told: &mut Told,
) -> Option<Vec<ToViewer>> {
    let (start, end) = (state.history.start(), state.history.end());
    let size = state.size;
    let me = state.viewers.get(viewer, number)?;
    let mut messages = Vec::new();
    if me.reveals > told.reveals {
        // Before what was written while it was hidden: a replay, in which it must answer no query.
        told.reveals = me.reveals;
        let (terminal, epoch, input_seq) = (shell.id(), shell.epoch(), me.given);
        messages.push(ToViewer::Hello { terminal, epoch, input_seq, end });
    }
    if me.given > told.given {
        told.given = me.given;
        messages.push(ToViewer::InputAck { seq: me.given });
    }
    if size != told.size {
        told.size = size;
        messages.push(ToViewer::Resized(size));
    }
    if let Some(at) = state.notices.iter().position(|(whose, _)| whose == viewer)
        && let Some((_, failure)) = state.notices.remove(at)
    {
        messages.push(ToViewer::Notice(failure));
    }
    let me = state.viewers.get(viewer, number)?;
    if me.visible && (me.sent < start || me.stale) {
        // Fell off the ring. Painted anew once it takes anything again.
        if me.window() > 0 {
            me.painted(end);
            messages.extend(snapshot(state));
        }
    } else if me.visible && me.sent < end {
        let (from, window) = (me.sent, me.window());
        let limit = usize::try_from(window).unwrap_or(usize::MAX).min(TERMINAL_CHUNK_BYTES);
        // All there is, or a good piece of it.
        if window >= LEAST_ROOM.min(end.0 - from.0)
            && let Some(data) = state.history.read(from, limit)
        {
            if let Some(me) = state.viewers.get(viewer, number) {
                me.sent = from.plus(data.len());
            }
            messages.push(ToViewer::Output { offset: from, data: data.into() });
        }
    }
    if let Some(exit) = &state.exit
        && !told.exit
    {
        let exit = exit.clone();
        let me = state.viewers.get(viewer, number)?;
        if me.sent == end || !me.visible {
            told.exit = true;
            messages.push(ToViewer::Exit(exit));
        }
    }
    Some(messages)
}
