//! Batches of the API: moves, deletes, all or nothing.

use crate::harness::{Fixture, author, code, delete, mkdir, path, rename, write};
use crate::on_each_database;
use control_plane::workspace::{CHANGE_PATHS, Op, Precondition};
use shared::id::Revision;
use shared::tree::Kind;

fn chmod(at: &str, mode: u32) -> Op {
    Op::Chmod { path: path(at), mode }
}

async fn mode(it: &Fixture, at: &str) -> u32 {
    it.store.item(it.session, &path(at)).await.unwrap().entry.mode
}

on_each_database!(a_batch_is_one_revision_and_its_operations_see_each_other, |it| {
    let done = it
        .batch(vec![
            mkdir("src"),
            write("src/a", "1"),
            rename("src", "lib"),
            write("lib/b", "2"),
            chmod("lib/a", 0o755),
            write("gone", "x"),
            delete("gone"),
            Op::Symlink { path: path("link"), target: "lib/a".into() },
        ])
        .await
        .unwrap();
    assert_eq!((done.rev, it.rev().await), (Revision(1), 1));
    assert_eq!(it.paths().await, ["lib/", "lib/a", "lib/b", "link"]);
    assert_eq!(mode(&it, "lib/a").await, 0o755);
    let (link, target) = it.store.read_file(it.session, &path("link")).await.unwrap();
    assert_eq!((link.entry.kind, &target[..]), (Kind::Symlink, &b"lib/a"[..]));
    it.assert_totals().await;
});

on_each_database!(a_batch_with_one_bad_operation_does_nothing, |it| {
    it.save("a", "1").await;
    let before = it.snapshot().await;
    let mut changes = it.store.changes();
    let refused = it.batch(vec![write("a", "2"), write("b", "3"), delete("nowhere")]).await;
    assert_eq!(code(refused), "not_found");
    assert_eq!(it.snapshot().await, before);
    assert!(changes.try_recv().is_err(), "nobody is told of what was not committed");
    assert_eq!(it.save("a", "2").await.rev, Revision(2), "and no revision was used up");
});

on_each_database!(a_folder_moves_with_all_it_holds_and_items_keep_their_ids, |it| {
    for at in ["dir/a", "dir/sub/b", "dir/sub/c", "dir.txt", "dir0", "dir-x/y", "dirä/z"] {
        it.save(at, at).await;
    }
    let before = it.snapshot().await;
    let done = it.batch(vec![rename("dir", "new/place")]).await.unwrap();
    assert_eq!(done.rev, Revision(8));
    assert_eq!(
        it.paths().await,
        [
            "dir-x/",
            "dir-x/y",
            "dir.txt",
            "dir0",
            "dirä/",
            "dirä/z",
            "new/",
            "new/place/",
            "new/place/a",
            "new/place/sub/",
            "new/place/sub/b",
            "new/place/sub/c"
        ]
    );
    assert_eq!(it.read("new/place/sub/b").await.unwrap(), "dir/sub/b");
    let id = |snapshot: &control_plane::workspace::Snapshot, at: &str| {
        snapshot.items.iter().find(|(p, _)| p.as_str() == at).map(|(_, item)| item.id).unwrap()
    };
    let after = it.snapshot().await;
    for (was, is) in [("dir", "new/place"), ("dir/sub", "new/place/sub"), ("dir/sub/b", "new/place/sub/b")] {
        assert_eq!(id(&before, was), id(&after, is), "{was}");
    }
    it.assert_totals().await;

    it.batch(vec![rename("new/place", "dir")]).await.unwrap();
    assert_eq!(it.read("dir/sub/c").await.unwrap(), "dir/sub/c", "back over its own tombstones");
    it.assert_totals().await;
});

on_each_database!(a_name_with_wide_characters_moves_as_well, |it| {
    it.save("größe🦀/ä/ö", "x").await;
    it.batch(vec![rename("größe🦀", "k")]).await.unwrap();
    it.batch(vec![rename("k", "ñandú/größer")]).await.unwrap();
    assert_eq!(it.paths().await, ["ñandú/", "ñandú/größer/", "ñandú/größer/ä/", "ñandú/größer/ä/ö"]);
});

on_each_database!(a_folder_is_deleted_with_all_it_holds_in_one_revision, |it| {
    for at in ["dir/a", "dir/sub/b", "dir.txt", "dir0"] {
        it.save(at, at).await;
    }
    let done = it.batch(vec![delete("dir")]).await.unwrap();
    assert_eq!(done.rev, Revision(5));
    assert_eq!(it.paths().await, ["dir.txt", "dir0"]);
    it.assert_totals().await;
    it.save("dir", "a file now").await;
    assert_eq!(it.paths().await, ["dir", "dir.txt", "dir0"]);
    it.assert_totals().await;
});

