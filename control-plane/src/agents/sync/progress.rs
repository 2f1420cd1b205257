//! How far a long transfer is. Short ones are told nothing of: they would only flicker.

use super::Context;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long a transfer lasts before it is told of.
const TOLD_AFTER: Duration = Duration::from_millis(300);
/// How often it is told how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// Where a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum To {
    /// From the database into the pod's folder.
    Pod,
    /// From the pod into the database.
    Database,
}

/// A transfer that has lasted for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Where it goes.
    pub to: To,
    /// Bytes of contents that are there, or on their way.
    pub done: u64,
    /// Bytes of contents in all, as far as that is known yet.
    pub total: u64,
}

/// A transfer in one direction, from its first byte to its last.
#[derive(Debug)]
pub(super) struct Progress {
    to: To,
    /// Since when, and when it was last told of.
    since: Option<(Instant, Option<Instant>)>,
    done: u64,
    total: u64,
}

impl Progress {
    /// Of nothing.
    pub(super) fn new(to: To) -> Self {
        Self { to, since: None, done: 0, total: 0 }
    }

    /// So many bytes more are to go.
    pub(super) fn expect(&mut self, bytes: u64, now: Instant) {
        self.since.get_or_insert((now, None));
        self.total = self.total.saturating_add(bytes);
    }

    /// So many bytes went. Answers what there is to tell, if it is time.
    pub(super) fn went(&mut self, bytes: u64, now: Instant) -> Option<Transfer> {
        self.done = self.done.saturating_add(bytes).min(self.total);
        let (since, told) = self.since.as_mut()?;
        let due = match told {
            Some(told) => *told + TOLD_EVERY,
            None => *since + TOLD_AFTER,
        };
        if now < due {
            return None;
        }
        *told = Some(now);
        Some(Transfer { to: self.to, done: self.done, total: self.total })
    }

    /// It is over, or given up.
    pub(super) fn end(&mut self) {
        *self = Self::new(self.to);
    }
}

impl Context {
    /// Tells that bytes went.
    pub(super) fn went(&self, progress: &mut Progress, bytes: u64) {
        if let Some(transfer) = progress.went(bytes, Instant::now()) {
            self.update(|status| status.transfer = Some(transfer));
        }
    }

    /// Tells that a transfer is over, if it was told of.
    pub(super) fn transferred(&self, progress: &mut Progress) {
        let to = progress.to;
        progress.end();
        self.update(|status| status.transfer = status.transfer.filter(|transfer| transfer.to != to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lasts_is_told_of_and_not_too_often() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut progress = Progress::new(To::Pod);
        assert_eq!(progress.went(5, at(0)), None, "nothing was expected");
        progress.expect(100, at(0));
        assert_eq!(progress.went(10, at(299)), None);
        let told = |done| Some(Transfer { to: To::Pod, done, total: 100 });
        assert_eq!(progress.went(10, at(300)), told(20));
        assert_eq!(progress.went(10, at(549)), None);
        assert_eq!(progress.went(100, at(550)), told(100), "never more than all");
        progress.end();
        progress.expect(7, at(600));
        assert_eq!(progress.went(7, at(899)), None, "a new one begins anew");
    }
}
