//! The frames of a viewer's WebSocket, and what they mean on the link. No I/O.
//!
//! Text frames are JSON and complete on their own. A client that offers `"bin"` gets output as binary frames
//! and may send input so: `0x01, u64 offset, bytes` and `0x02, u64 seq, u64 after_rev (0: none), bytes`,
//! big-endian. Offsets and sequence numbers count bytes, never characters.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use shared::id::{Epoch, InputSeq, Offset, Revision, TerminalId, ViewerId};
use shared::limits::{TERMINAL_CHUNK_BYTES, TERMINAL_SIDE};
use shared::link::Failure;
use shared::link::terminal::{Attach, FromViewer, Resume, Size, ToViewer, cut_character};

/// Bytes of one WebSocket message from a viewer: input of [`INPUT_BYTES`] in base64 or escaped JSON, with room.
pub const VIEWER_MESSAGE_BYTES: usize = 512 * 1024;
/// Bytes of input in one frame; more than one link message, so that a plain client can send a paste whole.
pub const INPUT_BYTES: usize = 256 * 1024;
/// Bytes of a snapshot over all its pieces: a large screen and its scrollback.
const SNAPSHOT_BYTES: usize = 8 * 1024 * 1024;
/// First byte of a binary output frame.
const OUTPUT: u8 = 0x01;
/// First byte of a binary input frame.
const INPUT: u8 = 0x02;
/// Bytes before the input in a binary input frame.
const INPUT_HEAD: usize = 1 + 8 + 8;

/// One WebSocket message, whichever crate carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// A ping of the WebSocket's own.
    Ping,
    /// Its answer; the server's crate answers pings by itself, so this is never sent.
    Pong,
    /// The end.
    Close(Close),
}

/// Why a socket is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// A WebSocket close code.
    pub code: u16,
    /// A few words, at most 123 bytes.
    pub reason: String,
}

impl Close {
    /// A code and its reason, cut to what a close frame can carry.
    pub fn new(code: u16, reason: &str) -> Self {
        let mut end = reason.len().min(123);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Self { code, reason: reason[..end].to_owned() }
    }

    /// Whether a client that closes so says goodbye, rather than giving up on a silent server.
    pub fn is_goodbye(&self) -> bool {
        matches!(self.code, 1000 | 1001)
    }
}

/// What is wrong with a client's frame: a stable code and a sentence. The socket is closed with 4400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadFrame {
    /// Stable, lower_snake_case.
    pub code: &'static str,
    /// For the client's author.
    pub message: String,
}

fn bad(code: &'static str, message: impl Into<String>) -> BadFrame {
    BadFrame { code, message: message.into() }
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum FromClient {
    Attach {
        viewer: String,
        cols: u16,
        rows: u16,
        #[serde(default)]
        epoch: Option<Number>,
        #[serde(default)]
        from: Option<u64>,
        #[serde(default)]
        caps: Vec<String>,
    },
    Input {
        seq: u64,
        #[serde(default)]
        data: Option<String>,
        #[serde(default)]
        base64: Option<String>,
        #[serde(default)]
        after_rev: Option<u64>,
    },
    Ack {
        offset: u64,
    },
    Resize {
        cols: u16,
        rows: u16,
    },
    Visible {
        visible: bool,
    },
    Detach,
    Ping,
    Pong,
}

/// A number that a client may have kept as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToClient<'a> {
    Hello {
        terminal: TerminalId,
        epoch: Epoch,
        input_seq: InputSeq,
        /// Where output ended at the moment of attaching; what a resumed viewer gets before is a replay.
        offset: Offset,
    },
    Snapshot {
        offset: Offset,
        cols: u16,
        rows: u16,
        #[serde(flatten)]
        payload: Payload<'a>,
    },
    Output {
        offset: Offset,
        #[serde(flatten)]
        payload: Payload<'a>,
    },
    InputAck {
        seq: InputSeq,
    },
    Resize {
        cols: u16,
        rows: u16,
    },
    Exit {
        code: Option<i32>,
        signal: Option<&'a str>,
    },
    Error {
        code: &'a str,
        message: &'a str,
    },
    Pong,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Payload<'a> {
    Data(&'a str),
    Base64(String),
}

impl<'a> Payload<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Data(text),
            Err(_) => Self::Base64(BASE64.encode(bytes)),
        }
    }
}

fn text(message: &ToClient<'_>) -> Frame {
    // Strings and numbers under fixed keys cannot fail to become JSON.
    Frame::Text(serde_json::to_string(message).unwrap_or_default())
}

/// An error frame.
pub fn error_frame(code: &str, message: &str) -> Frame {
    text(&ToClient::Error { code, message })
}

/// A client's first frame: what it wants to see, and how it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The viewer, as it named itself.
    pub viewer: ViewerId,
    /// Its size.
    pub size: Size,
    /// Where it stopped, if it was here before.
    pub resume: Option<Resume>,
    /// Whether it takes output as binary frames.
    pub binary: bool,
    /// Whether it promises to acknowledge output.
    pub acks: bool,
}

