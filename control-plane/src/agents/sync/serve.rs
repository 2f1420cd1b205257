//! One sync stream from its hello to its end: both its ways, and how they keep in step.

use super::download::Download;
use super::ledger::{Lacking, Ledger};
use super::progress::{Progress, To};
use super::pull;
use super::push::{Push, PushError};
use super::upload::Upload;
use super::{Ask, Context, MassDelete, Status};
use crate::agents::pace::Pace;
use crate::agents::registry::AgentEvent;
use crate::workspace::{self, Change};
use shared::id::{Revision, SessionId};
use shared::link::frames::Frames;
use shared::link::mux::LinkStream;
use shared::link::sync::{Assembly, FromAgent, FromControlPlane, Hello, Problem, Standing};
use shared::tree::{Hash, digest};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::ReadHalf;
use tokio::sync::{Mutex, broadcast, mpsc, oneshot};

/// Answers to the agent's batches that wait to be written; then the next batch is not read.
const ANSWERS_WAITING: usize = 16;
/// Questions to the agent whose answers are outstanding at once.
const SETTLES: usize = 64;
/// The pause after the database failed; doubles to [`DATABASE_PAUSE_MOST`].
const DATABASE_PAUSE: Duration = Duration::from_millis(250);
/// The longest such pause.
const DATABASE_PAUSE_MOST: Duration = Duration::from_secs(10);
/// How often to look at the revision though nothing was said of a change: one query a session, so rarely.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Problems kept of one pod.
const PROBLEMS: usize = 1_000;
/// Bytes kept of each text of a problem.
const PROBLEM_BYTES: usize = 4_096;
/// Words on what the pod is doing that are told in a row: one for each of many quick saves.
const NEWS_BURST: u32 = 1_000;
/// How far apart they are told after that. Everyone who listens for any session hears each.
const NEWS_EVERY: Duration = Duration::from_millis(2);
/// Lists of problems that are told in a row. Each is compared with the one before, path by path.
const LISTS_BURST: u32 = 50;
/// How far apart they are told after that.
const LISTS_EVERY: Duration = Duration::from_millis(50);

/// How far apart an agent's bases are checked, each time by reading the whole tree. Agents ask far less often.
const CHECKS_EVERY: Duration = Duration::from_secs(1);

/// Serves one sync stream until it ends. The link goes on without it.
pub(in crate::agents) async fn serve(context: Context, stream: LinkStream, hello: Hello) {
    let session = context.session;
    if hello.epoch != context.epoch {
        tracing::info!(%session, "a sync stream of another link was refused");
        return;
    }
    // From here on, so that no commit falls between the first read and the first wake-up.
    let changes = context.agents.0.store.changes();
    let (from_agent, to_agent) = tokio::io::split(stream);
    let (to_answer, answers) = mpsc::channel(ANSWERS_WAITING);
    let (to_need, needs) = mpsc::channel(ANSWERS_WAITING);
    let ledger = Mutex::default();
    let settles = Settles::default();
    let push = Push {
        context: &context,
        stream: to_agent,
        ledger: &ledger,
        answers,
        sent: hello.base_rev,
        lacking: Lacking::default(),
        download: Download::new(),
        progress: Progress::new(To::Pod),
    };
    let why = tokio::select! {
        why = read(&context, from_agent, &ledger, to_answer, to_need, &settles) => why,
        why = write(push, hello, changes, needs, &settles) => why,
    };
    context.update(|status| status.transfer = None);
    tracing::debug!(%session, why, "a sync stream ended");
}

/// What an agent asks for.
#[derive(Debug)]
enum Wanted {
    /// Contents, or the recipes of large ones.
    Contents(Vec<Hash>),
    /// Parts of a large content.
    Parts(Hash, Vec<u32>),
}

/// Questions that wait for the agent's answer, by their number.
#[derive(Default)]
struct Settles(std::sync::Mutex<(u64, HashMap<u64, oneshot::Sender<Revision>>)>);

impl Settles {
    fn ask(&self, answer: oneshot::Sender<Revision>) -> Option<u64> {
        let mut settles = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (last, waiting) = &mut *settles;
        waiting.retain(|_, answer| !answer.is_closed());
        if waiting.len() >= SETTLES {
            return None;
        }
        *last += 1;
        waiting.insert(*last, answer);
        Some(*last)
    }

    fn answer(&self, token: u64, rev: Revision) {
        let mut settles = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(answer) = settles.1.remove(&token) {
            // Whoever asked may have given up.
            let _ = answer.send(rev);
        }
    }
}

