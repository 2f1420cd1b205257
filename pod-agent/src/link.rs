//! One link to the control plane: dialling, hello, heartbeats, and the streams that the control plane opens.

use crate::agent::{LAST_STATE, Parts};
use crate::exec;
use crate::terminal::{Terminals, attach};
use crate::vitals;
use futures::TryFutureExt;
use shared::limits::{PING_EVERY, PING_TIMEOUT};
use shared::link::frame;
use shared::link::hello::{Accepted, FromAgent, FromControlPlane, Hello, Welcome};
use shared::link::mux::{LinkStream, Opener, Side, mux};
use shared::link::socket::{BinaryMessages, config};
use shared::link::terminal::ToViewer;
use shared::link::websocket::WebSocketBytes;
use shared::link::{Failure, LINK_PATH, Open, SUBPROTOCOL, TunnelAnswer, VERSION_MAX, VERSION_MIN};
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::{
    self,
    http::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL},
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How long dialling, the upgrade and the hello may each take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first message of a stream may take to come.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a stream for files that ended is opened again.
const SYNC_PAUSE: Duration = Duration::from_secs(1);
/// Words for the control plane that wait to be sent.
const WORDS_WAITING: usize = 16;

/// How a link ended.
#[derive(Debug)]
pub enum Ended {
    /// It was lost, or never came up; dial again.
    Lost(String),
    /// The control plane refused it, and dialling again cannot help.
    Refused(Failure),
    /// The control plane asks the agent to end, within this time. The link is still up, and in the answer.
    Stop(Box<Up>, Duration),
}

/// A link that is up.
pub struct Up {
    words: mpsc::Sender<FromAgent>,
    sending: AbortOnDropHandle<()>,
    streams: JoinSet<()>,
    driver: AbortOnDropHandle<std::io::Result<()>>,
}

impl std::fmt::Debug for Up {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Up").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl Up {
    /// Keeps the link alive while `work` is done.
    pub async fn meanwhile<T>(&self, terminals: &Terminals, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut beat = interval(PING_EVERY);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = beat.tick() => {
                    let _ = self.words.try_send(FromAgent::Heartbeat(vitals::read(terminals).await));
                }
            }
        }
    }

    /// Says that the agent's last state is written, and closes the link properly.
    pub async fn stopped(self, complete: bool) {
        let Self { words, sending, streams, driver } = self;
        let _ = words.send(FromAgent::Stopped { complete }).await;
        drop(words);
        // What is written is not yet sent: the control plane, having read it, closes the link.
        let closed = async {
            let _ = sending.await;
            let _ = driver.await;
        };
        let _ = timeout(Duration::from_secs(2), closed).await;
        drop(streams);
    }
}

/// Dials `address` and serves the link until it ends, or until the agent is `ending`.
pub async fn run(
    parts: &Parts,
    address: SocketAddr,
    credential: &str,
    ending: &CancellationToken,
    mut up: impl FnMut(),
) -> Ended {
    let connected = tokio::select! {
        connected = connect(parts, address, credential, &mut up) => connected,
        () = ending.cancelled() => Err(Ended::Lost("the agent ends".to_owned())),
    };
    match connected {
        Ok(connected) => {
            up();
            serve(parts, connected, ending).await
        }
        Err(ended) => ended,
    }
}

struct Connected {
    control: LinkStream,
    streams: mpsc::Receiver<LinkStream>,
    opener: Opener,
    driver: AbortOnDropHandle<std::io::Result<()>>,
    accepted: Accepted,
}

fn lost(what: &str, why: impl std::fmt::Display) -> Ended {
    Ended::Lost(format!("{what}: {why}"))
}

async fn within<T, E: std::fmt::Display>(
    what: &str,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, Ended> {
    match timeout(STEP_TIMEOUT, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(why)) => Err(lost(what, why)),
        Err(_) => Err(lost(what, "no answer in time")),
    }
}

