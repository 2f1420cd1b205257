//! What a session's worker remembers between its steps.

use super::step;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// An agent that was linked for so long has started well: its earlier failures count no more.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How long an agent may run without a link before that is worth a word.
const UNLINKED: Duration = Duration::from_secs(20);

/// What a worker remembers between its steps.
pub(super) struct Attempt {
    /// When the start or stop that is under way began.
    pub(super) began: Instant,
    pub(super) launched: bool,
    pub(super) proven: bool,
    /// Whether its agent has linked since.
    pub(super) has_linked: bool,
    pub(super) failures: u32,
    pub(super) retry_at: Instant,
    pub(super) hopeless: Option<String>,
    /// Why what ran it well will not come right again by itself.
    pub(super) stuck: Option<String>,
    pub(super) why: Option<String>,
    /// Why what runs it was about to end when last seen: afterwards nothing tells.
    pub(super) ending: Option<String>,
    /// What was told of its start so far, and what keeps it from starting.
    pub(super) told: HashSet<String>,
    pub(super) trouble: Option<String>,
    /// Whether it was told that what runs it does not answer.
    pub(super) lost: bool,
    linked_at: Option<Instant>,
    pub(super) unlinked_at: Instant,
    /// Since when its agent is seen to run without a link.
    runs_unlinked: Option<Instant>,
    pub(super) told_adopted: bool,
    /// Whether all files had reached the database when the agent ended, if it said so.
    pub(super) complete: Option<bool>,
}

impl Attempt {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            launched: false,
            proven: false,
            has_linked: false,
            failures: 0,
            retry_at: now,
            hopeless: None,
            stuck: None,
            why: None,
            ending: None,
            told: HashSet::new(),
            trouble: None,
            lost: false,
            linked_at: None,
            unlinked_at: now,
            runs_unlinked: None,
            told_adopted: false,
            complete: None,
        }
    }

    /// Whether its agent was linked when last looked at.
    pub(super) fn is_linked(&self) -> bool {
        self.linked_at.is_some()
    }

    /// Milliseconds since the start or stop began.
    pub(super) fn elapsed_ms(&self) -> Option<i64> {
        i64::try_from(self.began.elapsed().as_millis()).ok()
    }

    /// Its agent linked.
    pub(super) fn note_link(&mut self) {
        self.linked_at = Some(Instant::now());
        self.proven = true;
        self.has_linked = true;
    }

    /// Its agent's link ended, while the agent may live and dial again.
    pub(super) fn note_unlinked(&mut self) {
        self.leave_link();
        self.unlinked_at = Instant::now();
    }

    /// Its agent was looked at, which runs without a link or does not. Answers whether it has for long.
    pub(super) fn is_long_unlinked(&mut self, runs_unlinked: bool) -> bool {
        if !runs_unlinked {
            self.runs_unlinked = None;
            return false;
        }
        let since = *self.runs_unlinked.get_or_insert_with(Instant::now);
        // One that waited in a pool ran before it was launched.
        since.max(self.unlinked_at).elapsed() >= UNLINKED
    }

    fn leave_link(&mut self) {
        if self.linked_at.take().is_some_and(|at| at.elapsed() >= HEALTHY_AFTER) {
            self.failures = 0;
        }
    }

    /// Counts a start that failed, or a death, and sets the pause before the next start.
    pub(super) fn fail(&mut self, why: String) {
        self.leave_link();
        self.failures += 1;
        self.launched = false;
        self.proven = false;
        self.has_linked = false;
        self.ending = None;
        self.told.clear();
        self.stuck = None;
        self.trouble = None;
        self.lost = false;
        self.runs_unlinked = None;
        self.retry_at = Instant::now() + step::backoff(self.failures);
        self.why = Some(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_failed_before_it_ran_well_counts_no_more_however_its_link_ended() {
        for seen_to_end in [false, true] {
            let mut attempt = Attempt::new();
            attempt.fail("no place".to_owned());
            attempt.fail("no place".to_owned());
            assert_eq!(attempt.failures, 2);
            attempt.note_link();
            tokio::time::advance(HEALTHY_AFTER).await;
            if seen_to_end {
                // Its pod lingers for a moment after the link.
                attempt.note_unlinked();
            }
            attempt.fail("its pod was deleted".to_owned());
            assert_eq!(attempt.failures, 1, "{seen_to_end}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_is_away_is_worth_a_word_only_once_its_agent_has_run_for_a_while_since_its_launch() {
        let mut attempt = Attempt::new();
        assert!(!attempt.is_long_unlinked(true));
        tokio::time::advance(UNLINKED).await;
        // Claimed just now.
        attempt.unlinked_at = Instant::now();
        assert!(!attempt.is_long_unlinked(true));
        tokio::time::advance(UNLINKED).await;
        assert!(attempt.is_long_unlinked(true));
        // Its image is pulled anew.
        assert!(!attempt.is_long_unlinked(false) && !attempt.is_long_unlinked(true));
        tokio::time::advance(UNLINKED).await;
        assert!(attempt.is_long_unlinked(true));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_ends_soon_after_each_start_is_not_started_for_ever() {
        let mut attempt = Attempt::new();
        for failures in 1..=step::ATTEMPTS {
            attempt.note_link();
            tokio::time::advance(HEALTHY_AFTER / 2).await;
            attempt.note_unlinked();
            attempt.fail("it ended".to_owned());
            assert_eq!(attempt.failures, failures);
        }
    }
}
