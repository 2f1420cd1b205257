//! Variables of shells and commands: a template's, then a session's own, then its secrets.
//!
//! They are sent to the agent over its link, and are never part of a pod, a log line or a timeline. Secrets are sealed
//! in the database, and shown to nobody by any call.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`seal`] | sealing secrets |
//! | [`records`] | variables and secrets in the database |

pub mod records;
pub mod seal;

pub use records::{Change, Environments, Error, Resolved, Row, Shown};
pub use seal::Seal;

use std::ops::RangeInclusive;

/// Variables that one place may set.
pub const COUNT_MOST: usize = 100;
/// Characters of a name.
const NAME_CHARACTERS: RangeInclusive<usize> = 1..=128;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 32 * 1024;
/// Bytes of all names and values of one place together. A template's and a session's travel in one message, which has
/// at most 256 KiB.
pub const TOTAL_BYTES: usize = 64 * 1024;
/// What begins the names that Berth itself sets.
const RESERVED: &str = "BERTH_";

/// Why variables are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a name.
    #[error(
        "{0:?} is no variable's name: it has 1 to 128 letters, digits and underscores and does not begin with a digit."
    )]
    Name(String),
    /// Berth's own.
    #[error("{0} is reserved: names that begin with BERTH_ are set by Berth itself.")]
    Reserved(String),
    /// Programs could not be given it.
    #[error("The value of {0} has a NUL character, which no program can be given.")]
    Nul(String),
    /// Too long.
    #[error("The value of {0} has more than {VALUE_BYTES} bytes.")]
    Long(String),
    /// Too many.
    #[error("There are {0} variables; at most {COUNT_MOST} are allowed.")]
    Count(usize),
    /// Too much.
    #[error("All names and values together have {0} bytes; at most {TOTAL_BYTES} are allowed.")]
    Total(usize),
}

/// Checks the variables that one place sets. What a program looks for by name, such as PATH, may be set: it is the
/// user's own machine.
pub fn check<'a>(variables: impl Iterator<Item = (&'a String, &'a String)>) -> Result<(), Fault> {
    let mut sizes = Vec::new();
    for (name, value) in variables {
        check_name(name)?;
        if value.contains('\0') {
            return Err(Fault::Nul(name.clone()));
        }
        if value.len() > VALUE_BYTES {
            return Err(Fault::Long(name.clone()));
        }
        sizes.push(name.len() + value.len());
    }
    check_all(sizes.into_iter())
}

/// Checks how many there are, and how large all are, by the bytes of each one's name and value.
fn check_all(sizes: impl Iterator<Item = usize>) -> Result<(), Fault> {
    let (count, total) = sizes.fold((0, 0), |(count, total), size| (count + 1, total + size));
    if count > COUNT_MOST {
        return Err(Fault::Count(count));
    }
    if total > TOTAL_BYTES {
        return Err(Fault::Total(total));
    }
    Ok(())
}

/// Checks one name.
pub fn check_name(name: &str) -> Result<(), Fault> {
    let fits = NAME_CHARACTERS.contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !fits {
        return Err(Fault::Name(name.chars().take(*NAME_CHARACTERS.end()).collect()));
    }
    if name.starts_with(RESERVED) {
        return Err(Fault::Reserved(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_held_each_with_its_word() {
        let of = |name: &str, value: &str| check([(&name.to_owned(), &value.to_owned())].into_iter());
        assert_eq!(of("PATH", "/x"), Ok(()));
        assert_eq!(of("_a9", &"x".repeat(VALUE_BYTES)), Ok(()));
        assert!(matches!(of("9", ""), Err(Fault::Name(_))));
        assert!(matches!(of("Ä", ""), Err(Fault::Name(_))));
        assert!(matches!(of(&"A".repeat(129), ""), Err(Fault::Name(_))));
        assert!(matches!(of("BERTH_", ""), Err(Fault::Reserved(_))));
        assert!(matches!(of("A", "a\0b"), Err(Fault::Nul(_))));
        assert!(matches!(of("A", &"x".repeat(VALUE_BYTES + 1)), Err(Fault::Long(_))));
        let many: Vec<_> = (0..=COUNT_MOST).map(|n| (format!("A{n}"), String::new())).collect();
        assert_eq!(check(many.iter().map(|(n, v)| (n, v))), Err(Fault::Count(COUNT_MOST + 1)));
        assert_eq!(check(many[1..].iter().map(|(n, v)| (n, v))), Ok(()));
        let much: Vec<_> = (0..3).map(|n| (format!("A{n}"), "x".repeat(VALUE_BYTES - 10))).collect();
        assert!(matches!(check(much.iter().map(|(n, v)| (n, v))), Err(Fault::Total(_))));
    }
}
