//! Batches from the pod: every row of the rule table that the database decides.

use crate::harness::{Fixture, code, delete, path, rename};
use crate::on_each_database;
use bytes::Bytes;
use control_plane::workspace::{HistoryQuery, Op, Origin, PodBatch, PodOp, Version, VersionOp};
use shared::id::{BatchId, InstanceId, LinkEpoch, Revision};
use shared::link::sync::{Committed, OpResult};
use shared::tree::{Entry, Hash, Kind};

/// A pod with a link: what it sends, and what its base says.
pub(crate) struct Pod {
    pub(crate) it: Fixture,
    epoch: LinkEpoch,
    /// The revision of its base: it knows all up to there.
    pub(crate) base_rev: Revision,
    contents: Vec<Bytes>,
    pub(crate) ops: Vec<PodOp>,
}

impl Pod {
    pub(crate) async fn linked(it: &Fixture) -> Self {
        let link = it.store.link_up(it.session, "r1", "127.0.0.1:1", InstanceId::random(), 60_000).await;
        let base_rev = it.store.rev(it.session).await.unwrap();
        Self { it: it.clone(), epoch: link.unwrap(), base_rev, contents: Vec::new(), ops: Vec::new() }
    }

    pub(crate) fn put(mut self, at: &str, text: &str, pre: Option<Entry>) -> Self {
        self.contents.push(Bytes::from(text.to_owned()));
        self.ops.push(PodOp::Put { path: path(at), entry: file(text), pre });
        self
    }

    pub(crate) fn entry(mut self, at: &str, entry: Entry, pre: Option<Entry>) -> Self {
        self.ops.push(PodOp::Put { path: path(at), entry, pre });
        self
    }

    pub(crate) fn delete(mut self, at: &str, pre: Entry) -> Self {
        self.ops.push(PodOp::Delete { path: path(at), pre: Some(pre) });
        self
    }

    pub(crate) fn rename(mut self, from: &str, to: &str, text: &str, pre: Entry) -> Self {
        self.contents.push(Bytes::from(text.to_owned()));
        let (from, to) = (path(from), path(to));
        self.ops.push(PodOp::Rename { from, to, item: None, entry: file(text), pre: Some(pre) });
        self
    }

    pub(crate) fn batch(&self) -> PodBatch {
        PodBatch {
            id: BatchId::random(),
            epoch: self.epoch,
            base_rev: self.base_rev,
            removal: None,
            ops: self.ops.clone(),
            contents: self.contents.iter().map(|bytes| (Hash::of(bytes), bytes.clone())).collect(),
        }
    }

    pub(crate) async fn send(self) -> Committed {
        self.it.store.commit_pod_batch(self.it.session, self.batch()).await.unwrap()
    }
}

pub(crate) fn file(text: &str) -> Entry {
    Entry::file(0o644, text.len() as u64, Hash::of(text.as_bytes()))
}

pub(crate) fn is_applied(result: &OpResult) -> bool {
    matches!(result, OpResult::Applied { .. })
}

pub(crate) fn superseded(conflict: bool, now: Option<Entry>) -> OpResult {
    OpResult::Superseded { conflict, now }
}

pub(crate) fn refusal(result: &OpResult) -> &str {
    match result {
        OpResult::Refused(failure) => &failure.code,
        other => panic!("this should have been refused: {other:?}"),
    }
}

pub(crate) async fn losers(it: &Fixture, open: bool) -> Vec<(Version, String)> {
    let query = HistoryQuery { limit: 100, open_conflicts: open, ..HistoryQuery::default() };
    let mut found = Vec::new();
    for version in it.store.history(it.session, &query).await.unwrap() {
        if version.op == VersionOp::Loser {
            let (version, bytes) = it.store.version(it.session, version.id).await.unwrap();
            found.push((version, String::from_utf8(bytes.to_vec()).unwrap()));
        }
    }
    found
}

on_each_database!(what_is_new_changed_and_deleted_in_the_pod_is_committed_as_one_revision, |it| {
    it.save("changed", "old").await;
    it.save("dir/gone", "x").await;
    let done = Pod::linked(&it)
        .await
        .put("new/deep", "n", None)
        .put("changed", "new", Some(file("old")))
        .delete("dir", Entry::dir(0o755))
        .delete("dir/gone", file("x"))
        .entry("empty", Entry::dir(0o700), None)
        .send()
        .await;
    assert_eq!(done.rev, Revision(3));
    assert!(done.results.iter().all(is_applied), "{:?}", done.results);
    assert_eq!(it.paths().await, ["changed", "empty/", "new/", "new/deep"]);
    assert_eq!(it.read("changed").await.unwrap(), "new");
    let newest = it.store.history(it.session, &HistoryQuery { limit: 1, ..HistoryQuery::default() }).await;
    assert_eq!(newest.unwrap()[0].origin, Origin::Pod);
    it.assert_totals().await;
});