async fn connect(
    parts: &Parts,
    address: SocketAddr,
    credential: &str,
    waits: &mut impl FnMut(),
) -> Result<Connected, Ended> {
    let stream = within("the control plane cannot be dialled", TcpStream::connect(address)).await?;
    // An echo waits for nothing.
    let _ = stream.set_nodelay(true);
    let request = || -> Result<_, Box<dyn std::error::Error>> {
        let mut request = format!("ws://{address}{LINK_PATH}").into_client_request()?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {credential}"))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        Ok(request)
    };
    let request = request().map_err(|why| lost("the upgrade cannot be asked for", why))?;
    let upgrade =
        tokio_tungstenite::client_async_with_config(request, stream, Some(config())).map_err(|why| {
            if matches!(&why, tungstenite::Error::Http(answer) if answer.status() == StatusCode::UNAUTHORIZED)
            {
                // What was given may have been taken back; the file's holds as long as the session.
                parts.pass.forget();
            }
            why
        });
    let (socket, _) = within("the upgrade was refused", upgrade).await?;
    let (opener, streams, driver) = mux(WebSocketBytes::new(BinaryMessages::new(socket)), Side::Agent);
    let driver = AbortOnDropHandle::new(tokio::spawn(driver));
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        instance: parts.instance,
        volume: parts.volume,
        pid: std::process::id(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        terminals: parts.terminals.count(),
    };
    let welcome = within("no welcome", async {
        let mut control = opener.open().await?;
        frame::write(&mut control, &Open::Control(hello)).await?;
        let welcome: Welcome = frame::expect(&mut control).await?;
        Ok::<_, frame::FrameError>((control, welcome))
    });
    let (mut control, mut welcome) = welcome.await?;
    loop {
        match welcome {
            Welcome::Accepted(accepted) => {
                return Ok(Connected { control, streams, opener, driver, accepted });
            }
            Welcome::Waiting => waits(),
            Welcome::Refused { failure, retry: true } => return Err(lost("refused for now", failure)),
            Welcome::Refused { failure, retry: false } => return Err(Ended::Refused(failure)),
        }
        let next = timeout(PING_EVERY + PING_TIMEOUT, frame::expect::<_, Welcome>(&mut control)).await;
        let next = next.map_err(|_| lost("no session", "the control plane was silent for too long"))?;
        welcome = next.map_err(|why| lost("no session", why))?;
    }
}

async fn serve(parts: &Parts, connected: Connected, ending: &CancellationToken) -> Ended {
    let Connected { control, mut streams, opener, mut driver, accepted } = connected;
    tracing::info!(session = %accepted.session, epoch = %accepted.epoch, "linked");
    parts.environment.set_session(accepted.environment.0.clone());
    parts.pass.keep(accepted.credential.clone().map(|pass| pass.0));
    let (mut from_control_plane, mut to_control_plane) = tokio::io::split(control);
    let (words, mut to_send) = mpsc::channel::<FromAgent>(WORDS_WAITING);
    let sending = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(word) = to_send.recv().await {
            let sent = timeout(PING_TIMEOUT, frame::write(&mut to_control_plane, &word)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
        let _ = to_control_plane.shutdown().await;
    }));
    // Messages are read on a task of their own: reading is not safe to cancel.
    let (heard, mut said) = mpsc::channel(1);
    let listening = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let message = frame::read::<_, FromControlPlane>(&mut from_control_plane).await;
            let over = !matches!(message, Ok(Some(_)));
            if heard.send(message).await.is_err() || over {
                return;
            }
        }
    }));
    let sync = parts.sync.clone();
    let syncing = AbortOnDropHandle::new(tokio::spawn(async move {
        // Either side may end a stream to begin anew; the terminals' link stays.
        loop {
            match opener.open().await {
                Ok(stream) => sync.serve(stream, &accepted).await,
                Err(why) => return tracing::debug!(%why, "no stream for files"),
            }
            tokio::time::sleep(SYNC_PAUSE).await;
        }
    }));
    let mut serving = JoinSet::new();
    let mut beat = interval(PING_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent_since = Instant::now();
    let grace = loop {
        tokio::select! {
            () = ending.cancelled() => break LAST_STATE,
            ended = &mut driver => {
                let why = match ended {
                    Ok(Ok(())) => "the control plane closed it".to_owned(),
                    Ok(Err(why)) => why.to_string(),
                    Err(why) => why.to_string(),
                };
                return Ended::Lost(why);
            }
            message = said.recv() => {
                silent_since = Instant::now();
                match message {
                    Some(Ok(Some(FromControlPlane::Heartbeat))) => {
                        let _ = words.try_send(FromAgent::HeartbeatAnswer);
                    }
                    Some(Ok(Some(FromControlPlane::HeartbeatAnswer))) => {}
                    Some(Ok(Some(FromControlPlane::Drain))) => {
                        return Ended::Lost("the control plane's replica goes away".to_owned());
                    }
                    Some(Ok(Some(FromControlPlane::Environment { variables }))) => {
                        parts.environment.set_session(variables.0);
                    }
                    Some(Ok(Some(FromControlPlane::Stop { grace_ms }))) => {
                        break Duration::from_millis(grace_ms);
                    }
                    Some(Ok(None)) | None => return Ended::Lost("the control plane closed it".to_owned()),
                    Some(Err(why)) => return Ended::Lost(why.to_string()),
                }
            }
            stream = streams.recv() => match stream {
                Some(stream) => {
                    serving.spawn(accept(parts.clone(), stream));
                }
                None => return Ended::Lost("the control plane closed it".to_owned()),
            },
            Some(_) = serving.join_next(), if !serving.is_empty() => {}
            () = parts.terminals.changed() => {
                let _ = words.try_send(FromAgent::TerminalsChanged);
            }
            // Counts as told once there is room for it: a link that ends before loses none.
            (event, Ok(room)) = async { (parts.events.first().await, words.reserve().await) } => {
                room.send(FromAgent::Event { kind: event.kind.to_owned(), message: event.message.clone() });
                parts.events.told(&event);
            }
            _ = beat.tick() => {
                let _ = words.try_send(FromAgent::Heartbeat(vitals::read(&parts.terminals).await));
            }
            () = sleep_until(silent_since + PING_EVERY + PING_TIMEOUT) => {
                return Ended::Lost("the control plane was silent for too long".to_owned());
            }
        }
    };
    // The file stream must live on for the last state, so it moves along.
    serving.spawn(async move { drop(syncing.await) });
    serving.spawn(async move { drop(listening.await) });
    Ended::Stop(Box::new(Up { words, sending, streams: serving, driver }), grace)
}