on_each_database!(moves_that_cannot_be_are_refused_by_name, |it| {
    it.save("dir/a", "1").await;
    it.save("file", "2").await;
    assert_eq!(code(it.batch(vec![rename("nowhere", "x")]).await), "not_found");
    assert_eq!(code(it.batch(vec![rename("dir", "file")]).await), "exists");
    assert_eq!(code(it.batch(vec![rename("dir", "dir/inside")]).await), "into_itself");
    assert_eq!(code(it.batch(vec![rename("dir", "file/x")]).await), "not_a_directory");
    assert_eq!(code(it.batch(vec![mkdir("dir")]).await), "exists");
    let deep = vec!["d"; 63].join("/");
    assert_eq!(code(it.batch(vec![rename("dir", &format!("{deep}/x"))]).await), "path_too_deep");
    let long = vec!["n".repeat(254); 16].join("/");
    it.batch(vec![mkdir(&long)]).await.unwrap();
    assert_eq!(
        code(it.batch(vec![rename("dir", &format!("{long}/{}", "m".repeat(15)))]).await),
        "path_too_long"
    );
    let over =
        Op::Move { from: path("file"), to: path("dir/a"), overwrite: true, precondition: Precondition::Any };
    it.batch(vec![over]).await.unwrap();
    assert_eq!(it.read("dir/a").await.unwrap(), "2");
    let stale = Op::Delete { path: path("dir/a"), precondition: Precondition::Rev(Revision(1)) };
    assert_eq!(code(it.batch(vec![stale]).await), "stale");
    it.assert_totals().await;
});

on_each_database!(two_items_can_swap_their_places_in_one_batch, |it| {
    it.save("a", "was a").await;
    it.save("b", "was b").await;
    it.batch(vec![rename("a", "t"), rename("b", "a"), rename("t", "b")]).await.unwrap();
    assert_eq!(it.read("a").await.unwrap(), "was b");
    assert_eq!(it.read("b").await.unwrap(), "was a");
    assert_eq!(it.paths().await, ["a", "b"]);
    it.assert_totals().await;
});

on_each_database!(a_file_becomes_a_folder_and_back_in_one_batch, |it| {
    it.save("x", "file").await;
    it.batch(vec![delete("x"), write("x/inner", "folder")]).await.unwrap();
    assert_eq!(it.paths().await, ["x/", "x/inner"]);
    it.batch(vec![delete("x"), write("x", "file again")]).await.unwrap();
    assert_eq!(it.paths().await, ["x"]);
    it.assert_totals().await;
});

on_each_database!(a_change_names_at_most_a_hundred_paths_and_says_so, |it| {
    let mut changes = it.store.changes();
    let ops = (0..CHANGE_PATHS + 1).map(|i| write(&format!("f{i:03}"), "x")).collect();
    it.batch(ops).await.unwrap();
    let change = changes.recv().await.unwrap();
    assert_eq!((change.paths.len(), change.truncated), (CHANGE_PATHS, true));
    it.save("one", "x").await;
    let change = changes.recv().await.unwrap();
    assert_eq!((change.rev, change.paths.len(), change.truncated), (Revision(2), 1, false));
});

on_each_database!(a_commit_outlives_the_caller_that_went_away, |it| {
    let mut changes = it.store.changes();
    let (at, ada) = (path("a"), author());
    let call = it.store.save_file(it.session, &at, "x".into(), None, Precondition::Any, &ada);
    // Polled once, so that the commit is under way, and then dropped.
    let polled = futures::FutureExt::now_or_never(call);
    assert!(polled.is_none());
    let change = tokio::time::timeout(std::time::Duration::from_secs(10), changes.recv()).await;
    assert_eq!(change.unwrap().unwrap().rev, Revision(1));
    assert_eq!(it.read("a").await.unwrap(), "x");
});

on_each_database!(a_batch_with_too_many_operations_or_bytes_is_refused, |it| {
    let small = it.limited(|limits| {
        limits.batch_items = 2;
        limits.batch_bytes = 10;
    });
    let three = vec![write("a", "1"), write("b", "1"), write("c", "1")];
    assert_eq!(code(small.batch(three).await), "batch_too_large");
    assert_eq!(code(small.batch(vec![write("a", "123456"), write("b", "123456")]).await), "batch_too_large");
    assert_eq!(it.rev().await, 0);
});
