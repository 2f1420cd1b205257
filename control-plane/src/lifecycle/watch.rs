//! Watches what happens in sessions, warns their users, and ends those in which nothing happens or whose time is over.
//!
//! What counts as activity: keys, saves, commands and other calls that change something, files that change in the
//! session, a processor at work, and output up to a cap ([`ending`](super::ending)). Open pages, their pings and what
//! they read do not count. Each end is decided from the database and what this process saw, and made by one update that
//! holds only if nobody extended or used the session meanwhile: two replicas that watch the same session do no harm.

use super::ending::{self, Cause, Facts};
use super::records::{self, Running, time};
use super::session::{Activity, Ending, Ends, Session, State};
use super::watched::{Act, Watched, ms};
use super::{Error, Lifecycle, Result};
use crate::templates::{self, Template};
use jiff::Timestamp;
use shared::id::SessionId;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The least pause between two looks at all sessions.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// The pause after a look that failed because the database did not answer.
const DATABASE_PAUSE: Duration = Duration::from_secs(5);
/// Seconds by which one call may extend a session: 12 hours.
pub const EXTENSION_MOST_S: u32 = 12 * 60 * 60;
/// Seconds of an extension that says nothing else, where the template ends nothing for want of activity.
const EXTENSION_S: u32 = 30 * 60;

/// What this process knows of sessions' use.
#[derive(Default)]
pub(super) struct Watch {
    sessions: Mutex<HashMap<SessionId, Watched>>,
    look: Notify,
}

/// A call that is under way: the session is in use until this drops.
pub struct Busy {
    lifecycle: Lifecycle,
    session: SessionId,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let now = self.lifecycle.0.settings.clock.steady();
        if let Some(watched) = self.lifecycle.0.watch.sessions().get_mut(&self.session) {
            watched.calls = watched.calls.saturating_sub(1);
            watched.active = Some(now);
        }
    }
}

impl Watch {
    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Watched>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has all sessions looked at soon.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }

    /// Uses that the database does not know of yet, as times of the wall.
    pub(super) fn unnoted(&self, offset: i64) -> Vec<(SessionId, i64)> {
        let mut sessions = self.sessions();
        let fresh = sessions.iter_mut().filter(|(_, watched)| watched.active != watched.noted);
        fresh
            .filter_map(|(id, watched)| {
                watched.noted = watched.active;
                Some((*id, watched.active? + offset))
            })
            .collect()
    }

    /// The end that a session's users were told of, if it comes; as a time of the wall.
    pub(super) fn ending(&self, id: SessionId, offset: i64) -> Option<Ending> {
        let told = self.sessions().get(&id)?.told?;
        Some(Ending { at: time(told.at + offset), cause: told.cause })
    }
}

impl Lifecycle {
    /// Notes that a session is being used. Costs a map entry; the database learns of it within a minute.
    pub fn touch(&self, id: SessionId, activity: Activity) {
        let now = self.0.settings.clock.steady();
        let mut sessions = self.0.watch.sessions();
        let watched = sessions.entry(id).or_default();
        match activity {
            Activity::Output => watched.output = Some(now),
            _ => watched.active = Some(now),
        }
        if watched.warned.is_some() {
            self.0.watch.look();
        }
    }

    /// Notes that a session is being used until the answer drops.
    pub fn busy(&self, id: SessionId) -> Busy {
        self.0.watch.sessions().entry(id).or_default().calls += 1;
        self.touch(id, Activity::Call);
        Busy { lifecycle: self.clone(), session: id }
    }

