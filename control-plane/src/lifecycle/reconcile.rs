//! Makes what is wanted come true: one task a session takes steps until nothing is left to do.

use super::records::{self, Line, Record};
use super::session::{Activity, State};
use super::step::{self, Action, Facts, Want};
use super::{Error, Lifecycle};
use crate::agents::identity::Credential;
use crate::agents::{self, AgentEvent};
use crate::runtime::{Ensured, RuntimeError, Spec};
use crate::workspace::Origin;
use shared::id::SessionId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

/// The pause after a step failed because the database did not answer; doubles up to the comparison's interval.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// Steps in a row without a pause before one is made: a table with a circle must not spin.
const STEPS_IN_A_ROW: u32 = 20;
/// How long a started agent's first sync may take to be told of in the timeline.
const FIRST_SYNC: Duration = Duration::from_secs(120);
/// How often a process without a link is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often uses of sessions are written down.
const USES_EVERY: Duration = Duration::from_secs(20);
/// How long the process of an agent that said goodbye may take to be gone.
const EXIT_GRACE: Duration = Duration::from_secs(5);
/// How long a stop waits for an agent whose link is away.
const RETURN_GRACE: Duration = Duration::from_secs(3);
/// An agent that was linked for so long has started well: its earlier failures count no more.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// A session's task, as others see it.
pub(super) struct Worker {
    poke: Arc<Poke>,
}

struct Poke {
    /// Something may have happened since facts were last gathered.
    dirty: AtomicBool,
    /// What was tried so far is forgotten: a user asked anew.
    afresh: AtomicBool,
    notify: Notify,
}

/// What a worker remembers between its steps.
struct Attempt {
    /// When the start or stop that is under way began.
    began: Instant,
    launched: bool,
    proven: bool,
    failures: u32,
    retry_at: Instant,
    hopeless: Option<String>,
    why: Option<String>,
    linked_at: Option<Instant>,
    unlinked_at: Instant,
    told_adopted: bool,
}

impl Attempt {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            launched: false,
            proven: false,
            failures: 0,
            retry_at: now,
            hopeless: None,
            why: None,
            linked_at: None,
            unlinked_at: now,
            told_adopted: false,
        }
    }

    fn elapsed_ms(&self) -> Option<i64> {
        i64::try_from(self.began.elapsed().as_millis()).ok()
    }

    fn fail(&mut self, why: String) {
        if self.linked_at.is_some_and(|at| at.elapsed() >= HEALTHY_AFTER) {
            self.failures = 0;
        }
        self.failures += 1;
        self.launched = false;
        self.proven = false;
        self.linked_at = None;
        self.retry_at = Instant::now() + step::backoff(self.failures);
        self.why = Some(why);
    }
}

/// Runs until the lifecycle closes: listens to agents and files, compares everything from time to time.
pub(super) async fn run(lifecycle: &Lifecycle) {
    let mut events = lifecycle.0.agents.events();
    let mut files = lifecycle.0.store.changes();
    let mut compare = tokio::time::interval(lifecycle.0.settings.compare_every);
    let mut uses = tokio::time::interval(USES_EVERY);
    for ticker in [&mut compare, &mut uses] {
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => heed(lifecycle, event).await,
                Err(broadcast::error::RecvError::Lagged(_)) => compare.reset_immediately(),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            change = files.recv() => match change {
                Ok(change) if change.origin == Origin::Pod => lifecycle.touch(change.session, Activity::Sync),
                Ok(change) => lifecycle.touch(change.session, Activity::Save),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            },
            _ = compare.tick() => compare_all(lifecycle).await,
            _ = uses.tick() => write_uses(lifecycle).await,
            () = lifecycle.0.closing.cancelled() => return,
        }
    }
}

async fn heed(lifecycle: &Lifecycle, event: AgentEvent) {
    match event {
        AgentEvent::Linked { session } | AgentEvent::Unlinked { session, .. } => lifecycle.kick(session),
        AgentEvent::Notice { session, kind, message } => {
            let line = Line { kind: "agent", step: Some(&kind), message, ..Line::default() };
            if let Err(why) = records::add_line(lifecycle.database(), session, line).await {
                tracing::warn!(%session, %why, "a line of the timeline was lost");
            }
        }
        AgentEvent::Terminals { .. } | AgentEvent::Sync { .. } => {}
    }
}

