//! What to do about a path, from what the database (D), the base (B) and the pod (P) hold there.
//!
//! Pure: what is to be done is computed afresh each time, never remembered. Only the pod's side plans; a path that
//! both sides changed is sent to the database with what the base holds (`pre`), and the database, which has all
//! three contents, decides within its transaction.

use crate::tree::Entry;

/// What to do about one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// All three agree, or nothing is there anywhere.
    None,
    /// D and P hold the same: the base learns it.
    Advance,
    /// Only D changed: the pod takes it (or its absence).
    Apply,
    /// Only P changed: the database is told.
    Commit,
    /// Both changed, each its own way: the database is told, and decides.
    Contest,
}

/// Decides for one path.
pub fn decide(d: Option<&Entry>, b: Option<&Entry>, p: Option<&Entry>) -> Action {
    if d == p {
        return if b == d { Action::None } else { Action::Advance };
    }
    if d == b {
        return Action::Commit;
    }
    if p == b {
        return Action::Apply;
    }
    match (d, p) {
        // Deleted in the database, edited in the pod: the edit wins, and is created again.
        (None, Some(_)) => Action::Commit,
        // Deleted in the pod, edited in the database: the edit wins there, too.
        (Some(_), None) => Action::Apply,
        _ => Action::Contest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Hash;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Option<Entry>> {
        prop_oneof![
            Just(None),
            (0u8..4, prop::bool::ANY).prop_map(|(c, x)| Some(Entry::file(
                if x { 0o755 } else { 0o644 },
                1,
                Hash::of(&[c])
            ))),
            Just(Some(Entry::dir(0o755))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn the_two_sides_converge_and_no_content_is_lost(d in entry(), b in entry(), p in entry()) {
            // The database's part in a contest: it keeps its own, and the pod's goes to the history.
            let mut history = Vec::new();
            let (mut d1, mut b1, mut p1) = (d, b, p);
            for _ in 0..3 {
                match decide(d1.as_ref(), b1.as_ref(), p1.as_ref()) {
                    Action::None => break,
                    Action::Advance => b1 = d1,
                    Action::Apply => { p1 = d1; b1 = d1; }
                    Action::Commit => { history.extend(d1); d1 = p1; b1 = p1; }
                    Action::Contest => { history.extend(p1); b1 = p1; }
                }
            }
            prop_assert_eq!(d1, p1);
            prop_assert_eq!(d1, b1);
            for side in [d, p].into_iter().flatten().filter(|e| Some(*e) != b) {
                prop_assert!(Some(side) == d1 || history.contains(&side), "{:?} is lost", side);
            }
        }

        #[test]
        fn a_one_sided_change_is_never_contested(b in entry(), changed in entry()) {
            prop_assert_ne!(decide(changed.as_ref(), b.as_ref(), b.as_ref()), Action::Contest);
            prop_assert_ne!(decide(b.as_ref(), b.as_ref(), changed.as_ref()), Action::Contest);
        }

        #[test]
        fn equal_trees_need_nothing(e in entry()) {
            prop_assert_eq!(decide(e.as_ref(), e.as_ref(), e.as_ref()), Action::None);
        }
    }
}
