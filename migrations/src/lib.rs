//! The schema, one file a step, the same on SQLite and PostgreSQL.
//!
//! Rules that every step follows: timestamps are `BIGINT` milliseconds since 1970 UTC; hashes and tokens are 32
//! raw bytes; a step that was released is never changed, a new one is added.
#![forbid(unsafe_code)]

mod dialect;
mod m0001_accounts;
mod m0002_sessions;
mod m0003_workspaces;
mod m0004_agents;
mod m0005_parts;
mod m0006_variables_and_times;
mod m0007_pods;
mod m0008_removals;
mod step;

pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::prelude::*;

/// Every step in order; `Migrator::up(&connection, None)` brings a database to the newest.
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_accounts::STEP),
            Box::new(m0002_sessions::STEP),
            Box::new(m0003_workspaces::STEP),
            Box::new(m0004_agents::STEP),
            Box::new(m0005_parts::STEP),
            Box::new(m0006_variables_and_times::STEP),
            Box::new(m0007_pods::STEP),
            Box::new(m0008_removals::STEP),
        ]
    }
}
