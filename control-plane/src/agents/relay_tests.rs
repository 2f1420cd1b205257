//! Tests of the relay between a viewer's socket and its terminal; the test plays both ends.

use super::fixtures::{Harbour, Linked, SOON, until};
use super::terminals::{View, serve};
use super::wire::{Close, Frame};
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{Sink, SinkExt, Stream, StreamExt};
use serde_json::{Value, json};
use shared::id::{Epoch, InputSeq, Offset, SessionId, TerminalId};
use shared::link::mux::LinkStream;
use shared::link::terminal::{FromViewer, Resume, ToViewer};
use shared::link::{Failure, Open, frame};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio_util::task::AbortOnDropHandle;

type Broken = mpsc::SendError;

/// The server's end of a browser's socket.
struct Socket {
    from: mpsc::Receiver<Frame>,
    to: mpsc::Sender<Frame>,
}

impl Stream for Socket {
    type Item = Result<Frame, Broken>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.from.poll_next_unpin(cx).map(|frame| frame.map(Ok))
    }
}

impl Sink<Frame> for Socket {
    type Error = Broken;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.to.poll_ready_unpin(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Frame) -> Result<(), Broken> {
        self.to.start_send_unpin(frame)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.to.poll_flush_unpin(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.to.poll_close_unpin(cx)
    }
}

/// The browser's end.
struct Browser {
    to: mpsc::Sender<Frame>,
    from: mpsc::Receiver<Frame>,
    typed: Arc<AtomicUsize>,
    serving: AbortOnDropHandle<()>,
}

impl Browser {
    fn open(harbour: &Harbour, session: SessionId, terminal: TerminalId) -> Self {
        let (to, from_browser) = mpsc::channel(0);
        let (to_browser, from) = mpsc::channel(0);
        let socket = Socket { from: from_browser, to: to_browser };
        let agents = harbour.agents.clone();
        let typed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&typed);
        let view = View { session, terminal, writable: true };
        let serving = tokio::spawn(async move {
            let typed = move || {
                count.fetch_add(1, Ordering::SeqCst);
            };
            serve(&agents, view, socket, typed).await;
        });
        Self { to, from, typed, serving: AbortOnDropHandle::new(serving) }
    }

    async fn say(&mut self, message: Value) {
        self.to.send(Frame::Text(message.to_string())).await.unwrap();
    }

    async fn frame(&mut self) -> Frame {
        tokio::time::timeout(SOON, self.from.next()).await.unwrap().expect("the socket is open")
    }

    async fn told(&mut self) -> Value {
        let Frame::Text(text) = self.frame().await else { panic!("no text frame") };
        serde_json::from_str(&text).unwrap()
    }

    async fn closed(&mut self) -> u16 {
        loop {
            if let Frame::Close(close) = self.frame().await {
                return close.code;
            }
        }
    }
}

fn attach() -> Value {
    json!({"type": "attach", "viewer": "v", "cols": 80, "rows": 24})
}

async fn start() -> (Harbour, SessionId, Linked, TerminalId, Browser) {
    let harbour = Harbour::new().await;
    let (session, credential) = harbour.session("one").await;
    let linked = harbour.link(&credential).await;
    let terminal = TerminalId::random();
    let browser = Browser::open(&harbour, session, terminal);
    (harbour, session, linked, terminal, browser)
}

async fn attached() -> (Harbour, Linked, TerminalId, Browser, LinkStream) {
    let (harbour, _, mut linked, terminal, mut browser) = start().await;
    browser.say(attach()).await;
    let (mut stream, open) = linked.opened().await;
    assert!(matches!(open, Open::Attach(_)));
    let hello = ToViewer::Hello { terminal, epoch: Epoch(1), input_seq: InputSeq(0), end: Offset(0) };
    frame::write(&mut stream, &hello).await.unwrap();
    assert_eq!(browser.told().await["type"], "hello");
    (harbour, linked, terminal, browser, stream)
}

async fn heard(stream: &mut LinkStream) -> FromViewer {
    tokio::time::timeout(SOON, frame::expect(stream)).await.unwrap().unwrap()
}

fn output(offset: u64, data: &'static str) -> ToViewer {
    ToViewer::Output { offset: Offset(offset), data: data.into() }
}

#[tokio::test]
async fn what_the_viewer_wants_reaches_the_agent_and_what_the_terminal_says_the_viewer() {
    let (_harbour, _, mut linked, terminal, mut browser) = start().await;
    let mut attach = attach();
    attach["epoch"] = json!(7);
    attach["from"] = json!(100);
    browser.say(attach).await;
    let (mut stream, open) = linked.opened().await;
    let Open::Attach(attach) = open else { panic!("{open:?}") };
    assert_eq!((attach.terminal, attach.writable), (terminal, true));
    assert_eq!(attach.resume, Some(Resume { epoch: Epoch(7), from: Offset(100) }));
    let hello = ToViewer::Hello { terminal, epoch: Epoch(7), input_seq: InputSeq(4), end: Offset(100) };
    for message in [hello, output(100, "hi")] {
        frame::write(&mut stream, &message).await.unwrap();
    }
    assert_eq!(browser.told().await["input_seq"], 4);
    assert_eq!(browser.told().await, json!({"type": "output", "offset": 100, "data": "hi"}));
    browser.say(json!({"type": "input", "seq": 4, "data": "ls\r"})).await;
    let expected = FromViewer::Input { seq: InputSeq(4), after_rev: None, data: Bytes::from_static(b"ls\r") };
    assert_eq!(heard(&mut stream).await, expected);
    assert_eq!(browser.typed.load(Ordering::SeqCst), 1);
    browser.say(json!({"type": "ack", "offset": 102})).await;
    assert_eq!(heard(&mut stream).await, FromViewer::Ack { offset: Offset(102) });
}

