//! What to do next for a session, from what is wanted of it and what is there. Pure: no clock, no I/O.

use super::session::State;
use std::time::Duration;

/// How long an agent that was linked before may take to come back. It tries at least every ten seconds; its shells
/// live, so it is ended only when it is surely stuck.
pub const RETURN_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Starts that may fail in a row before nothing is tried any more.
pub const ATTEMPTS: u32 = 6;
/// The pause after the first failed start; doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// The longest pause between two starts.
const BACKOFF_MOST: Duration = Duration::from_secs(300);

/// What is wanted of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// It runs.
    Running,
    /// It doesn't, and its files stay.
    Stopped,
    /// Nothing is left of it.
    Deleted,
}

impl Want {
    /// The name that the database uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }

    /// Reads [`Want::as_str`]'s form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Stopped, Self::Deleted].into_iter().find(|want| want.as_str() == text)
    }
}

/// What is known of a session when the next step is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What is wanted.
    pub want: Want,
    /// What the database says of it.
    pub state: State,
    /// Whether its agent's link is up.
    pub linked: bool,
    /// Whether its agent's process or pod is there.
    pub present: bool,
    /// Whether that is about to end.
    pub ending: bool,
    /// Whether the runtime keeps files of it.
    pub volume: bool,
    /// Whether an agent was launched in this attempt.
    pub launched: bool,
    /// Whether that agent has linked since, or was found running.
    pub proven: bool,
    /// How long the link has been awaited.
    pub waited: Duration,
    /// How long a started agent may take to link before the start has failed.
    pub patience: Duration,
    /// Starts that failed in a row.
    pub failures: u32,
    /// What is left of the pause after the last one.
    pub pause: Duration,
    /// Whether trying again is known to be of no use.
    pub hopeless: bool,
    /// Whether what ran it well is there and will not come right again by itself.
    pub stuck: bool,
    /// Whether the volume of a session that does not run has been kept for long enough.
    pub release: bool,
}

/// The next thing to do. Each may be done again without harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until something happens.
    Rest,
    /// Nothing, for so long or until something happens.
    Wait(Duration),
    /// Say that it starts.
    MarkStarting,
    /// Make room for its files and start its agent.
    Launch,
    /// Say that it runs.
    MarkRunning,
    /// The agent is gone though it should be there: count that, pause, say so.
    NoteDeath,
    /// It is there and does not link: end it, count that, pause, say so.
    GiveUpWaiting,
    /// It ends as often as it starts: end it for good, count that, pause, say so. Another may fare better.
    Replace,
    /// Say that it failed.
    MarkFailed,
    /// Let the agent write its last state, then end it.
    Stop,
    /// Say that it stopped.
    MarkStopped,
    /// Give its volume back, which was kept for long enough.
    Release,
    /// End it and remove its files.
    Remove,
    /// Remove its rows; nothing of it is left then.
    Erase,
}

/// The pause after so many failed starts in a row.
pub fn backoff(failures: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MOST)
}

/// The next thing to do.
pub fn step(facts: &Facts) -> Action {
    match facts.want {
        Want::Running => towards_running(facts),
        Want::Stopped if facts.linked || facts.present => Action::Stop,
        Want::Stopped if facts.state != State::Stopped => Action::MarkStopped,
        Want::Stopped if facts.release && facts.volume => Action::Release,
        Want::Stopped => Action::Rest,
        Want::Deleted if facts.linked || facts.present || facts.volume => Action::Remove,
        Want::Deleted => Action::Erase,
    }
}

