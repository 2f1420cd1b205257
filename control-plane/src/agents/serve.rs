//! Serves one link from its first byte to its last.

use super::identity::{Credential, Identified};
use super::link::{CONTROL_WAITING, Inner, Link};
use super::pace::Pace;
use super::registry::{AgentEvent, Agents, Refusal};
use super::rows;
use super::sync;
use sea_orm::DbErr;
use shared::id::{LinkEpoch, SessionId};
use shared::limits::{PING_EVERY, PING_TIMEOUT};
use shared::link::frame::{self, FrameError};
use shared::link::frames::Frames;
use shared::link::hello::{Accepted, FromAgent, FromControlPlane, Hello, Pass, Variables, Vitals, Welcome};
use shared::link::mux::{LinkStream, Side, mux};
use shared::link::socket::BinaryMessages;
use shared::link::websocket::WebSocketBytes;
use shared::link::{Failure, Open, VERSION_MAX, VERSION_MIN, negotiate};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// How long a linked agent may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the database may take to admit an agent.
const ADMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long any one message on the control stream may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a refused agent may take to read why.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(2);
/// Characters of an agent's event that reach the timeline.
const EVENT_CHARACTERS: usize = 500;
/// Events taken from an agent in [`PING_EVERY`]; a talkative one is cut short, not obeyed.
const EVENTS_PER_BEAT: u32 = 20;
/// Changes of the set of terminals that are told in a row: more than a session may have open, several times over.
const CHANGES_BURST: u32 = 1_000;
/// How far apart they are told after that. Everyone who listens for any session hears each.
const CHANGES_EVERY: Duration = Duration::from_millis(2);

/// Serves the link of an agent over `io`, whose WebSocket handshake is over.
pub(super) async fn link<S>(agents: &Agents, agent: Identified, io: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = WebSocketBytes::new(BinaryMessages::server(io).await);
    let (opener, mut streams, driver) = mux(socket, Side::ControlPlane);
    let mut driver = AbortOnDropHandle::new(tokio::spawn(driver));
    let hello = tokio::time::timeout(HELLO_TIMEOUT, async {
        let mut control = streams.recv().await?;
        match frame::expect::<_, Open>(&mut control).await {
            Ok(Open::Control(hello)) => Some((control, hello)),
            _ => None,
        }
    });
    let Ok(Some((mut control, hello))) = hello.await else {
        tracing::info!(?agent, "an agent linked and said no hello");
        return;
    };
    let session = match agent {
        Identified::Session(session) => session,
        Identified::Waiting(pod) => {
            let assigned = tokio::select! {
                assigned = wait_for_session(agents, pod, &mut control) => assigned,
                _ = &mut driver => return,
                () = agents.closing() => return,
            };
            let Some(session) = assigned else { return };
            tracing::info!(%session, %pod, "a waiting agent was given a session");
            session
        }
    };
    let changes = agents.0.settings.environments.changes();
    let (accepted, hello, unopened) = match admit(agents, session, hello).await {
        Ok(admitted) => admitted,
        Err((failure, retry)) => {
            tracing::info!(%session, code = failure.code, "an agent's link was refused");
            let _ = frame::write(&mut control, &Welcome::Refused { failure, retry }).await;
            let _ = control.shutdown().await;
            // The agent closes, having read it.
            let _ = tokio::time::timeout(REFUSED_TIMEOUT, &mut driver).await;
            return;
        }
    };
    let (to_vitals, vitals) = watch::channel(Vitals::default());
    let (to_stopped, stopped) = watch::channel(None);
    let (to_control, commands) = mpsc::channel(CONTROL_WAITING);
    let (sync_part, sync_context) = sync::part(agents, session, accepted.epoch);
    let over = CancellationToken::new();
    let link = Link::new(Inner {
        session,
        epoch: accepted.epoch,
        version: accepted.version,
        hello,
        opener,
        vitals,
        stopped,
        control: to_control,
        sync: sync_part,
        over: over.clone(),
    });
    let epoch = accepted.epoch;
    if frame::write(&mut control, &Welcome::Accepted(accepted)).await.is_err() || !agents.enter(link.clone())
    {
        return;
    }
    agents.tell_unopened(session, unopened);
    if agents.0.settings.environments.changes() != changes {
        // Whoever changed something after it was read found no link to tell.
        let refreshing = agents.refresh_environment(session);
        if !matches!(tokio::time::timeout(ADMIT_TIMEOUT, refreshing).await, Ok(Ok(_))) {
            tracing::warn!(%session, "an agent may lack the latest change of its variables");
        }
    }
    tracing::info!(%session, %epoch, instance = %link.hello().instance, "agent linked");
    let (from_agent, to_agent) = tokio::io::split(control);
    let control = Control { agents, session, epoch, vitals: to_vitals, stopped: to_stopped };
    let why = tokio::select! {
        ended = &mut driver => match ended {
            Ok(Ok(())) => "the agent closed it".to_owned(),
            Ok(Err(why)) => why.to_string(),
            Err(why) => why.to_string(),
        },
        why = control.run(from_agent, to_agent, commands) => why,
        () = accept_streams(streams, sync_context) => "the agent closed it".to_owned(),
        () = over.cancelled() => "a newer one took its place".to_owned(),
        () = agents.closing() => "the server goes".to_owned(),
    };
    over.cancel();
    let stopped = link.stopped();
    agents.leave(&link, stopped);
    tracing::info!(%session, %epoch, ?stopped, why, "agent unlinked");
    // Only says sooner what the row's end says anyway.
    let expiring = rows::expire(agents.0.store.database().writer(), session, epoch);
    let _ = tokio::time::timeout(ADMIT_TIMEOUT, expiring).await;
}

