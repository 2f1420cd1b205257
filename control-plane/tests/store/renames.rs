//! Renames from the pod: chains, swaps, folders that change places, and what the database did meanwhile.

use crate::harness::{Fixture, delete, path, rename, write};
use crate::on_each_database;
use crate::pod::{Pod, file, is_applied, losers, refusal, superseded};
use control_plane::workspace::{Op, PodOp, Precondition};
use shared::id::{ItemId, Revision};
use shared::link::sync::OpResult;
use shared::tree::{Entry, Kind};

impl Fixture {
    async fn id(&self, at: &str) -> ItemId {
        self.store.item(self.session, &path(at)).await.unwrap().id
    }

    async fn entry_of(&self, at: &str) -> Entry {
        self.store.item(self.session, &path(at)).await.unwrap().entry
    }
}

impl Pod {
    /// What is at `from`, with all in it, is at `to`: as it was, by the id that it had.
    async fn moves(mut self, from: &str, to: &str) -> Self {
        let item = self.it.store.item(self.it.session, &path(from)).await.unwrap();
        self.ops.push(PodOp::Rename {
            from: path(from),
            to: path(to),
            item: Some(item.id),
            entry: item.entry,
            pre: Some(item.entry),
        });
        self
    }
}

fn all_applied(results: &[OpResult]) {
    assert!(results.iter().all(is_applied), "{results:?}");
}

on_each_database!(a_chain_of_renames_needs_no_order, |it| {
    for name in ["a", "b", "c"] {
        it.save(name, name).await;
    }
    let ids = (it.id("a").await, it.id("b").await, it.id("c").await);
    let pod = Pod::linked(&it).await.moves("a", "b").await.moves("b", "c").await.moves("c", "d").await;
    all_applied(&pod.send().await.results);
    assert_eq!(it.paths().await, ["b", "c", "d"]);
    assert_eq!((it.id("b").await, it.id("c").await, it.id("d").await), ids);
    for (at, text) in [("b", "a"), ("c", "b"), ("d", "c")] {
        assert_eq!(it.read(at).await.unwrap(), text);
    }
    it.assert_totals().await;
});

on_each_database!(two_files_and_two_folders_swap_names, |it| {
    it.save("a", "was a").await;
    it.save("b", "was b").await;
    it.save("x/only-x", "x").await;
    it.save("y/only-y", "y").await;
    let ids = (it.id("a").await, it.id("x").await, it.id("x/only-x").await);
    let pod = Pod::linked(&it).await.moves("a", "b").await.moves("b", "a").await;
    all_applied(&pod.moves("x", "y").await.moves("y", "x").await.send().await.results);
    assert_eq!(it.paths().await, ["a", "b", "x/", "x/only-y", "y/", "y/only-x"]);
    assert_eq!((it.id("b").await, it.id("y").await, it.id("y/only-x").await), ids);
    assert_eq!((it.read("a").await.unwrap(), it.read("b").await.unwrap()), ("was b".into(), "was a".into()));
    it.assert_totals().await;
});

on_each_database!(a_circle_of_three_with_an_edit_in_it_goes_round, |it| {
    for name in ["a", "b", "c"] {
        it.save(name, &format!("{name}\n")).await;
    }
    let pod = Pod::linked(&it).await.moves("a", "b").await.moves("b", "c").await;
    let pod = pod.rename("c", "a", "c and more\n", file("c\n"));
    all_applied(&pod.send().await.results);
    let texts = [it.read("a").await.unwrap(), it.read("b").await.unwrap(), it.read("c").await.unwrap()];
    assert_eq!(texts, ["c and more\n", "a\n", "b\n"]);
});

on_each_database!(a_folder_and_what_is_in_it_change_places, |it| {
    it.save("outer/inner/f", "f").await;
    it.save("outer/g", "g").await;
    let (outer, inner) = (it.id("outer").await, it.id("outer/inner").await);
    // mv outer/inner tmp; mv outer tmp/outer; mv tmp inner
    let pod = Pod::linked(&it).await.moves("outer", "inner/outer").await.moves("outer/inner", "inner").await;
    all_applied(&pod.send().await.results);
    assert_eq!(it.paths().await, ["inner/", "inner/f", "inner/outer/", "inner/outer/g"]);
    assert_eq!((it.id("inner").await, it.id("inner/outer").await), (inner, outer));
    it.assert_totals().await;
});

on_each_database!(what_left_a_folder_before_it_was_renamed_goes_where_it_was_put, |it| {
    it.save("dir/stays", "s").await;
    it.save("dir/leaves", "l").await;
    let id = it.id("dir/leaves").await;
    let pod = Pod::linked(&it).await.moves("dir", "new").await.moves("dir/leaves", "elsewhere/left").await;
    let pod = pod.entry("elsewhere", Entry::dir(0o700), None);
    all_applied(&pod.send().await.results);
    assert_eq!(it.paths().await, ["elsewhere/", "elsewhere/left", "new/", "new/stays"]);
    assert_eq!(it.id("elsewhere/left").await, id);
    assert_eq!(it.entry_of("elsewhere").await, Entry::dir(0o700), "the new folder's own mode");
});

