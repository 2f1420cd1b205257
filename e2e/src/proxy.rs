//! A proxy between agents and their server, on loopback: counts the bytes of their links, and cuts them.

use crate::Server;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes passed on at once.
const PIECE_BYTES: usize = 64 * 1024;

/// What passed.
#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    accepted: Mutex<Option<Instant>>,
}

/// A proxy that runs until it is dropped; then all its connections end.
pub struct Proxy {
    counts: Arc<Counts>,
    cut: watch::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Between a server and the agents that dial from now on.
    pub async fn before(server: &Server) -> Self {
        let file = server.data().join("agent-address");
        let told = std::fs::read_to_string(&file).expect("where agents dial");
        let target: SocketAddr = told.trim().trim_start_matches("ws://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("an address");
        std::fs::write(&file, format!("ws://{own}\n")).expect("to tell agents");
        let (counts, cut) = (Arc::<Counts>::default(), watch::Sender::new(()));
        let (counting, cutting) = (Arc::clone(&counts), cut.subscribe());
        let accepting = tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                *counting.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                tokio::spawn(pass(agent, target, Arc::clone(&counting), cutting.clone()));
            }
        });
        Self { counts, cut, accepting }
    }

    /// Bytes that went from agents to the server, and back, so far.
    pub fn bytes(&self) -> (u64, u64) {
        (self.counts.up.load(Ordering::Relaxed), self.counts.down.load(Ordering::Relaxed))
    }

    /// Ends all connections, as a network does that fails. Agents dial again by themselves.
    pub fn cut(&self) {
        *self.accepted() = None;
        self.cut.send_replace(());
    }

    /// When an agent dialled for the last time since the last cut.
    pub fn dialled(&self) -> Option<Instant> {
        *self.accepted()
    }

    fn accepted(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.counts.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut.send_replace(());
    }
}

async fn pass(agent: TcpStream, target: SocketAddr, counts: Arc<Counts>, mut cut: watch::Receiver<()>) {
    cut.mark_unchanged();
    let Ok(server) = TcpStream::connect(target).await else { return };
    for stream in [&agent, &server] {
        // What the proxy adds must not be a delay.
        let _ = stream.set_nodelay(true);
    }
    let ((from_agent, to_agent), (from_server, to_server)) = (agent.into_split(), server.into_split());
    tokio::select! {
        () = pump(from_agent, to_server, &counts.up) => {}
        () = pump(from_server, to_agent, &counts.down) => {}
        _ = cut.changed() => {}
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: &AtomicU64) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(n) = from.read(&mut piece).await {
        if n == 0 || to.write_all(&piece[..n]).await.is_err() {
            return;
        }
        count.fetch_add(n as u64, Ordering::Relaxed);
    }
}
