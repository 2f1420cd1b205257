//! Large contents in parts, each a content of its own, and what a pod has uploaded and not committed yet.

use crate::step::Step;

pub(crate) const STEP: Step = Step { name: "m0005_parts", up: UP, up_on_postgres: &[], down: DOWN };

/// The key to a part's content keeps the sweep from taking one that a content is made of. Contents in
/// `blob_chunks` stay as they are until they are next sent to a pod.
const UP: &[&str] = &[
    "CREATE TABLE blob_parts (
        owner_id  BIGINT NOT NULL,
        hash      {bytes} NOT NULL,
        seq       BIGINT NOT NULL,
        part_hash {bytes} NOT NULL,
        size      BIGINT NOT NULL,
        PRIMARY KEY (owner_id, hash, seq),
        FOREIGN KEY (owner_id, hash) REFERENCES blobs (owner_id, hash) ON DELETE CASCADE,
        FOREIGN KEY (owner_id, part_hash) REFERENCES blobs (owner_id, hash)
    )",
    "CREATE INDEX blob_parts_by_part ON blob_parts (owner_id, part_hash)",
    "CREATE TABLE uploads (
        session_uuid {uuid} NOT NULL REFERENCES workspace_state (session_uuid) ON DELETE CASCADE,
        hash         {bytes} NOT NULL,
        bytes        BIGINT NOT NULL,
        at           BIGINT NOT NULL,
        PRIMARY KEY (session_uuid, hash)
    )",
];

const DOWN: &[&str] = &["DROP TABLE uploads", "DROP TABLE blob_parts"];
