//! Messages on a stream: a big-endian `u32` length, then that many bytes of MessagePack.

use crate::limits::MESSAGE_BYTES;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of the length before each message.
pub const LENGTH_BYTES: usize = 4;

/// How deep a message nests. None of ours comes near; without a bound, a message of nothing but brackets would use up
/// the stack of whoever reads it.
const MESSAGE_DEPTH: usize = 32;

/// Why no message could be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended, between two messages or inside one, or failed.
    #[error("the link's stream ended or failed: {0}")]
    Io(#[from] io::Error),
    /// The message is longer than both sides agreed.
    #[error("a message of {0} bytes is over the limit of {MESSAGE_BYTES}")]
    TooLong(usize),
    /// The bytes are no message of the expected kind.
    #[error("a message could not be read: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// A value could not be written; a bug.
    #[error("a message could not be written: {0}")]
    Unwritable(#[from] rmp_serde::encode::Error),
}

/// Encodes one message with its length.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; LENGTH_BYTES];
    rmp_serde::encode::write_named(&mut bytes, message)?;
    let length = bytes.len() - LENGTH_BYTES;
    if length > MESSAGE_BYTES {
        return Err(FrameError::TooLong(length));
    }
    // MESSAGE_BYTES fits in a u32.
    bytes[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// Writes one message and flushes it.
pub async fn write<W: AsyncWrite + Unpin, M: Serialize>(
    stream: &mut W,
    message: &M,
) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?).await?;
    stream.flush().await?;
    Ok(())
}

/// The length that stands before a message, refused before anything is made ready for it.
pub(super) fn length(head: [u8; LENGTH_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(head) as usize;
    if length > MESSAGE_BYTES { Err(FrameError::TooLong(length)) } else { Ok(length) }
}

/// A message's bytes, read no deeper than [`MESSAGE_DEPTH`].
pub(super) fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(body);
    reader.set_max_depth(MESSAGE_DEPTH);
    Ok(M::deserialize(&mut reader)?)
}

/// Reads one message. `None` at a proper end between two messages.
///
/// Reads no byte beyond it, so the stream can be handed on. Not safe to cancel: a `select!` over this loses what was
/// read; [`super::frames`] is for that.
pub async fn read<R: AsyncRead + Unpin, M: DeserializeOwned>(
    stream: &mut R,
) -> Result<Option<M>, FrameError> {
    let mut length = [0; LENGTH_BYTES];
    let mut have = 0;
    while have < LENGTH_BYTES {
        match stream.read(&mut length[have..]).await? {
            0 if have == 0 => return Ok(None),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            n => have += n,
        }
    }
    let length = self::length(length)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    decode(&body).map(Some)
}

/// Reads one message where the end of the stream is an error.
pub async fn expect<R: AsyncRead + Unpin, M: DeserializeOwned>(stream: &mut R) -> Result<M, FrameError> {
    read(stream).await?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
}
