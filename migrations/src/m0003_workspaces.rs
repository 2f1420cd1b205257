//! Files: state, items, versions, contents, and the batches already applied.

use crate::step::Step;

pub(crate) const STEP: Step =
    Step { name: "m0003_workspaces", up: UP, up_on_postgres: UP_ON_POSTGRES, down: DOWN };

/// `workspace_items` holds one row a path, live or a tombstone (`deleted_rev` set, `moved_to` naming the item that
/// left): "what changed since" is then one range of `(session_uuid, rev)`, and a rename tells its old path.
const UP: &[&str] = &[
    "CREATE TABLE workspace_state (
        session_uuid {uuid} PRIMARY KEY REFERENCES sessions (uuid) ON DELETE CASCADE,
        session_id   BIGINT NOT NULL,
        owner_id     BIGINT NOT NULL,
        rev          BIGINT NOT NULL DEFAULT 0,
        bytes        BIGINT NOT NULL DEFAULT 0,
        items        BIGINT NOT NULL DEFAULT 0,
        epoch        BIGINT NOT NULL DEFAULT 0,
        pruned_rev   BIGINT NOT NULL DEFAULT 0,
        volume       {uuid},
        updated_at   BIGINT NOT NULL
    )",
    "CREATE TABLE workspace_items (
        session_uuid {uuid} NOT NULL REFERENCES workspace_state (session_uuid) ON DELETE CASCADE,
        full_path    {path} NOT NULL,
        session_id   BIGINT NOT NULL,
        id           {uuid} NOT NULL,
        parent_id    {uuid} NOT NULL,
        name         TEXT NOT NULL,
        kind         TEXT NOT NULL,
        mode         BIGINT NOT NULL,
        size         BIGINT NOT NULL,
        hash         {bytes} NOT NULL,
        rev          BIGINT NOT NULL,
        deleted_rev  BIGINT,
        moved_to     {uuid},
        PRIMARY KEY (session_uuid, full_path)
    )",
    "CREATE INDEX workspace_items_by_rev ON workspace_items (session_uuid, rev)",
    "CREATE INDEX workspace_items_by_parent ON workspace_items (session_uuid, parent_id) WHERE deleted_rev IS NULL",
    "CREATE INDEX workspace_items_by_id ON workspace_items (session_uuid, id) WHERE deleted_rev IS NULL",
    "CREATE TABLE item_versions (
        id           {id},
        session_uuid {uuid} NOT NULL REFERENCES workspace_state (session_uuid) ON DELETE CASCADE,
        owner_id     BIGINT NOT NULL,
        item_id      {uuid} NOT NULL,
        rev          BIGINT NOT NULL,
        path         {path} NOT NULL,
        op           TEXT NOT NULL,
        kind         TEXT NOT NULL,
        mode         BIGINT NOT NULL,
        size         BIGINT NOT NULL,
        hash         {bytes} NOT NULL,
        origin       TEXT NOT NULL,
        actor        TEXT,
        conflict_of  BIGINT,
        resolved_at  BIGINT,
        at           BIGINT NOT NULL
    )",
    "CREATE INDEX item_versions_by_rev ON item_versions (session_uuid, rev)",
    "CREATE INDEX item_versions_by_item ON item_versions (session_uuid, item_id, id)",
    "CREATE INDEX item_versions_by_path ON item_versions (session_uuid, path, id)",
    "CREATE INDEX item_versions_by_content ON item_versions (owner_id, hash)",
    "CREATE INDEX item_versions_in_conflict ON item_versions (session_uuid, id)
        WHERE conflict_of IS NOT NULL AND resolved_at IS NULL",
    // Shared within one owner only: wider sharing would let one tenant probe what another has.
    "CREATE TABLE blobs (
        owner_id   BIGINT NOT NULL,
        hash       {bytes} NOT NULL,
        size       BIGINT NOT NULL,
        encoding   BIGINT NOT NULL,
        chunks     BIGINT NOT NULL,
        data       {bytes} NOT NULL,
        touched_at BIGINT NOT NULL,
        PRIMARY KEY (owner_id, hash)
    )",
    "CREATE INDEX blobs_by_touch ON blobs (touched_at)",
    "CREATE TABLE blob_chunks (
        owner_id BIGINT NOT NULL,
        hash     {bytes} NOT NULL,
        seq      BIGINT NOT NULL,
        data     {bytes} NOT NULL,
        PRIMARY KEY (owner_id, hash, seq),
        FOREIGN KEY (owner_id, hash) REFERENCES blobs (owner_id, hash) ON DELETE CASCADE
    )",
    "CREATE TABLE applied_batches (
        session_uuid {uuid} NOT NULL REFERENCES workspace_state (session_uuid) ON DELETE CASCADE,
        batch_id     {uuid} NOT NULL,
        rev          BIGINT NOT NULL,
        results      {bytes} NOT NULL,
        at           BIGINT NOT NULL,
        PRIMARY KEY (session_uuid, batch_id)
    )",
    "CREATE INDEX applied_batches_by_time ON applied_batches (at)",
];

/// Contents are compressed before they come here; PostgreSQL need not try again.
const UP_ON_POSTGRES: &[&str] = &[
    "ALTER TABLE blobs ALTER COLUMN data SET STORAGE EXTERNAL",
    "ALTER TABLE blob_chunks ALTER COLUMN data SET STORAGE EXTERNAL",
    "ALTER TABLE applied_batches ALTER COLUMN results SET STORAGE EXTERNAL",
];

const DOWN: &[&str] = &[
    "DROP TABLE applied_batches",
    "DROP TABLE blob_chunks",
    "DROP TABLE blobs",
    "DROP TABLE item_versions",
    "DROP TABLE workspace_items",
    "DROP TABLE workspace_state",
];