impl Attachment {
    /// Reads the frame that must come first.
    pub fn parse(frame: &Frame) -> Result<Self, BadFrame> {
        let Frame::Text(json) = frame else {
            return Err(bad(
                "attach_expected",
                "the first frame must be a text frame with \"type\":\"attach\"",
            ));
        };
        let FromClient::Attach { viewer, cols, rows, epoch, from, caps } = read_json(json)? else {
            return Err(bad("attach_expected", "the first frame must have \"type\":\"attach\""));
        };
        let viewer = ViewerId::new(viewer).map_err(|e| bad("bad_viewer", e.to_string()))?;
        let epoch = match epoch {
            None => None,
            Some(Number::Number(n)) => Some(n),
            Some(Number::Text(t)) => {
                Some(t.parse().map_err(|_| bad("bad_message", "\"epoch\" must be a number"))?)
            }
        };
        let resume = epoch.zip(from).map(|(epoch, from)| Resume { epoch: Epoch(epoch), from: Offset(from) });
        let offers = |cap: &str| caps.iter().any(|c| c == cap);
        Ok(Self { viewer, size: size(cols, rows)?, resume, binary: offers("bin"), acks: offers("ack") })
    }

    /// The link's message for this.
    pub fn to_agent(&self, terminal: TerminalId, writable: bool) -> Attach {
        Attach {
            terminal,
            viewer: self.viewer.clone(),
            size: self.size,
            resume: self.resume,
            writable,
            acks: self.acks,
        }
    }
}

fn size(cols: u16, rows: u16) -> Result<Size, BadFrame> {
    if TERMINAL_SIDE.contains(&cols) && TERMINAL_SIDE.contains(&rows) {
        Ok(Size { cols, rows })
    } else {
        let (least, most) = (TERMINAL_SIDE.start(), TERMINAL_SIDE.end());
        Err(bad("bad_size", format!("\"cols\" and \"rows\" must be from {least} to {most}")))
    }
}

fn read_json(json: &str) -> Result<FromClient, BadFrame> {
    serde_json::from_str(json)
        .map_err(|e| bad("bad_message", format!("this is no frame of the protocol: {e}")))
}

/// What a client's frame asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Messages for the agent, in this order.
    Agent(Vec<FromViewer>),
    /// A frame for the client itself.
    Reply(Frame),
    /// The client goes, properly or not.
    Leave {
        /// Whether it said so, so that its place need not be kept.
        goodbye: bool,
    },
    /// Nothing: it only shows that the client is there.
    Nothing,
}

/// Reads any frame after the first.
pub fn read(frame: Frame) -> Result<Asked, BadFrame> {
    let json = match frame {
        Frame::Text(json) => json,
        Frame::Binary(bytes) => return read_binary(bytes),
        Frame::Ping | Frame::Pong => return Ok(Asked::Nothing),
        Frame::Close(close) => return Ok(Asked::Leave { goodbye: close.is_goodbye() }),
    };
    let message = match read_json(&json)? {
        FromClient::Attach { .. } => return Err(bad("bad_message", "this socket is attached already")),
        FromClient::Input { seq, data, base64, after_rev } => {
            let bytes = match (data, base64) {
                (Some(data), None) => Bytes::from(data),
                (None, Some(text)) => match BASE64.decode(text) {
                    Ok(bytes) => bytes.into(),
                    Err(_) => return Err(bad("bad_base64", "\"base64\" is not base64 with padding")),
                },
                _ => return Err(bad("bad_message", "input needs \"data\" or \"base64\", and not both")),
            };
            return input(seq, after_rev.unwrap_or(0), bytes);
        }
        FromClient::Ack { offset } => FromViewer::Ack { offset: Offset(offset) },
        FromClient::Resize { cols, rows } => FromViewer::Resize(size(cols, rows)?),
        FromClient::Visible { visible } => FromViewer::Visible(visible),
        FromClient::Detach => return Ok(Asked::Leave { goodbye: true }),
        FromClient::Ping => return Ok(Asked::Reply(text(&ToClient::Pong))),
        FromClient::Pong => return Ok(Asked::Nothing),
    };
    Ok(Asked::Agent(vec![message]))
}

fn read_binary(bytes: Bytes) -> Result<Asked, BadFrame> {
    let Some((head, _)) = bytes.split_first_chunk::<INPUT_HEAD>() else {
        return Err(bad("bad_message", "a binary frame has at least 17 bytes"));
    };
    if head[0] != INPUT {
        return Err(bad("bad_message", "a binary frame from a client starts with 0x02"));
    }
    let number = |at: usize| {
        let mut be = [0; 8];
        be.copy_from_slice(&head[at..at + 8]);
        u64::from_be_bytes(be)
    };
    input(number(1), number(9), bytes.slice(INPUT_HEAD..))
}