on_each_database!(a_batch_sent_again_gets_the_same_answer_and_is_applied_once, |it| {
    let pod = Pod::linked(&it).await.put("a", "1", None);
    let batch = pod.batch();
    let first = it.store.commit_pod_batch(it.session, batch.clone()).await.unwrap();
    it.save("a", "changed since").await;
    let again = it.store.commit_pod_batch(it.session, batch.clone()).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(it.read("a").await.unwrap(), "changed since");
    assert_eq!(it.rev().await, 2);

    let fresh = PodBatch { id: BatchId::random(), ..Pod::linked(&it).await.put("b", "1", None).batch() };
    let at_once = (0..4).map(|_| it.store.commit_pod_batch(it.session, fresh.clone()));
    let answers = futures::future::join_all(at_once).await;
    let first = answers[0].as_ref().unwrap();
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == first));
    assert_eq!(it.rev().await, 3);
});

on_each_database!(a_superseded_link_is_refused_and_changes_nothing, |it| {
    let old = Pod::linked(&it).await.put("a", "old", None);
    let new = Pod::linked(&it).await.put("a", "new", None);
    let refused = it.store.commit_pod_batch(it.session, old.batch()).await;
    assert_eq!(code(refused), "superseded");
    new.send().await;
    assert_eq!(it.read("a").await.unwrap(), "new");
});

on_each_database!(the_same_result_on_both_sides_is_nothing_to_do, |it| {
    it.save("a", "same").await;
    let done = Pod::linked(&it).await.put("a", "same", Some(file("before"))).send().await;
    assert!(is_applied(&done.results[0]));
    assert_eq!((done.rev, it.rev().await), (Revision(1), 1), "and makes no revision");
});

on_each_database!(changes_in_different_lines_are_merged_and_both_parents_stay_in_the_history, |it| {
    let (base, ours, theirs) = ("a\nb\nc\nd\ne\n", "A\nb\nc\nd\ne\n", "a\nb\nc\nd\nE\n");
    it.save("f", base).await;
    it.save("f", ours).await;
    let done = Pod::linked(&it).await.put("f", theirs, Some(file(base))).send().await;
    let merged = "A\nb\nc\nd\nE\n";
    assert_eq!(done.results, [superseded(false, Some(file(merged)))]);
    assert_eq!(it.read("f").await.unwrap(), merged);
    let kept = losers(&it, false).await;
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].1.as_str(), kept[0].0.open_conflict), (theirs, false));
    assert_eq!(losers(&it, true).await, [], "nobody is asked about a clean merge");
    let newest = HistoryQuery { path: Some(path("f")), limit: 10, ..HistoryQuery::default() };
    let origins: Vec<_> =
        it.store.history(it.session, &newest).await.unwrap().iter().map(|v| v.origin).collect();
    assert!(origins.contains(&Origin::Merge), "{origins:?}");
    it.assert_totals().await;
});

on_each_database!(a_conflict_keeps_the_databases_bytes_in_place_and_the_pods_in_the_history, |it| {
    it.save("f", "base\n").await;
    let stood = it.save("f", "editor\n").await.rev;
    let done = Pod::linked(&it)
        .await
        .put("f", "pod\n", Some(file("base\n")))
        .put("new", "pod's new\n", None)
        .send()
        .await;
    assert_eq!(done.results[0], superseded(true, Some(file("editor\n"))));
    assert!(is_applied(&done.results[1]), "the rest of the batch is taken");
    assert_eq!(it.read("f").await.unwrap(), "editor\n");
    let open = losers(&it, true).await;
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].1.as_str(), open[0].0.conflict_of), ("pod\n", Some(stood)));
    it.store.settle_conflict(it.session, open[0].0.id).await.unwrap();
    assert_eq!(losers(&it, true).await, []);
    assert_eq!(losers(&it, false).await.len(), 1, "settled is not forgotten");
    assert_eq!(code(it.store.settle_conflict(it.session, 999_999).await), "no_such_version");
    it.assert_totals().await;
});

on_each_database!(new_on_both_sides_with_other_bytes_is_a_conflict, |it| {
    it.save("f", "editor").await;
    let done = Pod::linked(&it).await.put("f", "pod", None).send().await;
    assert_eq!(done.results, [superseded(true, Some(file("editor")))]);
    assert_eq!(losers(&it, true).await[0].1, "pod");
});

