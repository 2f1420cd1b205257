//! The tables as sea-orm sees them, one file a table. Times are milliseconds since 1970 UTC.
#![allow(missing_docs, reason = "the derives make public items that cannot carry docs")]

pub mod agent_credential;
pub mod agent_link;
pub mod applied_batch;
pub mod blob;
pub mod blob_chunk;
pub mod browser_session;
pub mod item_version;
pub mod lease;
pub mod pod;
pub mod session;
pub mod session_event;
pub mod session_variable;
pub mod sign_in_token;
pub mod template;
pub mod user;
pub mod workspace_item;
pub mod workspace_state;

/// The name of the one user of the embedded default.
pub const LOCAL_USER: &str = "local";

/// Milliseconds since 1970 UTC, as every table keeps time.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
