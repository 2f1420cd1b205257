//! Names and labels of what Berth makes in a cluster.

use shared::id::SessionId;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Who made an object; the value is always `berth`.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Which Berth made it: several may share a namespace.
pub(super) const INSTANCE: &str = "berth/instance";
/// Which database knows it: what another database's Berth made is never taken for left behind.
pub(super) const DATABASE: &str = "berth/database";
/// Whether a pod serves a session or waits for one.
pub(super) const ROLE: &str = "berth/role";
/// The session that it is for.
pub(super) const SESSION: &str = "berth/session";
/// The hash of the template that shaped it.
pub(super) const TEMPLATE: &str = "berth/template";
/// What network policies let it reach.
pub(super) const EGRESS: &str = "berth/egress";

/// Hexadecimal digits of a session's id in its pods' names: enough to tell them apart, short enough to read.
const SESSION_DIGITS: usize = 12;
/// Random hexadecimal digits in a waiting pod's name.
const WARM_DIGITS: usize = 12;

/// The name of a session's pod: always the same for one generation, so that making it twice is noticed.
pub(super) fn pod(session: SessionId, generation: u64) -> String {
    let digits = session.0.simple().to_string();
    format!("berth-{}-g{generation}", &digits[..SESSION_DIGITS])
}

/// The name of a session's own volume.
pub(super) fn volume(session: SessionId) -> String {
    format!("berth-{session}")
}

/// A fresh name for a pod that waits, and for its volume.
pub(super) fn warm() -> String {
    let digits = Uuid::new_v4().simple().to_string();
    format!("berth-warm-{}", &digits[..WARM_DIGITS])
}

/// The labels of what belongs to a session, or waits for one.
pub(super) fn labels(instance: &str, database: &str, session: Option<SessionId>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (MANAGED_BY.to_owned(), "berth".to_owned()),
        (INSTANCE.to_owned(), instance.to_owned()),
        (DATABASE.to_owned(), database.to_owned()),
        (ROLE.to_owned(), role(session).to_owned()),
    ]);
    if let Some(session) = session {
        labels.insert(SESSION.to_owned(), session.to_string());
    }
    labels
}

fn role(session: Option<SessionId>) -> &'static str {
    if session.is_some() { "session" } else { "warm" }
}

/// The session that an object's labels name.
pub(super) fn session(labels: Option<&BTreeMap<String, String>>) -> Option<SessionId> {
    Uuid::try_parse(labels?.get(SESSION)?).ok().map(SessionId)
}