/// Secrets that could not be opened, with the reason.
type Unopened = Vec<(String, String)>;

/// Keeps an agent that has no session waiting for one. None if it is to dial again.
async fn wait_for_session<S>(agents: &Agents, pod: Uuid, control: &mut S) -> Option<SessionId>
where
    S: AsyncWrite + Unpin,
{
    let _counted = agents.0.settings.metrics.waiting();
    let assigned = agents.0.settings.identity.assigned(pod);
    let mut assigned = std::pin::pin!(assigned);
    loop {
        let said = tokio::time::timeout(SEND_TIMEOUT, frame::write(control, &Welcome::Waiting)).await;
        if !matches!(said, Ok(Ok(()))) {
            return None;
        }
        match tokio::time::timeout(PING_EVERY, &mut assigned).await {
            Ok(Some(session)) => return Some(session),
            Ok(None) => {
                let failure = Failure::new("not_needed", "this agent is not needed any more");
                let _ = frame::write(control, &Welcome::Refused { failure, retry: true }).await;
                let _ = control.shutdown().await;
                return None;
            }
            Err(_) => {}
        }
    }
}

/// What the agent dials with from now on, where it is given anything. It takes the place of all before.
async fn give_credential(
    agents: &Agents,
    session: SessionId,
    epoch: LinkEpoch,
) -> Result<Option<Pass>, DbErr> {
    if !agents.0.settings.identity.gives_credentials() {
        return Ok(None);
    }
    let credential = Credential::random(session);
    let database = agents.0.store.database().writer();
    rows::keep_credential(database, &credential, epoch.0).await?;
    rows::revoke_credentials(database, session, Some(&credential)).await?;
    Ok(Some(Pass(credential.reveal())))
}

async fn admit(
    agents: &Agents,
    session: SessionId,
    hello: Hello,
) -> Result<(Accepted, Hello, Unopened), (Failure, bool)> {
    let Some(version) = negotiate(hello.version_min, hello.version_max) else {
        let message = format!(
            "this server speaks link versions {VERSION_MIN} to {VERSION_MAX}, the agent {} to {}",
            hello.version_min, hello.version_max
        );
        return Err((Failure::new("version", message), false));
    };
    let admitted = tokio::time::timeout(ADMIT_TIMEOUT, agents.admit(session, hello.instance)).await;
    let epoch = match admitted {
        Ok(Ok(epoch)) => epoch,
        Ok(Err(Refusal::Superseded)) => {
            return Err((Failure::new("superseded", "another agent serves this session now"), false));
        }
        Ok(Err(Refusal::NoSession)) => {
            return Err((Failure::new("no_session", "this session does not exist any more"), false));
        }
        Ok(Err(Refusal::Database(why))) => {
            tracing::warn!(%session, %why, "an agent could not be admitted");
            return Err((Failure::new("database_unavailable", "the database does not answer"), true));
        }
        Err(_) => return Err((Failure::new("database_unavailable", "the database does not answer"), true)),
    };
    let mut limits = agents.0.settings.limits;
    limits.batch_items = limits.batch_items.min(sync::ANSWERED_ITEMS);
    let resolving = agents.0.settings.environments.resolve(session);
    let resolved = match tokio::time::timeout(ADMIT_TIMEOUT, resolving).await {
        Ok(Ok(resolved)) => resolved,
        // Without its variables a session would run, and not as its user set it up.
        _ => return Err((Failure::new("database_unavailable", "the database does not answer"), true)),
    };
    let environment = Variables(resolved.variables);
    let credential = give_credential(agents, session, epoch).await.unwrap_or_else(|why| {
        tracing::warn!(%session, %why, "an agent could not be given a credential");
        None
    });
    Ok((Accepted { version, session, epoch, environment, limits, credential }, hello, resolved.unopened))
}

