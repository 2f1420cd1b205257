//! What the engine tells of itself: problems, states, and answers to who waits until all is committed.

use super::{Asker, Engine};
use crate::sync::disk::Disk;
use shared::link::sync::{FromAgent, Problem, State};
use shared::path::WorkspacePath;

/// Problems told.
const PROBLEMS: usize = 1_000;
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
        if self.problems.get(&path) != Some(&problem) {
            self.problems.insert(path, problem);
            self.problems_told = false;
        }
    }

    pub(super) fn cleared(&mut self, path: &WorkspacePath) {
        self.stuck.remove(path);
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
        let fitting = self.problems.values().take(PROBLEMS).take_while(|problem| {
            bytes += problem.path.len() + problem.code.len() + problem.message.len() + 64;
            bytes <= PROBLEM_BYTES
        });
        let problems: Vec<_> = fitting.cloned().collect();
        let more = (self.problems.len() - problems.len()) as u64;
        self.say(FromAgent::Problems { problems, more });
        if self.state == State::CatchingUp {
            self.enter(State::Live);
        }
    }

    /// Answers who waits until all is committed, if it is.
    pub(super) fn answer(&mut self) {
        if self.askers.is_empty() || !self.can_push() {
            return;
        }
        let held = self.held.is_some();
        let waiting = self.dirty.keys().any(|path| !self.hot.contains_key(path));
        // What is held waits for somebody's decision, and is not waited for.
        let done = held || self.gone.is_empty() && self.disk.is_unmarked();
        if waiting || !done {
            return;
        }
        let rev = self.committed.max(self.base.rev);
        for asker in std::mem::take(&mut self.askers) {
            match asker {
                Asker::Here(token) => self.settled.push(token),
                Asker::ControlPlane(token) => self.say(FromAgent::Settled { token, rev }),
            }
        }
    }
}