on_each_database!(content_and_mode_are_merged_apart, |it| {
    it.save("f", "base").await;
    it.batch(vec![Op::Chmod { path: path("f"), mode: 0o755 }]).await.unwrap();
    let done = Pod::linked(&it).await.put("f", "pod", Some(file("base"))).send().await;
    let both = Entry { mode: 0o755, ..file("pod") };
    assert_eq!(done.results, [superseded(false, Some(both))]);
    assert_eq!(it.snapshot().await.items[0].1.entry, both);

    it.save("f", "editor").await;
    let stricter = Entry { mode: 0o700, ..both };
    let done = Pod::linked(&it).await.entry("f", stricter, Some(both)).send().await;
    let merged = Entry { mode: 0o700, ..file("editor") };
    assert_eq!(done.results, [superseded(false, Some(merged))]);
    assert_eq!(losers(&it, false).await, []);
});

on_each_database!(deleted_here_and_changed_there_the_edit_wins, |it| {
    it.save("dir/f", "base").await;
    it.batch(vec![delete("dir")]).await.unwrap();
    let done = Pod::linked(&it).await.put("dir/f", "edited", Some(file("base"))).send().await;
    assert!(is_applied(&done.results[0]));
    assert_eq!(it.read("dir/f").await.unwrap(), "edited");
    it.assert_totals().await;
});

on_each_database!(changed_here_and_deleted_there_it_comes_back, |it| {
    it.save("f", "base").await;
    it.save("f", "edited").await;
    let done = Pod::linked(&it).await.delete("f", file("base")).delete("never", file("x")).send().await;
    assert_eq!(done.results[0], superseded(false, Some(file("edited"))));
    assert!(is_applied(&done.results[1]), "gone on both sides");
    assert_eq!(it.read("f").await.unwrap(), "edited");
});

on_each_database!(a_folder_deleted_there_with_something_new_in_it_here_stays_with_that, |it| {
    it.save("dir/old", "x").await;
    it.save("dir/new", "y").await;
    let done =
        Pod::linked(&it).await.delete("dir", Entry::dir(0o755)).delete("dir/old", file("x")).send().await;
    assert_eq!(done.results[0], superseded(false, Some(Entry::dir(0o755))));
    assert!(is_applied(&done.results[1]));
    assert_eq!(it.paths().await, ["dir/", "dir/new"]);
    it.assert_totals().await;
});

on_each_database!(a_type_change_in_the_pod_is_a_delete_and_a_create, |it| {
    it.save("x", "file").await;
    it.save("y/inner", "folder").await;
    let done = Pod::linked(&it)
        .await
        .entry("x", Entry::dir(0o755), Some(file("file")))
        .put("x/inner", "now inside", None)
        .put("y", "now a file", Some(Entry::dir(0o755)))
        .delete("y/inner", file("folder"))
        .send()
        .await;
    assert!(done.results.iter().all(is_applied), "{:?}", done.results);
    assert_eq!(it.paths().await, ["x/", "x/inner", "y"]);
    it.assert_totals().await;
});

on_each_database!(a_type_change_that_meets_a_change_keeps_both, |it| {
    it.save("y/inner", "folder").await;
    it.save("y/added", "meanwhile").await;
    let done = Pod::linked(&it)
        .await
        .put("y", "now a file", Some(Entry::dir(0o755)))
        .delete("y/inner", file("folder"))
        .send()
        .await;
    assert_eq!(done.results[0], superseded(true, Some(Entry::dir(0o755))));
    assert_eq!(it.paths().await, ["y/", "y/added"]);
    assert_eq!(losers(&it, true).await[0].1, "now a file");

    let done = Pod::linked(&it).await.put("y/added/below", "deeper", None).send().await;
    assert_eq!(done.results, [superseded(true, None)], "nothing can stand below a file");
    assert_eq!(losers(&it, true).await[0].1, "deeper");
    it.assert_totals().await;
});

on_each_database!(a_rename_in_the_pod_keeps_the_item_and_may_come_with_an_edit, |it| {
    it.save("a", "base").await;
    let id = it.store.item(it.session, &path("a")).await.unwrap().id;
    let done = Pod::linked(&it).await.rename("a", "dir/b", "edited", file("base")).send().await;
    assert_eq!(done.results, [OpResult::Applied { item: Some(id) }]);
    assert_eq!(it.paths().await, ["dir/", "dir/b"]);
    assert_eq!(it.read("dir/b").await.unwrap(), "edited");
    let page = it.store.changes_since(it.session, Revision(1), None, 10).await.unwrap();
    let gone = page.changes.iter().find(|change| change.deleted).unwrap();
    assert_eq!((gone.path.as_str(), gone.moved_to), ("a", Some(id)));
});

