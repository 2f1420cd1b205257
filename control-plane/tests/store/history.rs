//! What was can be seen and brought back.

use crate::harness::{Fixture, author, code, delete, path, rename, write};
use crate::on_each_database;
use crate::pod::{Pod, file};
use control_plane::entities::blob;
use control_plane::workspace::{HistoryQuery, Origin, PodBatch, Version, VersionOp};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use shared::id::{BatchId, Revision};
use shared::tree::Hash;

async fn history(it: &Fixture, at: Option<&str>) -> Vec<Version> {
    let query = HistoryQuery { path: at.map(path), limit: 100, ..HistoryQuery::default() };
    it.store.history(it.session, &query).await.unwrap()
}

async fn restore(it: &Fixture, at: Option<&str>, to: u64) -> u64 {
    let at = at.map(path);
    it.store.restore(it.session, at.as_ref(), Revision(to), &author()).await.unwrap().rev.0
}

on_each_database!(each_version_tells_who_when_and_from_where_and_has_its_bytes, |it| {
    it.save("a", "one").await;
    it.save("a", "two").await;
    it.batch(vec![rename("a", "b")]).await.unwrap();
    it.batch(vec![delete("b")]).await.unwrap();
    let versions = history(&it, Some("b")).await;
    let told: Vec<_> = versions.iter().map(|v| (v.rev.0, v.op, v.path.as_str())).collect();
    assert_eq!(
        told,
        [
            (4, VersionOp::Delete, "b"),
            (3, VersionOp::Move, "b"),
            (2, VersionOp::Write, "a"),
            (1, VersionOp::Create, "a")
        ]
    );
    for version in &versions {
        assert_eq!((version.origin, version.actor.as_deref()), (Origin::Editor, Some("ada")));
        assert!(version.at > 1_600_000_000_000 && !version.open_conflict);
    }
    let (first, bytes) = it.store.version(it.session, versions[3].id).await.unwrap();
    assert_eq!((first.op, &bytes[..]), (VersionOp::Create, &b"one"[..]));
    assert_eq!(code(it.store.version(it.session, 999_999).await), "no_such_version");

    let page = HistoryQuery { before: Some(versions[1].id), limit: 1, ..HistoryQuery::default() };
    assert_eq!(it.store.history(it.session, &page).await.unwrap(), versions[2..3]);
    let foreign = it.sibling().await;
    assert_eq!(code(foreign.store.version(foreign.session, versions[3].id).await), "no_such_version");
});

on_each_database!(a_folders_history_holds_what_is_and_was_below_it_and_nothing_beside_it, |it| {
    it.save("src/a", "a").await;
    it.save("src/deep/b", "b").await;
    it.save("src-not", "no").await;
    it.batch(vec![delete("src/deep/b"), rename("src/a", "a")]).await.unwrap();
    let told = async |below| {
        let query = HistoryQuery { path: Some(path("src")), below, limit: 100, ..HistoryQuery::default() };
        let versions = it.store.history(it.session, &query).await.unwrap();
        versions.iter().map(|v| (v.rev.0, v.op, v.path.to_string())).collect::<Vec<_>>()
    };
    let all = told(true).await;
    assert!(all.contains(&(4, VersionOp::Delete, "src/deep/b".to_owned())), "{all:?}");
    assert!(all.contains(&(1, VersionOp::Create, "src/a".to_owned())), "{all:?}");
    assert!(all.iter().all(|(_, _, path)| path == "src" || path.starts_with("src/")), "{all:?}");
    assert!(told(false).await.iter().all(|(_, _, path)| path == "src"));
});

on_each_database!(a_restored_file_folder_and_workspace_are_as_they_were_and_it_can_be_undone, |it| {
    it.save("dir/a", "a1").await;
    it.save("dir/b", "b1").await;
    it.save("c", "c1").await;
    let then = (it.rev().await, it.files().await);
    it.save("dir/a", "a2").await;
    it.batch(vec![delete("dir/b"), write("dir/new", "n"), rename("c", "d")]).await.unwrap();
    let now = (it.rev().await, it.files().await);

    restore(&it, Some("dir/a"), then.0).await;
    assert_eq!(it.read("dir/a").await.unwrap(), "a1");
    assert_eq!(it.read("d").await.unwrap(), "c1", "the rest stays");
    restore(&it, Some("dir"), then.0).await;
    assert_eq!(it.paths().await, ["d", "dir/", "dir/a", "dir/b"]);
    restore(&it, None, then.0).await;
    assert_eq!(it.files().await, then.1);
    it.assert_totals().await;
    restore(&it, None, now.0).await;
    assert_eq!(it.files().await, now.1, "the restore itself was undone");
    it.assert_totals().await;
    restore(&it, None, 0).await;
    assert_eq!(it.paths().await, Vec::<String>::new());
    assert_eq!(history(&it, None).await[0].origin, Origin::Restore);
    it.assert_totals().await;
});

on_each_database!(a_deleted_folder_comes_back_with_all_it_held_under_the_same_ids, |it| {
    for at in ["dir/a", "dir/sub/b", "other"] {
        it.save(at, at).await;
    }
    let before = it.snapshot().await;
    it.batch(vec![delete("dir")]).await.unwrap();
    it.store.undo(it.session, &path("dir"), &author()).await.unwrap();
    let ids = |s: &control_plane::workspace::Snapshot| -> Vec<_> {
        s.items.iter().map(|(p, i)| (p.clone(), i.id, i.entry)).collect()
    };
    assert_eq!(ids(&it.snapshot().await), ids(&before));
    it.assert_totals().await;
});

