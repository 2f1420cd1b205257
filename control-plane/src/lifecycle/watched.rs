//! What is known of one session's use, and what is due for it.

use super::clock::Pin;
use super::ending::{Cause, Due, End, Facts};
use super::records::Running;
use super::session::Activity;
use crate::templates::Template;
use shared::link::hello::Vitals;

/// A processor is at work if it is so for this part of the time: 10 %. An idle development server or a watcher of files
/// takes 1 to 3.
const CPU_PART: i64 = 10;
/// A wall clock that differs by so many milliseconds from where it should be was set.
const STEP: i64 = 2_000;
/// An end that moved by less than this many milliseconds is not told again.
const MOVED: i64 = 1_000;

/// What this process knows of one session's use.
#[derive(Default)]
pub(super) struct Watched {
    generation: u64,
    /// The latest activity seen here, and that of it which the database knows; by the steady clock, as all here.
    pub(super) active: Option<i64>,
    pub(super) noted: Option<i64>,
    pub(super) output: Option<i64>,
    /// Calls that are under way, each of which is activity until it ends.
    pub(super) calls: u32,
    sample: Option<(Vitals, i64)>,
    started: Pin,
    used: Pin,
    pub(super) expires: Pin,
    kept: Pin,
    pub(super) warned: Option<i64>,
    pub(super) told: Option<End>,
}

/// What a look found to be done.
pub(super) enum Act {
    Warn(End),
    Tell,
    Stop(Cause),
    /// The wall clock was set: the database's end follows.
    Move {
        from: i64,
        to: i64,
    },
}

/// Milliseconds of so many seconds.
pub(super) fn ms(seconds: u32) -> i64 {
    i64::from(seconds) * 1000
}

impl Watched {
    /// What is known of a session that runs; the database's row is seen.
    pub(super) fn facts(&mut self, row: &Running, template: &Template, now: i64, offset: i64) -> Facts {
        if self.generation != row.generation {
            let Self { active, noted, calls, .. } = *self;
            *self = Self { generation: row.generation, active, noted, calls, ..Self::default() };
        }
        let used = self.used.see(Some(row.active_at), offset).unwrap_or(now);
        let seen = if self.calls > 0 { now } else { self.active.unwrap_or(used) };
        Facts {
            now,
            started: self.started.see(row.started_at, offset).unwrap_or(used),
            active: used.max(seen),
            output: self.output,
            idle: ms(template.idle_s),
            lifetime: ms(template.lifetime_s),
            expires: self.expires.see(row.expires_at, offset),
            kept_until: self.kept.see(row.kept_until, offset),
            warned: self.warned,
        }
    }

    /// What is due, and how long until it is to be looked at again.
    pub(super) fn look(&mut self, facts: &Facts, offset: i64, acts: &mut Vec<Act>) -> Option<i64> {
        if let Some((from, to)) = self.expires.stale(offset, STEP) {
            acts.push(Act::Move { from, to });
        }
        let before = self.told;
        let moved =
            |end: End| before.is_none_or(|told| told.cause != end.cause || (told.at - end.at).abs() > MOVED);
        match facts.due() {
            Due::Nothing(at) => at,
            Due::Warn(end) => {
                self.warned = Some(facts.now);
                self.told = Some(end);
                acts.push(Act::Warn(end));
                Some(end.at)
            }
            Due::Warned(end) => {
                if moved(end) {
                    self.told = Some(end);
                    acts.push(Act::Tell);
                }
                Some(end.at)
            }
            Due::Calm(at) => {
                self.warned = None;
                self.told = None;
                acts.push(Act::Tell);
                at
            }
            Due::Stop(cause) => {
                acts.push(Act::Stop(cause));
                // Unless that is done, it is looked at again.
                Some(facts.now + MOVED)
            }
        }
    }

