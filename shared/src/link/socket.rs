//! A WebSocket of tokio-tungstenite, seen as a stream and sink of binary messages.

use crate::limits::LINK_WEBSOCKET_BYTES;
use bytes::Bytes;
use futures::{Sink, Stream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

/// Read buffer of a link's socket, in bytes; one is held for each linked agent.
const READ_BUFFER_BYTES: usize = 32 * 1024;
/// Bytes that may wait in a link's socket to be written; then the link's driver waits.
const WRITE_BUFFER_BYTES: usize = 1024 * 1024;

/// Binary messages of a WebSocket; pings and pongs are answered beneath and not seen.
#[derive(Debug)]
pub struct BinaryMessages<S>(WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> BinaryMessages<S> {
    /// Speaks the server's side of a WebSocket whose handshake is over.
    pub async fn server(io: S) -> Self {
        Self(WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await)
    }

    /// Speaks the client's side of a WebSocket whose handshake is over.
    pub async fn client(io: S) -> Self {
        Self(WebSocketStream::from_raw_socket(io, Role::Client, Some(config())).await)
    }

    /// Goes on with a socket that was made with [`config`].
    pub fn new(socket: WebSocketStream<S>) -> Self {
        Self(socket)
    }
}

/// The limits of a link's WebSocket, for whoever makes its handshake.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(LINK_WEBSOCKET_BYTES))
        .max_frame_size(Some(LINK_WEBSOCKET_BYTES))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for BinaryMessages<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.0).poll_next(cx)) {
                None | Some(Ok(Message::Close(_))) => None,
                Some(Ok(Message::Binary(bytes))) => Some(Ok(bytes)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Text(_))) => Some(Err(io::Error::other("a text message on the link"))),
                Some(Err(e)) => Some(Err(io::Error::other(e))),
            });
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sink<Bytes> for BinaryMessages<S> {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_ready(cx).map_err(io::Error::other)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Bytes) -> io::Result<()> {
        Pin::new(&mut self.0).start_send(Message::Binary(message)).map_err(io::Error::other)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx).map_err(io::Error::other)
    }
}
