//! Users, and the tokens and browser sessions that let them in.

use crate::dialect;
use sea_orm_migration::prelude::*;

/// Users, and the tokens and browser sessions that let them in.
pub(crate) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0001_accounts"
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
    "CREATE TABLE users (
        id            {id},
        uuid          {uuid} NOT NULL UNIQUE,
        name          TEXT NOT NULL UNIQUE,
        email         TEXT UNIQUE,
        password_hash TEXT,
        admin         BIGINT NOT NULL DEFAULT 0,
        created_at    BIGINT NOT NULL,
        disabled_at   BIGINT
    )",
    // One-time links. The token itself is never stored.
    "CREATE TABLE sign_in_tokens (
        token_hash {bytes} PRIMARY KEY,
        user_id    BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        created_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        used_at    BIGINT
    )",
    "CREATE TABLE browser_sessions (
        token_hash   {bytes} PRIMARY KEY,
        user_id      BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        created_at   BIGINT NOT NULL,
        last_seen_at BIGINT NOT NULL,
        expires_at   BIGINT NOT NULL
    )",
    "CREATE INDEX browser_sessions_by_user ON browser_sessions (user_id)",
];

const DOWN: &[&str] = &["DROP TABLE browser_sessions", "DROP TABLE sign_in_tokens", "DROP TABLE users"];
