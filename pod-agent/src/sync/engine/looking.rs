//! Which paths are to be looked at, and when: marks of the watcher, and sweeps.

use super::Engine;
use super::unkept::Unkept;
use crate::sync::disk::{Disk, Presence, Seen};
use shared::link::sync::{Problem, State};
use shared::path::WorkspacePath;
use shared::tree::Kind;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often everything is looked at by `stat`, if nothing else is said: writes through a memory map raise no event.
pub(super) const SWEEP: Duration = Duration::from_secs(60);
/// The same where watches ran out, or the workspace itself is gone.
const POLL: Duration = Duration::from_secs(2);
/// More changes than this at once are a burst, which is sent together.
const BURST_ITEMS: usize = 16;
/// A burst is over after this much silence, and at the latest after that much time.
const BURST: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// What is told while the workspace itself is gone: a code and a sentence.
pub(super) const AWAY: (&str, &str) = (
    "workspace_gone",
    "the session's folder is gone; nothing is deleted for that, and saves are kept until it is back",
);
/// Items known below a folder from which on it is not gone through more often than every [`POLL`]: for 10,000 that
/// takes some tens of milliseconds.
const MANY_BELOW: usize = 2_000;
/// Paths that the database doesn't have and that are looked at, or remembered as refused: each takes memory, and a
/// program may make more files than any server takes. More where the server takes half as many items.
pub(super) const UNKNOWN: usize = 200_000;

impl<D: Disk> Engine<D> {
    /// When the changes of a burst are to be sent; none if there is no burst, or somebody waits for what is in it.
    pub(super) fn burst_over(&self) -> Option<Instant> {
        let burst = self.burst.filter(|_| self.askers.is_empty());
        burst.map(|(first, last)| (last + BURST.0).min(first + BURST.1))
    }

    /// Takes the watcher's marks, and looks at everything if it is time for that.
    pub(super) fn take_marks(&mut self) {
        let now = self.now;
        let taken = self.disk.take_marks(now);
        if taken.all || now >= self.sweep_at {
            self.rescan();
        }
        let some = !taken.paths.is_empty();
        for path in taken.paths {
            self.mark(path, now);
        }
        if some && self.dirty.len() > BURST_ITEMS {
            let (first, _) = self.burst.unwrap_or((now, now));
            self.burst = Some((first, now));
        }
        if self.disk.is_blind() || self.away {
            self.sweep_at = self.sweep_at.min(now + POLL);
        }
    }

    /// Whether a path is one too many of those that the database doesn't have. Told, if it is.
    fn is_beyond(&mut self, path: &WorkspacePath) -> bool {
        let items = self.link.map_or(0, |link| usize::try_from(link.limits.workspace_items).unwrap_or(0));
        let is_room = self.dirty.len() + self.refused.len() < self.most_unknown.max(2 * items);
        if is_room || self.is_known(path) || self.dirty.contains(path) || self.refused.is_at(path) {
            return false;
        }
        let message =
            "there are more files than can be looked at at once; the rest follows as these are dealt with";
        self.problem_at(String::new(), "too_many_files", message);
        true
    }

    /// A path is to be looked at.
    pub(super) fn mark(&mut self, path: WorkspacePath, due: Instant) {
        let is_folder = self.disk.is_folder(&path);
        let is_left_out = !self.is_known(&path) && self.rules.ignore.is_ignored(&path, is_folder);
        if is_left_out || self.is_beyond(&path) {
            return;
        }
        self.stuck.remove(&path);
        self.heed_rules(&path);
        // A new folder: what came into it before it was watched. One that went: all that was in it.
        if is_folder {
            self.disk.watch(Some(&path));
            if self.is_put_off(&path) {
                self.dirty.insert(path, due);
                return;
            }
            self.scan_folder(Some(&path));
            // Perhaps it is another folder than before, of the same name.
            let differs = |below: &&WorkspacePath| {
                self.base.tree.get(*below).is_some_and(|known| self.disk.may_differ(below, known))
            };
            let changed: Vec<_> = self.base.below(&path).filter(differs).cloned().collect();
            self.dirty.extend(changed.into_iter().map(|path| (path, due)));
            self.mark_sent_below(&path, due);
        } else if self.base.entry(&path).is_some_and(|entry| entry.kind == Kind::Dir) {
            let below: Vec<_> = self.base.below(&path).cloned().collect();
            self.dirty.extend(below.into_iter().map(|path| (path, due)));
            self.mark_sent_below(&path, due);
        }
        self.dirty.insert(path, due);
    }

    /// Whether a folder that holds much waits for a look at everything, since one like it was gone through just now:
    /// a program that keeps changing its mode would have the agent do nothing else.
    fn is_put_off(&mut self, folder: &WorkspacePath) -> bool {
        if self.base.below(folder).nth(MANY_BELOW).is_none() {
            return false;
        }
        let put_off = self.many_at > self.now;
        if put_off {
            self.sweep_at = self.sweep_at.min(self.many_at);
        } else {
            self.many_at = self.now + POLL;
        }
        put_off
    }

    /// What was sent of a folder and not answered is in the base once it is: it must be looked at then.
    fn mark_sent_below(&mut self, folder: &WorkspacePath, due: Instant) {
        let sent = self.flight.iter().flat_map(|flight| flight.changes());
        let below: Vec<_> = sent.filter(|(path, _)| path.is_below(folder)).collect();
        self.dirty.extend(below.into_iter().map(|(path, _)| (path, due)));
    }

