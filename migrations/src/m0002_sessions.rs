//! Sessions, their timeline, and the templates they are made from.

use crate::step::Step;

pub(crate) const STEP: Step = Step { name: "m0002_sessions", up: UP, up_on_postgres: &[], down: DOWN };

const UP: &[&str] = &[
    "CREATE TABLE templates (
        id         {id},
        name       TEXT NOT NULL UNIQUE,
        spec       TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        updated_at BIGINT NOT NULL
    )",
    "CREATE TABLE sessions (
        id               {id},
        uuid             {uuid} NOT NULL UNIQUE,
        owner_id         BIGINT NOT NULL REFERENCES users (id),
        name             TEXT NOT NULL,
        desired_state    TEXT NOT NULL,
        observed_state   TEXT NOT NULL,
        reason           TEXT,
        generation       BIGINT NOT NULL DEFAULT 0,
        template         TEXT NOT NULL DEFAULT 'default',
        runtime_handle   TEXT,
        created_at       BIGINT NOT NULL,
        updated_at       BIGINT NOT NULL,
        last_activity_at BIGINT NOT NULL,
        started_at       BIGINT,
        stopped_at       BIGINT,
        expires_at       BIGINT,
        deleted_at       BIGINT
    )",
    "CREATE UNIQUE INDEX sessions_by_name ON sessions (owner_id, name) WHERE deleted_at IS NULL",
    "CREATE INDEX sessions_by_desired_state ON sessions (desired_state) WHERE deleted_at IS NULL",
    "CREATE TABLE session_events (
        id           {id},
        session_uuid {uuid} NOT NULL REFERENCES sessions (uuid) ON DELETE CASCADE,
        at           BIGINT NOT NULL,
        kind         TEXT NOT NULL,
        state        TEXT,
        reason       TEXT,
        message      TEXT NOT NULL,
        elapsed_ms   BIGINT,
        actor        TEXT
    )",
    "CREATE INDEX session_events_by_session ON session_events (session_uuid, id)",
];

const DOWN: &[&str] = &["DROP TABLE session_events", "DROP TABLE sessions", "DROP TABLE templates"];
