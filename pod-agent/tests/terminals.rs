//! Real shells, seen over a link in memory: what viewers are promised about them.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use pod_agent::environment::Environment;
use pod_agent::terminal::{Keeping, Terminals, attach};
use shared::id::{InputSeq, Offset, Revision, TerminalId, ViewerId};
use shared::link::Open;
use shared::link::frame;
use shared::link::mux::{LinkStream, Opener, Side, mux};
use shared::link::terminal::*;
use std::time::Duration;
use support::alive;
use tempfile::TempDir;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::compat::TokioAsyncReadCompatExt;

const SIZE: Size = Size { cols: 80, rows: 24 };
const PATIENCE: Duration = Duration::from_secs(30);

/// A session's terminals, and one link to them at a time.
struct Session {
    terminals: Terminals,
    visible: watch::Sender<Revision>,
    folder: TempDir,
}

/// A link in memory. Dropping it cuts everything on it, without a goodbye.
struct Link {
    opener: Opener,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Session {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let settings = support::settings(folder.path(), &["--home", home, "--shell", "/bin/sh"]);
        let (visible, seen) = watch::channel(Revision::ZERO);
        let keeping = Keeping { history_bytes: 1 << 20, scrollback: 500 };
        Self { terminals: Terminals::new(Environment::new(&settings), keeping, seen), visible, folder }
    }

    fn link(&self) -> Link {
        let (a, b) = tokio::io::duplex(1 << 16);
        let (_, mut streams, agent) = mux(a.compat(), Side::Agent);
        let (opener, inbound, server) = mux(b.compat(), Side::ControlPlane);
        let terminals = self.terminals.clone();
        let accepting = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Some(mut stream) = streams.recv().await {
                let terminals = terminals.clone();
                serving.spawn(async move {
                    if let Ok(Open::Attach(attach)) = frame::expect(&mut stream).await {
                        attach::serve(terminals.get(attach.terminal).unwrap(), attach, stream).await;
                    }
                });
            }
        });
        let agent = tokio::spawn(async move { drop(agent.await) });
        let server = tokio::spawn(async move {
            let _inbound = inbound;
            drop(server.await);
        });
        Link { opener, tasks: vec![accepting, agent, server] }
    }

    async fn open(&self, command: &[&str]) -> TerminalId {
        let command = command.iter().map(|c| (*c).to_owned()).collect();
        match self.call(Call::Create(Create { size: SIZE, command, cwd: String::new() })).await {
            Answer::Created(summary) => summary.terminal,
            other => panic!("{other:?}"),
        }
    }

    async fn call(&self, call: Call) -> Answer {
        self.terminals.call(call).await
    }

    async fn close(&self, terminal: TerminalId) {
        assert_eq!(self.call(Call::Close { terminal }).await, Answer::Closed);
    }
}

/// A viewer that remembers where it stands, as a client does.
struct Viewer {
    name: &'static str,
    terminal: TerminalId,
    from_agent: ReadHalf<LinkStream>,
    to_agent: WriteHalf<LinkStream>,
    epoch: shared::id::Epoch,
    /// All output after the first snapshot.
    seen: Vec<u8>,
    next: Offset,
    typed: u64,
    acked: u64,
    exit: Option<Exit>,
    snapshots: usize,
    /// The last picture.
    picture: Vec<u8>,
    notices: Vec<String>,
    /// Later greetings: where it stood, and where what it missed ends.
    greetings: Vec<(Offset, Offset)>,
}

async fn dial(
    link: &Link,
    name: &'static str,
    terminal: TerminalId,
    resume: Option<Resume>,
) -> (ReadHalf<LinkStream>, WriteHalf<LinkStream>, shared::id::Epoch, InputSeq) {
    let mut stream = link.opener.open().await.unwrap();
    let viewer = ViewerId::new(name).unwrap();
    let attach = Attach { terminal, viewer, size: SIZE, resume, writable: true, acks: true };
    frame::write(&mut stream, &Open::Attach(attach)).await.unwrap();
    match frame::expect(&mut stream).await.unwrap() {
        ToViewer::Hello { epoch, input_seq, .. } => {
            let (from, to) = tokio::io::split(stream);
            (from, to, epoch, input_seq)
        }
        other => panic!("{other:?}"),
    }
}

