//! The store's promises, each kept on SQLite and, when `BERTH_TEST_DATABASE_URL` names a PostgreSQL, there as well.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should fail where it stands")]

mod batches;
mod bulk;
mod environment;
mod harness;
mod history;
mod large;
mod model;
mod pod;
mod renames;
mod retention;
mod round_trips;
mod saves;
mod speed;
mod templates;
mod uploads;