on_each_database!(a_folder_renamed_in_the_pod_takes_its_contents_along, |it| {
    it.save("dir/sub/f", "x").await;
    let mut pod = Pod::linked(&it).await;
    pod.ops.push(PodOp::Rename {
        from: path("dir"),
        to: path("new"),
        item: None,
        entry: Entry::dir(0o755),
        pre: Some(Entry::dir(0o755)),
    });
    let done = pod.send().await;
    assert!(is_applied(&done.results[0]));
    assert_eq!(it.paths().await, ["new/", "new/sub/", "new/sub/f"]);
    it.assert_totals().await;
});

on_each_database!(a_folder_moved_file_by_file_keeps_its_files_ids_and_its_mode, |it| {
    it.save("old/a", "base").await;
    let id = it.item("old/a").await.id;
    let done = Pod::linked(&it)
        .await
        .rename("old/a", "new/a", "base", file("base"))
        .entry("new", Entry::dir(0o700), None)
        .delete("old", Entry::dir(0o755))
        .send()
        .await;
    assert!(done.results.iter().all(is_applied), "{:?}", done.results);
    assert_eq!(it.paths().await, ["new/", "new/a"]);
    assert_eq!((it.item("new/a").await.id, it.item("new").await.entry.mode), (id, 0o700));
});

on_each_database!(an_edit_in_the_pod_of_what_was_renamed_here_lands_at_the_new_path, |it| {
    it.save("dir/f", "base").await;
    it.batch(vec![rename("dir", "moved")]).await.unwrap();
    let done = Pod::linked(&it).await.put("dir/f", "edited", Some(file("base"))).send().await;
    assert_eq!(done.results, [superseded(false, None)]);
    assert_eq!(it.paths().await, ["moved/", "moved/f"]);
    assert_eq!(it.read("moved/f").await.unwrap(), "edited");
    let parent = it.store.item(it.session, &path("moved")).await.unwrap().id;
    use control_plane::entities::workspace_item::Entity;
    use sea_orm::EntityTrait;
    let row = Entity::find_by_id((it.session.0, "moved/f".to_owned()));
    let row = row.one(it.store.database().reader()).await.unwrap().unwrap();
    assert_eq!((row.parent_id, row.name.as_str()), (parent.0, "f"));
});

on_each_database!(renamed_on_both_sides_the_databases_name_stays_and_the_edit_lands_there, |it| {
    it.save("a", "base").await;
    let id = it.store.item(it.session, &path("a")).await.unwrap().id;
    it.batch(vec![rename("a", "editor/name")]).await.unwrap();
    let mut pod = Pod::linked(&it).await.rename("a", "pods-name", "edited", file("base"));
    if let PodOp::Rename { item, .. } = &mut pod.ops[0] {
        *item = Some(id);
    }
    let done = pod.send().await;
    assert_eq!(done.results, [superseded(false, None)]);
    assert_eq!(it.paths().await, ["editor/", "editor/name"]);
    assert_eq!(it.read("editor/name").await.unwrap(), "edited");
    it.assert_totals().await;
});

on_each_database!(limits_refuse_single_paths_and_leave_the_rest_working, |it| {
    let small = it.limited(|limits| {
        limits.file_bytes = 10;
        limits.workspace_bytes = 25;
        limits.workspace_items = 4;
    });
    let done = Pod::linked(&small)
        .await
        .put("a", "1234567890", None)
        .put("b", "12345678901", None)
        .put("c", "2345678901", None)
        .put("d", "345678", None)
        .put("e", "34567", None)
        .put("f", "", None)
        .put("g", "", None)
        .send()
        .await;
    assert!(is_applied(&done.results[0]) && is_applied(&done.results[2]) && is_applied(&done.results[4]));
    assert_eq!(refusal(&done.results[1]), "file_too_large");
    assert_eq!(refusal(&done.results[3]), "workspace_full");
    assert!(is_applied(&done.results[5]));
    assert_eq!(refusal(&done.results[6]), "too_many_items");
    assert_eq!(it.paths().await, ["a", "c", "e", "f"]);
    it.assert_totals().await;
});

