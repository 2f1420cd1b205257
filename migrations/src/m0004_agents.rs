//! Agents: their credentials and links, and the leases of leader-only work.

use crate::step::Step;

pub(crate) const STEP: Step = Step { name: "m0004_agents", up: UP, up_on_postgres: &[], down: DOWN };

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
