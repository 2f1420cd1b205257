//! Removals: which batches of a pod's tell together what went.

use crate::step::Step;

pub(crate) const STEP: Step = Step { name: "m0008_removals", up: UP, up_on_postgres: &[], down: DOWN };

const UP: &[&str] = &[
    // The first of these batches, which may be the row's own.
    "ALTER TABLE applied_batches ADD COLUMN removal {uuid}",
    "CREATE INDEX applied_batches_by_rev ON applied_batches (session_uuid, rev)",
    "CREATE INDEX applied_batches_by_removal ON applied_batches (session_uuid, removal)",
];

const DOWN: &[&str] = &[
    "DROP INDEX applied_batches_by_removal",
    "DROP INDEX applied_batches_by_rev",
    "ALTER TABLE applied_batches DROP COLUMN removal",
];
