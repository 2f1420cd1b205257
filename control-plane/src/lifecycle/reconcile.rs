//! Notices what may have changed: listens to agents and files, and compares everything from time to time.

use super::Lifecycle;
use super::records;
use super::session::{Activity, State};
use super::step::Want;
use super::timeline::{self, Line};
use crate::agents::AgentEvent;
use crate::workspace::Origin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;

/// How often uses of sessions are written down.
const USES_EVERY: Duration = Duration::from_secs(20);

/// Runs until the lifecycle closes: listens to agents and files, compares everything from time to time.
pub(super) async fn run(lifecycle: &Lifecycle) {
    let mut events = lifecycle.0.agents.events();
    let mut files = lifecycle.0.store.changes();
    let mut compare = tokio::time::interval(lifecycle.0.settings.compare_every);
    let mut uses = tokio::time::interval(USES_EVERY);
    for ticker in [&mut compare, &mut uses] {
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    let (changed, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let runtime = Arc::clone(&lifecycle.0.runtime);
    // Ends with this function.
    let _watching = AbortOnDropHandle::new(tokio::spawn(async move { runtime.run(changed).await }));
    loop {
        tokio::select! {
            Some(session) = seen.recv() => lifecycle.look(session),
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
            _ = uses.tick() => {
                lifecycle.sample();
                write_uses(lifecycle).await;
            }
            () = lifecycle.0.closing.cancelled() => return,
        }
    }
}

async fn heed(lifecycle: &Lifecycle, event: AgentEvent) {
    match event {
        AgentEvent::Linked { session } | AgentEvent::Unlinked { session, .. } => lifecycle.kick(session),
        AgentEvent::Notice { session, kind, message } => {
            let line = Line { kind: "agent", step: Some(&kind), message, ..Line::default() };
            if let Err(why) = timeline::add(lifecycle.database(), session, line).await {
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
        let volume = there.iter().any(|(there, observed)| *there == id && observed.volume);
        let release = volume && matches!(lifecycle.retention_over(record).await, Ok(true));
        let settled = match record.want {
            Want::Running => record.session.state == State::Running && lifecycle.0.agents.get(id).is_some(),
            Want::Stopped => record.session.state == State::Stopped && !present && !release,
            Want::Deleted => false,
        };
        if !settled {
            lifecycle.kick(id);
        }
    }
    for (id, observed) in there {
        if observed.young {
            continue;
        }
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
    let uses = lifecycle.0.watch.unnoted(lifecycle.0.settings.clock.offset());
    if let Err(why) = records::note_activity(lifecycle.database(), &uses).await {
        tracing::debug!(%why, "uses of sessions were not noted");
    }
}
