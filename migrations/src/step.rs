//! A step of the schema: a name, and statements forth and back.

use crate::dialect;
use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// One step; its statements are in the words of [`dialect::run`].
pub(crate) struct Step {
    /// What the database remembers it by: never changed.
    pub name: &'static str,
    pub up: &'static [&'static str],
    /// What PostgreSQL alone needs, after `up`.
    pub up_on_postgres: &'static [&'static str],
    pub down: &'static [&'static str],
}

impl MigrationName for Step {
    fn name(&self) -> &str {
        self.name
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        dialect::run(manager, self.up).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            dialect::run(manager, self.up_on_postgres).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        dialect::run(manager, self.down).await
    }

    /// All of it or nothing.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
