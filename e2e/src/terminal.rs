//! A viewer of a terminal: JSON or binary frames, numbered input that is sent again, and coming back.

use crate::api::{Api, Session, output};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

/// How long anything may take that should come at once, on a busy machine.
const WITHIN: Duration = Duration::from_secs(30);
/// How long one try to come back may take before the next: as long as a page's.
const ONE_TRY: Duration = Duration::from_secs(10);
/// Bytes of output after which they are acknowledged.
const ACK_EVERY: u64 = 16 * 1024;

/// A WebSocket as a client has it.
pub type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket with the client's token.
pub async fn connect(
    api: &Api,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Socket, Box<tungstenite::Error>> {
    let mut request = api.socket(path).into_client_request()?;
    if !api.token.is_empty() {
        let value = format!("Bearer {}", api.token).parse().expect("a header");
        request.headers_mut().insert("authorization", value);
    }
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a header"));
    }
    let config = WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20));
    let connecting = async {
        let stream = TcpStream::connect(api.address()).await.map_err(tungstenite::Error::Io)?;
        stream.set_nodelay(true).map_err(tungstenite::Error::Io)?;
        tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await
    };
    Ok(tokio::time::timeout(WITHIN, connecting)
        .await
        .expect("an upgrade in time")
        .map(|(socket, _)| socket)?)
}

/// What a terminal's socket said.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// `hello`
    Hello(Value),
    /// `snapshot`: the offset at which output goes on, and what paints the screen.
    Snapshot(u64, Vec<u8>),
    /// `output`: the number of the first byte, and the bytes.
    Output(u64, Vec<u8>),
    /// `input_ack`
    InputAck(u64),
    /// `exit`
    Exit(Value),
    /// Anything else, such as `resize` or `error`.
    Other(Value),
    /// The socket is closed: its code, or 1006.
    Closed(u16),
}

/// A viewer that keeps what it needs to come back.
pub struct Viewer {
    /// Where the terminal is.
    pub session: Session,
    /// The terminal.
    pub terminal: String,
    /// The viewer's own id.
    pub viewer: String,
    /// What it can.
    pub caps: Vec<String>,
    /// The epoch of all numbers.
    pub epoch: Value,
    /// The next byte of output expected.
    pub offset: u64,
    /// The next byte of input to be numbered.
    pub typed: u64,
    /// Input that was not acknowledged, from `acked` on.
    pub unacked: Vec<u8>,
    /// All output since the last snapshot or attach.
    pub output: Vec<u8>,
    /// Snapshots seen.
    pub snapshots: usize,
    /// How the program ended.
    pub exit: Option<Value>,
    /// The newest hello.
    pub hello: Value,
    /// Whether `acks` are sent for output.
    pub acknowledges: bool,
    /// Up to where output was acknowledged.
    told: u64,
    socket: Socket,
}

impl Viewer {
    /// Attaches anew. `caps` may hold `bin` and `ack`.
    pub async fn attach(session: &Session, terminal: &str, viewer: &str, caps: &[&str]) -> Self {
        let caps: Vec<String> = caps.iter().map(|cap| (*cap).to_owned()).collect();
        let socket = open(session, terminal).await;
        let mut new = Self {
            session: session.clone(),
            terminal: terminal.to_owned(),
            viewer: viewer.to_owned(),
            acknowledges: caps.iter().any(|cap| cap == "ack"),
            caps,
            epoch: Value::Null,
            offset: 0,
            typed: 0,
            unacked: Vec::new(),
            output: Vec::new(),
            snapshots: 0,
            exit: None,
            hello: Value::Null,
            told: 0,
            socket,
        };
        new.say_attach(false).await;
        new
    }

    /// Comes back over a new socket, with the same id, from where it stopped; sends again what was not
    /// acknowledged.
    pub async fn come_back(&mut self) {
        self.socket = open(&self.session, &self.terminal).await;
        self.say_attach(true).await;
    }