on_each_database!(what_a_deleted_folder_held_is_told_as_deleted_and_stays_so, |it| {
    it.save("dir/sub/a", "x").await;
    it.batch(vec![delete("dir")]).await.unwrap();
    let told: Vec<_> = history(&it, Some("dir/sub/a")).await.iter().map(|v| (v.rev.0, v.op)).collect();
    assert_eq!(told, [(2, VersionOp::Delete), (1, VersionOp::Create)]);
    it.save("later", "y").await;
    restore(&it, None, 2).await;
    assert_eq!(it.paths().await, Vec::<String>::new(), "as it was after the delete");
});

on_each_database!(the_last_change_of_a_path_is_undone_and_undone_again, |it| {
    it.save("a", "one").await;
    it.save("a", "two").await;
    it.save("b", "unrelated").await;
    it.store.undo(it.session, &path("a"), &author()).await.unwrap();
    assert_eq!(it.read("a").await.unwrap(), "one");
    it.store.undo(it.session, &path("a"), &author()).await.unwrap();
    assert_eq!(it.read("a").await.unwrap(), "two");
    assert_eq!(it.read("b").await.unwrap(), "unrelated");
    let never = it.store.undo(it.session, &path("never"), &author()).await;
    assert_eq!(code(never), "nothing_to_undo");
});

on_each_database!(a_move_is_undone_from_either_end, |it| {
    it.save("dir/a", "x").await;
    for end in ["dir", "elsewhere"] {
        it.batch(vec![rename("dir", "elsewhere")]).await.unwrap();
        it.store.undo(it.session, &path(end), &author()).await.unwrap();
        assert_eq!(it.paths().await, ["dir/", "dir/a"], "from {end}");
    }
    it.assert_totals().await;
});

on_each_database!(going_to_a_revision_that_never_was_or_a_path_that_never_was_is_refused, |it| {
    it.save("a", "x").await;
    let future = it.store.restore(it.session, None, Revision(9), &author()).await;
    assert_eq!(code(future), "no_such_revision");
    let nowhere = it.store.restore(it.session, Some(&path("never")), Revision(1), &author()).await;
    assert_eq!(code(nowhere), "not_found");
    assert_eq!(restore(&it, None, 1).await, 1, "what is as it was needs no revision");
});

on_each_database!(what_the_sweep_took_meanwhile_is_not_brought_back_and_changes_nothing, |it| {
    it.save("a", "one").await;
    it.save("b", "kept").await;
    it.batch(vec![write("a", "two"), write("b", "two")]).await.unwrap();
    // As if it went between the look at the history and the commit.
    let db = it.store.database().writer();
    blob::Entity::delete_many()
        .filter(blob::Column::Hash.eq(Hash::of(b"one").0.to_vec()))
        .exec(db)
        .await
        .unwrap();
    let gone = it.store.restore(it.session, None, Revision(2), &author()).await;
    assert_eq!(code(gone), "content_gone");
    assert_eq!((it.rev().await, it.read("b").await.unwrap().as_str()), (3, "two"));
    restore(&it, Some("b"), 2).await;
    assert_eq!(it.read("b").await.unwrap(), "kept");
});

on_each_database!(a_tree_whose_removal_took_several_batches_is_brought_back_whole, |it| {
    let files = |from: u32, to: u32| (from..to).map(|n| format!("dir/{n}"));
    let mut pod = Pod::linked(&it).await;
    for at in files(0, 6).chain(["dir/kept".to_owned(), "other".to_owned()]) {
        pod = pod.put(&at, &at, None);
    }
    pod.send().await;
    let before = it.files().await;

    // The folder goes two files at a time. Meanwhile other things happen, there and elsewhere.
    let batch = |pod: &Pod, first: Option<BatchId>| PodBatch { removal: first, ..pod.batch() };
    let mut first = None;
    for n in [0, 2, 4] {
        let mut pod = Pod::linked(&it).await;
        for at in files(n, n + 2) {
            pod = pod.delete(&at, file(&at));
        }
        let batch = batch(&pod, first);
        first = first.or(Some(batch.id));
        it.store.commit_pod_batch(it.session, batch).await.unwrap();
        it.save("elsewhere", &n.to_string()).await;
    }
    let pod = Pod::linked(&it).await.delete("dir/kept", file("dir/kept"));
    it.store.commit_pod_batch(it.session, batch(&pod, first)).await.unwrap();
    assert_eq!(it.files().await.len(), 2);

    it.store.undo(it.session, &path("dir"), &author()).await.unwrap();
    let mut expected = before.clone();
    expected.insert("elsewhere".to_owned(), Hash::of(b"4"));
    assert_eq!(it.files().await, expected);
    it.store.undo(it.session, &path("dir"), &author()).await.unwrap();
    assert_eq!(it.files().await.len(), 2, "undone twice, it stands again");

    // What was changed in between is not undone with it.
    it.store.undo(it.session, &path("dir"), &author()).await.unwrap();
    let gone = Pod::linked(&it).await.delete("dir/0", file("dir/0")).batch();
    it.store.commit_pod_batch(it.session, gone.clone()).await.unwrap();
    it.save("dir/0", "anew").await;
    let again = Pod::linked(&it).await.delete("dir/0", file("anew"));
    it.store.commit_pod_batch(it.session, batch(&again, Some(gone.id))).await.unwrap();
    it.store.undo(it.session, &path("dir/0"), &author()).await.unwrap();
    assert_eq!(it.read("dir/0").await.unwrap(), "anew");
});
