//! Terminals: opening, listing and closing them, and the relay between a viewer's socket and its terminal.
//!
//! The relay keeps nothing that a client could miss: when the agent's link drops, it closes the socket with
//! 4503; the client comes back, is held until the new link is up, and resumes from the last byte it has, sending
//! again what was not acknowledged. So no byte is lost, and none is stored here.

use super::wire::{self, Asked, Attachment, Close, Frame, Outgoing};
use super::{Agents, AskError, Link, LinkError};
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use shared::id::{SessionId, TerminalId};
use shared::limits::{PING_EVERY, PING_TIMEOUT};
use shared::link::frames::Frames;
use shared::link::mux::LinkStream;
use shared::link::terminal::{Answer, Call, Create, FromViewer, Summary, ToViewer};
use shared::link::{Open, frame};
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long an agent may take to open or list terminals.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long closing one may take: hang-up, 2 s, then the kill.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a new socket may take to say what it wants to see.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a viewer is held while its session's link is away.
const LINK_WAIT: Duration = Duration::from_secs(10);
/// How long the agent may take to answer an attach.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a last frame may take to leave.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Answers to a client that wait behind output; one that pings faster than it reads gets fewer pongs.
const REPLIES_WAITING: usize = 8;
/// Frames sent in a row before the socket is flushed, if more can be read at once.
const COALESCED_FRAMES: usize = 16;

/// Starts a shell or command in a new terminal.
pub async fn create(link: &Link, create: Create) -> Result<Summary, AskError> {
    match call(link, Call::Create(create), CALL_TIMEOUT).await? {
        Answer::Created(summary) => Ok(summary),
        other => Err(unexpected(other)),
    }
}

/// All terminals of a session, the oldest first. Titles come from the pod: not to be trusted.
pub async fn list(link: &Link) -> Result<Vec<Summary>, AskError> {
    match call(link, Call::List, CALL_TIMEOUT).await? {
        Answer::Listed(terminals) => Ok(terminals),
        other => Err(unexpected(other)),
    }
}

/// Ends a terminal and all it started; answers when they are gone.
pub async fn close(link: &Link, terminal: TerminalId) -> Result<(), AskError> {
    match call(link, Call::Close { terminal }, CLOSE_TIMEOUT).await? {
        Answer::Closed => Ok(()),
        other => Err(unexpected(other)),
    }
}

async fn call(link: &Link, call: Call, timeout: Duration) -> Result<Answer, AskError> {
    let asking = async {
        let mut stream = link.open(Open::Terminal(call)).await?;
        let answer = frame::expect(&mut stream).await?;
        // Its answer is all there is; a failure to say goodbye changes nothing.
        let _ = stream.shutdown().await;
        match answer {
            Answer::Failed(failure) => Err(AskError::Refused(failure)),
            answer => Ok(answer),
        }
    };
    tokio::time::timeout(timeout, asking).await.unwrap_or(Err(AskError::Timeout))
}

fn unexpected(answer: Answer) -> AskError {
    AskError::Nonsense(format!("to a question about terminals: {answer:?}").chars().take(200).collect())
}

/// What a viewer's socket is for. Whoever may see the terminal was decided before.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The terminal's session.
    pub session: SessionId,
    /// Which of its terminals.
    pub terminal: TerminalId,
    /// Whether keys count.
    pub writable: bool,
}

/// Serves one viewer's socket to its end, and closes it with a code that says why.
///
/// Holds at most: one agent message of output, [`COALESCED_FRAMES`] frames unflushed, one message of input. A socket
/// that takes nothing stalls this viewer's stream and nothing else. `typed` is called with each input.
pub async fn serve<B, E>(agents: &Agents, view: View, browser: B, typed: impl Fn() + Send + Sync)
where
    B: Stream<Item = Result<Frame, E>> + Sink<Frame, Error = E> + Send + Unpin,
    E: Send,
{
    let (mut sink, mut source) = browser.split();
    let close = tokio::select! {
        close = converse(agents, view, &mut sink, &mut source, typed) => close,
        () = agents.closing() => Some(Close::new(1012, "the server restarts")),
    };
    let goodbye = async {
        if let Some(close) = close {
            let _ = sink.send(Frame::Close(close)).await;
        }
        // The answer to a client's own close waits here, too, until this sends it.
        let _ = sink.close().await;
    };
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await;
}

