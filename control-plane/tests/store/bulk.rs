//! Large commits, and how many statements each kind takes.

use crate::harness::{author, delete, path, rename, write};
use crate::on_each_database;
use bytes::Bytes;
use control_plane::workspace::{Op, Precondition};
use sea_orm::DbBackend;
use shared::id::Revision;
use shared::tree::{Entry, Hash, Kind};

const ITEMS: usize = 10_000;

fn many() -> Vec<Op> {
    (0..ITEMS)
        .map(|i| Op::Write {
            path: path(&format!("d{:03}/f{i:05}.txt", i % 200)),
            bytes: Bytes::from(format!("content {i}\n").repeat(20)),
            mode: None,
            precondition: Precondition::Any,
        })
        .collect()
}

on_each_database!(ten_thousand_files_are_one_revision_and_can_be_moved_and_deleted_as_one, |it| {
    let it = it.limited(|limits| limits.batch_items = ITEMS as u64);
    it.batch(many()).await.unwrap();
    assert_eq!((it.rev().await, it.snapshot().await.items.len()), (1, ITEMS + 200));
    it.assert_totals().await;
    assert_eq!(it.read("d199/f09999.txt").await.unwrap(), "content 9999\n".repeat(20));

    it.batch(vec![Op::Mkdir { path: path("all"), mode: None }]).await.unwrap();
    let inside = (0..200).map(|i| rename(&format!("d{i:03}"), &format!("all/d{i:03}"))).collect();
    it.batch(inside).await.unwrap();
    it.assert_totals().await;

    let (statements, moved) = it.statements(it.batch(vec![rename("all", "deep/er")])).await;
    assert_eq!(moved.unwrap().rev, Revision(4));
    assert!(statements <= 10, "a subtree is a range, not rows: {statements} statements");
    assert_eq!(it.read("deep/er/d199/f09999.txt").await.unwrap(), "content 9999\n".repeat(20));
    it.assert_totals().await;

    let (statements, deleted) = it.statements(it.batch(vec![delete("deep")])).await;
    deleted.unwrap();
    assert!(statements <= 10, "{statements} statements");
    assert_eq!(it.paths().await, Vec::<String>::new());
    it.assert_totals().await;
    it.store.undo(it.session, &path("deep"), &author()).await.unwrap();
    assert_eq!(it.snapshot().await.items.len(), ITEMS + 202);
    it.assert_totals().await;
});

// With BEGIN and COMMIT, what PostgreSQL sees is two more: five round trips for a save.
on_each_database!(a_small_save_takes_few_statements_and_a_large_commit_hardly_more, |it| {
    it.save("dir/warm", "up").await;
    let postgres = it.store.database().writer().get_database_backend() == DbBackend::Postgres;
    let text = "x".repeat(4096);
    let (new, _) = it.statements(it.save("dir/new", &text)).await;
    let (again, _) = it.statements(it.save("dir/new", "other")).await;
    let allowed = if postgres { 3 } else { 6 };
    assert!(new <= allowed && again <= allowed, "a new file {new}, a changed one {again} statements");

    let ops = (0..1_000).map(|i| write(&format!("many/f{i}"), &i.to_string())).collect();
    let (many, done) = it.statements(it.batch(ops)).await;
    done.unwrap();
    assert!(many <= if postgres { 3 } else { 12 }, "a thousand files {many} statements");

    let (read, _) = it.statements(it.store.read_file(it.session, &path("dir/new"))).await;
    let (tree, _) = it.statements(it.store.snapshot(it.session)).await;
    let (since, _) = it.statements(it.store.changes_since(it.session, Revision(1), None, 100)).await;
    assert_eq!((read, tree, since), (1, 1, 1));
});

on_each_database!(an_archive_is_taken_in_as_one_revision_or_not_at_all, |it| {
    it.save("kept", "k").await;
    it.save("over", "old").await;
    let hash = it.store.put_content(it.session, &path("over"), Bytes::from_static(b"new")).await.unwrap();
    let large = Bytes::from(vec![7u8; 2 << 20]);
    let large_hash = it.store.put_content(it.session, &path("large"), large.clone()).await.unwrap();
    let entries = vec![
        (path("dir"), Entry::dir(0o700)),
        (path("dir/large"), Entry::file(0o755, large.len() as u64, large_hash)),
        (path("over"), Entry::file(0o644, 3, hash)),
    ];
    let mut missing = entries.clone();
    missing.push((path("missing"), Entry::file(0o644, 5, Hash::of(b"never"))));
    let refused = it.store.import(it.session, missing, &author()).await;
    assert_eq!(crate::harness::code(refused), "content_missing");
    let done = it.store.import(it.session, entries, &author()).await.unwrap();
    assert_eq!(done.rev, Revision(3));
    assert_eq!(it.paths().await, ["dir/", "dir/large", "kept", "over"]);
    assert_eq!(it.read("over").await.unwrap(), "new");
    let (item, bytes) = it.store.read_file(it.session, &path("dir/large")).await.unwrap();
    assert_eq!((item.entry.kind, item.entry.mode, bytes), (Kind::File, 0o755, large));
    it.assert_totals().await;
});
