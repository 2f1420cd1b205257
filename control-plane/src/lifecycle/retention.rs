//! How long what a session that does not run left behind is kept, as a pure function.

use super::session::State;
use super::step::Want;

/// How much longer a volume is kept that may hold what the database does not.
pub(super) const UNSAVED_TIMES: u32 = 3;

/// What is on a volume beyond what the database has, as far as the workspace goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    /// Nothing: its agent said so at its end.
    Nothing,
    /// Nothing: no agent ever ran on it.
    NeverRan,
    /// Perhaps something: its agent said that, or said nothing.
    Perhaps,
}

/// A session that does not run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) want: Want,
    pub(super) state: State,
    /// When it last began to run, in milliseconds since 1970, as the others.
    pub(super) started_at: Option<i64>,
    /// When it last ceased to run, or failed.
    pub(super) stopped_at: Option<i64>,
    /// When it was last used, or its start was asked for.
    pub(super) active_at: i64,
    /// Whether its agent said that all had reached the database.
    pub(super) complete: Option<bool>,
    /// Whether its volume was given back already.
    pub(super) released: bool,
}

impl Facts {
    /// What may be on its volume.
    pub(super) fn beyond(&self) -> Beyond {
        match (self.complete, self.started_at) {
            (Some(true), _) => Beyond::Nothing,
            (_, None) => Beyond::NeverRan,
            _ => Beyond::Perhaps,
        }
    }

    /// Seconds for which its volume is kept, where those of sessions that stopped well are kept for `retention_s`; none
    /// for ever.
    pub(super) fn kept_s(&self, retention_s: u32) -> Option<u32> {
        let times = if self.beyond() == Beyond::Perhaps { UNSAVED_TIMES } else { 1 };
        (retention_s > 0).then(|| retention_s.saturating_mul(times))
    }

    /// Whether its volume has been kept for long enough at `now`.
    pub(super) fn is_over(&self, retention_s: u32, now: i64) -> bool {
        let since = match (self.want, self.state) {
            (Want::Stopped, State::Stopped) => self.stopped_at,
            // Each start of the server tries it anew, which must not begin its time anew.
            (Want::Running, State::Failed) => self.stopped_at.map(|stopped| stopped.max(self.active_at)),
            _ => None,
        };
        let (Some(since), Some(kept)) = (since.filter(|_| !self.released), self.kept_s(retention_s)) else {
            return false;
        };
        since + i64::from(kept) * 1000 <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const MONTH_S: u32 = 30 * 86_400;

    /// One that stopped well at 0.
    fn stopped() -> Facts {
        Facts {
            want: Want::Stopped,
            state: State::Stopped,
            started_at: Some(-DAY),
            stopped_at: Some(0),
            active_at: -DAY,
            complete: Some(true),
            released: false,
        }
    }

    /// The day from which on a volume is not kept any more.
    fn day(facts: Facts) -> Option<i64> {
        (0..1_000).find(|day| facts.is_over(MONTH_S, day * DAY))
    }

    #[test]
    fn what_may_be_on_a_volume_alone_is_kept_for_longer_yet_not_for_ever() {
        let failed = Facts { want: Want::Running, state: State::Failed, complete: None, ..stopped() };
        let table = [
            ("one that stopped well", stopped(), Some(30)),
            ("one whose agent had more", Facts { complete: Some(false), ..stopped() }, Some(90)),
            ("one whose agent said nothing", Facts { complete: None, ..stopped() }, Some(90)),
            ("one that never ran", Facts { complete: None, started_at: None, ..stopped() }, Some(30)),
            ("one that failed", failed, Some(90)),
            ("one that failed before it ever ran", Facts { started_at: None, ..failed }, Some(30)),
            ("a failed one that was saved to since", Facts { active_at: 5 * DAY, ..failed }, Some(95)),
            ("one that is being stopped", Facts { state: State::Stopping, ..stopped() }, None),
            ("one that is tried again", Facts { state: State::Starting, ..failed }, None),
            ("one that runs", Facts { state: State::Running, ..failed }, None),
            ("one whose volume is given back", Facts { released: true, ..stopped() }, None),
        ];
        for (what, facts, kept) in table {
            assert_eq!(day(facts), kept, "{what}");
        }
        assert!(!stopped().is_over(0, i64::MAX) && stopped().kept_s(0).is_none(), "0 is for ever");
    }
}
