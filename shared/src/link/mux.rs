//! Many streams over one connection: yamux, driven by one task.

use crate::limits::{LINK_STREAMS, TERMINAL_CHUNK_BYTES};
use futures::io::{AsyncRead, AsyncWrite};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::ReadBuf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// Inbound streams that wait to be taken before the connection is read no further.
const INBOUND_WAITING: usize = 64;
/// Payload bytes of one yamux frame: larger than yamux' own choice of 16 KiB, since a flood of small frames
/// costs more than it interleaves. A whole chunk of output and what names it fit, or each would make two.
pub(super) const FRAME_BYTES: usize = TERMINAL_CHUNK_BYTES + 1024;
/// Bytes that one stream may hold unread.
const WINDOW_BYTES: usize = 256 * 1024;
/// Streams that yamux counts, beyond which it ends the whole link: more than ever are open, since the two sides
/// count differently while streams come and go. The side that opens streams keeps to [`LINK_STREAMS`].
const COUNTED_STREAMS: usize = 2 * LINK_STREAMS;
/// The same on the agent's side, which trusts the control plane, and where a stream that its viewer left may need
/// seconds to end.
const COUNTED_STREAMS_AGENT: usize = 16 * LINK_STREAMS;

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The agent, who dialled.
    Agent,
    /// The control plane, who was dialled.
    ControlPlane,
}

/// One stream of a link, with tokio's traits. Dropping it resets the stream; `shutdown` ends it properly.
#[derive(Debug)]
pub struct LinkStream {
    stream: Compat<yamux::Stream>,
    /// Its place among those that this side may have open.
    _place: Option<OwnedSemaphorePermit>,
}

impl tokio::io::AsyncRead for LinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Opens streams on a link. Cheap to clone; the link ends when its driver does, not when this drops.
#[derive(Clone, Debug)]
pub struct Opener {
    requests: mpsc::Sender<oneshot::Sender<io::Result<Compat<yamux::Stream>>>>,
    places: Arc<Semaphore>,
}

impl Opener {
    /// Opens a stream; its first message should be an [`super::Open`]. Fails once the link is gone, and with
    /// [`io::ErrorKind::QuotaExceeded`] while this side has [`LINK_STREAMS`] open.
    pub async fn open(&self) -> io::Result<LinkStream> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| io::Error::from(io::ErrorKind::QuotaExceeded))?;
        let (answer, opened) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| gone())?;
        let stream = opened.await.map_err(|_| gone())??;
        Ok(LinkStream { stream, _place: Some(place) })
    }

    /// Whether the link is gone.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Resolves once the link is gone.
    pub async fn closed(&self) {
        self.requests.closed().await;
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the link is gone")
}

/// Runs yamux over `io`. Returns what opens streams, what yields the other side's, and the driver: a future
/// that must be polled (spawn it) and ends with the connection. Dropping or aborting the driver cuts the link.
///
/// Each stream's receive window is 256 KiB and does not grow: what one viewer can make the other side hold is bounded.
pub fn mux<T>(
    io: T,
    side: Side,
) -> (Opener, mpsc::Receiver<LinkStream>, impl Future<Output = io::Result<()>> + Send)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mode, counted) = match side {
        Side::Agent => (yamux::Mode::Client, COUNTED_STREAMS_AGENT),
        Side::ControlPlane => (yamux::Mode::Server, COUNTED_STREAMS),
    };
    let mut config = yamux::Config::default();
    // First the window, which must hold all streams' at any time.
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(counted);
    config.set_max_connection_receive_window(Some(counted * WINDOW_BYTES));
    config.set_split_send_size(FRAME_BYTES);
    let connection = yamux::Connection::new(io, config, mode);
    let (requests, to_open) = mpsc::channel(INBOUND_WAITING);
    let (inbound, streams) = mpsc::channel(INBOUND_WAITING);
    let places = Arc::new(Semaphore::new(LINK_STREAMS));
    (Opener { requests, places }, streams, drive(connection, to_open, inbound))
}

