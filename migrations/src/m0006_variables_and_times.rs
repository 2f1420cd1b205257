//! Sessions' variables and secrets, and what their ends are reckoned from.

use crate::step::Step;

pub(crate) const STEP: Step =
    Step { name: "m0006_variables_and_times", up: UP, up_on_postgres: &[], down: DOWN };

const UP: &[&str] = &[
    // Either a variable with its value or a secret, sealed with a key that is not in the database.
    "CREATE TABLE session_variables (
        session_uuid {uuid} NOT NULL REFERENCES sessions (uuid) ON DELETE CASCADE,
        name         TEXT NOT NULL,
        value        TEXT,
        sealed       {bytes},
        updated_at   BIGINT NOT NULL,
        PRIMARY KEY (session_uuid, name)
    )",
    // No end for want of activity before this.
    "ALTER TABLE sessions ADD COLUMN kept_until BIGINT",
    // Whether all files had reached the database when it last stopped; null if that is not known.
    "ALTER TABLE sessions ADD COLUMN stop_complete BIGINT",
    "ALTER TABLE sessions ADD COLUMN volume_released_at BIGINT",
];

const DOWN: &[&str] = &[
    "ALTER TABLE sessions DROP COLUMN volume_released_at",
    "ALTER TABLE sessions DROP COLUMN stop_complete",
    "ALTER TABLE sessions DROP COLUMN kept_until",
    "DROP TABLE session_variables",
];
