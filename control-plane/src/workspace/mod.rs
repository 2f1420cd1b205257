//! Workspaces: items, contents, revisions and history. Every file transaction is here.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`database`] | connecting to SQLite or PostgreSQL, and how each is set up |
//! | [`store`] | [`Store`]: what the rest of the server calls |
//! | [`types`] | what goes in and comes out |
//! | [`error`] | each way to fail, with its stable code |
//!
//! A commit is: lock (raise the revision), read what it touches, change that in memory, write the differences.
//! The change in memory (`draft`, `pod`) does no I/O. The lock is the row of `workspace_state`, so the order of
//! revisions is the order of commits.

mod blobs;
mod commit;
pub mod database;
mod draft;
pub mod error;
mod history;
mod import;
mod links;
#[cfg(test)]
pub(crate) mod memory;
mod merge;
mod parts;
#[cfg(test)]
mod planning;
mod pod;
mod podbatch;
mod range;
mod read;
pub mod retention;
mod sql;
pub mod store;
mod turns;
pub mod types;
mod uploads;

pub use database::Database;
pub use error::{Error, Result};
pub use parts::Content;
pub use retention::Swept;
pub use store::{Store, create, erase};
pub use types::*;