on_each_database!(what_a_pod_claims_is_not_believed, |it| {
    let stolen = Hash::of(b"somebody else's");
    let lied_about = Entry::file(0o7777, 1, Hash::of(b"longer than said"));
    let done = Pod::linked(&it)
        .await
        .entry("stolen", Entry::file(0o644, 15, stolen), None)
        .put("lie", "longer than said", None)
        .entry("lie2", lied_about, None)
        .entry("dir", Entry { kind: Kind::Dir, mode: 0o755, size: 1 << 40, hash: stolen }, None)
        .send()
        .await;
    assert_eq!(refusal(&done.results[0]), "content_missing");
    let entry = it.store.item(it.session, &path("lie2")).await.unwrap().entry;
    assert_eq!((entry.size, entry.mode), (16, 0o777));
    let dir = it.store.item(it.session, &path("dir")).await.unwrap().entry;
    assert_eq!(dir, Entry::dir(0o755));
    it.assert_totals().await;
});

on_each_database!(a_content_that_is_stored_need_not_be_sent_again, |it| {
    it.save("a", "known already").await;
    let mut pod = Pod::linked(&it).await.put("copy", "known already", None);
    pod.contents.clear();
    assert!(is_applied(&pod.send().await.results[0]));
    assert_eq!(it.read("copy").await.unwrap(), "known already");
});

on_each_database!(editor_and_pod_at_once_lose_no_bytes, |it| {
    let pod = Pod::linked(&it).await;
    let epoch = pod.epoch;
    it.save("f", "base").await;
    let editor = {
        let it = it.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                it.save("f", &format!("editor {n}")).await;
            }
        })
    };
    for n in 0..20 {
        let pod =
            Pod { it: it.clone(), epoch, base_rev: Revision::ZERO, contents: Vec::new(), ops: Vec::new() };
        pod.put("f", &format!("pod {n}"), Some(file("base"))).send().await;
    }
    editor.await.unwrap();
    let mut all = Vec::new();
    let query = HistoryQuery { limit: 1_000, ..HistoryQuery::default() };
    for version in it.store.history(it.session, &query).await.unwrap() {
        let (_, bytes) = it.store.version(it.session, version.id).await.unwrap();
        all.push(String::from_utf8(bytes.to_vec()).unwrap());
    }
    for n in 0..20 {
        assert!(all.contains(&format!("editor {n}")) && all.contains(&format!("pod {n}")), "{n}");
    }
});

on_each_database!(a_new_volume_is_noticed, |it| {
    use shared::id::VolumeId;
    let (one, two) = (VolumeId::random(), VolumeId::random());
    assert!(!it.store.see_volume(it.session, one).await.unwrap(), "the first is not another");
    assert!(!it.store.see_volume(it.session, one).await.unwrap());
    assert!(it.store.see_volume(it.session, two).await.unwrap());
    assert_eq!(it.store.link_up(it.session, "r", "a", InstanceId::random(), 1).await.unwrap(), LinkEpoch(1));
    assert_eq!(it.store.link_up(it.session, "r", "a", InstanceId::random(), 1).await.unwrap(), LinkEpoch(2));
});

on_each_database!(a_type_change_here_that_meets_an_edit_there_stands_and_the_edit_is_kept, |it| {
    it.save("x", "base").await;
    let pod = Pod::linked(&it).await.put("x", "edited", Some(file("base")));
    it.batch(vec![delete("x"), crate::harness::write("x/inside", "a folder now")]).await.unwrap();
    assert_eq!(pod.send().await.results, [superseded(true, Some(Entry::dir(0o755)))]);
    assert_eq!(it.paths().await, ["x/", "x/inside"]);
    assert_eq!(losers(&it, true).await[0].1, "edited");
});

on_each_database!(a_mode_changed_there_of_what_has_another_type_here_is_let_go, |it| {
    it.save("x", "base").await;
    let stricter = Entry { mode: 0o600, ..file("base") };
    let pod = Pod::linked(&it).await.entry("x", stricter, Some(file("base")));
    it.batch(vec![delete("x"), Op::Symlink { path: path("x"), target: "y".into() }]).await.unwrap();
    assert_eq!(pod.send().await.results, [superseded(false, Some(Entry::symlink("y")))]);
    assert_eq!(losers(&it, false).await, []);
});

on_each_database!(a_folder_deleted_here_with_an_edit_in_it_there_comes_back_around_the_edit, |it| {
    it.save("dir/sub/f", "base").await;
    it.save("dir/other", "goes").await;
    let pod = Pod::linked(&it).await.put("dir/sub/f", "edited", Some(file("base")));
    it.batch(vec![delete("dir")]).await.unwrap();
    assert!(is_applied(&pod.send().await.results[0]));
    assert_eq!(it.paths().await, ["dir/", "dir/sub/", "dir/sub/f"]);
    it.assert_totals().await;
});