#[tokio::test]
async fn a_goodbye_is_told_to_the_agent_and_a_cut_is_not() {
    let (_harbour, _linked, _, mut browser, mut stream) = attached().await;
    browser.to.send(Frame::Close(Close::new(1000, ""))).await.unwrap();
    assert_eq!(heard(&mut stream).await, FromViewer::Detach);

    let (_harbour, _linked, _, browser, mut stream) = attached().await;
    drop(browser);
    let end = tokio::time::timeout(SOON, frame::read::<_, FromViewer>(&mut stream)).await.unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}

#[tokio::test]
async fn pings_are_answered_between_output() {
    let (_harbour, _linked, _, mut browser, _stream) = attached().await;
    browser.say(json!({"type": "ping"})).await;
    assert_eq!(browser.told().await, json!({"type": "pong"}));
}

#[tokio::test]
async fn a_bad_frame_is_told_and_closes_with_4400() {
    let (_harbour, _linked, _, mut browser, _stream) = attached().await;
    browser.say(json!({"type": "input"})).await;
    let told = browser.told().await;
    assert_eq!((&told["type"], &told["code"]), (&json!("error"), &json!("bad_message")));
    assert_eq!(browser.closed().await, 4400);

    let (_harbour, _, _linked, _, mut browser) = start().await;
    browser.say(json!({"type": "ack", "offset": 0})).await;
    assert_eq!(browser.told().await["code"], "attach_expected");
    assert_eq!(browser.closed().await, 4400);
}

#[tokio::test]
async fn a_link_that_drops_closes_with_4503_and_the_next_attach_waits_for_the_new_one() {
    let (harbour, linked, terminal, mut browser, stream) = attached().await;
    let session = linked.accepted.session;
    drop((linked, stream));
    assert_eq!(browser.closed().await, 4503);
    until("the link is off", async || harbour.agents.get(session).is_none()).await;
    let mut browser = Browser::open(&harbour, session, terminal);
    let mut again = attach();
    (again["epoch"], again["from"]) = (json!(1), json!(42));
    browser.say(again).await;
    let credential = harbour.credential(session).await;
    let mut linked = harbour.link(&credential).await;
    let (_stream, open) = linked.opened().await;
    let Open::Attach(attach) = open else { panic!("{open:?}") };
    assert_eq!(attach.resume, Some(Resume { epoch: Epoch(1), from: Offset(42) }));
}

#[tokio::test]
async fn a_terminal_that_is_gone_closes_with_4404_after_saying_so() {
    let (_harbour, _linked, _, mut browser, mut stream) = attached().await;
    let gone = ToViewer::Notice(Failure::new("terminal_gone", "it was closed"));
    frame::write(&mut stream, &gone).await.unwrap();
    let expected = json!({"type": "error", "code": "terminal_gone", "message": "it was closed"});
    assert_eq!(browser.told().await, expected);
    assert_eq!(browser.closed().await, 4404);
}

#[tokio::test]
async fn the_server_going_closes_with_1012() {
    let (harbour, _linked, _, mut browser, _stream) = attached().await;
    let closing = harbour.agents.clone();
    tokio::spawn(async move { closing.close().await });
    assert_eq!(browser.closed().await, 1012);
}

#[tokio::test]
async fn a_browser_that_takes_nothing_stalls_its_own_stream_alone() {
    let (harbour, mut linked, _, stalled, stream) = attached().await;
    let (written, chunk) = (Arc::new(AtomicUsize::new(0)), "x".repeat(32 * 1024));
    let flood = {
        let (written, chunk, mut stream) = (Arc::clone(&written), Bytes::from(chunk), stream);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut offset = Offset(0);
            loop {
                let message = ToViewer::Output { offset, data: chunk.clone() };
                if frame::write(&mut stream, &message).await.is_err() {
                    return;
                }
                offset = offset.plus(chunk.len());
                written.store(offset.0 as usize, Ordering::SeqCst);
            }
        }))
    };
    // Another viewer is served all the while.
    let other = TerminalId::random();
    let mut live = Browser::open(&harbour, linked.accepted.session, other);
    live.say(attach()).await;
    let (mut stream, _) = linked.opened().await;
    for n in 0..50u64 {
        frame::write(&mut stream, &output(n, "y")).await.unwrap();
        assert_eq!(live.told().await["offset"], n);
    }
    assert!(written.load(Ordering::SeqCst) < 2 << 20, "the relay takes what nobody reads");
    assert!(!stalled.serving.is_finished());
    drop(flood);
}
