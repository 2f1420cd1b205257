//! What the cluster's refusals mean.

use crate::runtime::RuntimeError;
use kube::core::Status;

/// Whether the object is not there.
pub(super) fn is_gone(why: &kube::Error) -> bool {
    matches!(why, kube::Error::Api(status) if status.is_not_found())
}

/// Whether an object of that name is there already.
pub(super) fn is_taken(why: &kube::Error) -> bool {
    matches!(why, kube::Error::Api(status) if status.is_already_exists())
}

/// Whether the object is not, or not any more, the one that was meant.
pub(super) fn is_conflict(why: &kube::Error) -> bool {
    matches!(why, kube::Error::Api(status) if status.is_conflict() && !status.is_already_exists())
}

/// What was not possible, and whether trying again can help.
pub(super) fn explain(what: &str, why: kube::Error) -> RuntimeError {
    match why {
        kube::Error::Api(status) => refusal(what, &status),
        why => RuntimeError::Retry(format!("{what}: the cluster does not answer: {why}")),
    }
}

fn refusal(what: &str, status: &Status) -> RuntimeError {
    let said = status.message.trim();
    // A quota is a 403 too; others may leave, yet that is for a person to decide.
    if status.is_forbidden() && said.contains("exceeded quota") {
        return RuntimeError::Permanent(format!(
            "{what}: the namespace's quota is used up ({said}). Stop or delete other sessions, or ask your operator for more"
        ));
    }
    if status.is_forbidden() || status.is_invalid() || status.code == 400 {
        return RuntimeError::Permanent(format!("{what}: the cluster refuses it: {said}"));
    }
    RuntimeError::Retry(format!("{what}: {said}"))
}
