//! Many streams over one connection: yamux, driven by one task.

use crate::limits::{LINK_STREAMS, TERMINAL_CHUNK_BYTES};
use futures::io::{AsyncRead, AsyncWrite};
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// One stream of a link, with tokio's traits. Dropping it resets the stream; `shutdown` ends it properly.
pub type LinkStream = Compat<yamux::Stream>;

/// Inbound streams that wait to be taken before the connection is read no further.
const INBOUND_WAITING: usize = 64;
/// Payload bytes of one yamux frame: larger than yamux' own choice of 16 KiB, since a flood of small frames
/// costs more than it interleaves. A whole chunk of output and what names it fit, or each would make two.
pub(super) const FRAME_BYTES: usize = TERMINAL_CHUNK_BYTES + 1024;

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The agent, who dialled.
    Agent,
    /// The control plane, who was dialled.
    ControlPlane,
}

/// Opens streams on a link. Cheap to clone; the link ends when its driver does, not when this drops.
#[derive(Clone, Debug)]
pub struct Opener {
    requests: mpsc::Sender<oneshot::Sender<io::Result<LinkStream>>>,
}

impl Opener {
    /// Opens a stream; its first message should be an [`super::Open`]. Fails once the link is gone.
    pub async fn open(&self) -> io::Result<LinkStream> {
        let (answer, opened) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| gone())?;
        opened.await.map_err(|_| gone())?
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
    let mut config = yamux::Config::default();
    config.set_max_num_streams(LINK_STREAMS);
    config.set_max_connection_receive_window(Some(LINK_STREAMS * 256 * 1024));
    config.set_split_send_size(FRAME_BYTES);
    let mode = match side {
        Side::Agent => yamux::Mode::Client,
        Side::ControlPlane => yamux::Mode::Server,
    };
    let connection = yamux::Connection::new(io, config, mode);
    let (requests, to_open) = mpsc::channel(INBOUND_WAITING);
    let (inbound, streams) = mpsc::channel(INBOUND_WAITING);
    (Opener { requests }, streams, drive(connection, to_open, inbound))
}

async fn drive<T>(
    mut connection: yamux::Connection<T>,
    mut to_open: mpsc::Receiver<oneshot::Sender<io::Result<LinkStream>>>,
    inbound: mpsc::Sender<LinkStream>,
) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut waiting: Option<oneshot::Sender<io::Result<LinkStream>>> = None;
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
                Poll::Ready(Some(Ok(stream))) => match inbound.try_send(stream.compat()) {
                    Ok(()) => continue,
                    // Bounded: streams beyond what the accepting side takes are reset, which their opener sees.
                    Err(mpsc::error::TrySendError::Full(_)) => continue,
                    Err(mpsc::error::TrySendError::Closed(_)) => return Poll::Ready(Ok(())),
                },
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
    async fn a_message_over_the_limit_is_refused_before_it_is_read() {
        let mut bytes: &[u8] = &(u32::MAX).to_be_bytes();
        let refused = frame::read::<_, u32>(&mut bytes).await;
        assert!(matches!(refused, Err(frame::FrameError::TooLong(_))));
    }
}
