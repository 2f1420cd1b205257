//! The server: what its parts share, its public listener, and its end.

use crate::accounts::Accounts;
use crate::agents::Agents;
use crate::busy::{Answer, Busy};
use crate::config::Settings;
use crate::environment::Environments;
use crate::events::Events;
use crate::lifecycle::Lifecycle;
use crate::telemetry::metrics::Metrics;
use crate::templates::Templates;
use crate::workspace::{Database, Store};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a request's head may take to arrive, and an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 64 * 1024;
/// HTTP/2 streams of one connection at once.
const STREAMS: u32 = 128;
/// Bytes of terminal output that the kernel may hold for one browser. What waits there, Ctrl-C cannot stop.
const TERMINAL_SEND_BUFFER: usize = 64 * 1024;
/// Bytes the kernel may hold unsent for any connection.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 * 1024;
/// How long a peer may take nothing of what is sent, or be gone without a word: then its connection ends, and with it
/// what it held here. A page that slept comes back by itself.
#[cfg(target_os = "linux")]
const STALLED: Duration = Duration::from_secs(5 * 60);
/// How long open requests may take once the server was told to end.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What every handler is given. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts of a server.
pub struct Parts {
    /// The settings, checked.
    pub settings: Settings,
    /// The address listened on.
    pub address: SocketAddr,
    /// The database.
    pub database: Database,
    /// Every workspace.
    pub store: Store,
    /// Agents linked here.
    pub agents: Agents,
    /// What sessions are made from.
    pub templates: Templates,
    /// Sessions' variables and secrets.
    pub environments: Environments,
    /// All sessions.
    pub lifecycle: Lifecycle,
    /// Who has which workspace open.
    pub events: Events,
    /// Users and what they prove themselves with.
    pub accounts: Accounts,
    /// What is counted.
    pub metrics: Metrics,
    /// Memory for uploads, in KiB.
    pub upload_memory: Semaphore,
    /// Cancelled when the server is told to end.
    pub shutdown: CancellationToken,
    /// The tasks of open WebSockets.
    pub sockets: TaskTracker,
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Serves until the shutdown token is cancelled, then lets open requests finish for [`SHUTDOWN_GRACE`].
    pub async fn serve(self, listener: TcpListener) {
        self.serve_within(listener, HEAD_TIMEOUT).await;
    }

    /// The same, where a connection has `patience` to say a request's head, and is let go if nothing is asked on it
    /// for so long.
    pub async fn serve_within(self, listener: TcpListener, patience: Duration) {
        let service = crate::http::service(self.clone());
        let connections = Arc::new(Semaphore::new(self.settings.max_connections as usize));
        let graceful = GracefulShutdown::new();
        let tasks = TaskTracker::new();
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES as u32);
        loop {
            // A place first: beyond the limit, new connections wait in the kernel's queue.
            let accepted = tokio::select! {
                accepted = accept(&listener, &connections) => accepted,
                () = self.shutdown.cancelled() => break,
            };
            let (stream, peer, place) = accepted;
            let mark = SocketMark::default();
            let io = TokioIo::new(Socket { stream, mark: mark.clone(), small: false, _place: place });
            let inner = service.clone();
            let busy = Busy::new();
            let idle = busy.clone();
            let service = tower_service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                request.extensions_mut().insert(mark.clone());
                let answering = busy.answering();
                let answer = tower_service::Service::call(&mut inner.clone(), request);
                async move { Ok::<_, Infallible>(answer.await?.map(|body| Answer::new(body, answering))) }
            });
            let connection =
                builder.serve_connection_with_upgrades(io, TowerToHyperService::new(service)).into_owned();
            let connection = graceful.watch(connection);
            let open = self.metrics.connection();
            tasks.spawn(async move {
                tokio::select! {
                    ended = connection => if let Err(why) = ended {
                        tracing::debug!(%peer, %why, "connection ended");
                    },
                    () = idle.idle(patience) => {
                        tracing::debug!(%peer, "a connection on which nothing was asked was let go");
                    }
                }
                drop(open);
            });
        }
        drop(listener);
        tasks.close();
        // Upgraded connections are no longer among these: their end is told over the links' close.
        let done = async { tokio::join!(graceful.shutdown(), tasks.wait()) };
        if tokio::time::timeout(SHUTDOWN_GRACE, done).await.is_err() {
            tracing::warn!("some requests did not end in time and were cut");
        }
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return std::future::pending().await };
        match listener.accept().await {
            Ok((stream, peer)) => {
                tune(&stream);
                return (stream, peer, place);
            }
            Err(why) => {
                // Out of descriptors, mostly: others end, so waiting helps, and spinning doesn't.
                tracing::warn!(%why, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn tune(stream: &TcpStream) {
    // A socket that refuses is still a socket.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES);
        let _ = SockRef::from(stream).set_tcp_user_timeout(Some(STALLED));
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Marks a connection as one that carries a terminal, whose output must not pile up in the kernel.
#[derive(Clone, Debug, Default)]
pub struct SocketMark(Arc<AtomicBool>);

impl SocketMark {
    /// From the next write on, the kernel's send buffer is small.
    pub fn carries_terminal(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection's TCP stream, which obeys its [`SocketMark`].
struct Socket {
    stream: TcpStream,
    mark: SocketMark,
    small: bool,
    /// Its place among the connections, which an upgrade takes along.
    _place: OwnedSemaphorePermit,
}

impl Socket {
    fn obey(&mut self) {
        if !self.small && self.mark.0.load(Ordering::Relaxed) {
            self.small = true;
            let socket = SockRef::from(&self.stream);
            let _ = socket.set_send_buffer_size(TERMINAL_SEND_BUFFER);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.obey();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.obey();
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A service made of a function.
fn tower_service_fn<F>(call: F) -> FnService<F> {
    FnService(call)
}

#[derive(Clone)]
struct FnService<F>(F);

impl<F, R, Q, A, E> tower_service::Service<Q> for FnService<F>
where
    F: FnMut(Q) -> R,
    R: std::future::Future<Output = Result<A, E>>,
{
    type Response = A;
    type Error = E;
    type Future = R;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Q) -> R {
        (self.0)(request)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_whose_peer_takes_nothing_is_the_kernels_to_end() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, ..) = accept(&listener, &Arc::new(Semaphore::new(1))).await;
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(STALLED));
    }
}
