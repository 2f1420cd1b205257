//! One viewer's stream: what it says is taken, what it must know is told, each at its own pace.

use super::shell::{NotTaken, Shell, State};
use bytes::Bytes;
use shared::id::{InputSeq, Offset, ViewerId};
use shared::limits::{TERMINAL_CHUNK_BYTES, TERMINAL_SIDE};
use shared::link::Failure;
use shared::link::frame::{self, FrameError};
use shared::link::terminal::{Attach, FromViewer, Size, ToViewer};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// How long a last word may take to leave.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(5);

/// How a viewer's side of the stream ended.
enum Left {
    /// With a goodbye.
    Goodbye,
    /// Cut off; it may come back.
    Vanished,
    /// It broke the rules, and is told how.
    Expelled(Failure),
}

/// What was told already, and so need not be again.
struct Told {
    given: InputSeq,
    size: Size,
    exit: bool,
}

/// Serves one viewer until it goes or the terminal does.
pub async fn serve<S>(shell: Arc<Shell>, attach: Attach, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_viewer, mut to_viewer) = tokio::io::split(stream);
    let viewer = attach.viewer.clone();
    let (number, first, mut told) = enter(&shell, attach);
    let telling = async {
        for message in first {
            frame::write(&mut to_viewer, &message).await?;
        }
        tell(&shell, &viewer, number, &mut told, &mut to_viewer).await
    };
    let (left, last_word) = tokio::select! {
        left = listen(&shell, &viewer, number, &mut from_viewer) => match left {
            Left::Expelled(failure) => (Left::Goodbye, Some(failure)),
            left => (left, None),
        },
        ended = telling => (Left::Vanished, ended.ok()),
        () = shell.closed() => {
            (Left::Goodbye, Some(Failure::new("terminal_gone", "this terminal was closed")))
        }
    };
    {
        let mut state = shell.state();
        state.viewers.detach(&viewer, number, matches!(left, Left::Goodbye), Instant::now());
        shell.viewers_changed(&mut state);
    }
    let goodbye = async {
        if let Some(failure) = last_word {
            frame::write(&mut to_viewer, &ToViewer::Notice(failure)).await?;
        }
        to_viewer.shutdown().await.map_err(FrameError::from)
    };
    let _ = tokio::time::timeout(LAST_WORD_TIMEOUT, goodbye).await;
}

/// Enters a viewer, and decides under the same lock what it is told first.
fn enter(shell: &Shell, attach: Attach) -> (u64, Vec<ToViewer>, Told) {
    let mut state = shell.state();
    let size = Size { cols: clamp(attach.size.cols), rows: clamp(attach.size.rows) };
    let end = state.history.end();
    let resume = attach.resume.filter(|r| r.epoch == shell.epoch()).map(|r| r.from);
    let resumable = |state: &State, from: Offset| {
        from >= state.history.start() && from <= state.history.end() && from >= state.resized_at
    };
    let at = resume.filter(|from| resumable(&state, *from)).unwrap_or(end);
    let (number, given) = state.viewers.attach(attach.viewer, size, attach.writable, attach.acks, at);
    // May resize, and so rule out the replay.
    shell.viewers_changed(&mut state);
    let mut first =
        vec![ToViewer::Hello { terminal: shell.id(), epoch: shell.epoch(), input_seq: given, end }];
    if !resume.is_some_and(|from| resumable(&state, from)) {
        first.extend(snapshot(&mut state));
    }
    let told = Told { given, size: state.size, exit: false };
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
                    Err(NotTaken::Superseded) => return Left::Vanished,
                    Err(NotTaken::ReadOnly) => {
                        return Left::Expelled(Failure::new(
                            "read_only",
                            "you may look at this terminal, not type",
                        ));
                    }
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
                if let Some(viewer) = state.viewers.get(viewer, number) {
                    viewer.visible = visible;
                }
                shell.viewers_changed(&mut state);
            }
            FromViewer::Detach => return Left::Goodbye,
        }
    }
}

/// Tells the viewer what it must know, as it can take it. Answers why it ended, if a viewer should know.
async fn tell<W>(
    shell: &Shell,
    viewer: &ViewerId,
    number: u64,
    told: &mut Told,
    to_viewer: &mut W,
) -> Result<Failure, FrameError>
where
    W: AsyncWrite + Unpin,
{
    let mut news = shell.news();
    loop {
        news.mark_unchanged();
        let messages = match next(&mut shell.state(), viewer, number, told) {
            Some(messages) => messages,
            None => return Ok(Failure::new("superseded", "this viewer attached again, elsewhere")),
        };
        if messages.is_empty() {
            if news.changed().await.is_err() {
                return Ok(Failure::new("terminal_gone", "this terminal was closed"));
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
fn next(state: &mut State, viewer: &ViewerId, number: u64, told: &mut Told) -> Option<Vec<ToViewer>> {
    let (start, end) = (state.history.start(), state.history.end());
    let size = state.size;
    let me = state.viewers.get(viewer, number)?;
    let mut messages = Vec::new();
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
    if me.visible && me.sent < start {
        // Fell off the ring.
        me.sent = end;
        me.acked = end;
        messages.extend(snapshot(state));
    } else if me.visible && me.sent < end {
        let limit = usize::try_from(me.window()).unwrap_or(usize::MAX).min(TERMINAL_CHUNK_BYTES);
        let from = me.sent;
        if limit > 0
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