on_each_database!(a_folder_renamed_with_an_edit_below_and_something_new_takes_both, |it| {
    it.save("dir/f", "old").await;
    it.save("dir/sub/g", "g").await;
    let id = it.id("dir/f").await;
    let pod = Pod::linked(&it).await.moves("dir", "new").await;
    // Whether or not the agent says what it knew of the file at its new path.
    let pod = pod.put("new/f", "edited", None).put("new/fresh", "n", None);
    all_applied(&pod.send().await.results);
    assert_eq!(it.paths().await, ["new/", "new/f", "new/fresh", "new/sub/", "new/sub/g"]);
    assert_eq!((it.read("new/f").await.unwrap(), it.id("new/f").await), ("edited".into(), id));
    assert_eq!(losers(&it, false).await, []);

    let pod = Pod::linked(&it).await.moves("new", "dir").await;
    let pod = pod.rename("new/f", "dir/f", "edited again", file("edited"));
    all_applied(&pod.send().await.results);
    assert_eq!((it.read("dir/f").await.unwrap(), it.id("dir/f").await), ("edited again".into(), id));
    it.assert_totals().await;
});

on_each_database!(a_folder_renamed_there_takes_what_was_changed_and_added_here_along, |it| {
    it.save("dir/f", "old").await;
    let pod = Pod::linked(&it).await.moves("dir", "new").await;
    it.batch(vec![write("dir/f", "edited here"), write("dir/added", "a")]).await.unwrap();
    all_applied(&pod.send().await.results);
    assert_eq!(it.paths().await, ["new/", "new/added", "new/f"]);
    assert_eq!(it.read("new/f").await.unwrap(), "edited here");
    it.assert_totals().await;
});

on_each_database!(an_edit_here_of_what_was_renamed_there_stands_at_the_new_name, |it| {
    it.save("a", "old").await;
    let pod = Pod::linked(&it).await.moves("a", "b").await;
    it.save("a", "edited here").await;
    let done = pod.send().await;
    assert_eq!(done.results, [superseded(false, Some(file("edited here")))]);
    assert_eq!((it.paths().await, it.read("b").await.unwrap()), (vec!["b".to_owned()], "edited here".into()));
});

on_each_database!(renamed_and_edited_there_and_edited_here_is_merged_or_a_conflict_at_the_new_name, |it| {
    it.save("a", "1\n2\n3\n4\n5\n").await;
    let pod = Pod::linked(&it).await.rename("a", "b", "1\n2\n3\n4\nFIVE\n", file("1\n2\n3\n4\n5\n"));
    it.save("a", "ONE\n2\n3\n4\n5\n").await;
    let merged = "ONE\n2\n3\n4\nFIVE\n";
    assert_eq!(pod.send().await.results, [superseded(false, Some(file(merged)))]);
    assert_eq!((it.paths().await, it.read("b").await.unwrap()), (vec!["b".to_owned()], merged.into()));

    let pod = Pod::linked(&it).await.rename("b", "c", "there", file(merged));
    it.save("b", "here").await;
    assert_eq!(pod.send().await.results, [superseded(true, Some(file("here")))]);
    assert_eq!(it.read("c").await.unwrap(), "here");
    assert_eq!(losers(&it, true).await[0].1, "there");
    it.assert_totals().await;
});

on_each_database!(a_rename_into_a_folder_that_was_deleted_here_makes_it_again, |it| {
    it.save("dir/other", "o").await;
    it.save("a", "a").await;
    let pod = Pod::linked(&it).await.moves("a", "dir/a").await;
    it.batch(vec![delete("dir")]).await.unwrap();
    all_applied(&pod.send().await.results);
    assert_eq!(it.paths().await, ["dir/", "dir/a"]);
});

on_each_database!(a_rename_over_what_the_pod_knew_replaces_it_and_the_history_keeps_it, |it| {
    it.save("draft", "new text").await;
    it.save("final", "old text").await;
    let id = it.id("draft").await;
    all_applied(&Pod::linked(&it).await.moves("draft", "final").await.send().await.results);
    assert_eq!((it.paths().await, it.id("final").await), (vec!["final".to_owned()], id));
    assert_eq!(it.read("final").await.unwrap(), "new text");
    it.assert_totals().await;
    it.store.undo(it.session, &path("final"), &crate::harness::author()).await.unwrap();
    assert_eq!(it.read("final").await.unwrap(), "old text");
});

