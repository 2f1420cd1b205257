//! What a session's worker remembers between its steps.

use super::step;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// An agent that was linked for so long has started well: its earlier failures count no more.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What a worker remembers between its steps.
pub(super) struct Attempt {
    /// When the start or stop that is under way began.
    pub(super) began: Instant,
    pub(super) launched: bool,
    pub(super) proven: bool,
    pub(super) failures: u32,
    pub(super) retry_at: Instant,
    pub(super) hopeless: Option<String>,
    pub(super) why: Option<String>,
    /// Why what runs it was about to end when last seen: afterwards nothing tells.
    pub(super) ending: Option<String>,
    /// What was told of its start so far, and what keeps it from starting.
    pub(super) told: HashSet<String>,
    pub(super) trouble: Option<String>,
    pub(super) linked_at: Option<Instant>,
    pub(super) unlinked_at: Instant,
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
            failures: 0,
            retry_at: now,
            hopeless: None,
            why: None,
            ending: None,
            told: HashSet::new(),
            trouble: None,
            linked_at: None,
            unlinked_at: now,
            told_adopted: false,
            complete: None,
        }
    }

    /// Milliseconds since the start or stop began.
    pub(super) fn elapsed_ms(&self) -> Option<i64> {
        i64::try_from(self.began.elapsed().as_millis()).ok()
    }

    /// Counts a start that failed, or a death, and sets the pause before the next start.
    pub(super) fn fail(&mut self, why: String) {
        if self.linked_at.is_some_and(|at| at.elapsed() >= HEALTHY_AFTER) {
            self.failures = 0;
        }
        self.failures += 1;
        self.launched = false;
        self.proven = false;
        self.ending = None;
        self.told.clear();
        self.trouble = None;
        self.linked_at = None;
        self.retry_at = Instant::now() + step::backoff(self.failures);
        self.why = Some(why);
    }
}