/// Looks at every session, and at everything that runs without one.
async fn compare_all(lifecycle: &Lifecycle) {
    // A read that fails decides nothing: the next comparison does.
    let sessions = match records::unfinished(lifecycle.database()).await {
        Ok(sessions) => sessions,
        Err(why) => return tracing::warn!(%why, "sessions could not be compared"),
    };
    let there = match lifecycle.0.runtime.list().await {
        Ok(there) => there,
        Err(why) => return tracing::warn!(%why, "what runs could not be listed"),
    };
    for record in &sessions {
        let id = record.session.id;
        let present = there.iter().any(|(there, observed)| *there == id && observed.running);
        let settled = match record.want {
            Want::Running => record.session.state == State::Running && lifecycle.0.agents.get(id).is_some(),
            Want::Stopped => record.session.state == State::Stopped && !present,
            Want::Deleted => false,
        };
        if !settled {
            lifecycle.kick(id);
        }
    }
    for (id, _) in there {
        let known = sessions.iter().any(|record| record.session.id == id);
        // Read afresh: the session may have been made since the list was.
        if !known && matches!(records::is_unknown(lifecycle.database(), id).await, Ok(true)) {
            tracing::warn!(session = %id, "removing what is left of a session that does not exist");
            if let Err(why) = lifecycle.0.runtime.delete(id).await {
                tracing::warn!(session = %id, %why, "an orphan could not be removed");
            }
        }
    }
}

/// Writes down which sessions were used.
pub(super) async fn write_uses(lifecycle: &Lifecycle) {
    let uses = std::mem::take(&mut *lifecycle.0.uses.lock().unwrap_or_else(PoisonError::into_inner));
    let uses: Vec<_> = uses.into_iter().collect();
    if let Err(why) = records::note_activity(lifecycle.database(), &uses).await {
        tracing::debug!(%why, "uses of sessions were not noted");
    }
}

impl Lifecycle {
    /// Has the session's task look at it, now or as soon as its present step is done.
    pub(super) fn kick(&self, id: SessionId) {
        self.poke(id, false);
    }

    /// Has it forget earlier failures: a user wants something new.
    pub(super) fn restart_attempts(&self, id: SessionId) {
        self.poke(id, true);
    }

    fn poke(&self, id: SessionId, afresh: bool) {
        if self.0.closing.is_cancelled() {
            return;
        }
        let mut workers = self.0.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = workers.get(&id) {
            worker.poke.dirty.store(true, Ordering::SeqCst);
            worker.poke.afresh.fetch_or(afresh, Ordering::SeqCst);
            worker.poke.notify.notify_one();
            return;
        }
        let poke = Arc::new(Poke {
            dirty: AtomicBool::new(false),
            afresh: AtomicBool::new(false),
            notify: Notify::new(),
        });
        workers.insert(id, Worker { poke: Arc::clone(&poke) });
        let lifecycle = self.clone();
        self.0.tasks.spawn(async move { lifecycle.work(id, &poke).await });
    }

