//! ETags, which are revisions in quotes, and the conditions that requests set with them.

use super::super::problem::Problem;
use super::super::request::Request;
use crate::workspace::Precondition;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use shared::id::Revision;

/// The ETag of a revision.
pub(super) fn of(rev: Revision) -> String {
    format!("\"{rev}\"")
}

/// What a change may expect to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expects {
    /// Anything or nothing.
    Any,
    /// Anything, but something.
    Something,
    /// This revision.
    Rev(Revision),
    /// Nothing.
    Nothing,
}

impl Expects {
    /// Reads `If-Match` and `If-None-Match` of a change.
    pub(super) fn of(request: &Request) -> Result<Self, Problem> {
        let only = |name| -> Result<Option<&str>, Problem> {
            let mut values = request.headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (None, _) => Ok(None),
                (Some(one), None) => one.to_str().map(|text| Some(text.trim())).map_err(|_| bad()),
                _ => Err(bad()),
            }
        };
        match (only(IF_MATCH)?, only(IF_NONE_MATCH)?) {
            (None, None) => Ok(Self::Any),
            (Some("*"), None) => Ok(Self::Something),
            (Some(tag), None) => Ok(Self::Rev(parse(tag).ok_or_else(bad)?)),
            (None, Some("*")) => Ok(Self::Nothing),
            _ => Err(bad()),
        }
    }

    /// The store's form; none if the caller must look what is there first.
    pub(super) fn precondition(self) -> Option<Precondition> {
        match self {
            Self::Any => Some(Precondition::Any),
            Self::Rev(rev) => Some(Precondition::Rev(rev)),
            Self::Nothing => Some(Precondition::NotExists),
            Self::Something => None,
        }
    }
}

fn bad() -> Problem {
    Problem::bad(
        "bad_etag",
        "If-Match takes one ETag as the server gave it, such as \"12\", or *; If-None-Match takes * on a change.",
    )
}

fn parse(tag: &str) -> Option<Revision> {
    let digits = tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok().map(Revision))?
}

/// Whether a reader already has this revision.
pub(super) fn has(request: &Request, rev: Revision) -> bool {
    request
        .headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|tag| {
            let tag = tag.trim();
            tag == "*" || parse(tag) == Some(rev)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_a_revision_in_quotes_and_nothing_else() {
        assert_eq!(parse(&of(Revision(12))), Some(Revision(12)));
        assert_eq!(parse("W/\"12\""), Some(Revision(12)));
        for bad in ["12", "\"\"", "\"-1\"", "\"x\"", "\"+1\"", "\"12", "*"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
