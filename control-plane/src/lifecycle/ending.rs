//! When a session ends by itself, and when its users are warned: what is known → what is due, as a pure function.
//!
//! A session ends for want of activity, or at the end of its lifetime, whichever is first. Output counts as activity
//! only so far: a development server that logs a line a second would otherwise run for ever. Users are warned ahead,
//! and nobody's session ends before they had that time, even if the server was away when it should have been said.

/// How long ahead users are warned, in milliseconds, where there is so much time.
const WARN_AHEAD: i64 = 5 * 60 * 1000;
/// Of a short time without activity or lifetime, this part is left for the warning.
const WARN_PART: i64 = 4;
/// Output alone keeps a session for this many times as long as nothing at all would.
const OUTPUT_TIMES: i64 = 2;

/// Why a session ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nothing happened in it.
    Idle,
    /// Its lifetime is over.
    Lifetime,
}

impl Cause {
    /// The name that JSON uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
        }
    }
}

/// The end of a session, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: i64,
    /// Why.
    pub cause: Cause,
}

/// What is known of a session that runs. Times are milliseconds of one clock that never steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What the clock says.
    pub now: i64,
    /// When it began to run.
    pub started: i64,
    /// The latest activity, output aside.
    pub active: i64,
    /// The latest output.
    pub output: Option<i64>,
    /// How long it may be without activity; 0 for ever.
    pub idle: i64,
    /// How long it may run; 0 for ever. The end itself is `expires`.
    pub lifetime: i64,
    /// When its lifetime ends; none for never.
    pub expires: Option<i64>,
    /// It does not end for want of activity before this.
    pub kept_until: Option<i64>,
    /// When its users were warned, if they were.
    pub warned: Option<i64>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing; look again then, or when something happens.
    Nothing(Option<i64>),
    /// Say that it ends, now; then look again at the end.
    Warn(End),
    /// It was said; look again at the end.
    Warned(End),
    /// It was said, and is true no longer: say so. Look again then.
    Calm(Option<i64>),
    /// End it.
    Stop(Cause),
}

impl Facts {
    /// When it ends for want of activity.
    pub fn idle_end(&self) -> Option<i64> {
        if self.idle <= 0 {
            return None;
        }
        let active = self.active.max(self.started);
        let alone = active + self.idle;
        let with_output = self.output.map_or(alone, |output| output + self.idle);
        let end = with_output.clamp(alone, active + OUTPUT_TIMES * self.idle);
        Some(end.max(self.kept_until.unwrap_or(end)))
    }

    /// Its end, if nothing more happens.
    pub fn end(&self) -> Option<End> {
        let idle = self.idle_end().map(|at| End { at, cause: Cause::Idle });
        let expires = self.expires.map(|at| End { at, cause: Cause::Lifetime });
        idle.into_iter().chain(expires).min_by_key(|end| end.at)
    }

    fn ahead(&self, cause: Cause) -> i64 {
        let whole = match cause {
            Cause::Idle => self.idle,
            Cause::Lifetime => self.lifetime,
        };
        if whole > 0 { WARN_AHEAD.min(whole / WARN_PART) } else { WARN_AHEAD }
    }

    /// What is to be done now.
    pub fn due(&self) -> Due {
        let Some(end) = self.end() else {
            return if self.warned.is_some() { Due::Calm(None) } else { Due::Nothing(None) };
        };
        let ahead = self.ahead(end.cause);
        let warn_at = end.at - ahead;
        if self.now < warn_at {
            return if self.warned.is_some() {
                Due::Calm(Some(warn_at))
            } else {
                Due::Nothing(Some(warn_at))
            };
        }
        // Late or not, there is time to answer the warning.
        let at = end.at.max(self.warned.unwrap_or(self.now) + ahead);
        let end = End { at, ..end };
        match self.warned {
            None => Due::Warn(end),
            Some(_) if self.now < at => Due::Warned(end),
            Some(_) => Due::Stop(end.cause),
        }
    }
}

