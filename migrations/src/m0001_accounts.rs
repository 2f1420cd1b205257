//! Users, and the tokens and browser sessions that let them in.

use crate::step::Step;

pub(crate) const STEP: Step = Step { name: "m0001_accounts", up: UP, up_on_postgres: &[], down: DOWN };

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