    /// Whether a pod's words show it at work since the last ones: its processor, its output.
    pub(super) fn sample(&mut self, vitals: Vitals, now: i64) -> Option<Activity> {
        let (before, at) = *self.sample.get_or_insert((vitals, now));
        if vitals == before || now <= at {
            return None;
        }
        self.sample = Some((vitals, now));
        let busy_ms = i64::try_from(vitals.cpu_ms.saturating_sub(before.cpu_ms)).unwrap_or(i64::MAX);
        if busy_ms >= (now - at) / CPU_PART {
            return Some(Activity::Processor);
        }
        (vitals.output_bytes > before.output_bytes).then_some(Activity::Output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::id::SessionId;

    #[test]
    fn a_processor_at_work_and_output_are_seen_and_rest_is_not() {
        let mut watched = Watched::default();
        let vitals =
            |cpu_ms, output_bytes| Vitals { cpu_ms, output_bytes, memory: cpu_ms, ..Vitals::default() };
        assert_eq!(watched.sample(vitals(50_000, 10), 0), None, "what was before is not known");
        assert_eq!(watched.sample(vitals(50_000, 10), 20_000), None, "no word came since");
        assert_eq!(watched.sample(vitals(50_500, 10), 20_000), None, "2.5 % is rest");
        assert_eq!(watched.sample(vitals(52_500, 10), 40_000), Some(Activity::Processor));
        assert_eq!(watched.sample(vitals(52_600, 11), 60_000), Some(Activity::Output));
        assert_eq!(watched.sample(vitals(100, 0), 80_000), None, "another agent begins anew");
        assert_eq!(watched.sample(vitals(9_000, 0), 100_000), Some(Activity::Processor));
    }

    fn row() -> Running {
        Running {
            id: SessionId::random(),
            generation: 1,
            template: "default".into(),
            active_at: 0,
            started_at: Some(0),
            expires_at: None,
            kept_until: None,
        }
    }

    #[test]
    fn a_wall_clock_that_is_set_neither_ends_nor_keeps_a_session() {
        let template = Template { idle_s: 1800, ..Template::local() };
        for step in [0, 7_200_000, -7_200_000] {
            let (mut watched, row) = (Watched::default(), Running { expires_at: Some(3_600_000), ..row() });
            let mut acts = Vec::new();
            let before = watched.facts(&row, &template, 60_000, 0);
            watched.look(&before, 0, &mut acts);
            let mut at = |now| {
                let facts = watched.facts(&row, &template, now, step);
                let mut acts = Vec::new();
                watched.look(&facts, step, &mut acts);
                let moves = acts.iter().filter(|act| matches!(act, Act::Move { .. })).count();
                assert_eq!(moves, usize::from(step != 0), "the database follows the wall");
                acts.into_iter().find(|act| !matches!(act, Act::Move { .. }))
            };
            assert!(at(1_499_000).is_none(), "{step}");
            assert!(matches!(at(1_500_000), Some(Act::Warn(_))), "{step}");
            assert!(at(1_799_000).is_none(), "{step}");
            assert!(matches!(at(1_800_000), Some(Act::Stop(Cause::Idle))), "{step}");
        }
    }

    #[test]
    fn a_new_start_forgets_what_was_told_of_the_one_before() {
        let template = Template { idle_s: 1800, ..Template::local() };
        let (mut watched, row) = (Watched::default(), row());
        let mut acts = Vec::new();
        let facts = watched.facts(&row, &template, 1_600_000, 0);
        watched.look(&facts, 0, &mut acts);
        assert!(matches!(acts[..], [Act::Warn(_)]) && watched.told.is_some());
        let next = Running { generation: 2, active_at: 2_000_000, started_at: Some(2_000_000), ..row };
        let facts = watched.facts(&next, &template, 2_000_000, 0);
        assert_eq!((facts.warned, facts.due()), (None, Due::Nothing(Some(3_500_000))));
        assert_eq!(watched.told, None);
    }
}