/// Serves one stream that the control plane opened.
async fn accept(parts: Parts, mut stream: LinkStream) {
    let Ok(Ok(open)) = timeout(OPEN_TIMEOUT, frame::expect::<_, Open>(&mut stream)).await else { return };
    match open {
        Open::Attach(wanted) => match parts.terminals.get(wanted.terminal) {
            Ok(shell) => attach::serve(shell, wanted, stream).await,
            Err(failure) => {
                let _ = frame::write(&mut stream, &ToViewer::Notice(failure)).await;
                let _ = stream.shutdown().await;
            }
        },
        Open::Terminal(call) => {
            // Goes on although the link may go: half a close would be none.
            let terminals = parts.terminals.clone();
            if let Ok(answer) = tokio::spawn(async move { terminals.call(call).await }).await {
                let _ = frame::write(&mut stream, &answer).await;
                let _ = stream.shutdown().await;
            }
        }
        Open::Exec(command) => {
            // Its own task: a lost link ends the stream, which ends the command, which takes a moment.
            let serving = exec::serve(command, parts.environment.clone(), parts.sync.visible(), stream);
            let _ = tokio::spawn(serving).await;
        }
        Open::Tunnel { port } => tunnel(port, stream).await,
        // Only an agent opens these.
        Open::Control(_) | Open::Sync(_) => {}
    }
}

async fn tunnel<S>(port: u16, mut stream: S)
where
    S: AsyncRead + tokio::io::AsyncWrite + AsyncReadExt + Unpin,
{
    match timeout(STEP_TIMEOUT, TcpStream::connect(("127.0.0.1", port))).await {
        Ok(Ok(mut local)) => {
            if frame::write(&mut stream, &TunnelAnswer::Open).await.is_ok() {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut local).await;
            }
        }
        Ok(Err(why)) => {
            let _ = frame::write(&mut stream, &TunnelAnswer::Refused { message: why.to_string() }).await;
        }
        Err(_) => {
            let message = "nothing answered in time".to_owned();
            let _ = frame::write(&mut stream, &TunnelAnswer::Refused { message }).await;
        }
    }
    let _ = stream.shutdown().await;
}