impl Viewer {
    async fn attach(link: &Link, name: &'static str, terminal: TerminalId) -> Self {
        let (from_agent, to_agent, epoch, given) = dial(link, name, terminal, None).await;
        let mut viewer = Self {
            name,
            terminal,
            from_agent,
            to_agent,
            epoch,
            seen: Vec::new(),
            next: Offset(0),
            typed: given.0,
            acked: given.0,
            exit: None,
            snapshots: 0,
            picture: Vec::new(),
            notices: Vec::new(),
            greetings: Vec::new(),
        };
        viewer.until(|v| v.snapshots == 1).await;
        viewer
    }

    async fn come_back(&mut self, link: &Link) -> InputSeq {
        let resume = Some(Resume { epoch: self.epoch, from: self.next });
        let (from, to, epoch, given) = dial(link, self.name, self.terminal, resume).await;
        assert_eq!(epoch, self.epoch);
        (self.from_agent, self.to_agent) = (from, to);
        given
    }

    async fn hear(&mut self) {
        let message = tokio::time::timeout(PATIENCE, frame::expect(&mut self.from_agent)).await;
        let message = message.unwrap_or_else(|_| panic!("nothing came; seen so far: {}", self.tail()));
        match message.unwrap() {
            ToViewer::Output { offset, data } => {
                assert_eq!(offset, self.next, "a byte was lost or doubled");
                self.next = offset.plus(data.len());
                self.seen.extend_from_slice(&data);
                frame::write(&mut self.to_agent, &FromViewer::Ack { offset: self.next }).await.unwrap();
            }
            ToViewer::Snapshot { offset, data, more, .. } => {
                self.picture.extend_from_slice(&data);
                self.next = offset;
                self.snapshots += usize::from(!more);
            }
            ToViewer::InputAck { seq } => self.acked = seq.0,
            ToViewer::Exit(exit) => self.exit = Some(exit),
            ToViewer::Notice(failure) => self.notices.push(failure.code),
            ToViewer::Resized(_) => {}
            ToViewer::Hello { end, .. } => self.greetings.push((self.next, end)),
        }
    }

    async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.hear().await;
        }
    }

    async fn sees(&mut self, text: &str) {
        // Only where it can be new: a flood is not searched anew for each piece of it.
        let recent = |v: &Self| v.seen.len().saturating_sub(128 * 1024);
        self.until(|v| v.seen[recent(v)..].windows(text.len()).any(|w| w == text.as_bytes())).await;
    }

    async fn send(&mut self, seq: u64, data: &[u8], after_rev: Option<Revision>) {
        let data = Bytes::copy_from_slice(data);
        let input = FromViewer::Input { seq: InputSeq(seq), after_rev, data };
        frame::write(&mut self.to_agent, &input).await.unwrap();
    }

    async fn types(&mut self, text: &str) {
        let at = self.typed;
        self.typed += text.len() as u64;
        self.send(at, text.as_bytes(), None).await;
    }

    fn tail(&self) -> String {
        String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(300)..]).into_owned()
    }
}

