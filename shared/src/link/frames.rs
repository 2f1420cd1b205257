//! Reads a stream's messages so that a `select!` may give up waiting without losing any.

use super::frame::{self, FrameError, LENGTH_BYTES};
use bytes::{Buf, BytesMut};
use serde::de::DeserializeOwned;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is asked of the stream at once: a terminal chunk and its head.
const READ_BYTES: usize = 72 * 1024;

/// Messages of a stream. What was read and not yet given out waits in the reader, so [`Frames::next`] is safe
/// to cancel; it holds at most one message and one read.
#[derive(Debug)]
pub struct Frames<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Reads messages from `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// The next message; none at a proper end between two messages. Safe to cancel.
    pub async fn next<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
            self.buffer.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                let proper = self.buffer.is_empty();
                return if proper {
                    Ok(None)
                } else {
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
                };
            }
        }
    }

    /// The next message, where the end of the stream is an error. Safe to cancel.
    pub async fn expect<M: DeserializeOwned>(&mut self) -> Result<M, FrameError> {
        self.next().await?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }

    /// A message that is here already.
    fn buffered<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = frame::length(*head)?;
        let Some(body) = self.buffer.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(None) };
        let message = frame::decode(body)?;
        self.buffer.advance(LENGTH_BYTES + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn giving_up_in_the_middle_of_a_message_loses_nothing() {
        let (mut near, far) = tokio::io::duplex(64);
        let mut frames = Frames::new(far);
        let bytes = frame::encode(&"a message").unwrap();
        for part in bytes.chunks(3) {
            near.write_all(part).await.unwrap();
            if part.len() == 3 {
                let given_up = tokio::time::timeout(Duration::from_millis(1), frames.next::<String>()).await;
                if let Ok(whole) = given_up {
                    assert_eq!(whole.unwrap().as_deref(), Some("a message"));
                    return;
                }
            }
        }
        assert_eq!(frames.expect::<String>().await.unwrap(), "a message");
    }

    #[tokio::test]
    async fn an_end_between_messages_is_proper_and_one_inside_is_not() {
        let bytes = frame::encode(&7u32).unwrap();
        let mut frames = Frames::new(&bytes[..]);
        assert_eq!(frames.next::<u32>().await.unwrap(), Some(7));
        assert_eq!(frames.next::<u32>().await.unwrap(), None);
        let mut cut = Frames::new(&bytes[..bytes.len() - 1]);
        assert!(cut.next::<u32>().await.is_err());
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_refused_before_it_is_read() {
        let mut frames = Frames::new(&[0xff; 8][..]);
        assert!(matches!(frames.next::<u32>().await, Err(FrameError::TooLong(_))));
    }

    #[tokio::test]
    async fn a_message_that_nests_without_end_is_refused() {
        let deep = [&50_000u32.to_be_bytes()[..], &[0x91; 50_000]].concat();
        assert!(matches!(
            Frames::new(&deep[..]).next::<Vec<serde_json::Value>>().await,
            Err(FrameError::Malformed(_))
        ));
    }
}
