//! Why contents that came could not be kept until they were where they belong, as it is told.

use shared::link::sync::Problem;
use std::io;

/// What is told of paths that wait for room.
pub(super) const NO_ROOM: &str = "no_space";
/// And of those that wait for the agent's own folder to take them.
const UNWRITABLE: &str = "unwritable";

/// A reason: a stable code, and a sentence.
#[derive(Clone, Debug)]
pub(super) struct Unkept {
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Unkept {
    pub(super) fn of(why: &io::Error) -> Self {
        if matches!(why.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::no_room();
        }
        let message = format!("the agent cannot write to its own folder: {why}; it is tried again");
        Self { code: UNWRITABLE, message }
    }

    pub(super) fn no_room() -> Self {
        let message = "the workspace's file system is full; it is tried again".to_owned();
        Self { code: NO_ROOM, message }
    }

    pub(super) fn lost() -> Self {
        let message =
            "somebody removed what came from the agent's own folder; it is fetched again".to_owned();
        Self { code: UNWRITABLE, message }
    }

    /// Whether a problem may be one of these: as long as it is tried again, it stands.
    pub(super) fn is(problem: &Problem) -> bool {
        matches!(&*problem.code, NO_ROOM | UNWRITABLE)
    }
}