/// Takes the streams that an agent opens after its first: file sync, one at a time.
async fn accept_streams(mut streams: mpsc::Receiver<LinkStream>, context: sync::Context) {
    let mut serving: Option<AbortOnDropHandle<()>> = None;
    while let Some(mut stream) = streams.recv().await {
        match tokio::time::timeout(HELLO_TIMEOUT, frame::expect::<_, Open>(&mut stream)).await {
            Ok(Ok(Open::Sync(hello))) => {
                // The one before, if any, ends first: two would commit out of order.
                if let Some(before) = serving.take() {
                    before.abort();
                    let _ = before.await;
                }
                serving =
                    Some(AbortOnDropHandle::new(tokio::spawn(sync::serve(context.clone(), stream, hello))));
            }
            // Only file sync is an agent's to open; dropping the stream resets it.
            _ => tracing::debug!("an agent opened a stream that is not its to open"),
        }
    }
}

/// The control stream's two ways.
struct Control<'a> {
    agents: &'a Agents,
    session: SessionId,
    epoch: LinkEpoch,
    vitals: watch::Sender<Vitals>,
    stopped: watch::Sender<Option<bool>>,
}

impl Control<'_> {
    /// Runs until the stream or the agent's patience is over; answers why.
    async fn run(
        &self,
        from_agent: ReadHalf<LinkStream>,
        mut to_agent: WriteHalf<LinkStream>,
        mut commands: mpsc::Receiver<FromControlPlane>,
    ) -> String {
        let mut frames = Frames::new(from_agent);
        let mut beat = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut events = 0;
        let mut changes = Pace::new(CHANGES_BURST, CHANGES_EVERY);
        // An agent that writes its last state has no breath for heartbeats; whoever stops it bounds that.
        let mut stopping = false;
        loop {
            let message = tokio::select! {
                message = frames.next::<FromAgent>() => match message {
                    Ok(Some(message)) => {
                        if matches!(message, FromAgent::TerminalsChanged) {
                            changes.keep().await;
                        }
                        heard = Instant::now();
                        self.take(message, &mut events)
                    }
                    Ok(None) => return "the agent closed it".to_owned(),
                    Err(why) => return why.to_string(),
                },
                Some(command) = commands.recv() => {
                    stopping |= matches!(command, FromControlPlane::Stop { .. });
                    Some(command)
                }
                _ = beat.tick() => {
                    events = 0;
                    let renewing = rows::renew(self.agents.0.store.database().writer(), self.session, self.epoch);
                    // A database that is away ends no link; nor may it hold up the heartbeat.
                    let _ = tokio::time::timeout(Duration::from_secs(1), renewing).await;
                    Some(FromControlPlane::Heartbeat)
                }
                () = tokio::time::sleep_until(heard + PING_EVERY + PING_TIMEOUT), if !stopping => {
                    return "the agent was silent for too long".to_owned();
                }
            };
            if self.stopped.borrow().is_some() {
                // Its last word; closing tells it that this was heard.
                return "the agent ended".to_owned();
            }
            let Some(message) = message else { continue };
            match tokio::time::timeout(SEND_TIMEOUT, frame::write(&mut to_agent, &message)).await {
                Ok(Ok(())) => {}
                Ok(Err(FrameError::Io(why))) => return why.to_string(),
                Ok(Err(why)) => return why.to_string(),
                Err(_) => return "the agent took nothing for too long".to_owned(),
            }
        }
    }

    fn take(&self, message: FromAgent, events: &mut u32) -> Option<FromControlPlane> {
        let session = self.session;
        match message {
            FromAgent::Heartbeat(vitals) => {
                self.vitals.send_replace(vitals);
                return Some(FromControlPlane::HeartbeatAnswer);
            }
            FromAgent::HeartbeatAnswer => {}
            FromAgent::TerminalsChanged => self.agents.publish(AgentEvent::Terminals { session }),
            FromAgent::Event { kind, message } => {
                *events += 1;
                if *events <= EVENTS_PER_BEAT && super::is_code(&kind) {
                    let message =
                        message.chars().filter(|c| !c.is_control()).take(EVENT_CHARACTERS).collect();
                    self.agents.publish(AgentEvent::Notice { session, kind, message });
                }
            }
            FromAgent::Stopped { complete } => {
                self.stopped.send_replace(Some(complete));
            }
        }
        None
    }
}