    /// Looks at all sessions when the nearest of their ends, or of the warnings before, is due.
    pub(super) async fn watch_ends(&self) {
        loop {
            let looked = Instant::now();
            let pause = match self.look_at_all().await {
                Ok(pause) => pause,
                Err(why) => {
                    tracing::warn!(%why, "sessions' ends could not be looked at");
                    DATABASE_PAUSE
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.0.watch.look.notified() => {}
                () = self.0.closing.cancelled() => return,
            }
            tokio::time::sleep_until(looked + LEAST_PAUSE).await;
        }
    }

    async fn look_at_all(&self) -> Result<Duration> {
        let templates = self.template_map().await?;
        let rows = records::running(self.database()).await?;
        let (now, offset) = (self.0.settings.clock.steady(), self.0.settings.clock.offset());
        let most = i64::try_from(self.0.settings.compare_every.as_millis()).unwrap_or(i64::MAX);
        let (mut next, mut all) = (now + most, Vec::new());
        {
            let mut sessions = self.0.watch.sessions();
            let running: HashSet<SessionId> = rows.iter().map(|row| row.id).collect();
            sessions.retain(|id, watched| {
                running.contains(id) || watched.active != watched.noted || watched.calls > 0
            });
            for row in &rows {
                let Some(template) = templates.get(&row.template) else { continue };
                let watched = sessions.entry(row.id).or_default();
                let facts = watched.facts(row, template, now, offset);
                let mut acts = Vec::new();
                if let Some(at) = watched.look(&facts, offset, &mut acts) {
                    next = next.min(at);
                }
                all.extend(acts.into_iter().map(|act| (row, template, act)));
            }
            // One that stopped meanwhile has no end to come.
            for (_, watched) in sessions.iter_mut().filter(|(id, _)| !running.contains(id)) {
                watched.warned = None;
                watched.told = None;
            }
        }
        for (row, template, act) in all {
            self.end_or_tell(row, template, act, offset).await?;
        }
        let left = next - self.0.settings.clock.steady();
        Ok(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    async fn end_or_tell(&self, row: &Running, template: &Template, act: Act, offset: i64) -> Result<()> {
        let id = row.id;
        match act {
            Act::Warn(end) => {
                let at = time(end.at + offset).strftime("%H:%M:%S UTC");
                let message = match end.cause {
                    Cause::Idle => {
                        format!("Nothing happens in it; it stops at {at} unless it is used or extended.")
                    }
                    Cause::Lifetime => format!("Its lifetime ends; it stops at {at} unless it is extended."),
                };
                tracing::info!(session = %id, cause = end.cause.as_str(), "a session's end was announced");
                self.say(id, "warning", &message, None).await?;
                self.publish(id, Some(State::Running), None);
            }
            Act::Tell => self.publish(id, Some(State::Running), None),
            Act::Stop(cause) => {
                let reason = match cause {
                    Cause::Idle => {
                        format!("It was stopped after {} without activity.", ending::words(template.idle_s))
                    }
                    Cause::Lifetime if template.lifetime_s > 0 => {
                        let lifetime = ending::words(template.lifetime_s);
                        format!("It was stopped at the end of its lifetime of {lifetime}.")
                    }
                    Cause::Lifetime => "It was stopped at the end of its lifetime.".to_owned(),
                };
                if records::end(self.database(), row, &reason).await? {
                    tracing::info!(session = %id, cause = cause.as_str(), "a session is stopped");
                    self.say(id, "stop", &reason, None).await?;
                    self.publish(id, Some(State::Stopping), Some(reason));
                    self.restart_attempts(id);
                }
            }
            Act::Move { from, to } => {
                tracing::warn!(session = %id, "the wall clock was set; the session's end follows it");
                if records::move_end(self.database(), id, from, to).await?
                    && let Some(watched) = self.0.watch.sessions().get_mut(&id)
                {
                    watched.expires.told(to);
                }
            }
        }
        Ok(())
    }

    /// Looks at what linked agents said last of processor and output.
    pub(super) fn sample(&self) {
        let now = self.0.settings.clock.steady();
        for id in self.0.agents.linked() {
            let Some(link) = self.0.agents.get(id) else { continue };
            let seen = self.0.watch.sessions().entry(id).or_default().sample(link.vitals(), now);
            if let Some(activity) = seen {
                self.touch(id, activity);
            }
        }
    }

    /// The end that the users of a session in that state are warned of, if one comes soon.
    pub fn ending(&self, id: SessionId, state: State) -> Option<Ending> {
        let offset = self.0.settings.clock.offset();
        Some(id).filter(|_| state == State::Running).and_then(|id| self.0.watch.ending(id, offset))
    }

    async fn template_map(&self) -> Result<HashMap<String, Template>> {
        let list = self.templates().list().await?;
        let mut map: HashMap<_, _> =
            list.into_iter().map(|template| (template.name.clone(), template)).collect();
        map.entry(templates::DEFAULT.to_owned()).or_insert_with(Template::local);
        Ok(map)
    }

    /// When sessions end by themselves if nothing more happens, in the same order.
    pub async fn ends(&self, sessions: &[Session]) -> Result<Vec<Ends>> {
        if sessions.iter().all(|session| session.state != State::Running) {
            return Ok(sessions.iter().map(|_| Ends::default()).collect());
        }
        let templates = self.template_map().await?;
        let offset = self.0.settings.clock.offset();
        let watch = self.0.watch.sessions();
        let ends = |session: &Session| {
            let template = templates.get(&session.template).filter(|_| session.state == State::Running)?;
            let watched = watch.get(&session.id);
            let wall = |steady: Option<i64>| steady.map(|at| at + offset);
            let known = session.active_at.map(Timestamp::as_millisecond);
            let seen = wall(watched.and_then(|watched| watched.active));
            let now = self.0.settings.clock.wall();
            let calls = watched.is_some_and(|watched| watched.calls > 0).then_some(now);
            let started = session.started_at.unwrap_or(session.state_at).as_millisecond();
            let facts = Facts {
                now,
                started,
                active: known.max(seen).max(calls).unwrap_or(started),
                output: wall(watched.and_then(|watched| watched.output)),
                idle: ms(template.idle_s),
                lifetime: ms(template.lifetime_s),
                expires: session.expires_at.map(Timestamp::as_millisecond),
                kept_until: session.kept_until.map(Timestamp::as_millisecond),
                warned: None,
            };
            let told = watched.and_then(|watched| watched.told);
            Some(Ends {
                idle_at: facts.idle_end().map(time),
                expires_at: session.expires_at,
                ending: told.map(|end| Ending { at: time(end.at + offset), cause: end.cause }),
            })
        };
        Ok(sessions.iter().map(|session| ends(session).unwrap_or_default()).collect())
    }

    /// Keeps a session running for so many seconds from now at least: neither want of activity nor its lifetime ends it
    /// before. Without a number, as long as its template lets it be idle.
    pub async fn extend(
        &self,
        id: SessionId,
        seconds: Option<u32>,
        actor: Option<String>,
    ) -> Result<Session> {
        let session = self.get(id).await?;
        let seconds = match seconds {
            Some(seconds) => seconds,
            None => match templates::records::find(self.database().reader(), &session.template).await?.idle_s
            {
                0 => EXTENSION_S,
                idle => idle.min(EXTENSION_MOST_S),
            },
        };
        if !(1..=EXTENSION_MOST_S).contains(&seconds) {
            return Err(Error::BadExtension);
        }
        let until = self.0.settings.clock.wall() + ms(seconds);
        if !records::extend(self.database(), id, until).await? {
            return Err(Error::NotRunning(id));
        }
        let message = format!("It is kept running for {} more at least.", ending::words(seconds));
        self.say(id, "extended", &message, actor).await?;
        self.touch(id, Activity::Call);
        // Pages are told that the end they were warned of does not come.
        self.0.watch.look();
        self.get(id).await
    }

    /// Has the lifetime of a session that begins to run begin, too.
    pub(super) async fn begin_lifetime(&self, record: &records::Record) -> Result<()> {
        let template = templates::records::find(self.database().reader(), &record.session.template).await?;
        if template.lifetime_s > 0 {
            let end = self.0.settings.clock.wall() + ms(template.lifetime_s);
            records::begin_lifetime(self.database(), record, end).await?;
        }
        Ok(())
    }
}