    /// Comes back with tries, as a page does while its server is away.
    pub async fn come_back_patiently(&mut self) {
        let deadline = Instant::now() + 2 * WITHIN;
        loop {
            // A connection to where no server is any more may hang.
            let path = self.path();
            let trying = connect(&self.session.api, &path, &[]);
            if let Ok(Ok(socket)) = tokio::time::timeout(ONE_TRY, trying).await {
                self.socket = socket;
                if self.try_attach(true).await {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "the viewer did not come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn say_attach(&mut self, resume: bool) {
        assert!(self.try_attach(resume).await, "the terminal did not say hello");
    }

    async fn try_attach(&mut self, resume: bool) -> bool {
        let mut attach =
            json!({"type": "attach", "viewer": self.viewer, "cols": 80, "rows": 24, "caps": self.caps});
        if resume {
            attach["epoch"] = self.epoch.clone();
            attach["from"] = json!(self.offset);
        }
        if self.try_send(&attach).await.is_err() {
            return false;
        }
        loop {
            match self.frame().await {
                Frame::Hello(hello) => {
                    let again = resume && hello["epoch"] == self.epoch;
                    self.epoch = hello["epoch"].clone();
                    let given = hello["input_seq"].as_u64().expect("input_seq");
                    self.hello = hello;
                    if again {
                        return self.resend(given).await;
                    }
                    (self.typed, self.unacked) = (given, Vec::new());
                    return true;
                }
                Frame::Closed(_) => return false,
                Frame::Other(_) => {}
                other => panic!("before the hello: {other:?}"),
            }
        }
    }

    async fn resend(&mut self, given: u64) -> bool {
        self.acked(given);
        let (seq, bytes) = (self.typed - self.unacked.len() as u64, self.unacked.clone());
        bytes.is_empty() || self.try_send(&input(seq, &bytes, None)).await.is_ok()
    }

    fn acked(&mut self, seq: u64) {
        let first = self.typed - self.unacked.len() as u64;
        assert!(seq <= self.typed, "acknowledged input {seq} of {}", self.typed);
        self.unacked.drain(..(seq.saturating_sub(first)) as usize);
    }

    fn path(&self) -> String {
        self.session.path(&format!("/terminals/{}", self.terminal))
    }

    /// Sends a JSON frame.
    pub async fn say(&mut self, frame: &Value) {
        self.try_send(frame).await.expect("to send");
    }

    async fn try_send(&mut self, frame: &Value) -> Result<(), tungstenite::Error> {
        self.socket.send(Message::text(frame.to_string())).await
    }

    /// Types. Whether the socket still stood; if not, the input waits for the next one.
    pub async fn try_type(&mut self, text: &str, after_rev: Option<u64>) -> bool {
        let (seq, bytes) = (self.typed, text.as_bytes());
        self.typed += bytes.len() as u64;
        self.unacked.extend_from_slice(bytes);
        if self.caps.iter().any(|cap| cap == "bin") {
            let mut frame = vec![2u8];
            frame.extend(seq.to_be_bytes());
            frame.extend(after_rev.unwrap_or(0).to_be_bytes());
            frame.extend(bytes);
            return self.socket.send(Message::binary(frame)).await.is_ok();
        }
        self.try_send(&input(seq, bytes, after_rev)).await.is_ok()
    }

    /// Types.
    pub async fn type_text(&mut self, text: &str) {
        assert!(self.try_type(text, None).await, "the socket is closed");
    }

    /// Types what must wait for a revision.
    pub async fn type_after(&mut self, text: &str, rev: u64) {
        assert!(self.try_type(text, Some(rev)).await, "the socket is closed");
    }

    /// The next frame, noted in the viewer's state.
    pub async fn frame(&mut self) -> Frame {
        self.frame_by(Instant::now() + WITHIN).await.expect("a frame in time")
    }

    /// The next frame, or none by the deadline.
    pub async fn frame_by(&mut self, deadline: Instant) -> Option<Frame> {
        loop {
            let message = timeout_at(deadline, self.socket.next()).await.ok()?;
            let frame = match message {
                Some(Ok(Message::Text(text))) => parse(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Binary(bytes))) if bytes.first() == Some(&1) && bytes.len() >= 9 => {
                    let offset = u64::from_be_bytes(bytes[1..9].try_into().expect("eight bytes"));
                    Frame::Output(offset, bytes[9..].to_vec())
                }
                Some(Ok(Message::Binary(bytes))) => {
                    panic!("unknown binary frame: {:?}", &bytes[..bytes.len().min(20)])
                }
                Some(Ok(Message::Close(close))) => {
                    Frame::Closed(close.map_or(1005, |close| close.code.into()))
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Frame::Closed(1006),
            };
            self.note(&frame).await;
            return Some(frame);
        }
    }

    async fn note(&mut self, frame: &Frame) {
        match frame {
            Frame::Snapshot(offset, data) => {
                (self.offset, self.told) = (*offset, *offset);
                self.snapshots += 1;
                self.output.clone_from(data);
            }
            Frame::Output(offset, data) => {
                assert_eq!(*offset, self.offset, "output follows without a gap and without an overlap");
                self.offset += data.len() as u64;
                self.output.extend_from_slice(data);
                if self.acknowledges && self.offset - self.told >= ACK_EVERY {
                    self.acknowledge().await;
                }
            }
            Frame::InputAck(seq) => self.acked(*seq),
            Frame::Exit(exit) => self.exit = Some(exit.clone()),
            _ => {}
        }
    }

    /// Says that all output so far is parsed.
    pub async fn acknowledge(&mut self) {
        self.told = self.offset;
        // A closed socket shows at the next read.
        let _ = self.try_send(&json!({"type": "ack", "offset": self.told})).await;
    }

    /// Reads until the condition holds of the output; whether the socket stayed open.
    pub async fn read_while(&mut self, patience: Duration, mut goes_on: impl FnMut(&Self) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        while goes_on(self) {
            match self.frame_by(deadline).await {
                Some(Frame::Closed(_)) => return false,
                Some(_) => {}
                None => panic!("not in time; the output ends with {:?}", self.tail()),
            }
        }
        true
    }

    /// Reads until the output holds `text`.
    pub async fn wait_for(&mut self, text: &str) {
        // Only where it can be new: a flood is not searched anew for each frame of it.
        let (mut searched, mut snapshots) = (0, self.snapshots);
        let missing = |viewer: &Self| {
            let anew = viewer.snapshots != snapshots;
            let from = if anew { 0 } else { viewer.output.len().min(searched).saturating_sub(text.len()) };
            (searched, snapshots) = (viewer.output.len(), viewer.snapshots);
            !contains(&viewer.output[from..], text.as_bytes())
        };
        let open = self.read_while(WITHIN, missing).await;
        assert!(open, "closed before {text:?}; the output ends with {:?}", self.tail());
    }

    /// Reads until all input is acknowledged.
    pub async fn wait_for_acks(&mut self) {
        assert!(
            self.read_while(WITHIN, |viewer| !viewer.unacked.is_empty()).await,
            "closed before all input was acknowledged"
        );
    }

    /// Reads until the socket closes; answers the code.
    pub async fn wait_for_close(&mut self) -> u16 {
        loop {
            if let Frame::Closed(code) = self.frame().await {
                return code;
            }
        }
    }

    /// Forgets the output so far.
    pub fn forget(&mut self) {
        self.output.clear();
    }

    /// The output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    fn tail(&self) -> String {
        let from = self.output.len().saturating_sub(400);
        String::from_utf8_lossy(&self.output[from..]).into_owned()
    }

    /// Goes without a word, as a cut network does: no close frame is sent.
    pub fn cut(&mut self) {
        // An error means that it is cut already.
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        // It may have been closed by the other side.
        let normal = tungstenite::protocol::frame::coding::CloseCode::Normal;
        let close = tungstenite::protocol::CloseFrame { code: normal, reason: "".into() };
        let _ = self.socket.close(Some(close)).await;
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

/// Whether `bytes` holds `part`.
pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

async fn open(session: &Session, terminal: &str) -> Socket {
    let path = session.path(&format!("/terminals/{terminal}"));
    connect(&session.api, &path, &[]).await.unwrap_or_else(|why| panic!("the terminal's socket: {why}"))
}

/// An input frame in JSON.
pub fn input(seq: u64, bytes: &[u8], after_rev: Option<u64>) -> Value {
    let mut frame = match std::str::from_utf8(bytes) {
        Ok(text) => json!({"type": "input", "seq": seq, "data": text}),
        Err(_) => {
            use base64::Engine;
            json!({"type": "input", "seq": seq, "base64": base64::engine::general_purpose::STANDARD.encode(bytes)})
        }
    };
    if let Some(rev) = after_rev {
        frame["after_rev"] = json!(rev);
    }
    frame
}

fn parse(frame: Value) -> Frame {
    let number = |name: &str| frame[name].as_u64().unwrap_or_else(|| panic!("{name} in {frame}"));
    match frame["type"].as_str() {
        Some("hello") => Frame::Hello(frame),
        Some("snapshot") => Frame::Snapshot(number("offset"), output(&frame)),
        Some("output") => Frame::Output(number("offset"), output(&frame)),
        Some("input_ack") => Frame::InputAck(number("seq")),
        Some("exit") => Frame::Exit(frame),
        _ => Frame::Other(frame),
    }
}
