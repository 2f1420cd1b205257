//! Tells a session's users what is seen of what runs it.

use super::attempt::Attempt;
use super::ending;
use super::records::{self, Record};
use super::session::State;
use super::step::Want;
use super::timeline;
use super::{Error, Lifecycle};
use crate::runtime::{Lost, Notice, Observed, Trouble};

impl Lifecycle {
    /// Tells what happened to what runs a session, and what keeps it from starting.
    pub(super) async fn heed(
        &self,
        record: &Record,
        observed: &Observed,
        linked: bool,
        attempt: &mut Attempt,
    ) -> Result<(), Error> {
        let id = record.session.id;
        if observed.running && observed.ended.is_some() {
            attempt.ending.clone_from(&observed.ended);
        }
        for Notice { code, key, message } in &observed.notices {
            if !attempt.told.insert(key.clone()) {
                continue;
            }
            // A start's steps belong to the start that this worker saw; both they, if it went on with one, and what
            // else happened may have been told before the server was started anew.
            let is_step = matches!(*code, "scheduled" | "container_started");
            let since = record.session.state_at;
            if (!is_step || (attempt.launched && !linked))
                && !timeline::is_told(self.database(), id, code, message, since).await?
            {
                self.step_line(id, code, message, attempt).await?;
            }
        }
        if let Some(lost) = observed.lost.as_ref().filter(|_| !linked) {
            return self.heed_lost(record, lost, attempt).await;
        }
        attempt.lost = false;
        let long_unlinked = attempt.is_long_unlinked(!linked && observed.unlinked.is_some());
        if linked || record.want != Want::Running {
            return Ok(());
        }
        if let Some(ending) =
            observed.ended.as_ref().filter(|_| observed.running && record.session.state == State::Running)
        {
            // Who waits for it must not be told for the length of its end that it runs.
            let reason = format!("{ending}. It is started again as soon as that has ended; no file is lost.");
            self.mark(record, State::Starting, Some(&reason), "moved", &reason, attempt).await?;
            return Ok(());
        }
        attempt.stuck = None;
        let has_run = attempt.has_linked || record.session.state == State::Running;
        let unlinked = observed.unlinked.clone().filter(|_| long_unlinked).map(Trouble::passing);
        match &observed.trouble.clone().or(unlinked) {
            // One that has run needs something else than its like: what its users left in it may be in its way, such as
            // memory that no program holds any more. A program that needs too much now and then ends nothing.
            Some(trouble) if has_run && trouble.anew => {
                attempt.stuck = Some(trouble.message.clone());
            }
            _ if record.session.state != State::Starting || has_run => {}
            Some(trouble) if trouble.hopeless => attempt.hopeless = Some(trouble.message.clone()),
            Some(trouble) if attempt.trouble.as_ref() != Some(&trouble.message) => {
                attempt.trouble = Some(trouble.message.clone());
                if records::set_state(self.database(), record, record.session.state, Some(&trouble.message))
                    .await?
                {
                    self.step_line(id, "waiting", &trouble.message, attempt).await?;
                    self.publish(id, Some(record.session.state), Some(trouble.message.clone()));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells that what runs a session does not answer. Its agent may live on: it ends only once that was waited for.
    async fn heed_lost(&self, record: &Record, lost: &Lost, attempt: &mut Attempt) -> Result<(), Error> {
        let id = record.session.id;
        let runs = record.want == Want::Running;
        attempt.stuck = Some(lost.message.clone()).filter(|_| runs && lost.given_up);
        let patience = ending::words(u32::try_from(lost.patience.as_secs()).unwrap_or(u32::MAX));
        let then = if runs { "it is started elsewhere, with its volume" } else { "it is given up" };
        let message = format!(
            "{}. If it stays silent for {patience}, {then}; what was saved or synced is in the database.",
            lost.message
        );
        if std::mem::replace(&mut attempt.lost, true) {
            return Ok(());
        }
        // Who waits for it must not be told that it runs. One that is being stopped has a reason of its own.
        if matches!(record.session.state, State::Running | State::Starting)
            && records::set_state(self.database(), record, State::Starting, Some(&message)).await?
        {
            self.publish(id, Some(State::Starting), Some(message.clone()));
        }
        // As with all that is seen, it may have been told before the server was started anew.
        if !timeline::is_told(self.database(), id, "node_lost", &message, record.session.state_at).await? {
            self.step_line(id, "node_lost", &message, attempt).await?;
        }
        Ok(())
    }
}