    /// Compares everything with the base by `stat`, and watches every folder.
    pub(super) fn rescan(&mut self) {
        let now = self.now;
        let every = if self.disk.is_blind() { POLL } else { self.sweep };
        self.sweep_at = now + every;
        let presence = self.disk.presence();
        self.disk.reopen();
        match presence {
            Presence::Gone => {
                self.sweep_at = now + POLL;
                self.away = true;
                self.problem_at(String::new(), AWAY.0, AWAY.1);
            }
            Presence::Same if !self.away => self.scan(),
            Presence::Same | Presence::Other => {
                self.away = false;
                self.stuck.clear();
                self.scan();
                // What is not in another folder was not deleted in this one.
                self.held = None;
                self.hold_deletes(true);
                if self.link.is_some() {
                    self.tell_held();
                    self.apply_wanted();
                }
            }
        }
    }

    fn scan(&mut self) {
        let now = self.now;
        self.read_rules();
        self.unknown.clear();
        self.hot.retain(|path, _| self.dirty.contains(path));
        // Tried again by itself, or listed until there is another answer; all else is found again, if it is still so.
        let retries = self.retry_at.is_some();
        let waits = |path: &String| {
            WorkspacePath::new(&**path)
                .is_ok_and(|path| self.refused.is_at(&path) || self.hot.contains_key(&path))
        };
        self.more_problems = 0;
        self.problems.retain(|path, problem| retries && Unkept::is(problem) || waits(path));
        self.ask_again();
        self.problems_told = false;
        if self.disk.is_blind() {
            let message = "file watches ran out on this machine: changes are found by polling";
            let problem = Problem { path: String::new(), code: "polling".into(), message: message.into() };
            self.problems.insert(String::new(), problem);
        }
        let changed = self.base.tree.iter().filter(|(path, known)| self.disk.may_differ(path, known));
        let changed: Vec<_> = changed.map(|(path, _)| (path.clone(), now)).collect();
        self.dirty.extend(changed);
        self.disk.watch(None);
        self.scan_folder(None);
        if !self.wanted.is_empty() && self.naming.is_none() && self.retry_at.is_none() {
            // What could not be had may be to be had by now; else it is listed again.
            self.stuck.clear();
            self.apply_wanted();
        }
    }

    /// What was refused is sent again, if it is time.
    fn ask_again(&mut self) {
        for path in self.refused.take_due(self.now).into_keys() {
            if self.is_left_out(&path) {
                self.cleared(&path);
            } else {
                self.dirty.insert_new(path, self.now);
            }
        }
    }

    /// Marks what is new below a folder, and watches its folders.
    pub(super) fn scan_folder(&mut self, top: Option<&WorkspacePath>) {
        let now = self.now;
        // What the database has of an ignored folder is kept in step, and nothing else in it.
        let within_ignored = top.is_some_and(|top| self.rules.ignore.is_ignored(top, true));
        let mut folders = vec![(top.cloned(), within_ignored)];
        while let Some((folder, within_ignored)) = folders.pop() {
            let Ok(listed) = self.disk.list(folder.as_ref()) else {
                // A look at it tells why.
                self.dirty.extend(folder.map(|folder| (folder, now)));
                continue;
            };
            for listed in listed {
                let path = match listed.name.to_str() {
                    Some(name) => match &folder {
                        Some(folder) => folder.join(name),
                        None => WorkspacePath::new(name),
                    }
                    .map_err(|why| (why.code(), why.to_string())),
                    None => Err(("name_not_utf8", "the name is not UTF-8".to_owned())),
                };
                let path = match path {
                    Ok(path) => path,
                    Err((code, message)) => {
                        let above = folder.as_ref().map_or("", |folder| folder.as_str());
                        self.problem_at(format!("{above}/{:?}", listed.name), code, &message);
                        continue;
                    }
                };
                let known = self.base.tree.contains_key(&path);
                let ignored = within_ignored || self.rules.ignore.is_ignored_itself(&path, listed.is_dir);
                if ignored && !known {
                    continue;
                }
                if listed.is_dir {
                    self.disk.watch(Some(&path));
                    folders.push((Some(path.clone()), ignored));
                }
                if !known && !self.is_beyond(&path) {
                    self.dirty.insert_new(path, now);
                }
            }
        }
    }

    /// A scan at the start that finds most files gone asks before it deletes them; one of another folder than the
    /// base is about asks before it deletes any.
    pub(super) fn hold_deletes(&mut self, is_other_folder: bool) {
        if is_other_folder {
            // What was sent of the one before is not missing in this one, should it turn out to be committed.
            let disk = &self.disk;
            self.base.unsure.retain(|path, _| disk.look(path, None) != Seen::Nothing);
        }
        let known = self.dirty.paths().filter(|path| self.base.tree.contains_key(*path));
        let gone = known.filter(|path| self.disk.look(path, None) == Seen::Nothing);
        let gone: BTreeSet<_> = gone.cloned().collect();
        let are_many = gone.len() >= 10 && gone.len() * 2 >= self.base.tree.len();
        if gone.is_empty() || !(are_many || is_other_folder) {
            return;
        }
        let topmost = gone.iter().filter(|path| path.parent().is_none_or(|parent| !gone.contains(&parent)));
        self.held = Some((gone.len() as u64, topmost.take(100).cloned().collect()));
        self.enter(State::Held);
    }
}
