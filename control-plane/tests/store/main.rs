//! The store's promises, each kept on SQLite and, when `BERTH_TEST_DATABASE_URL` names a PostgreSQL, there as well.

mod batches;
mod bulk;
mod harness;
mod history;
mod model;
mod pod;
mod retention;
mod saves;
mod speed;