/// What the agent says.
async fn read(
    context: &Context,
    from_agent: ReadHalf<LinkStream>,
    ledger: &Mutex<Ledger>,
    answers: mpsc::Sender<FromControlPlane>,
    needs: mpsc::Sender<Wanted>,
    settles: &Settles,
) -> String {
    let mut frames = Frames::new(from_agent);
    let mut upload = Upload::new();
    let mut assembly = Assembly::default();
    let mut news = Pace::new(NEWS_BURST, NEWS_EVERY);
    let mut lists = Pace::new(LISTS_BURST, LISTS_EVERY);
    let mut checks = Pace::new(1, CHECKS_EVERY);
    loop {
        let message = match frames.next::<FromAgent>().await {
            Ok(Some(message)) => message,
            Ok(None) => return "the agent ended it".to_owned(),
            Err(why) => return why.to_string(),
        };
        match message {
            FromAgent::Visible { .. } | FromAgent::State(_) | FromAgent::MassDelete { .. } => {
                news.keep().await
            }
            FromAgent::Problems { .. } => lists.keep().await,
            _ => {}
        }
        match message {
            FromAgent::Batch(part) => match assembly.take(part, &context.agents.0.settings.limits) {
                Ok(None) => {}
                Ok(Some(assembled)) => {
                    // Its place first, so that the answer is in the queue before the ledger is free again.
                    let Ok(place) = answers.reserve().await else { return "the other way ended".to_owned() };
                    pull::commit(context, ledger, assembled, |answer| place.send(answer)).await;
                }
                Err(why) => return why.to_string(),
            },
            FromAgent::Visible { rev } => {
                // An agent can't have seen what isn't there; taken at its word it would only deceive itself.
                let rose = context.visible.send_if_modified(|visible| {
                    let rises = rev > *visible;
                    *visible = rev.max(*visible);
                    rises
                });
                if rose {
                    context.publish();
                }
            }
            FromAgent::Offer(page) => {
                if upload.offered(context, page, &answers).await.is_err() {
                    return "the other way ended".to_owned();
                }
            }
            FromAgent::Part(data) => {
                if upload.part(context, data, &answers).await.is_err() {
                    return "the other way ended".to_owned();
                }
            }
            FromAgent::Need { hashes } => {
                if needs.send(Wanted::Contents(hashes)).await.is_err() {
                    return "the other way ended".to_owned();
                }
            }
            FromAgent::NeedParts { content, parts } => {
                if needs.send(Wanted::Parts(content, parts)).await.is_err() {
                    return "the other way ended".to_owned();
                }
            }
            FromAgent::Problems { problems, more } => context.update(|status| {
                let beyond = problems.len().saturating_sub(PROBLEMS) as u64;
                status.problems = problems.into_iter().take(PROBLEMS).map(cut).collect();
                status.more_problems = more.saturating_add(beyond);
            }),
            FromAgent::Check { rev, digest } => {
                checks.keep().await;
                match holds_other(context, rev, digest).await {
                    Ok(false) => {}
                    Ok(true) => return format!("the base is not what the database holds at revision {rev}"),
                    Err(why) => tracing::warn!(%why, "a base could not be checked"),
                }
            }
            FromAgent::State(state) => context.update(|status| {
                status.state = Some(state);
                if state != shared::link::sync::State::Held {
                    status.mass_delete = None;
                }
            }),
            FromAgent::MassDelete { items, mut paths } => {
                paths.truncate(100);
                context.update(|status| status.mass_delete = Some(MassDelete { items, paths }));
            }
            FromAgent::Settled { token, rev } => settles.answer(token, rev),
        }
    }
}

impl Context {
    pub(super) fn update(&self, change: impl FnOnce(&mut Status)) {
        let changed = self.status.send_if_modified(|status| {
            let before = Arc::clone(status);
            change(Arc::make_mut(status));
            **status != *before
        });
        if changed {
            self.publish();
        }
    }

    fn publish(&self) {
        self.agents.publish(AgentEvent::Sync { session: self.session });
    }
}