fn expected_lines(to: u32) -> Vec<u8> {
    (1..=to).flat_map(|n| format!("{n}\r\n").into_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_typed_runs_and_its_output_and_exit_code_come_back() {
    let session = Session::new();
    let link = session.link();
    let mut viewer = Viewer::attach(&link, "a", session.open(&[]).await).await;
    viewer.types("echo $((6 * 7))-$TERM-$PWD\n").await;
    let expected = format!("42-xterm-256color-{}", session.folder.path().display());
    viewer.sees(&expected).await;
    viewer.types("exit 3\n").await;
    viewer.until(|v| v.exit.is_some()).await;
    assert_eq!(viewer.exit, Some(Exit { code: Some(3), signal: None }));
    let typed = viewer.typed;
    assert!(viewer.acked <= typed);
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_comes_in_a_flood_gets_a_picture_and_exactly_what_follows_it() {
    let session = Session::new();
    let link = session.link();
    let terminal = session.open(&["sh", "-c", "seq 1 200000; exec cat"]).await;
    let mut late = Vec::new();
    for name in ["a", "b", "c", "d"] {
        // Its offsets are checked byte by byte as they come.
        late.push(Viewer::attach(&link, name, terminal).await);
    }
    let whole = expected_lines(200_000);
    for viewer in &mut late {
        viewer.until(|v| v.next.0 >= whole.len() as u64).await;
        let from = whole.len() - viewer.seen.len();
        assert!(viewer.snapshots > 1 || viewer.seen == whole[from..]);
    }
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_again_and_again_in_a_flood_no_byte_is_lost_or_doubled() {
    let session = Session::new();
    let mut link = session.link();
    let terminal = session.open(&["sh", "-c", "read go; seq 1 200000; exec cat"]).await;
    let mut viewer = Viewer::attach(&link, "a", terminal).await;
    viewer.types("go\n").await;
    let mut whole = b"go\r\n".to_vec();
    whole.extend(expected_lines(200_000));
    for cut in 1..=10 {
        viewer.until(|v| v.seen.len() >= cut * whole.len() / 12).await;
        link = session.link();
        viewer.come_back(&link).await;
    }
    viewer.until(|v| v.seen.len() >= whole.len()).await;
    assert_eq!(blake3::hash(&viewer.seen), blake3::hash(&whole));
    assert_eq!(viewer.snapshots, 1);
    drop(link);
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_sent_again_after_a_cut_arrive_exactly_once() {
    let session = Session::new();
    let mut link = session.link();
    let terminal = session.open(&["sh", "-c", "stty -echo raw; echo ready; exec cat"]).await;
    let mut viewer = Viewer::attach(&link, "a", terminal).await;
    if !viewer.picture.windows(5).any(|w| w == b"ready") {
        viewer.sees("ready").await;
    }
    let before = viewer.next.0;
    let keys: Vec<u8> = (0..200).flat_map(|n| format!("<{n:03}>").into_bytes()).collect();
    for (n, key) in keys.chunks(5).enumerate() {
        if n % 20 == 19 {
            link = session.link();
            let given = viewer.come_back(&link).await.0;
            // Everything unacknowledged is sent again, as a client does.
            viewer.send(given, &keys[given as usize..n * 5], None).await;
        }
        viewer.send(5 * n as u64, key, None).await;
    }
    viewer.until(|v| v.next.0 - before >= keys.len() as u64).await;
    assert!(viewer.seen.ends_with(&keys), "{}", viewer.tail());
    drop(link);
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_typed_command_survives_a_cut_unexecuted() {
    let session = Session::new();
    let link = session.link();
    let mut viewer = Viewer::attach(&link, "a", session.open(&[]).await).await;
    viewer.types("touch half-typed").await;
    viewer.sees("touch half-typed").await;
    drop(link);
    let link = session.link();
    viewer.come_back(&link).await;
    assert!(!session.folder.path().join("half-typed").exists());
    viewer.types(" && echo do''ne\n").await;
    viewer.sees("done").await;
    assert!(session.folder.path().join("half-typed").exists());
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_stopped_reading_holds_up_no_other() {
    let session = Session::new();
    let (link, other_link) = (session.link(), session.link());
    let terminal =
        session.open(&["sh", "-c", "read go; yes 0123456789 | head -c 5000000; echo END; exec cat"]).await;
    let mut live = Viewer::attach(&link, "live", terminal).await;
    let mut stuck = Viewer::attach(&other_link, "stuck", terminal).await;
    live.types("go\n").await;
    live.sees("END").await;
    assert_eq!(live.snapshots, 1);
    // It wakes, and is painted what it missed rather than sent it.
    stuck.until(|v| v.next == live.next).await;
    assert!(stuck.snapshots > 1);
    assert!(stuck.seen.len() < 2 << 20);
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_viewer_gets_nothing_and_is_told_where_what_it_missed_ends_before_it_comes() {
    let session = Session::new();
    let link = session.link();
    let terminal = session.open(&["sh", "-c", "while read line; do echo said $line; done"]).await;
    let mut hidden = Viewer::attach(&link, "hidden", terminal).await;
    let mut seeing = Viewer::attach(&link, "seeing", terminal).await;
    frame::write(&mut hidden.to_agent, &FromViewer::Visible(false)).await.unwrap();
    // After the word that it is hidden, on the same stream: when this is answered, that was heard.
    hidden.types("one\n").await;
    hidden.until(|v| v.acked == 4).await;
    seeing.sees("said one").await;
    let (before, missed) = (hidden.seen.len(), seeing.next);
    seeing.types("two\n").await;
    seeing.sees("said two").await;
    assert_eq!(hidden.seen.len(), before, "a hidden viewer was sent something");
    frame::write(&mut hidden.to_agent, &FromViewer::Visible(true)).await.unwrap();
    hidden.sees("said two").await;
    let [(stood, end)] = hidden.greetings[..] else { panic!("{:?}", hidden.greetings) };
    assert!(stood <= missed && end >= missed && end <= hidden.next, "{stood:?} {end:?}");
    assert!(seeing.greetings.is_empty());
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_waits_for_its_revision_and_keeps_its_order() {
    let session = Session::new();
    let link = session.link();
    let mut viewer = Viewer::attach(&link, "a", session.open(&["cat"]).await).await;
    viewer.send(0, b"first\n", Some(Revision(7))).await;
    viewer.send(6, b"second\n", None).await;
    session.visible.send_replace(Revision(7));
    viewer.sees("second").await;
    assert!(viewer.tail().find("first") < viewer.tail().find("second"));
    assert!(viewer.notices.is_empty());
    // A revision that doesn't come holds it for a while, and then says so.
    viewer.send(13, b"third\n", Some(Revision(8))).await;
    viewer.sees("third").await;
    viewer.until(|v| v.notices == ["revision_not_visible"]).await;
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_paste_reaches_a_raw_program_whole() {
    let session = Session::new();
    let link = session.link();
    let script = "stty -echo raw; echo ready; head -c 102400 | cksum; exec cat";
    let mut viewer = Viewer::attach(&link, "a", session.open(&["sh", "-c", script]).await).await;
    if !viewer.picture.windows(5).any(|w| w == b"ready") {
        viewer.sees("ready").await;
    }
    let paste: Vec<u8> = (0..102_400u32).map(|n| b'a' + (n % 26) as u8).collect();
    for (n, chunk) in paste.chunks(16 * 1024).enumerate() {
        viewer.send(n as u64 * 16 * 1024, chunk, None).await;
    }
    let file = session.folder.path().join("paste");
    std::fs::write(&file, &paste).unwrap();
    let sum =
        std::process::Command::new("cksum").stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
    viewer.sees(String::from_utf8(sum.stdout).unwrap().trim()).await;
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_gets_one_answer_however_many_look_on() {
    let session = Session::new();
    let link = session.link();
    // Shows what it is given: ESC as ^[.
    let script = "stty raw -echo; printf 'asked\\033[6n'; exec cat -v";
    let terminal = session.open(&["sh", "-c", script]).await;
    let mut first = Viewer::attach(&link, "first", terminal).await;
    let mut second = Viewer::attach(&link, "second", terminal).await;
    let shown = |v: &Viewer| v.picture.windows(5).any(|w| w == b"asked") || v.seen.ends_with(b"\x1b[6n");
    first.until(shown).await;
    second.until(shown).await;

    // Both terminals answer, as each does that sees the question; nobody typed, so the first is asked.
    second.types("\x1b[5;22R").await;
    second.until(|v| v.acked == v.typed).await;
    first.types("\x1b[5;11R").await;
    first.sees("^[[5;11R").await;
    // The one who types has the terminal from then on. The last is F3 with Shift as well as an answer: the program
    // asked, so it is one.
    second.types("!").await;
    second.sees("!").await;
    for answer in ["\x1b[?1;2c", "\x1b]11;rgb:0000/0000/0000\x07", "\x1b[1;2R"] {
        first.types(answer).await;
    }
    first.until(|v| v.acked == v.typed).await;
    second.types("\x1b[?6c").await;
    second.sees("^[[?6c").await;
    // What was dropped counts as given, so the one who sent it types on.
    first.types("?").await;
    first.sees("?").await;
    second.until(|v| v.seen.ends_with(b"?")).await;
    let given = String::from_utf8_lossy(&second.seen).into_owned();
    let given = given.rsplit("\x1b[6n").next().unwrap_or_default();
    assert_eq!(given, "^[[5;11R!^[[?6c?");
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_looks_like_an_answer_is_typed_where_nothing_was_asked() {
    let session = Session::new();
    let link = session.link();
    let terminal = session.open(&["sh", "-c", "stty raw -echo; printf ready; exec cat -v"]).await;
    let mut first = Viewer::attach(&link, "first", terminal).await;
    let mut second = Viewer::attach(&link, "second", terminal).await;
    let ready = |v: &Viewer| v.picture.windows(5).any(|w| w == b"ready") || v.seen.ends_with(b"ready");
    second.until(ready).await;
    // F3 with Shift; whoever types it has the terminal.
    second.types("\x1b[1;2R").await;
    second.sees("^[[1;2R").await;
    first.types("\x1b[?1;2c").await;
    first.until(|v| v.acked == v.typed).await;
    second.types("\x1b[?6c.").await;
    second.sees("^[[1;2R^[[?6c.").await;
    session.terminals.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_ends_what_tried_to_get_away() {
    let session = Session::new();
    let link = session.link();
    let terminal = session.open(&[]).await;
    let mut viewer = Viewer::attach(&link, "a", terminal).await;
    let mark = format!("31{}", std::process::id());
    viewer
        .types(&format!(
            "setsid sleep {mark}1 & nohup sleep {mark}2 >/dev/null 2>&1 & env -i sleep {mark}3 & (setsid sh -c 'trap \"\" HUP; sleep {mark}4' &) ; echo sta''rted\n"
        ))
        .await;
    viewer.sees("started").await;
    while !(1..=4).all(|n| alive(&format!("sleep {mark}{n}"))) {
        tokio::task::yield_now().await;
    }
    session.close(terminal).await;
    for n in 1..=4 {
        assert!(!alive(&format!("sleep {mark}{n}")), "{n} is alive");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_shells_leave_no_descriptor_and_no_zombie() {
    let session = Session::new();
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let children = || {
        let me = std::process::id();
        let path = format!("/proc/{me}/task");
        std::fs::read_dir(path)
            .unwrap()
            .flatten()
            .map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default())
            .collect::<String>()
    };
    session.close(session.open(&[]).await).await;
    let before = count();
    for _ in 0..100 {
        let terminal = session.open(&[]).await;
        session.close(terminal).await;
    }
    assert_eq!(children(), "");
    assert!(count() <= before, "{} descriptors, {before} before", count());
}

#[tokio::test]
async fn a_missing_folder_and_a_missing_program_are_said_so() {
    let session = Session::new();
    for (command, cwd, code) in
        [(vec![], "nowhere", "cwd_missing"), (vec!["no-such-shell".into()], "", "shell_missing")]
    {
        let create = Create { size: SIZE, command, cwd: cwd.into() };
        match session.call(Call::Create(create)).await {
            Answer::Failed(failure) => assert_eq!(failure.code, code),
            other => panic!("{other:?}"),
        }
    }
}
