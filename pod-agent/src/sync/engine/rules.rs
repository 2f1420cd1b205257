//! What is left out: the defaults, and the workspace's own rules as long as the database knows of them.

use super::Engine;
use crate::sync::disk::Disk;
use shared::ignore::{IGNORE_FILE, IGNORE_LINES, Ignore};
use shared::link::sync::Problem;
use shared::path::WorkspacePath;
use shared::tree::Kind;
use std::io::Read;

/// Bytes of an ignore file that are read.
const IGNORE_BYTES: u64 = 64 * 1024;

/// The rules in force.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) ignore: Ignore,
    /// What is told if some of the file does not count.
    pub(super) problem: Option<Problem>,
    /// What they were read from.
    lines: Vec<u8>,
}

impl Rules {
    fn of(lines: Vec<u8>) -> Self {
        let whole = lines.len() as u64 <= IGNORE_BYTES;
        let end =
            if whole { lines.len() } else { lines.iter().rposition(|byte| *byte == b'\n').unwrap_or(0) };
        let text = String::from_utf8_lossy(&lines[..end]);
        let ignore = Ignore::new(&text);
        let all_count = whole && ignore.is_complete() && !text.contains(char::REPLACEMENT_CHARACTER);
        let problem = (!all_count).then(|| Problem {
            path: IGNORE_FILE.to_owned(),
            code: "ignore_rules".to_owned(),
            message: format!(
                "some of its lines do not count: {IGNORE_LINES} may, in {} KiB of UTF-8 and gitignore's syntax",
                IGNORE_BYTES >> 10
            ),
        });
        Self { ignore, problem, lines }
    }
}

impl<D: Disk> Engine<D> {
    /// Whether the database has a path, or will once what it wants there is.
    pub(super) fn is_known(&self, path: &WorkspacePath) -> bool {
        self.base.tree.contains_key(path) || self.wanted.contains_key(path)
    }

    /// Whether the database neither has a path nor is to be told of it.
    pub(super) fn is_left_out(&self, path: &WorkspacePath) -> bool {
        !self.is_known(path) && self.rules.ignore.is_ignored(path, self.disk.is_folder(path))
    }

    /// Reads the rules anew. Answers whether they are others than before.
    pub(super) fn read_rules(&mut self) -> bool {
        let Ok(path) = WorkspacePath::new(IGNORE_FILE) else { return false };
        let mut lines = Vec::new();
        let read = self.disk.read(&path, Kind::File).and_then(|content| {
            // One byte more tells that there are more.
            content.take(IGNORE_BYTES + 1).read_to_end(&mut lines)
        });
        if (read.is_err() || lines.is_empty()) && self.base.entry(&path).is_some_and(|rules| rules.size > 0) {
            // Many editors save by removing or emptying the file for a moment. Rules go once the database was told.
            return false;
        }
        if lines == self.rules.lines {
            return false;
        }
        self.rules = Rules::of(lines);
        self.problems_told = false;
        true
    }

    /// A path may hold something else by now. If that is the rules, what was left out may be no more.
    pub(super) fn heed_rules(&mut self, path: &WorkspacePath) {
        if path.as_str() == IGNORE_FILE && self.read_rules() {
            self.sweep_at = self.now;
        }
    }
}
