//! Carries out the step that is due for a session.

use super::attempt::Attempt;
use super::ending;
use super::records::{self, Record};
use super::retention::Beyond;
use super::session::State;
use super::step::{self, Action, Facts, Want};
use super::timeline::{self, Line};
use super::worker::{DATABASE_PAUSE, Next};
use super::{Error, Lifecycle};
use crate::agents;
use crate::agents::identity::Credential;
use crate::runtime::{Ensured, RuntimeError, Spec};
use crate::templates;
use shared::id::SessionId;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a started agent's first sync may take to be told of in the timeline.
const FIRST_SYNC: Duration = Duration::from_secs(120);
/// How long the process of an agent that said goodbye may take to be gone.
const EXIT_GRACE: Duration = Duration::from_secs(5);
/// How long a stop waits for an agent whose link is away.
const RETURN_GRACE: Duration = Duration::from_secs(3);

impl Lifecycle {
    /// Takes the step that is due. `look`: also at what runs the session, although its agent may be linked.
    pub(super) async fn take_step(
        &self,
        id: SessionId,
        attempt: &mut Attempt,
        look: bool,
    ) -> Result<Next, Error> {
        let Some(record) = records::get_any(self.database(), id).await? else { return Ok(Next::End) };
        let link = self.0.agents.get(id);
        let observed = match &link {
            // A linked agent is there; what else is there matters only when it is to end.
            Some(_) if record.want == Want::Running && attempt.is_linked() && !look => None,
            _ => match self.0.runtime.observe(id).await {
                Ok(observed) => Some(observed),
                Err(why) => {
                    tracing::warn!(session = %id, %why, "a session could not be looked at");
                    return Ok(Next::Wait(DATABASE_PAUSE));
                }
            },
        };
        if let Some(observed) = &observed {
            self.heed(&record, observed, link.is_some(), attempt).await?;
        }
        match (&link, attempt.is_linked()) {
            (Some(_), false) => attempt.note_link(),
            // It lives and dials again.
            (None, true) if observed.as_ref().is_some_and(|o| o.running) => attempt.note_unlinked(),
            _ => {}
        }
        let now = Instant::now();
        let facts = Facts {
            want: record.want,
            state: record.session.state,
            linked: link.is_some(),
            present: observed.as_ref().is_none_or(|o| o.running),
            ending: observed.as_ref().is_some_and(|o| o.running && (o.ended.is_some() || o.lost.is_some())),
            volume: observed.as_ref().is_none_or(|o| o.volume),
            launched: attempt.launched,
            proven: attempt.proven,
            waited: now.duration_since(attempt.unlinked_at),
            patience: self.0.runtime.start_patience(),
            failures: attempt.failures,
            pause: attempt.retry_at.saturating_duration_since(now),
            hopeless: attempt.hopeless.is_some(),
            stuck: attempt.stuck.is_some(),
            release: self.retention_over(&record).await?,
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
                let most = if facts.present { self.0.runtime.look_again() } else { wait };
                return Ok(Next::Wait(wait.min(most)));
            }
            Action::MarkStarting => {
                self.mark(&record, State::Starting, None, "start", "It starts.", attempt).await?;
            }
            Action::Launch => return self.launch(&record, attempt).await,
            Action::MarkRunning => self.mark_running(&record, attempt).await?,
            Action::NoteDeath => {
                let ended = observed.and_then(|o| o.ended).or_else(|| attempt.ending.take());
                let ended = ended.unwrap_or_else(|| "its agent ended".to_owned());
                self.note_failure(&record, attempt, ended).await?;
            }
            Action::GiveUpWaiting => {
                let seconds = facts.waited.as_secs();
                let mut why = format!("its agent did not connect within {seconds} s");
                if let Some(trouble) = &attempt.trouble {
                    why.push_str(": ");
                    why.push_str(trouble);
                }
                if let Some(tail) = self.0.runtime.log_tail(id).await {
                    why.push_str("; it last logged: ");
                    why.push_str(&tail);
                }
                self.give_up(&record, attempt, why).await?;
            }
            Action::Replace => {
                let why = attempt.stuck.take().unwrap_or_else(|| "its agent ended".to_owned());
                self.give_up(&record, attempt, why).await?;
            }
            Action::MarkFailed => {
                let why = attempt.hopeless.clone().or_else(|| attempt.why.clone());
                let why = why.unwrap_or_else(|| "it could not be started".to_owned());
                if facts.present
                    && let Err(why) = self.0.runtime.stop(id, EXIT_GRACE).await
                {
                    tracing::warn!(session = %id, %why, "what cannot start could not be ended yet");
                    return Ok(Next::Wait(DATABASE_PAUSE));
                }
                let mut message = why.clone();
                let kept = self.kept_for(&record).await?;
                if facts.volume && !kept.is_empty() {
                    message.push_str(&format!(". Its volume is kept{kept}."));
                }
                self.mark(&record, State::Failed, Some(&why), "failed", &message, attempt).await?;
            }
            Action::Stop => return self.stop_agent(&record, attempt).await,
            Action::MarkStopped => {
                let kept = attempt.why.clone();
                let reason = match (record.session.reason.clone(), kept) {
                    (Some(ended), None) => {
                        Some(format!("{ended} All files are kept; start it again to go on."))
                    }
                    (Some(ended), Some(why)) => Some(format!("{ended} {why}")),
                    (None, why) => why,
                };
                let message = reason.clone().unwrap_or_else(|| match attempt.complete {
                    Some(true) => "It stopped; its files are in the database.".to_owned(),
                    None if record.retention.beyond() == Beyond::NeverRan => {
                        "It stopped before it ran; its files are in the database.".to_owned()
                    }
                    // Nothing was there that could have said so.
                    _ => "It stopped; its files are kept, and any that the database hasn't follow at the next start."
                        .to_owned(),
                });
                if records::set_stopped(self.database(), &record, reason.as_deref(), attempt.complete).await?
                {
                    self.line(id, "stopped", Some(State::Stopped), None, message, attempt).await?;
                    self.publish(id, Some(State::Stopped), reason);
                }
            }
            Action::Release => {
                if let Err(why) = self.0.runtime.release_volume(id).await {
                    tracing::warn!(session = %id, %why, "a session's volume could not be given back yet");
                    attempt.failures += 1;
                    return Ok(Next::Wait(step::backoff(attempt.failures)));
                }
                if records::set_released(self.database(), &record).await? {
                    let kept = record.retention.kept_s(self.retention_s(&record).await?).unwrap_or_default();
                    let message = released(record.retention.beyond(), &ending::words(kept));
                    self.say(id, "released", &message, None).await?;
                }
                // A runtime that keeps nothing apart has its folder still; nothing more is due. What is known of a
                // session that failed must be known until it is started again.
                return Ok(if record.want == Want::Stopped { Next::End } else { Next::Rest });
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
        let template = match templates::records::find(database.reader(), &record.session.template).await {
            Ok(template) => Arc::new(template),
            Err(templates::Error::Database(why)) => return Err(why.into()),
            Err(why) => {
                return self.launch_failed(record, attempt, RuntimeError::Permanent(why.to_string())).await;
            }
        };
        let needs_credential = self.0.runtime.needs_credential();
        if needs_credential {
            agents::keep_credential(database.writer(), &credential, record.generation).await?;
        } else {
            // What agents of earlier starts were given; this start's will be given its own.
            agents::revoke_credentials(database.writer(), id, None).await?;
        }
        if record.retention.released {
            records::unset_released(database, record).await?;
        }
        let spec =
            Spec { session: id, generation: record.generation, credential: credential.clone(), template };
        let runtime = &self.0.runtime;
        match runtime.prepare(&spec).await {
            Ok(None) => {}
            Ok(Some(notice)) => self.step_line(id, notice.code, &notice.message, attempt).await?,
            Err(why) => return self.launch_failed(record, attempt, why).await,
        }
        self.step_line(id, "folder_ready", "Its storage is ready.", attempt).await?;
        let ensured = match runtime.ensure(&spec).await {
            Ok(ensured) => ensured,
            Err(why) => return self.launch_failed(record, attempt, why).await,
        };
        attempt.launched = true;
        attempt.unlinked_at = Instant::now();
        match ensured {
            Ensured::Started => {
                if needs_credential {
                    // The agent just started holds this one; none before may link any more.
                    agents::revoke_credentials(database.writer(), id, Some(&credential)).await?;
                }
                self.step_line(id, "agent_started", "The agent was started.", attempt).await?;
            }
            Ensured::Claimed => {
                self.step_line(id, "agent_claimed", "An agent that waited was taken.", attempt).await?;
            }
            Ensured::Adopted => {
                if needs_credential {
                    agents::revoke_credential(database.writer(), &credential).await?;
                }
                attempt.proven = true;
                self.step_line(id, "agent_found", "The agent was running already.", attempt).await?;
            }
        }
        Ok(Next::Again)
    }

    /// Whether the volume of a session that does not run has been kept for long enough.
    pub(super) async fn retention_over(&self, record: &Record) -> Result<bool, Error> {
        if !matches!(record.session.state, State::Stopped | State::Failed) || record.retention.released {
            return Ok(false);
        }
        let retention_s = self.retention_s(record).await?;
        Ok(record.retention.is_over(retention_s, self.0.settings.clock.wall()))
    }

    /// Seconds for which the volumes of a session's template are kept; 0 for ever.
    async fn retention_s(&self, record: &Record) -> Result<u32, Error> {
        match templates::records::find(self.database().reader(), &record.session.template).await {
            Ok(template) => Ok(template.retention_s),
            Err(templates::Error::Database(why)) => Err(why.into()),
            // Nobody says that anything may go.
            Err(_) => Ok(0),
        }
    }

    /// For how long what is on the volume of a session alone is kept, for the end of a sentence's word "kept".
    async fn kept_for(&self, record: &Record) -> Result<String, Error> {
        let kept = record.retention.kept_s(self.retention_s(record).await?);
        Ok(kept.map(|seconds| format!(" for {}", ending::words(seconds))).unwrap_or_default())
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
        self.begin_lifetime(record).await?;
        if !records::set_state(self.database(), record, State::Running, None).await? {
            return Ok(());
        }
        self.0.watch.look();
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
                if let Err(why) = timeline::add(lifecycle.database(), id, line).await {
                    tracing::debug!(session = %id, %why, "a line of the timeline was lost");
                }
            }
        });
        Ok(())
    }

    /// Ends what is there and does not link, so that it can be started anew.
    async fn give_up(&self, record: &Record, attempt: &mut Attempt, why: String) -> Result<(), Error> {
        let id = record.session.id;
        if let Err(why) = self.0.runtime.stop(id, EXIT_GRACE).await {
            tracing::warn!(session = %id, %why, "an agent that does not connect could not be ended");
        }
        self.note_failure(record, attempt, why).await
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
        if self.mark(record, State::Starting, Some(&reason), "restart", &reason, attempt).await? {
            // What comes next must not be taken for what failed.
            records::next_generation(self.database(), record).await?;
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
        attempt.complete = complete;
        attempt.why = match complete {
            Some(true) => None,
            Some(false) => Some(format!(
                "It stopped before all of its files had reached the database. They are kept in its folder{} and follow at \
                 the next start.",
                self.kept_for(record).await?
            )),
            // There were no files but those of the database.
            None if record.retention.beyond() == Beyond::NeverRan => None,
            None => Some(format!(
                "Its agent gave no answer, so nobody knows whether all of its files had reached the database. They are \
                 kept in its folder{} and follow at the next start.",
                self.kept_for(record).await?
            )),
        };
        if record.session.state == State::Stopped {
            return Ok(Next::Again);
        }
        self.step_line(id, "agent_ended", "The agent and all it started have ended.", attempt).await?;
        Ok(Next::Again)
    }

    /// Notes a state and tells of it, unless a later wish has begun meanwhile. Answers whether it was noted.
    pub(super) async fn mark(
        &self,
        record: &Record,
        state: State,
        reason: Option<&str>,
        kind: &str,
        message: &str,
        attempt: &Attempt,
    ) -> Result<bool, Error> {
        let id = record.session.id;
        if !records::set_state(self.database(), record, state, reason).await? {
            return Ok(false);
        }
        self.line(id, kind, Some(state), None, message.to_owned(), attempt).await?;
        self.publish(id, Some(state), reason.map(str::to_owned));
        Ok(true)
    }

    pub(super) async fn step_line(
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
        timeline::add(self.database(), id, line).await
    }
}

/// What is told once a volume was given back.
fn released(beyond: Beyond, kept: &str) -> String {
    match beyond {
        Beyond::Nothing => format!(
            "Its volume was given back {kept} after it stopped. Its files are in the database and come back with the \
             next start; what is not kept in step, such as its home folder, went with it."
        ),
        Beyond::NeverRan => {
            format!(
                "Its volume was given back after {kept}: it had never run. Its files are in the database."
            )
        }
        Beyond::Perhaps => format!(
            "Its volume was given back {kept} after it had ended. What had reached the database comes back with the \
             next start; what had not, and its home folder, went with it."
        ),
    }
}
