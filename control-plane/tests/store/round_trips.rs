//! How many statements each kind of commit takes, beside BEGIN and COMMIT, so that it cannot grow unseen. On SQLite
//! a statement is a call in this process; on PostgreSQL it is a round trip.

use crate::harness::{Fixture, author, delete, mkdir, path, rename, write};
use crate::on_each_database;
use bytes::Bytes;
use control_plane::workspace::{Op, PodBatch, PodOp};
use sea_orm::DbBackend;
use shared::id::{BatchId, InstanceId, Revision};
use shared::link::sync::OpResult;
use shared::tree::{Entry, Hash};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long 10,000 items in one commit may take, without optimisation and beside other tests.
const PATIENCE: Duration = Duration::from_secs(30);

impl Fixture {
    /// Statements allowed on SQLite and on PostgreSQL.
    async fn takes<T>(&self, what: &str, allowed: (usize, usize), work: impl Future<Output = T>) -> T {
        let postgres = self.store.database().writer().get_database_backend() == DbBackend::Postgres;
        let allowed = if postgres { allowed.1 } else { allowed.0 };
        let (taken, done) = self.statements(work).await;
        assert!(taken <= allowed, "{what} takes {taken} statements, and {allowed} are allowed");
        done
    }

    async fn pod_batch(&self, ops: Vec<PodOp>, contents: HashMap<Hash, Bytes>) -> Vec<OpResult> {
        let row = "r";
        let epoch = self.store.link_up(self.session, row, row, InstanceId::random(), 60_000).await.unwrap();
        let batch = PodBatch {
            id: BatchId::random(),
            epoch,
            base_rev: Revision(u64::MAX >> 1),
            removal: None,
            ops,
            contents,
        };
        self.store.commit_pod_batch(self.session, batch).await.unwrap().results
    }
}

/// So many new files below `top`, each with bytes of its own.
fn new_files(top: &str, count: usize) -> (Vec<PodOp>, HashMap<Hash, Bytes>) {
    let mut contents = HashMap::new();
    let ops = (0..count).map(|n| {
        let bytes = Bytes::from(format!("{top} {n}\n").repeat(40));
        let entry = Entry::file(0o644, bytes.len() as u64, Hash::of(&bytes));
        contents.insert(entry.hash, bytes);
        PodOp::Put { path: path(&format!("{top}/d{:02}/f{n}", n % 50)), entry, pre: None }
    });
    (ops.collect(), contents)
}

// `link_up`, two statements, is counted with each of the pod's batches.
on_each_database!(each_kind_of_commit_takes_as_many_statements_as_it_ever_did, |it| {
    it.save("dir/f", "warm").await;
    it.takes("a new file", (6, 3), it.save("dir/new", "text")).await;
    it.takes("a changed file", (6, 3), it.save("dir/new", "other")).await;
    it.takes("a save of what stands", (2, 2), it.save("dir/new", "other")).await;
    it.takes("a new folder", (5, 3), it.batch(vec![mkdir("empty")])).await.unwrap();
    let chmod = Op::Chmod { path: path("dir/new"), mode: 0o755 };
    it.takes("a mode", (5, 3), it.batch(vec![chmod])).await.unwrap();
    it.takes("a move", (5, 3), it.batch(vec![rename("dir/new", "moved")])).await.unwrap();
    it.takes("a delete", (5, 3), it.batch(vec![delete("moved")])).await.unwrap();

    for (count, allowed) in [(1, (9, 5)), (1_000, (17, 9)), (10_000, (100, 12))] {
        let (ops, contents) = new_files(&format!("pod{count}"), count);
        let started = Instant::now();
        let sending = it.pod_batch(ops, contents);
        let results = it.takes(&format!("a pod's batch of {count}"), allowed, sending).await;
        assert!(results.iter().all(|result| matches!(result, OpResult::Applied { .. })), "{:?}", results[0]);
        assert!(started.elapsed() < PATIENCE, "{count} items took {:?}", started.elapsed());
    }
    let ops = (0..5_000).map(|n| write(&format!("large/d{:02}/f{n}", n % 50), &n.to_string())).collect();
    it.takes("5,000 files of the API", (50, 6), it.batch(ops)).await.unwrap();
    it.takes("a move of 5,000 items", (9, 7), it.batch(vec![rename("large", "elsewhere/large")]))
        .await
        .unwrap();
    it.takes("a delete of 5,000 items", (8, 6), it.batch(vec![delete("elsewhere")])).await.unwrap();
    let before = Revision(it.rev().await - 1);
    let (at, by) = (path("elsewhere"), author());
    let restoring = it.store.restore(it.session, Some(&at), before, &by);
    it.takes("a restore of 5,000 items", (60, 8), restoring).await.unwrap();
    assert_eq!(it.read("elsewhere/large/d07/f4957").await.unwrap(), "4957");
    let undoing = it.store.undo(it.session, &at, &by);
    it.takes("an undo of 5,000 items", (60, 10), undoing).await.unwrap();
    it.assert_totals().await;
});
