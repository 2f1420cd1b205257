//! Pods: which session each serves, by the pod's own uid.

use crate::step::Step;

pub(crate) const STEP: Step = Step { name: "m0007_pods", up: UP, up_on_postgres: &[], down: DOWN };

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