fn input(seq: u64, after_rev: u64, bytes: Bytes) -> Result<Asked, BadFrame> {
    if bytes.len() > INPUT_BYTES {
        return Err(bad(
            "input_too_large",
            format!("one frame may carry at most {INPUT_BYTES} bytes of input"),
        ));
    }
    if seq.checked_add(bytes.len() as u64).is_none() {
        return Err(bad("bad_message", "\"seq\" is too large"));
    }
    let after_rev = (after_rev > 0).then_some(Revision(after_rev));
    let pieces = (0..bytes.len()).step_by(TERMINAL_CHUNK_BYTES).map(|at| FromViewer::Input {
        seq: InputSeq(seq).plus(at),
        after_rev,
        data: bytes.slice(at..bytes.len().min(at + TERMINAL_CHUNK_BYTES)),
    });
    Ok(Asked::Agent(pieces.collect()))
}

/// Turns what the agent tells a viewer into frames. Holds at most three bytes of output and one snapshot.
#[derive(Debug)]
pub struct Outgoing {
    binary: bool,
    /// Bytes of a character that was cut at the end of the last output, and where they belong.
    held: (Offset, Vec<u8>),
    /// The pieces of a snapshot that is still coming.
    snapshot: BytesMut,
}

/// What follows from a message of the agent's.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Frames for the client, in this order.
    pub frames: Vec<Frame>,
    /// Set if this is the end.
    pub close: Option<Close>,
}

impl From<Frame> for Told {
    fn from(frame: Frame) -> Self {
        Self { frames: vec![frame], close: None }
    }
}

impl Outgoing {
    /// For a client that takes binary frames or not.
    pub fn new(binary: bool) -> Self {
        Self { binary, held: (Offset(0), Vec::new()), snapshot: BytesMut::new() }
    }

    /// What the client is to be told.
    pub fn tell(&mut self, message: ToViewer) -> Told {
        match message {
            ToViewer::Hello { terminal, epoch, input_seq, end } => {
                text(&ToClient::Hello { terminal, epoch, input_seq, offset: end }).into()
            }
            ToViewer::Snapshot { offset, size, data, more } => self.piece(offset, size, &data, more),
            ToViewer::Output { offset, data } if self.binary => {
                let mut frame = BytesMut::with_capacity(9 + data.len());
                frame.put_u8(OUTPUT);
                frame.put_u64(offset.0);
                frame.put_slice(&data);
                Frame::Binary(frame.freeze()).into()
            }
            ToViewer::Output { offset, data } => Told { frames: self.output(offset, data), close: None },
            ToViewer::InputAck { seq } => text(&ToClient::InputAck { seq }).into(),
            ToViewer::Resized(Size { cols, rows }) => text(&ToClient::Resize { cols, rows }).into(),
            ToViewer::Exit(exit) => {
                let mut frames = self.flush();
                frames.push(text(&ToClient::Exit { code: exit.code, signal: exit.signal.as_deref() }));
                Told { frames, close: None }
            }
            ToViewer::Notice(failure) => notice(&failure),
        }
    }

    fn piece(&mut self, offset: Offset, size: Size, data: &[u8], more: bool) -> Told {
        if self.snapshot.len() + data.len() > SNAPSHOT_BYTES {
            return Told { frames: Vec::new(), close: Some(Close::new(4500, "the screen is too large")) };
        }
        // A snapshot paints from nothing: what was held belongs to what it replaces.
        self.held.1.clear();
        self.snapshot.extend_from_slice(data);
        if more {
            return Told::default();
        }
        let whole = std::mem::take(&mut self.snapshot);
        let payload = Payload::of(&whole);
        text(&ToClient::Snapshot { offset, cols: size.cols, rows: size.rows, payload }).into()
    }

    fn output(&mut self, offset: Offset, data: Bytes) -> Vec<Frame> {
        let (start, held) = &mut self.held;
        let mut frames = Vec::new();
        let (offset, bytes) = if held.is_empty() {
            (offset, data)
        } else if start.plus(held.len()) == offset {
            held.extend_from_slice(&data);
            (*start, Bytes::from(std::mem::take(held)))
        } else {
            // A jump: what was held stands alone.
            frames.extend(self.flush());
            (offset, data)
        };
        let whole = bytes.len() - cut_character(&bytes);
        self.held = (offset.plus(whole), bytes[whole..].to_vec());
        if whole > 0 {
            frames.push(text(&ToClient::Output { offset, payload: Payload::of(&bytes[..whole]) }));
        }
        frames
    }

    /// What is held, as it is: no more will come to complete it.
    fn flush(&mut self) -> Vec<Frame> {
        let (offset, held) = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Vec::new();
        }
        vec![text(&ToClient::Output { offset, payload: Payload::of(&held) })]
    }
}

/// A notice becomes an error frame; those that are an agent's last word close the socket too.
fn notice(failure: &Failure) -> Told {
    let code = if super::is_code(&failure.code) { failure.code.as_str() } else { "agent_error" };
    let close = match code {
        "terminal_gone" => Some(Close::new(4404, code)),
        "input_gap" | "bad_message" => Some(Close::new(4400, code)),
        "superseded" => Some(Close::new(4409, code)),
        "too_many_viewers" => Some(Close::new(4429, code)),
        _ => None,
    };
    Told { frames: vec![error_frame(code, &failure.message)], close }
}

#[cfg(test)]
#[path = "wire_fuzz.rs"]
mod fuzz;
#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
