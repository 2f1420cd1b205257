//! What of a workspace is not kept in step: what tools make again, and what its `.berthignore` names.

use crate::path::WorkspacePath;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// The file, at the workspace's top, that names more in gitignore's syntax. A line `!name` keeps one in step after all.
pub const IGNORE_FILE: &str = ".berthignore";

/// What is left out everywhere: dependencies, caches, build output, editors' temporary files, and `.git`, whose
/// many small files change in ways that only one machine may write.
pub const DEFAULTS: &[&str] =
    &["node_modules", ".venv", "__pycache__", "target", ".cache", "*.sw?", "4913", ".#*", "*~", ".git"];

/// Lines of a `.berthignore` that count. Each takes some kilobytes when it is compiled, and the agent has little.
pub const IGNORE_LINES: usize = 1_000;

/// Decides what is left out.
#[derive(Clone, Debug)]
pub struct Ignore {
    rules: Gitignore,
    complete: bool,
}

impl Ignore {
    /// The defaults and then the lines of a `.berthignore`. A line that cannot be understood is left out, and so are
    /// those beyond [`IGNORE_LINES`], comments and empty ones aside.
    pub fn new(lines: &str) -> Self {
        let mut builder = GitignoreBuilder::new("");
        let mut rules = lines.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let mut complete = true;
        for line in DEFAULTS.iter().copied().chain(rules.by_ref().take(IGNORE_LINES)) {
            // An error means a pattern that names nothing.
            complete &= builder.add_line(None, line).is_ok();
        }
        complete &= rules.next().is_none();
        Self { rules: builder.build().unwrap_or_else(|_| Gitignore::empty()), complete }
    }

    /// Whether all lines count.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether a path is left out, by itself or with a folder above it.
    pub fn is_ignored(&self, path: &WorkspacePath, is_dir: bool) -> bool {
        // Folder by folder, as a scan goes, so that both always agree.
        path.ancestors().any(|folder| self.is_ignored_itself(&folder, true))
            || self.is_ignored_itself(path, is_dir)
    }

    /// Whether a path is left out, if no folder above it is.
    pub fn is_ignored_itself(&self, path: &WorkspacePath, is_dir: bool) -> bool {
        self.rules.matched(path.as_str(), is_dir).is_ignore()
    }
}

impl Default for Ignore {
    fn default() -> Self {
        Self::new("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(lines: &str, path: &str, is_dir: bool) -> bool {
        Ignore::new(lines).is_ignored(&WorkspacePath::new(path).unwrap(), is_dir)
    }

    #[test]
    fn dependencies_and_editors_leftovers_are_left_out_and_sources_are_not() {
        for path in
            ["node_modules/a/b.js", "x/node_modules/y", ".git/HEAD", "a/.main.py.swp", "4913", "b/main.py~"]
        {
            assert!(ignored("", path, false), "{path}");
        }
        for path in ["main.py", "src/git/x", "targets/x", "a/.gitignore", "swp"] {
            assert!(!ignored("", path, false), "{path}");
        }
    }

    #[test]
    fn a_workspace_adds_its_own_and_takes_defaults_back() {
        assert!(ignored("*.log\n/data/", "a/b.log", false));
        assert!(ignored("*.log\n/data/", "data/x", false));
        assert!(!ignored("*.log\n/data/", "a/data/x", false));
        assert!(!ignored("!target", "target/x", false));
        assert!(!ignored("[", "x", false));
        // One that cannot be understood takes none of the others away.
        for odd in ["[", "{a", "a**[", "\\"] {
            assert!(ignored(&format!("{odd}\n*.log"), "b.log", false), "{odd}");
            assert!(ignored(odd, "node_modules/x", false), "{odd}");
        }
    }

    #[test]
    fn lines_that_do_not_count_are_known() {
        assert!(Ignore::new("# a comment\n\n*.log\n").is_complete());
        assert!(!Ignore::new("{a").is_complete());
        assert!(Ignore::new(&"x\n".repeat(IGNORE_LINES)).is_complete());
        assert!(!Ignore::new(&"x\n".repeat(IGNORE_LINES + 1)).is_complete());
    }
}