on_each_database!(a_rename_over_what_was_changed_here_meanwhile_is_a_conflict_that_keeps_both, |it| {
    it.save("draft", "pod's").await;
    it.save("final", "old").await;
    let pod = Pod::linked(&it).await.moves("draft", "final").await;
    it.save("final", "editor's").await;
    assert_eq!(pod.send().await.results, [superseded(true, Some(file("editor's")))]);
    assert_eq!(
        (it.paths().await, it.read("final").await.unwrap()),
        (vec!["final".into()], "editor's".into())
    );
    assert_eq!(losers(&it, true).await[0].1, "pod's");
    it.assert_totals().await;
});

on_each_database!(a_folder_renamed_to_where_one_was_made_here_is_sent_one_by_one_and_stays_till_then, |it| {
    it.save("dir/f", "f").await;
    let pod = Pod::linked(&it).await.moves("dir", "new").await;
    it.save("new/made-here", "m").await;
    let done = pod.send().await;
    assert_eq!(refusal(&done.results[0]), "rename_contested");
    assert_eq!(it.paths().await, ["dir/", "dir/f", "new/", "new/made-here"]);
    it.assert_totals().await;
});

on_each_database!(a_rename_below_what_is_a_file_here_by_now_keeps_the_bytes_in_the_history, |it| {
    it.save("dir/other", "o").await;
    it.save("a", "a's bytes").await;
    let pod = Pod::linked(&it).await.moves("a", "dir/a").await;
    it.batch(vec![delete("dir"), write("dir", "a file now")]).await.unwrap();
    assert_eq!(pod.send().await.results, [superseded(true, None)]);
    assert_eq!(it.read("dir").await.unwrap(), "a file now");
    assert_eq!(losers(&it, true).await[0].1, "a's bytes");
    it.assert_totals().await;
});

on_each_database!(deleted_here_and_renamed_there_what_the_pod_has_stays, |it| {
    it.save("a", "kept").await;
    let pod = Pod::linked(&it).await.rename("a", "b", "kept", file("kept"));
    it.batch(vec![delete("a")]).await.unwrap();
    all_applied(&pod.send().await.results);
    assert_eq!((it.paths().await, it.read("b").await.unwrap()), (vec!["b".to_owned()], "kept".into()));
});

on_each_database!(a_rename_needs_no_room_in_a_workspace_that_is_full, |it| {
    it.save("a", "12345").await;
    it.save("dir/f", "12345").await;
    let full = it.limited(|limits| (limits.workspace_items, limits.workspace_bytes) = (3, 10));
    let pod = Pod::linked(&full).await.moves("a", "b").await.moves("dir", "new").await;
    all_applied(&pod.send().await.results);
    assert_eq!(it.paths().await, ["b", "new/", "new/f"]);
});

on_each_database!(a_rename_that_lies_about_a_folder_never_leaves_anything_without_one, |it| {
    it.save("dir/f", "f").await;
    for (entry, pre) in [
        (Entry::dir(0o755), Some(file("no folder"))),
        (Entry::dir(0o755), None),
        (file("f"), Some(Entry::dir(0o755))),
    ] {
        let mut pod = Pod::linked(&it).await.put("unrelated", "f", None);
        pod.ops.push(PodOp::Rename { from: path("dir"), to: path("new"), item: None, entry, pre });
        pod.send().await;
        let snapshot = it.snapshot().await;
        for (at, _) in &snapshot.items {
            for above in at.ancestors() {
                let found = snapshot.items.iter().find(|(path, _)| *path == above);
                assert_eq!(found.map(|(_, item)| item.entry.kind), Some(Kind::Dir), "{at} has no {above}");
            }
        }
        it.assert_totals().await;
        let back = Op::Move {
            from: path("new"),
            to: path("dir"),
            overwrite: false,
            precondition: Precondition::Any,
        };
        let _ = it.batch(vec![back]).await;
    }
});

on_each_database!(a_path_that_would_be_too_long_refuses_the_folder_and_loses_nothing, |it| {
    let deep = (0..60).map(|n| n.to_string()).collect::<Vec<_>>().join("/");
    it.save(&format!("dir/{deep}"), "deep").await;
    it.save("a/b/c/d/e/f", "f").await;
    let done = Pod::linked(&it).await.moves("dir", "a/b/c/d/e/dir").await.send().await;
    assert_eq!(refusal(&done.results[0]), "rename_contested");
    assert_eq!(it.read(&format!("dir/{deep}")).await.unwrap(), "deep");
    it.assert_totals().await;
});

on_each_database!(a_circle_that_meets_a_rename_here_loses_no_bytes, |it| {
    it.save("a", "was a").await;
    it.save("b", "was b").await;
    let pod = Pod::linked(&it).await.moves("a", "b").await.moves("b", "a").await;
    it.batch(vec![rename("a", "c")]).await.unwrap();
    pod.send().await;
    let texts: Vec<_> = it.files().await.into_values().collect();
    assert!(texts.contains(&file("was a").hash) && texts.contains(&file("was b").hash), "{texts:?}");
    assert!(it.rev().await > Revision(3).0);
    it.assert_totals().await;
});