fn towards_running(facts: &Facts) -> Action {
    if facts.linked {
        return if facts.state == State::Running { Action::Rest } else { Action::MarkRunning };
    }
    if facts.hopeless || facts.failures >= ATTEMPTS {
        // An agent that comes back by itself is welcome all the same.
        return match facts.state {
            State::Failed if facts.release && facts.volume && !facts.present => Action::Release,
            State::Failed => Action::Rest,
            _ => Action::MarkFailed,
        };
    }
    if !facts.pause.is_zero() {
        return Action::Wait(facts.pause);
    }
    if facts.present && facts.stuck {
        return Action::Replace;
    }
    if facts.present && !facts.launched && facts.state == State::Starting && !facts.ending {
        // Its launch was cut short: only done again does it come to its end, and takes what is there.
        return Action::Launch;
    }
    if facts.present {
        let patience = if facts.launched && !facts.proven { facts.patience } else { RETURN_TIMEOUT };
        let left = patience.saturating_sub(facts.waited);
        return if left.is_zero() { Action::GiveUpWaiting } else { Action::Wait(left) };
    }
    if facts.launched || facts.state == State::Running {
        return Action::NoteDeath;
    }
    if facts.state != State::Starting {
        return Action::MarkStarting;
    }
    Action::Launch
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How long the tests' agents may take to link.
    const START_TIMEOUT: Duration = Duration::from_secs(60);

    /// A session that should run and of which nothing is there.
    fn facts() -> Facts {
        Facts {
            want: Want::Running,
            state: State::Starting,
            linked: false,
            present: false,
            ending: false,
            volume: true,
            launched: false,
            proven: false,
            waited: Duration::ZERO,
            patience: START_TIMEOUT,
            failures: 0,
            pause: Duration::ZERO,
            hopeless: false,
            stuck: false,
            release: false,
        }
    }

    #[test]
    fn each_row_of_the_table() {
        let f = facts;
        let second = Duration::from_secs(1);
        let table = [
            ("a wish to run launches", f(), Action::Launch),
            (
                "a stopped one says first that it starts",
                Facts { state: State::Stopped, ..f() },
                Action::MarkStarting,
            ),
            (
                "a launched one is awaited",
                Facts { present: true, launched: true, waited: second, ..f() },
                Action::Wait(START_TIMEOUT - second),
            ),
            (
                "not for ever",
                Facts { present: true, launched: true, waited: START_TIMEOUT, ..f() },
                Action::GiveUpWaiting,
            ),
            (
                "one that links runs",
                Facts { present: true, linked: true, launched: true, ..f() },
                Action::MarkRunning,
            ),
            (
                "and then rests",
                Facts { present: true, linked: true, state: State::Running, ..f() },
                Action::Rest,
            ),
            (
                "one whose link is cut is awaited for longer",
                Facts {
                    present: true,
                    launched: true,
                    proven: true,
                    waited: START_TIMEOUT,
                    state: State::Running,
                    ..f()
                },
                Action::Wait(RETURN_TIMEOUT - START_TIMEOUT),
            ),
            (
                "so is one found running",
                Facts { present: true, state: State::Running, ..f() },
                Action::Wait(RETURN_TIMEOUT),
            ),
            ("a launch that was cut short is done again", Facts { present: true, ..f() }, Action::Launch),
            (
                "after its pause",
                Facts { present: true, failures: 1, pause: second, ..f() },
                Action::Wait(second),
            ),
            (
                "but not while what is there ends",
                Facts { present: true, ending: true, ..f() },
                Action::Wait(RETURN_TIMEOUT),
            ),
            (
                "one that ends again and again though it ran gives way to another",
                Facts { present: true, proven: true, stuck: true, state: State::Running, ..f() },
                Action::Replace,
            ),
            (
                "but not while it is linked",
                Facts { present: true, linked: true, stuck: true, state: State::Running, ..f() },
                Action::Rest,
            ),
            ("one that dies at its start is noted", Facts { launched: true, ..f() }, Action::NoteDeath),
            ("one that dies running is noted", Facts { state: State::Running, ..f() }, Action::NoteDeath),
            ("then there is a pause", Facts { failures: 1, pause: second, ..f() }, Action::Wait(second)),
            ("then it is launched anew", Facts { failures: 1, ..f() }, Action::Launch),
            ("but not without end", Facts { failures: ATTEMPTS, ..f() }, Action::MarkFailed),
            ("nor where it is of no use", Facts { hopeless: true, ..f() }, Action::MarkFailed),
            ("a failed one rests", Facts { hopeless: true, state: State::Failed, ..f() }, Action::Rest),
            (
                "and gives its volume back in time",
                Facts { hopeless: true, state: State::Failed, release: true, ..f() },
                Action::Release,
            ),
            (
                "but not while it may be in use",
                Facts { hopeless: true, state: State::Failed, release: true, present: true, ..f() },
                Action::Rest,
            ),
            (
                "a failed one that links after all runs",
                Facts { hopeless: true, state: State::Failed, linked: true, ..f() },
                Action::MarkRunning,
            ),
            (
                "a stop ends it",
                Facts { want: Want::Stopped, present: true, linked: true, state: State::Stopping, ..f() },
                Action::Stop,
            ),
            (
                "also one that never linked",
                Facts { want: Want::Stopped, present: true, state: State::Stopping, ..f() },
                Action::Stop,
            ),
            (
                "then it is stopped",
                Facts { want: Want::Stopped, state: State::Stopping, ..f() },
                Action::MarkStopped,
            ),
            (
                "its volume is kept until then",
                Facts { want: Want::Stopped, state: State::Stopped, release: true, ..f() },
                Action::Release,
            ),
            (
                "and given back once",
                Facts { want: Want::Stopped, state: State::Stopped, release: true, volume: false, ..f() },
                Action::Rest,
            ),
            ("and rests", Facts { want: Want::Stopped, state: State::Stopped, ..f() }, Action::Rest),
            (
                "one that appears though stopped is ended",
                Facts { want: Want::Stopped, present: true, state: State::Stopped, ..f() },
                Action::Stop,
            ),
            ("a deleted one is removed", Facts { want: Want::Deleted, present: true, ..f() }, Action::Remove),
            ("its folder too", Facts { want: Want::Deleted, ..f() }, Action::Remove),
            ("then its rows go", Facts { want: Want::Deleted, volume: false, ..f() }, Action::Erase),
        ];
        for (what, facts, action) in table {
            assert_eq!(step(&facts), action, "{what}");
        }
    }

    #[test]
    fn pauses_double_and_end_at_five_minutes() {
        let seconds: Vec<_> = (1..=12).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    }

    proptest! {
        #[test]
        fn nothing_is_removed_unless_deletion_is_wanted_and_nothing_launched_twice(
            want in prop_oneof![Just(Want::Running), Just(Want::Stopped)],
            state in prop_oneof![Just(State::Stopped), Just(State::Starting), Just(State::Running), Just(State::Stopping), Just(State::Failed)],
            linked: bool, present: bool, ending: bool, volume: bool, release: bool, launched: bool, proven: bool, hopeless: bool, stuck: bool,
            waited in 0u64..100, failures in 0u32..9, pause in 0u64..3,
        ) {
            let facts = Facts {
                want, state, linked, present, ending, volume, launched, proven, failures, hopeless, stuck, release,
                waited: Duration::from_secs(waited), patience: START_TIMEOUT, pause: Duration::from_secs(pause),
            };
            let action = step(&facts);
            prop_assert!(!matches!(action, Action::Remove | Action::Erase));
            if action == Action::Launch {
                prop_assert!(want == Want::Running && !linked && !launched);
                // What is there without having been launched is adopted.
                prop_assert!(!present || (state == State::Starting && !ending));
            }
            if want == Want::Running {
                prop_assert!(!matches!(action, Action::Stop));
            }
            if action == Action::Release {
                let ended = if want == Want::Running { State::Failed } else { State::Stopped };
                prop_assert!(release && !present && !linked && state == ended);
            }
        }
    }
}
