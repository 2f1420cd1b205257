//! Who may do what with a session, as a pure function.

use super::Principal;

/// What somebody may do with a session. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// See files and terminals.
    Viewer,
    /// Change files, type, run, start and stop.
    Editor,
    /// Delete it.
    Owner,
}

/// The role of `principal` on a session of the user `owner`; none if the session is none of its business.
pub fn role(principal: &Principal, owner: i64) -> Option<Role> {
    (principal.admin || principal.user == owner).then_some(Role::Owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Via;

    #[test]
    fn owners_and_admins_may_all_and_others_nothing() {
        let principal =
            |user, admin| Principal { user, name: String::new(), admin, via: Via::Cookie, sign_in: None };
        assert_eq!(role(&principal(1, false), 1), Some(Role::Owner));
        assert_eq!(role(&principal(2, true), 1), Some(Role::Owner));
        assert_eq!(role(&principal(2, false), 1), None);
        assert!(Role::Owner > Role::Editor && Role::Editor > Role::Viewer);
    }
}