/// Everything up to the close. None if the client is gone and there is nobody to tell.
async fn converse<B, S, E>(
    agents: &Agents,
    view: View,
    sink: &mut B,
    source: &mut S,
    typed: impl Fn() + Send + Sync,
) -> Option<Close>
where
    B: Sink<Frame, Error = E> + Send + Unpin,
    S: Stream<Item = Result<Frame, E>> + Send + Unpin,
    E: Send,
{
    let attachment = match tokio::time::timeout(ATTACH_TIMEOUT, first(source)).await {
        Err(_) => return Some(Close::new(4408, "no attach frame came")),
        Ok(None) => return None,
        Ok(Some(frame)) => match Attachment::parse(&frame) {
            Ok(attachment) => attachment,
            Err(bad) => return Some(refuse(sink, bad.code, &bad.message).await),
        },
    };
    let Some(link) = agents.wait(view.session, Instant::now() + LINK_WAIT).await else {
        return Some(Close::new(4503, "the session's agent is away"));
    };
    let attach = attachment.to_agent(view.terminal, view.writable);
    let stream = match link.open(Open::Attach(attach)).await {
        Ok(stream) => stream,
        Err(LinkError::Full) => return Some(Close::new(4429, "too_many_viewers")),
        Err(LinkError::Gone) => return Some(Close::new(4503, "the session's agent went away")),
    };
    let (from_agent, mut to_agent) = tokio::io::split(stream);
    let heard = Heard::now();
    let (replies, to_reply) = mpsc::channel(REPLIES_WAITING);
    let down = Down {
        frames: Frames::new(from_agent),
        outgoing: Outgoing::new(attachment.binary),
        sink,
        heard: &heard,
    };
    let end = tokio::select! {
        close = down.run(to_reply) => Err(close),
        left = up(source, &mut to_agent, replies, &heard, typed) => Ok(left),
        () = heard.silence() => Err(Close::new(4408, "nothing was heard for too long")),
    };
    let (close, goodbye) = match end {
        Err(close) => (Some(close), false),
        Ok(Left::Gone { goodbye }) => (None, goodbye),
        Ok(Left::Bad(bad)) => (Some(refuse(sink, bad.code, &bad.message).await), false),
        Ok(Left::Link) => (Some(Close::new(4503, "the session's agent went away")), false),
    };
    if goodbye {
        let detach = async {
            frame::write(&mut to_agent, &FromViewer::Detach).await?;
            to_agent.shutdown().await.map_err(frame::FrameError::from)
        };
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, detach).await;
    }
    close
}

async fn first<S, E>(source: &mut S) -> Option<Frame>
where
    S: Stream<Item = Result<Frame, E>> + Unpin,
{
    loop {
        match source.next().await?.ok()? {
            Frame::Ping | Frame::Pong => {}
            Frame::Close(_) => return None,
            frame => return Some(frame),
        }
    }
}

async fn refuse<B, E>(sink: &mut B, code: &str, message: &str) -> Close
where
    B: Sink<Frame, Error = E> + Unpin,
{
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, sink.send(wire::error_frame(code, message))).await;
    Close::new(4400, code)
}

/// When the client was last heard, or took something.
struct Heard(Mutex<Instant>);

impl Heard {
    fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn again(&self) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for what is sent. What must wait for the client goes on because it took something; what a buffer of the
    /// kernel takes at once says nothing, as it takes it for a client that is gone, too.
    async fn taking<T>(&self, sending: impl Future<Output = T> + Unpin) -> T {
        let mut sending = sending;
        if let Poll::Ready(sent) = futures::poll!(&mut sending) {
            return sent;
        }
        let sent = sending.await;
        self.again();
        sent
    }