/// A span as a person says it: the whole of the largest unit that fits evenly.
pub fn words(seconds: u32) -> String {
    let (count, unit) = match seconds {
        s if s > 0 && s % 86_400 == 0 => (s / 86_400, "day"),
        s if s > 0 && s % 3_600 == 0 => (s / 3_600, "hour"),
        s if s > 0 && s % 60 == 0 => (s / 60, "minute"),
        s => (s, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: i64 = 60_000;

    /// One that began at 0, with the usual half hour and two hours.
    fn facts() -> Facts {
        Facts {
            now: 0,
            started: 0,
            active: 0,
            output: None,
            idle: 30 * MINUTE,
            lifetime: 120 * MINUTE,
            expires: Some(120 * MINUTE),
            kept_until: None,
            warned: None,
        }
    }

    fn end(minutes: i64, cause: Cause) -> End {
        End { at: minutes * MINUTE, cause }
    }

    #[test]
    fn each_row_of_the_table() {
        use Cause::{Idle, Lifetime};
        let f = facts;
        let at = |minutes: i64| minutes * MINUTE;
        let table = [
            ("it is left alone at first", f(), Due::Nothing(Some(at(25)))),
            ("users are warned five minutes ahead", Facts { now: at(25), ..f() }, Due::Warn(end(30, Idle))),
            (
                "then it is waited",
                Facts { now: at(28), warned: Some(at(25)), ..f() },
                Due::Warned(end(30, Idle)),
            ),
            ("then it ends", Facts { now: at(30), warned: Some(at(25)), ..f() }, Due::Stop(Idle)),
            (
                "activity takes the warning back",
                Facts { now: at(28), active: at(28), warned: Some(at(25)), ..f() },
                Due::Calm(Some(at(53))),
            ),
            (
                "a start long after its creation counts",
                Facts { now: at(99), started: at(90), expires: None, ..f() },
                Due::Nothing(Some(at(115))),
            ),
            (
                "output keeps it",
                Facts { now: at(29), output: Some(at(10)), ..f() },
                Due::Nothing(Some(at(35))),
            ),
            (
                "but not for ever",
                Facts { now: at(55), output: Some(at(55)), ..f() },
                Due::Warn(end(60, Idle)),
            ),
            (
                "however much of it there is",
                Facts { now: at(60), output: Some(at(60)), warned: Some(at(55)), ..f() },
                Due::Stop(Idle),
            ),
            (
                "output before the latest activity changes nothing",
                Facts { now: at(20), active: at(20), output: Some(at(5)), ..f() },
                Due::Nothing(Some(at(45))),
            ),
            (
                "its lifetime ends it in the midst of work",
                Facts { now: at(115), active: at(115), ..f() },
                Due::Warn(end(120, Lifetime)),
            ),
            (
                "an extension holds off both",
                Facts {
                    now: at(118),
                    kept_until: Some(at(148)),
                    expires: Some(at(148)),
                    warned: Some(at(115)),
                    ..f()
                },
                Due::Calm(Some(at(143))),
            ),
            (
                "one that is shorter than what is left changes nothing",
                Facts { now: at(1), kept_until: Some(at(2)), ..f() },
                Due::Nothing(Some(at(25))),
            ),
            (
                "a server that was away warns first",
                Facts { now: at(90), ..f() },
                Due::Warn(End { at: at(95), cause: Idle }),
            ),
            (
                "and gives that time",
                Facts { now: at(94), warned: Some(at(90)), ..f() },
                Due::Warned(end(95, Idle)),
            ),
            ("no more than that", Facts { now: at(95), warned: Some(at(90)), ..f() }, Due::Stop(Idle)),
            (
                "no end at all",
                Facts { now: at(9_999), idle: 0, lifetime: 0, expires: None, ..f() },
                Due::Nothing(None),
            ),
            (
                "a template that took the end away takes the warning back",
                Facts { now: at(28), idle: 0, expires: None, warned: Some(at(25)), ..f() },
                Due::Calm(None),
            ),
            (
                "of a short time a quarter is the warning's",
                Facts { now: 6_000, idle: 8_000, expires: None, ..f() },
                Due::Warn(End { at: 8_000, cause: Idle }),
            ),
            (
                "and not more",
                Facts { now: 5_999, idle: 8_000, expires: None, ..f() },
                Due::Nothing(Some(6_000)),
            ),
            (
                "of a short lifetime, too",
                Facts { now: 9_000, idle: 0, lifetime: 12_000, expires: Some(12_000), ..f() },
                Due::Warn(End { at: 12_000, cause: Lifetime }),
            ),
        ];
        for (what, facts, due) in table {
            assert_eq!(facts.due(), due, "{what}");
        }
    }

    proptest! {
        #[test]
        fn nothing_ends_without_a_warning_its_time_and_a_reason(
            now in 0i64..10_000_000, started in 0i64..10_000_000, active in 0i64..10_000_000,
            output in proptest::option::of(0i64..10_000_000), idle in 0i64..4_000_000, lifetime in 0i64..4_000_000,
            expires in proptest::option::of(0i64..10_000_000), kept in proptest::option::of(0i64..10_000_000),
            warned in proptest::option::of(0i64..10_000_000),
        ) {
            let facts = Facts { now, started, active, output, idle, lifetime, expires, kept_until: kept, warned };
            match facts.due() {
                Due::Stop(cause) => {
                    let warned = warned.expect("nobody was warned");
                    let whole = if cause == Cause::Idle { idle } else { lifetime };
                    let ahead = if whole > 0 { WARN_AHEAD.min(whole / WARN_PART) } else { WARN_AHEAD };
                    prop_assert!(now - warned >= ahead);
                    if cause == Cause::Idle {
                        prop_assert!(now >= active + idle && now >= started + idle);
                        prop_assert!(kept.is_none_or(|kept| now >= kept));
                    } else {
                        prop_assert!(expires.is_some_and(|expires| now >= expires));
                    }
                }
                // What is to be looked at again lies ahead: a check that finds nothing new must not spin.
                Due::Nothing(Some(at)) | Due::Calm(Some(at)) => prop_assert!(at > now),
                Due::Warned(end) => prop_assert!(end.at > now),
                Due::Warn(end) => prop_assert!(end.at >= now),
                Due::Nothing(None) | Due::Calm(None) => prop_assert!(idle == 0 && expires.is_none()),
            }
        }
    }

    #[test]
    fn spans_are_said_as_people_say_them() {
        let said: Vec<_> = [1, 5, 60, 1800, 5400, 7200, 86_400, 2_592_000].into_iter().map(words).collect();
        assert_eq!(
            said,
            ["1 second", "5 seconds", "1 minute", "30 minutes", "90 minutes", "2 hours", "1 day", "30 days"]
        );
    }
}
