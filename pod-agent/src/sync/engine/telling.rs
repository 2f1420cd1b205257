//! What the engine tells of itself: problems, states, and answers to who waits until all is committed.

use super::{Asker, Engine};
use crate::sync::disk::Disk;
use shared::link::sync::{FromAgent, Problem, State};
use shared::path::WorkspacePath;

/// Problems told.
const PROBLEMS: usize = 1_000;
/// Problems kept; beyond, they are counted, and those of one path perhaps more than once until the next sweep.
const PROBLEMS_KEPT: usize = 10_000;
/// Bytes of problems told in one message, which has a limit.
const PROBLEM_BYTES: usize = 200_000;

impl<D: Disk> Engine<D> {
    pub(super) fn enter(&mut self, state: State) {
        let state = if self.held.is_some() { State::Held } else { state };
        if self.state != state {
            self.state = state;
            self.say(FromAgent::State(state));
        }
    }

    pub(super) fn problem(&mut self, path: &WorkspacePath, code: &str, message: &str) {
        self.problem_at(path.to_string(), code, message);
    }

    pub(super) fn problem_at(&mut self, path: String, code: &str, message: &str) {
        let problem = Problem { path: path.clone(), code: code.to_owned(), message: message.to_owned() };
        if self.problems.len() >= PROBLEMS_KEPT && !self.problems.contains_key(&path) {
            self.more_problems += 1;
        } else if self.problems.get(&path) != Some(&problem) {
            self.problems.insert(path, problem);
            self.problems_told = false;
        }
    }

    /// Both sides hold the same at a path.
    pub(super) fn cleared(&mut self, path: &WorkspacePath) {
        self.heed_rules(path);
        self.stuck.remove(path);
        self.overruled.remove(path);
        self.refused.remove(path);
        if !self.problems.is_empty() && self.problems.remove(path.as_str()).is_some() {
            self.problems_told = false;
        }
    }

    pub(super) fn tell(&mut self) {
        if self.problems_told || self.link.is_none() || !self.caught_up {
            return;
        }
        self.problems_told = true;
        let mut bytes = 0;
        let all = || self.rules.problem.iter().chain(self.problems.values());
        let fitting = all().take(PROBLEMS).take_while(|problem| {
            bytes += problem.path.len() + problem.code.len() + problem.message.len() + 64;
            bytes <= PROBLEM_BYTES
        });
        let problems: Vec<_> = fitting.cloned().collect();
        let more = (all().count() - problems.len()) as u64 + self.more_problems;
        self.say(FromAgent::Problems { problems, more });
        if self.state == State::CatchingUp {
            self.enter(State::Live);
        }
    }

    /// Tells from time to time what the base holds, if that may be compared: nothing of it is on its way, and it isn't
    /// what was told last.
    pub(super) fn check(&mut self) {
        let rests = self.flight.is_none() && self.wanted.is_empty() && self.overruled.is_empty();
        let settled = self.caught_up && self.naming.is_none() && self.received == self.base.rev;
        if self.now >= self.check_at && rests && settled && self.base.rev > self.checked {
            (self.check_at, self.checked) = (self.now + self.sweep, self.base.rev);
            self.say(FromAgent::Check { rev: self.base.rev, digest: self.base.digest() });
        }
    }

    /// Tells whether a mass delete is held.
    pub(super) fn tell_held(&mut self) {
        if let Some((items, paths)) = self.held.clone() {
            self.say(FromAgent::MassDelete { items, paths });
        }
        self.enter(if self.caught_up { State::Live } else { State::CatchingUp });
    }

    /// Answers who waits until all is committed, if it is.
    pub(super) fn answer(&mut self) {
        if self.askers.is_empty() || !self.caught_up || self.away {
            return;
        }
        let in_flight = self.flight.as_ref().and_then(|flight| flight.asked);
        let first = self.waited.values().copied().chain(in_flight).min();
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.askers)
            .into_iter()
            .partition(|(number, _)| first.is_none_or(|first| *number < first));
        self.askers = waiting;
        let rev = self.committed.max(self.base.rev);
        for (_, asker) in done {
            match asker {
                Asker::Here(token) => self.settled.push(token),
                Asker::ControlPlane(token) => self.say(FromAgent::Settled { token, rev }),
            }
        }
    }

    /// Notes a question: it waits for what differs now, however much changes later.
    pub(super) fn ask(&mut self, asker: Asker) {
        self.rescan();
        self.asks += 1;
        let (number, held) = (self.asks, self.held.is_some());
        // What is held waits for somebody's decision, and is not waited for.
        let gone = self.gone.iter().filter(|_| !held);
        for path in self.dirty.paths().chain(gone) {
            if !self.waited.contains_key(path) {
                self.waited.insert(path.clone(), number);
            }
        }
        if let Some(flight) = &mut self.flight {
            flight.asked.get_or_insert(number);
        }
        self.askers.push((number, asker));
    }
}
