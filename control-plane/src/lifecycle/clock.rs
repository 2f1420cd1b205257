//! A clock that never steps beside the one on the wall, which does.
//!
//! The database keeps times of the wall, because they must outlive the process. A wall that is set forward by an hour
//! must end nothing an hour early, and one set back let nothing run on. So a time of the wall is turned into one of the
//! steady clock when it is first seen, and stands from then on, wherever the wall goes.

use crate::entities::now_ms;
use std::sync::Arc;
use tokio::time::Instant;

/// Both clocks, in milliseconds: of the wall since 1970, and one that rises evenly and began as the wall's.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> (i64, i64) + Send + Sync>);

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock{:?}", (self.0)())
    }
}

impl Default for Clock {
    fn default() -> Self {
        let (began, wall) = (Instant::now(), now_ms());
        Self(Arc::new(move || {
            let elapsed = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
            (now_ms(), wall.saturating_add(elapsed))
        }))
    }
}

impl Clock {
    /// One whose times (wall, steady) a test says.
    pub fn told(times: impl Fn() -> (i64, i64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(times))
    }

    /// The steady clock's time.
    pub fn steady(&self) -> i64 {
        (self.0)().1
    }

    /// The wall's time.
    pub fn wall(&self) -> i64 {
        (self.0)().0
    }

    /// How far the wall is ahead of the steady clock.
    pub fn offset(&self) -> i64 {
        let (wall, steady) = (self.0)();
        wall - steady
    }
}

/// A time of the database's, turned into one of the steady clock when it was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    raw: Option<i64>,
    at: Option<i64>,
}

impl Pin {
    /// The steady time of what the database says now.
    pub fn see(&mut self, raw: Option<i64>, offset: i64) -> Option<i64> {
        if raw != self.raw {
            *self = Self { raw, at: raw.map(|raw| raw - offset) };
        }
        self.at
    }

    /// The steady time.
    pub fn at(&self) -> Option<i64> {
        self.at
    }

    /// What the database should say now that the wall was set, if that is more than `most` away from what it says.
    pub fn stale(&self, offset: i64, most: i64) -> Option<(i64, i64)> {
        let (raw, at) = (self.raw?, self.at?);
        let fresh = at + offset;
        ((fresh - raw).abs() > most).then_some((raw, fresh))
    }

    /// The database was told what [`Pin::stale`] said.
    pub fn told(&mut self, raw: i64) {
        self.raw = Some(raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_wall_that_is_set_moves_no_end() {
        let mut end = Pin::default();
        assert_eq!(end.see(Some(10 * HOUR), 0), Some(10 * HOUR));
        for step in [HOUR, -HOUR, 7, 0] {
            assert_eq!(end.see(Some(10 * HOUR), step), Some(10 * HOUR), "{step}");
        }
        // The database follows, so that a process to come reckons as this one does.
        assert_eq!(end.stale(HOUR, 2_000), Some((10 * HOUR, 11 * HOUR)));
        end.told(11 * HOUR);
        assert_eq!(end.stale(HOUR, 2_000), None);
        assert_eq!(end.see(Some(11 * HOUR), HOUR), Some(10 * HOUR));
        // What somebody else writes after the step is of the new wall.
        assert_eq!(end.see(Some(12 * HOUR), HOUR), Some(11 * HOUR));
        assert_eq!(end.see(None, HOUR), None);
        assert_eq!(end.stale(5 * HOUR, 0), None);
    }

    #[test]
    fn a_drift_of_a_moment_is_no_step() {
        let mut end = Pin::default();
        end.see(Some(HOUR), 0);
        assert_eq!(end.stale(1_900, 2_000), None);
    }
}
