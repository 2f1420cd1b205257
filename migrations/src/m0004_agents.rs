//! Agents: their credentials and links, and the leases of leader-only work.

use crate::dialect;
use sea_orm_migration::prelude::*;

/// Agents: their credentials and links, and the leases of leader-only work.
pub(crate) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0004_agents"
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
    "CREATE TABLE agent_credentials (
        token_hash   {bytes} PRIMARY KEY,
        session_uuid {uuid} NOT NULL REFERENCES sessions (uuid) ON DELETE CASCADE,
        generation   BIGINT NOT NULL,
        created_at   BIGINT NOT NULL,
        expires_at   BIGINT,
        revoked_at   BIGINT
    )",
    "CREATE INDEX agent_credentials_by_session ON agent_credentials (session_uuid)",
    "CREATE TABLE agent_links (
        session_uuid {uuid} PRIMARY KEY REFERENCES sessions (uuid) ON DELETE CASCADE,
        replica      TEXT NOT NULL,
        address      TEXT NOT NULL,
        epoch        BIGINT NOT NULL,
        instance     {uuid} NOT NULL,
        connected_at BIGINT NOT NULL,
        expires_at   BIGINT NOT NULL
    )",
    "CREATE TABLE leases (
        name       TEXT PRIMARY KEY,
        holder     TEXT NOT NULL,
        epoch      BIGINT NOT NULL,
        expires_at BIGINT NOT NULL
    )",
];

const DOWN: &[&str] = &["DROP TABLE leases", "DROP TABLE agent_links", "DROP TABLE agent_credentials"];