    /// Resolves once the client has been silent for longer than a ping and its answer may take.
    async fn silence(&self) {
        loop {
            let until = self.last() + PING_EVERY + PING_TIMEOUT;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// The way from the agent to the client.
struct Down<'a, B> {
    frames: Frames<ReadHalf<LinkStream>>,
    outgoing: Outgoing,
    sink: &'a mut B,
    heard: &'a Heard,
}

impl<B, E> Down<'_, B>
where
    B: Sink<Frame, Error = E> + Unpin,
{
    async fn run(mut self, mut replies: mpsc::Receiver<Frame>) -> Close {
        match self.relay(&mut replies).await {
            Ok(close) => close,
            // The client's socket failed: the code reaches nobody.
            Err(_) => Close::new(1006, ""),
        }
    }

    async fn relay(&mut self, replies: &mut mpsc::Receiver<Frame>) -> Result<Close, E> {
        let hello = tokio::time::timeout(HELLO_TIMEOUT, self.frames.next::<ToViewer>()).await;
        let mut next = match hello {
            Ok(message) => message,
            Err(_) => return Ok(Close::new(4503, "the session's agent did not answer")),
        };
        let mut pings = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut exited = false;
        loop {
            let mut unflushed = 0;
            // What can be read already goes out together; nothing ever waits for more.
            loop {
                let message = match next {
                    Ok(Some(message)) => message,
                    Ok(None) if exited => return Ok(Close::new(1000, "the program ended")),
                    Ok(None) | Err(frame::FrameError::Io(_)) => {
                        return Ok(Close::new(4503, "the session's agent went away"));
                    }
                    Err(_) => return Ok(Close::new(4500, "the session's agent made no sense")),
                };
                exited |= matches!(message, ToViewer::Exit(_));
                let told = self.outgoing.tell(message);
                for frame in told.frames {
                    self.heard.taking(self.sink.feed(frame)).await?;
                    unflushed += 1;
                }
                if let Some(close) = told.close {
                    return Ok(close);
                }
                match self.frames.next().now_or_never() {
                    Some(more) if unflushed < COALESCED_FRAMES => next = more,
                    Some(more) => {
                        self.flush().await?;
                        unflushed = 0;
                        next = more;
                    }
                    None => break,
                }
            }
            self.flush().await?;
            next = loop {
                tokio::select! {
                    message = self.frames.next() => break message,
                    Some(reply) = replies.recv() => self.sink.send(reply).await?,
                    _ = pings.tick() => self.sink.send(Frame::Ping).await?,
                }
            };
        }
    }

    async fn flush(&mut self) -> Result<(), E> {
        self.heard.taking(self.sink.flush()).await
    }
}

/// Why the way from the client to the agent ended.
enum Left {
    /// The client is gone, with a goodbye or without.
    Gone { goodbye: bool },
    /// The client sent what it may not.
    Bad(wire::BadFrame),
    /// The agent takes no more.
    Link,
}

async fn up<S, E>(
    source: &mut S,
    to_agent: &mut WriteHalf<LinkStream>,
    replies: mpsc::Sender<Frame>,
    heard: &Heard,
    typed: impl Fn(),
) -> Left
where
    S: Stream<Item = Result<Frame, E>> + Unpin,
{
    loop {
        let Some(Ok(frame)) = source.next().await else { return Left::Gone { goodbye: false } };
        heard.again();
        match wire::read(frame) {
            Ok(Asked::Agent(messages)) => {
                for message in messages {
                    if matches!(message, FromViewer::Input { .. }) {
                        typed();
                    }
                    if frame::write(to_agent, &message).await.is_err() {
                        // The other way tells what the agent's last word was, if there was one.
                        tokio::time::sleep(GOODBYE_TIMEOUT).await;
                        return Left::Link;
                    }
                }
            }
            // A client that asks faster than it reads misses answers, never output.
            Ok(Asked::Reply(frame)) => drop(replies.try_send(frame)),
            Ok(Asked::Leave { goodbye }) => return Left::Gone { goodbye },
            Ok(Asked::Nothing) => {}
            Err(bad) => return Left::Bad(bad),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_had_to_wait_for_the_client_shows_that_it_is_there() {
        let (heard, second) = (Heard::now(), Duration::from_secs(1));
        let began = heard.last();
        tokio::time::advance(second).await;
        heard.taking(std::future::ready(())).await;
        assert_eq!(heard.last(), began);
        heard.taking(Box::pin(tokio::time::sleep(second))).await;
        assert!(heard.last() >= began + 2 * second);
    }
}