    async fn work(&self, id: SessionId, poke: &Poke) {
        let mut attempt = Attempt::new();
        let mut in_a_row = 0;
        let mut database_pause = DATABASE_PAUSE;
        loop {
            poke.dirty.store(false, Ordering::SeqCst);
            if poke.afresh.swap(false, Ordering::SeqCst) {
                attempt = Attempt::new();
            }
            if self.0.closing.is_cancelled() {
                return;
            }
            in_a_row += 1;
            let wait = match self.take_step(id, &mut attempt).await {
                Ok(Next::Again) if in_a_row < STEPS_IN_A_ROW => continue,
                Ok(Next::Again) => Some(Duration::from_secs(1)),
                Ok(Next::Wait(wait)) => Some(wait),
                // The memory of failures must live as long as the wish.
                Ok(Next::Rest) => None,
                Ok(Next::End) => {
                    let mut workers = self.0.workers.lock().unwrap_or_else(PoisonError::into_inner);
                    if !poke.dirty.load(Ordering::SeqCst) {
                        workers.remove(&id);
                        return;
                    }
                    continue;
                }
                Err(why) => {
                    tracing::warn!(session = %id, %why, "a step failed and will be taken again");
                    // An agent cannot link either while the database is away.
                    attempt.unlinked_at = Instant::now();
                    let pause = database_pause;
                    database_pause = (pause * 2).min(self.0.settings.compare_every);
                    Some(pause)
                }
            };
            in_a_row = 0;
            let slept = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = slept => {}
                () = poke.notify.notified() => database_pause = DATABASE_PAUSE,
                () = self.0.closing.cancelled() => return,
            }
        }
    }

    async fn take_step(&self, id: SessionId, attempt: &mut Attempt) -> Result<Next, Error> {
        let Some(record) = records::get_any(self.database(), id).await? else { return Ok(Next::End) };
        let link = self.0.agents.get(id);
        let observed = match &link {
            // A linked agent is there; what else is there matters only when it is to end.
            Some(_) if record.want == Want::Running => None,
            _ => match self.0.runtime.observe(id).await {
                Ok(observed) => Some(observed),
                Err(why) => {
                    tracing::warn!(session = %id, %why, "a session could not be looked at");
                    return Ok(Next::Wait(DATABASE_PAUSE));
                }
            },
        };
        let now = Instant::now();
        match (&link, attempt.linked_at) {
            (Some(_), None) => {
                attempt.linked_at = Some(now);
                attempt.proven = true;
            }
            (None, Some(_)) if observed.as_ref().is_some_and(|o| o.running) => {
                // It lives and dials again.
                attempt.linked_at = None;
                attempt.unlinked_at = now;
            }
            _ => {}
        }
        let facts = Facts {
            want: record.want,
            state: record.session.state,
            linked: link.is_some(),
            present: observed.as_ref().is_none_or(|o| o.running),
            volume: observed.as_ref().is_none_or(|o| o.volume),
            launched: attempt.launched,
            proven: attempt.proven,
            waited: now.duration_since(attempt.unlinked_at),
            failures: attempt.failures,
            pause: attempt.retry_at.saturating_duration_since(now),
            hopeless: attempt.hopeless.is_some(),
        };
        let action = step::step(&facts);
        tracing::debug!(session = %id, ?action, "step");
        match action {
            Action::Rest if record.want == Want::Stopped => return Ok(Next::End),
            Action::Rest => return Ok(Next::Rest),
            Action::Wait(wait) => {
                if facts.present && !attempt.launched && !attempt.told_adopted {
                    attempt.told_adopted = true;
                    tracing::info!(session = %id, "an agent that runs already is awaited");
                }
                // A process that ends a moment after its link did: nothing else tells of its end.
                return Ok(Next::Wait(if facts.present { wait.min(LOOK_AGAIN) } else { wait }));
            }
            Action::MarkStarting => {
                self.mark(&record, State::Starting, "start", "It starts.", attempt).await?;
            }
            Action::Launch => return self.launch(&record, attempt).await,
            Action::MarkRunning => self.mark_running(&record, attempt).await?,
            Action::NoteDeath => {
                let ended = observed.and_then(|o| o.ended).unwrap_or_else(|| "its agent ended".to_owned());
                self.note_failure(&record, attempt, ended).await?;
            }
            Action::GiveUpWaiting => {
                let seconds = facts.waited.as_secs();
                let mut why = format!("its agent did not connect within {seconds} s");
                if let Some(tail) = self.0.runtime.log_tail(id).await {
                    why.push_str("; it last logged: ");
                    why.push_str(&tail);
                }
                if let Err(why) = self.0.runtime.stop(id, EXIT_GRACE).await {
                    tracing::warn!(session = %id, %why, "an agent that does not connect could not be ended");
                }
                self.note_failure(&record, attempt, why).await?;
            }
            Action::MarkFailed => {
                let why = attempt.hopeless.clone().or_else(|| attempt.why.clone());
                let why = why.unwrap_or_else(|| "it could not be started".to_owned());
                self.mark(&record, State::Failed, "failed", &why, attempt).await?;
            }
            Action::Stop => return self.stop_agent(&record, attempt).await,
            Action::MarkStopped => {
                let reason = attempt.why.clone();
                let message =
                    reason.clone().unwrap_or_else(|| "It stopped; its files are in the database.".to_owned());
                if records::set_state(self.database(), &record, State::Stopped, reason.as_deref()).await? {
                    self.line(id, "stopped", Some(State::Stopped), None, message, attempt).await?;
                    self.publish(id, Some(State::Stopped), reason);
                }
            }
            Action::Remove => {
                if let Some(link) = link {
                    link.cut();
                }
                if let Err(why) = self.0.runtime.delete(id).await {
                    tracing::warn!(session = %id, %why, "a deleted session could not be removed yet");
                    attempt.failures += 1;
                    return Ok(Next::Wait(step::backoff(attempt.failures)));
                }
            }
            Action::Erase => {
                records::erase(self.database(), id).await?;
                tracing::info!(session = %id, "session deleted");
                return Ok(Next::End);
            }
        }
        Ok(Next::Again)
    }

    async fn launch(&self, record: &Record, attempt: &mut Attempt) -> Result<Next, Error> {
        let id = record.session.id;
        if attempt.failures == 0 {
            attempt.began = Instant::now();
        }
        let credential = Credential::random(id);
        let database = self.database();
        agents::keep_credential(database.writer(), &credential, record.generation).await?;
        let spec = Spec { session: id, generation: record.generation, credential: credential.clone() };
        let runtime = &self.0.runtime;
        if let Err(why) = runtime.prepare(&spec).await {
            return self.launch_failed(record, attempt, why).await;
        }
        self.step_line(id, "folder_ready", "The folder is ready.", attempt).await?;
        let ensured = match runtime.ensure(&spec).await {
            Ok(ensured) => ensured,
            Err(why) => return self.launch_failed(record, attempt, why).await,
        };
        attempt.launched = true;
        attempt.unlinked_at = Instant::now();
        match ensured {
            Ensured::Started => {
                // The agent just started holds this one; none before may link any more.
                agents::revoke_credentials(database.writer(), id, Some(&credential)).await?;
                self.step_line(id, "agent_started", "The agent was started.", attempt).await?;
            }
            Ensured::Adopted => {
                agents::revoke_credential(database.writer(), &credential).await?;
                attempt.proven = true;
                self.step_line(id, "agent_found", "The agent was running already.", attempt).await?;
            }
        }
        Ok(Next::Again)
    }

    async fn launch_failed(
        &self,
        record: &Record,
        attempt: &mut Attempt,
        why: RuntimeError,
    ) -> Result<Next, Error> {
        if let RuntimeError::Permanent(why) = &why {
            attempt.hopeless = Some(why.clone());
        }
        self.note_failure(record, attempt, why.to_string()).await?;
        Ok(Next::Again)
    }

    async fn mark_running(&self, record: &Record, attempt: &mut Attempt) -> Result<(), Error> {
        let id = record.session.id;
        if !records::set_state(self.database(), record, State::Running, None).await? {
            return Ok(());
        }
        self.publish(id, Some(State::Running), None);
        self.line(id, "running", Some(State::Running), Some("connected"), "It runs.".to_owned(), attempt)
            .await?;
        let Some(link) = self.0.agents.get(id) else { return Ok(()) };
        let rev = self.0.store.rev(id).await?;
        // Beside the steps: files that take long to arrive must not hold up a stop.
        let (lifecycle, began) = (self.clone(), attempt.began);
        self.0.tasks.spawn(async move {
            let shown = tokio::select! {
                shown = async { link.sync().wait_visible(rev, FIRST_SYNC).await } => shown,
                () = link.closed() => false,
                () = lifecycle.0.closing.cancelled() => false,
            };
            if shown {
                let elapsed_ms = i64::try_from(began.elapsed().as_millis()).ok();
                let message = "The files are in its folder; it is ready.".to_owned();
                let line =
                    Line { kind: "step", step: Some("files_synced"), message, elapsed_ms, ..Line::default() };
                if let Err(why) = records::add_line(lifecycle.database(), id, line).await {
                    tracing::debug!(session = %id, %why, "a line of the timeline was lost");
                }
            }
        });
        Ok(())
    }

    /// Counts a failed start, or a death, and says that it is tried again or not.
    async fn note_failure(&self, record: &Record, attempt: &mut Attempt, why: String) -> Result<(), Error> {
        let id = record.session.id;
        tracing::warn!(session = %id, why, failures = attempt.failures + 1, "a session's agent failed");
        attempt.fail(why.clone());
        if attempt.hopeless.is_some() || attempt.failures >= step::ATTEMPTS {
            return Ok(());
        }
        let pause = step::backoff(attempt.failures).as_secs();
        let reason = format!("{why}. Starting it again in {pause} s; no file is lost.");
        if records::set_state(self.database(), record, State::Starting, Some(&reason)).await? {
            self.line(id, "restart", Some(State::Starting), None, reason.clone(), attempt).await?;
            self.publish(id, Some(State::Starting), Some(reason));
        }
        Ok(())
    }

    async fn stop_agent(&self, record: &Record, attempt: &mut Attempt) -> Result<Next, Error> {
        let id = record.session.id;
        let grace = self.0.settings.stop_grace;
        let mut complete = None;
        // One that is just dialling again may still say what it has.
        if let Some(link) = self.0.agents.wait(id, Instant::now() + RETURN_GRACE).await {
            complete = link.stop(grace).await.ok();
            if complete.is_none() && !link.is_closed() {
                tracing::warn!(session = %id, "an agent did not write its last state in time");
            }
        }
        // The wish may have changed while the agent wrote: then it is started again, from its folder.
        if let Err(why) = self.0.runtime.stop(id, EXIT_GRACE).await {
            tracing::warn!(session = %id, %why, "an agent could not be ended yet");
            attempt.failures += 1;
            return Ok(Next::Wait(step::backoff(attempt.failures)));
        }
        attempt.why = (complete != Some(true)).then(|| {
            "It stopped before all of its files had reached the database. They are kept in its folder and follow at the next start."
                .to_owned()
        });
        if record.session.state == State::Stopped {
            return Ok(Next::Again);
        }
        self.step_line(id, "agent_ended", "The agent and all it started have ended.", attempt).await?;
        Ok(Next::Again)
    }

    async fn mark(
        &self,
        record: &Record,
        state: State,
        kind: &str,
        message: &str,
        attempt: &Attempt,
    ) -> Result<(), Error> {
        let id = record.session.id;
        let reason = (state == State::Failed).then(|| message.to_owned());
        if records::set_state(self.database(), record, state, reason.as_deref()).await? {
            self.line(id, kind, Some(state), None, message.to_owned(), attempt).await?;
            self.publish(id, Some(state), reason);
        }
        Ok(())
    }

    async fn step_line(
        &self,
        id: SessionId,
        step: &str,
        message: &str,
        attempt: &Attempt,
    ) -> Result<(), Error> {
        self.line(id, "step", None, Some(step), message.to_owned(), attempt).await
    }

    async fn line(
        &self,
        id: SessionId,
        kind: &str,
        state: Option<State>,
        step: Option<&str>,
        message: String,
        attempt: &Attempt,
    ) -> Result<(), Error> {
        let line = Line { kind, state, step, message, elapsed_ms: attempt.elapsed_ms(), actor: None };
        records::add_line(self.database(), id, line).await
    }
}

/// What a worker does after a step.
enum Next {
    /// The next step, at once.
    Again,
    /// The next step after so long, or when poked.
    Wait(Duration),
    /// The next step when poked.
    Rest,
    /// Nothing is left to do: the worker may go.
    End,
}
