//! Pods: which session each serves, by the pod's own uid.

use crate::dialect;
use sea_orm_migration::prelude::*;

/// Pods: which session each serves, by the pod's own uid.
pub(crate) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0007_pods"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        dialect::run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        dialect::run(manager, DOWN).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

const UP: &[&str] = &[
    "CREATE TABLE pods (
        uid           {uuid} PRIMARY KEY,
        name          TEXT NOT NULL,
        volume        TEXT NOT NULL,
        template_hash TEXT NOT NULL,
        session_uuid  {uuid},
        created_at    BIGINT NOT NULL,
        waiting_until BIGINT,
        handed_over   BIGINT NOT NULL DEFAULT 0
    )",
    "CREATE INDEX pods_by_session ON pods (session_uuid)",
    "CREATE INDEX pods_that_wait ON pods (template_hash, created_at) WHERE session_uuid IS NULL",
];

const DOWN: &[&str] = &["DROP TABLE pods"];
