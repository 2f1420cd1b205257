//! A byte stream over the binary messages of a WebSocket, whichever crate made it.

use crate::limits::LINK_WEBSOCKET_BYTES;
use bytes::{Buf, Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};
use futures::{Sink, Stream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Bytes gathered into one message before it is handed on unflushed: a yamux frame and its header fit.
const GATHER_BYTES: usize = super::mux::FRAME_BYTES + 1024;

/// Reads and writes bytes over a stream and sink of binary messages. The caller maps its crate's messages
/// to `Bytes` and leaves out pings and pongs.
pub struct WebSocketBytes<S> {
    socket: S,
    incoming: Bytes,
    outgoing: BytesMut,
}

impl<S> WebSocketBytes<S> {
    /// Wraps a socket.
    pub fn new(socket: S) -> Self {
        Self { socket, incoming: Bytes::new(), outgoing: BytesMut::new() }
    }
}

impl<S> WebSocketBytes<S>
where
    S: Sink<Bytes, Error = io::Error> + Unpin,
{
    fn poll_send_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.outgoing.is_empty() {
            ready!(Pin::new(&mut self.socket).poll_ready(cx))?;
            let message = self.outgoing.split().freeze();
            Pin::new(&mut self.socket).start_send(message)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncRead for WebSocketBytes<S>
where
    S: Stream<Item = io::Result<Bytes>> + Unpin,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.incoming.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                None => return Poll::Ready(Ok(0)),
                Some(Err(e)) => return Poll::Ready(Err(e)),
                Some(Ok(message)) if message.len() > LINK_WEBSOCKET_BYTES => {
                    return Poll::Ready(Err(io::Error::other("a message over the link's limit")));
                }
                Some(Ok(message)) => self.incoming = message,
            }
        }
        let n = self.incoming.len().min(buf.len());
        buf[..n].copy_from_slice(&self.incoming[..n]);
        self.incoming.advance(n);
        Poll::Ready(Ok(n))
    }
}

impl<S> AsyncWrite for WebSocketBytes<S>
where
    S: Sink<Bytes, Error = io::Error> + Unpin,
{
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.outgoing.len() >= GATHER_BYTES {
            ready!(self.poll_send_gathered(cx))?;
        }
        self.outgoing.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_gathered(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_gathered(cx))?;
        Pin::new(&mut self.socket).poll_close(cx)
    }
}