fn cut(mut problem: Problem) -> Problem {
    for text in [&mut problem.path, &mut problem.code, &mut problem.message] {
        let mut end = text.len().min(PROBLEM_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    problem
}

/// What the agent is told: first what it lacks, then what changes, answers and questions between.
async fn write(
    mut push: Push<'_>,
    hello: Hello,
    mut changes: broadcast::Receiver<Change>,
    mut needs: mpsc::Receiver<Wanted>,
    settles: &Settles,
) -> String {
    let context = push.context;
    let session = context.session;
    let mut pause = DATABASE_PAUSE;
    let mut due = Due::Welcome;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asks = context.asks.lock().await;
    loop {
        while due != Due::Nothing {
            match step(&mut push, &hello, &mut due).await {
                Ok(()) => pause = DATABASE_PAUSE,
                Err(PushError::Store(why)) => {
                    tracing::warn!(%session, %why, "changes for a pod could not be read, trying again");
                    let paused = tokio::time::sleep(pause);
                    tokio::pin!(paused);
                    // Answers to the pod's own batches are there already, and wait for nothing.
                    loop {
                        tokio::select! {
                            () = &mut paused => break,
                            Some(answer) = push.answers.recv() => {
                                if let Err(why) = push.say(&answer).await {
                                    return why.to_string();
                                }
                            }
                        }
                    }
                    pause = (pause * 2).min(DATABASE_PAUSE_MOST);
                }
                Err(why) => return why.to_string(),
            }
        }
        let said = tokio::select! {
            biased;
            Some(answer) = push.answers.recv() => push.say(&answer).await,
            Some(wanted) = needs.recv() => match wanted {
                Wanted::Contents(hashes) => push.push_needed(hashes).await,
                Wanted::Parts(content, parts) => push.download.want(content, &parts),
            },
            changed = told(&mut changes, session, push.sent) => {
                if !changed {
                    return "the store is gone".to_owned();
                }
                due = Due::Changes;
                Ok(())
            }
            Some(ask) = asks.recv() => {
                let question = match ask {
                    Ask::Decide { delete } => Some(FromControlPlane::MassDeleteDecision { delete }),
                    Ask::Settle(answer) => settles.ask(answer).map(|token| FromControlPlane::Settle { token }),
                };
                match question {
                    Some(question) => push.say(&question).await,
                    None => Ok(()),
                }
            }
            _ = look.tick() => {
                if matches!(context.agents.0.store.rev(session).await, Ok(rev) if rev > push.sent) {
                    due = Due::Changes;
                }
                Ok(())
            }
            // Last of all: what else there is to say need not wait for a large file.
            () = std::future::ready(()), if push.download.is_due() => push.push_parts().await,
        };
        if let Err(why) = said {
            if let PushError::Store(why) = &why {
                tracing::warn!(%session, %why, "contents for a pod could not be read");
            }
            // The agent asks again after its next link, and by then the database may be back.
            return why.to_string();
        }
    }
}

/// What is to be pushed next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The welcome, and with it the decision how to catch up.
    Welcome,
    /// The whole tree.
    All {
        /// Whether without contents.
        bare: bool,
    },
    /// What changed since.
    Changes,
    /// Nothing.
    Nothing,
}

/// Takes one step; on a failure of the database the same step is due again.
async fn step(push: &mut Push<'_>, hello: &Hello, due: &mut Due) -> Result<(), PushError> {
    match *due {
        Due::Welcome => {
            let (rev, base) = judge(push.context, hello).await?;
            if base == Standing::Foreign {
                tracing::warn!(session = %push.context.session, "the pod's base is not of this database");
            }
            push.say(&FromControlPlane::Welcome { rev, base }).await?;
            *due = match base {
                Standing::Current => Due::Changes,
                // Who has no base most likely has no files either and needs them all; others have most of them.
                _ => Due::All { bare: hello.base_rev != Revision::ZERO },
            };
        }
        Due::All { bare } => {
            push.push_all(bare).await?;
            *due = Due::Changes;
        }
        Due::Changes => {
            let pruned = push.push_changes().await?;
            *due = if pruned { Due::All { bare: true } } else { Due::Nothing };
        }
        Due::Nothing => {}
    }
    Ok(())
}

/// The database's revision, and what the agent's base is worth to it.
async fn judge(context: &Context, hello: &Hello) -> Result<(Revision, Standing), workspace::Error> {
    let (store, session) = (&context.agents.0.store, context.session);
    // What an earlier stream sent may still be on its way into the database: the agent is told of it as well.
    store.take_turn(session).await;
    let other_volume = store.see_volume(session, hello.volume).await?;
    let rev = store.rev(session).await?;
    let base = hello.base_rev;
    let outdated = |outdated| if outdated { Standing::Outdated } else { Standing::Current };
    let standing = if base == Revision::ZERO {
        outdated(rev > base)
    } else if base > rev || base == rev && holds_other(context, base, hello.base_digest).await? {
        Standing::Foreign
    } else {
        outdated(other_volume || store.changes_since(session, base, None, 1).await?.pruned)
    };
    Ok((rev, standing))
}

/// Whether the database is at a revision and holds something else there than a digest tells.
async fn holds_other(context: &Context, rev: Revision, told: Hash) -> Result<bool, workspace::Error> {
    let snapshot = context.agents.0.store.snapshot(context.session).await?;
    let held = || digest(snapshot.items.iter().map(|(path, item)| (path, &item.entry)));
    Ok(snapshot.rev == rev && held() != told)
}

/// Resolves when the session's files changed beyond `sent`, or may have. False if nothing will any more.
async fn told(changes: &mut broadcast::Receiver<Change>, session: SessionId, sent: Revision) -> bool {
    loop {
        match changes.recv().await {
            Ok(change) if change.session == session && change.rev > sent => return true,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return true,
            Err(broadcast::error::RecvError::Closed) => return false,
        }
    }
}