async fn drive<T>(
    mut connection: yamux::Connection<T>,
    mut to_open: mpsc::Receiver<oneshot::Sender<io::Result<Compat<yamux::Stream>>>>,
    inbound: mpsc::Sender<LinkStream>,
) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut waiting: Option<oneshot::Sender<io::Result<Compat<yamux::Stream>>>> = None;
    let mut openers_live = true;
    let ended = poll_fn(|cx| {
        loop {
            if waiting.is_none() && openers_live {
                match to_open.poll_recv(cx) {
                    Poll::Ready(Some(request)) => waiting = Some(request),
                    Poll::Ready(None) => openers_live = false,
                    Poll::Pending => {}
                }
            }
            if waiting.is_some()
                && let Poll::Ready(opened) = connection.poll_new_outbound(cx)
            {
                let opened = opened.map(FuturesAsyncReadCompatExt::compat).map_err(io::Error::other);
                if let Some(request) = waiting.take() {
                    // The asker may have given up; the stream then drops, which resets it.
                    let _ = request.send(opened);
                }
                continue;
            }
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    match inbound.try_send(LinkStream { stream: stream.compat(), _place: None }) {
                        Ok(()) => continue,
                        // Bounded: streams beyond what the accepting side takes are reset, which their opener sees.
                        Err(mpsc::error::TrySendError::Full(_)) => continue,
                        Err(mpsc::error::TrySendError::Closed(_)) => return Poll::Ready(Ok(())),
                    }
                }
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(io::Error::other(e))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    // A goodbye, so that the other side need not wait for its heartbeat; bounded, since the socket may be dead.
    let goodbye = poll_fn(|cx| connection.poll_close(cx));
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), goodbye).await;
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::frame;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    fn pair() -> ((Opener, mpsc::Receiver<LinkStream>), (Opener, mpsc::Receiver<LinkStream>)) {
        let (a, b) = tokio::io::duplex(1 << 20);
        let (agent, from_server, agent_driver) = mux(a.compat(), Side::Agent);
        let (server, from_agent, server_driver) = mux(b.compat(), Side::ControlPlane);
        tokio::spawn(agent_driver);
        tokio::spawn(server_driver);
        ((agent, from_server), (server, from_agent))
    }

    #[tokio::test]
    async fn either_side_opens_streams_and_messages_arrive_whole() {
        let ((agent, mut to_agent), (server, mut to_server)) = pair();
        for (opener, other) in [(&agent, &mut to_server), (&server, &mut to_agent)] {
            let mut mine = opener.open().await.unwrap();
            frame::write(&mut mine, &"hello").await.unwrap();
            let mut theirs = other.recv().await.unwrap();
            assert_eq!(frame::expect::<_, String>(&mut theirs).await.unwrap(), "hello");
        }
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_stalls_no_other() {
        use tokio::io::AsyncWriteExt;
        let ((agent, _to_agent), (_server, mut to_server)) = pair();
        let mut flooded = agent.open().await.unwrap();
        let flood = tokio::spawn(async move {
            let chunk = vec![0; 64 * 1024];
            while flooded.write_all(&chunk).await.is_ok() {}
        });
        let _unread = to_server.recv().await.unwrap();
        let mut live = agent.open().await.unwrap();
        frame::write(&mut live, &42u32).await.unwrap();
        let mut theirs = to_server.recv().await.unwrap();
        assert_eq!(frame::expect::<_, u32>(&mut theirs).await.unwrap(), 42);
        flood.abort();
    }

    #[tokio::test]
    async fn more_streams_than_may_be_open_are_refused_one_by_one_and_the_link_stays() {
        let ((agent, mut to_agent), (server, mut to_server)) = pair();
        // What the other side has not dropped yet it still counts.
        let mut lagging = Vec::new();
        for _ in 0..2 {
            let mut opened = Vec::new();
            for _ in 0..LINK_STREAMS {
                let mut mine = server.open().await.unwrap();
                frame::write(&mut mine, &1u32).await.unwrap();
                opened.push(mine);
                lagging.push(to_agent.recv().await.unwrap());
            }
            let full = server.open().await.unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::QuotaExceeded);
            // The other side's own are not held up by that.
            let mut theirs = agent.open().await.unwrap();
            frame::write(&mut theirs, &2u32).await.unwrap();
            let mut came = to_server.recv().await.unwrap();
            assert_eq!(frame::expect::<_, u32>(&mut came).await.unwrap(), 2);
        }
        assert!(server.open().await.is_ok());
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_refused_before_it_is_read() {
        let mut bytes: &[u8] = &(u32::MAX).to_be_bytes();
        let refused = frame::read::<_, u32>(&mut bytes).await;
        assert!(matches!(refused, Err(frame::FrameError::TooLong(_))));
    }
}
