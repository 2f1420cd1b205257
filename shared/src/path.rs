//! Workspace paths: relative, `/`-separated, valid by construction.

use crate::limits::{PATH_BYTES, PATH_DEPTH, PATH_PART_BYTES};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A path inside a workspace, such as `src/main.rs`. Never empty, never absolute, with no part that is
/// empty, `.` or `..`, no NUL, and within [`PATH_PART_BYTES`], [`PATH_BYTES`] and [`PATH_DEPTH`].
///
/// Ordered so that a folder's items follow it directly (`a`, `a/b`, `a.c`), which byte order does not give.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkspacePath(String);

/// Why a text is no workspace path.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum BadPath {
    /// Nothing was given.
    #[error("the path is empty")]
    Empty,
    /// It starts with a slash.
    #[error("the path is absolute; paths are relative to the workspace's folder")]
    Absolute,
    /// It has two slashes in a row, or one at its end.
    #[error("the path has an empty part")]
    EmptyPart,
    /// It has a part `.` or `..`.
    #[error("the path has a part \".\" or \"..\"")]
    DotPart,
    /// It has a NUL byte.
    #[error("the path has a NUL byte")]
    Nul,
    /// One part is too long.
    #[error("a part of the path is over {PATH_PART_BYTES} bytes")]
    PartTooLong,
    /// All of it is too long.
    #[error("the path is over {PATH_BYTES} bytes")]
    TooLong,
    /// It is nested too deeply.
    #[error("the path has over {PATH_DEPTH} parts")]
    TooDeep,
}

impl BadPath {
    /// A stable name for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Empty => "path_empty",
            Self::Absolute => "path_absolute",
            Self::EmptyPart => "path_empty_part",
            Self::DotPart => "path_dot_part",
            Self::Nul => "path_nul",
            Self::PartTooLong => "path_part_too_long",
            Self::TooLong => "path_too_long",
            Self::TooDeep => "path_too_deep",
        }
    }
}

impl WorkspacePath {
    /// Takes a path, or says why it is none.
    pub fn new(path: impl Into<String>) -> Result<Self, BadPath> {
        let path = path.into();
        check(&path)?;
        Ok(Self(path))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The folder that holds this path, or none at the top.
    pub fn parent(&self) -> Option<WorkspacePath> {
        self.0.rfind('/').map(|i| Self(self.0[..i].to_owned()))
    }

    /// Every folder above, the topmost first.
    pub fn ancestors(&self) -> impl Iterator<Item = WorkspacePath> + '_ {
        self.0.match_indices('/').map(|(i, _)| Self(self.0[..i].to_owned()))
    }

    /// The path of `name` inside this folder.
    pub fn join(&self, name: &str) -> Result<WorkspacePath, BadPath> {
        Self::new(format!("{}/{name}", self.0))
    }

    /// Whether this path lies somewhere below `folder`.
    pub fn is_below(&self, folder: &WorkspacePath) -> bool {
        self.0.len() > folder.0.len()
            && self.0.as_bytes()[folder.0.len()] == b'/'
            && self.0.starts_with(&folder.0)
    }

    /// This path with the leading `from` replaced by `to`; none unless it is `from` or lies below it.
    pub fn rebase(&self, from: &WorkspacePath, to: &WorkspacePath) -> Option<Result<WorkspacePath, BadPath>> {
        if self == from {
            return Some(Ok(to.clone()));
        }
        self.is_below(from).then(|| Self::new(format!("{}{}", to.0, &self.0[from.0.len()..])))
    }

    /// The parts, the topmost first.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// How many parts there are.
    pub fn depth(&self) -> usize {
        self.0.bytes().filter(|b| *b == b'/').count() + 1
    }
}

fn check(path: &str) -> Result<(), BadPath> {
    if path.is_empty() {
        return Err(BadPath::Empty);
    }
    if path.contains('\0') {
        return Err(BadPath::Nul);
    }
    if path.starts_with('/') {
        return Err(BadPath::Absolute);
    }
    if path.len() > PATH_BYTES {
        return Err(BadPath::TooLong);
    }
    let mut depth = 0;
    for part in path.split('/') {
        match part {
            "" => return Err(BadPath::EmptyPart),
            "." | ".." => return Err(BadPath::DotPart),
            part if part.len() > PATH_PART_BYTES => return Err(BadPath::PartTooLong),
            _ => depth += 1,
        }
    }
    if depth > PATH_DEPTH { Err(BadPath::TooDeep) } else { Ok(()) }
}

impl Ord for WorkspacePath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.parts().cmp(other.parts())
    }
}

impl PartialOrd for WorkspacePath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Escaped: a path from a pod may hold line breaks and terminal escapes, and this is what logs print.
impl fmt::Debug for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for WorkspacePath {
    type Err = BadPath;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl TryFrom<String> for WorkspacePath {
    type Error = BadPath;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        Self::new(s)
    }
}

impl From<WorkspacePath> for String {
    fn from(path: WorkspacePath) -> Self {
        path.0
    }
}

impl AsRef<str> for WorkspacePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(s: &str) -> WorkspacePath {
        WorkspacePath::new(s).unwrap()
    }

    #[test]
    fn refuses_each_kind_of_bad_path_by_its_own_name() {
        let cases = [
            ("", BadPath::Empty),
            ("/etc/passwd", BadPath::Absolute),
            ("a//b", BadPath::EmptyPart),
            ("a/", BadPath::EmptyPart),
            ("a/../b", BadPath::DotPart),
            ("./a", BadPath::DotPart),
            ("..", BadPath::DotPart),
            ("a\0b", BadPath::Nul),
        ];
        for (text, why) in cases {
            assert_eq!(WorkspacePath::new(text), Err(why), "{text:?}");
        }
        assert_eq!(WorkspacePath::new("x".repeat(256)), Err(BadPath::PartTooLong));
        assert_eq!(WorkspacePath::new(vec!["x".repeat(250); 17].join("/")), Err(BadPath::TooLong));
        assert_eq!(WorkspacePath::new(vec!["x"; 65].join("/")), Err(BadPath::TooDeep));
        assert!(WorkspacePath::new("x".repeat(255)).is_ok());
        assert!(WorkspacePath::new("...").is_ok());
        assert!(WorkspacePath::new("naïve file\n🦀").is_ok());
    }

    #[test]
    fn a_folder_is_followed_directly_by_what_it_holds() {
        let mut paths = [path("a.c"), path("a/b"), path("a"), path("a b")];
        paths.sort();
        assert_eq!(paths.map(|p| p.to_string()), ["a", "a/b", "a b", "a.c"]);
    }

    #[test]
    fn below_means_a_whole_part() {
        assert!(path("a/b/c").is_below(&path("a/b")));
        assert!(!path("a/bc").is_below(&path("a/b")));
        assert!(!path("a/b").is_below(&path("a/b")));
        assert_eq!(path("a/b/c").rebase(&path("a/b"), &path("x")), Some(Ok(path("x/c"))));
        assert_eq!(path("a/bc").rebase(&path("a/b"), &path("x")), None);
    }

    #[test]
    fn a_bad_path_cannot_be_deserialised() {
        assert!(serde_json::from_str::<WorkspacePath>("\"../x\"").is_err());
        assert_eq!(serde_json::from_str::<WorkspacePath>("\"a/x\"").unwrap(), path("a/x"));
    }
}
