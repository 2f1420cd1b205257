//! The engine on a real folder with real inotify, against a small database that speaks the real protocol.

mod clock;
mod fixtures;
mod kernels;
mod large;
mod rules;
mod stage;
mod stored;
mod swapper;

use fixtures::{Database, Folder, Link, PATIENCE, path};
use shared::id::Revision;
use shared::link::frame;
use shared::link::sync::{FromAgent, FromControlPlane};
use shared::tree::{Hash, Kind};
use std::collections::HashMap;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_writes_changes_and_deletes_reaches_the_database() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    folder.write("src/deep/main.py", "print(1)");
    link.until(&mut database, "a new file in new folders", |d| d.text("src/deep/main.py").is_some()).await;
    folder.write("src/deep/main.py", "print(2)");
    link.until(&mut database, "an edit", |d| d.text("src/deep/main.py").as_deref() == Some("print(2)")).await;
    std::fs::rename(folder.app("src"), folder.app("lib")).unwrap();
    link.until(&mut database, "a rename", |d| {
        d.text("lib/deep/main.py").is_some() && !d.tree.contains_key(&path("src"))
    })
    .await;
    std::fs::remove_dir_all(folder.app("lib")).unwrap();
    link.until(&mut database, "a delete", |d| d.tree.is_empty()).await;
    folder.write("node_modules/x.js", "ignored");
    folder.write("seen", "x");
    link.until(&mut database, "the next file", |d| d.text("seen").is_some()).await;
    assert_eq!(database.tree.len(), 1, "what is ignored stays in the pod");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_is_visible_in_the_folder_when_the_agent_says_so_and_comes_back_to_nobody() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    for n in 0..100 {
        let op = database.save("main.py", &format!("print({n})"));
        let rev = database.rev;
        link.push(&database, vec![op], false).await;
        link.until(&mut database, "visible", |d| d.visible >= rev).await;
        assert_eq!(folder.read("main.py"), Some(format!("print({n})")));
    }
    let op = database.delete("main.py");
    let rev = database.rev;
    link.push(&database, vec![op], false).await;
    link.until(&mut database, "visible", |d| d.visible >= rev).await;
    assert_eq!(folder.read("main.py"), None);
    link.say(FromControlPlane::Settle { token: 7 }).await;
    link.until(&mut database, "settled", |d| d.settled == 7).await;
    assert_eq!((database.received, database.tree.len()), (0, 0), "nothing was echoed");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_thousand_files_at_once_are_all_there() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    for n in 0..3_000 {
        folder.write(&format!("d{}/e{}/f{n}", n % 50, n % 7), &n.to_string());
    }
    let files = |d: &Database| d.tree.values().filter(|entry| entry.kind == Kind::File).count();
    link.until(&mut database, "all files", |d| files(d) == 3_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_batches_of_one_removal_name_the_first_of_them() {
    let (folder, mut database) = (Folder::new(), Database::default());
    for n in 0..3_000 {
        folder.write(&format!("tree/{}/{n}", n % 10), "");
    }
    folder.write("tree of its own", "");
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    link.until(&mut database, "all files", |d| d.tree.len() == 3_012).await;
    std::fs::remove_dir_all(folder.app("tree")).unwrap();
    link.until(&mut database, "the tree goes", |d| d.tree.len() == 1).await;
    let (first, on) = database.removals[0];
    assert_eq!(on, None);
    assert!(database.removals.len() >= 3, "{:?}", database.removals);
    assert!(database.removals[1..].iter().all(|(_, on)| *on == Some(first)), "{:?}", database.removals);
    // Another one, a while later.
    let sent = database.removals.len();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    std::fs::remove_file(folder.app("tree of its own")).unwrap();
    link.until(&mut database, "the other goes", |d| d.tree.is_empty()).await;
    assert_eq!(database.removals[sent].1, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_new_folders_with_an_empty_file_each_go_at_once() {
    let (folder, mut database) = (Folder::new(), Database::default());
    for n in 0..300 {
        folder.write(&format!("d{n}/__init__.py"), "");
    }
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    link.until(&mut database, "all of them", |d| d.tree.len() == 600).await;
    assert_eq!(database.rev, 1, "in one batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_waits_for_what_was_written_before_and_not_for_what_goes_on() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    let log = folder.app("log");
    let end = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ending = std::sync::Arc::clone(&end);
    // A log that grows all the time, and new files all the time.
    let writing = std::thread::spawn(move || {
        use std::io::Write;
        let mut file = std::fs::File::create(&log).unwrap();
        for n in 0.. {
            writeln!(file, "line {n}").unwrap();
            std::fs::write(log.with_file_name(format!("new{}", n % 1_000)), n.to_string()).unwrap();
            if ending.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    for token in 1..=10 {
        folder.write("before", &token.to_string());
        link.say(FromControlPlane::Settle { token }).await;
        link.until(&mut database, "an answer", |d| d.settled == token).await;
        assert_eq!(database.text("before"), Some(token.to_string()));
    }
    end.store(true, std::sync::atomic::Ordering::Relaxed);
    writing.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_changes_made_while_apart_meet_and_a_conflict_keeps_both() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    folder.write("a", "one");
    folder.write("b", "one");
    link.until(&mut database, "both files", |d| d.tree.len() == 2).await;
    link.push(&database, vec![], false).await;
    let rev = database.rev;
    link.until(&mut database, "the revision", |d| d.visible >= rev).await;
    drop(link);

    folder.write("a", "the pod's");
    folder.write("new", "the pod's");
    let theirs = database.save("a", "the page's");
    let alone = database.save("b", "two");
    let rev = database.rev;
    let mut link = Link::up(&sync, 2).await;
    assert_eq!(link.hello.base_rev.0, rev - 2);
    link.welcome(&database).await;
    link.push(&database, vec![theirs, alone], false).await;
    link.until(&mut database, "both", |d| d.visible >= rev && d.text("new").is_some()).await;
    assert_eq!(database.text("a").as_deref(), Some("the page's"));
    assert_eq!(folder.read("a").as_deref(), Some("the page's"));
    assert_eq!(folder.read("b").as_deref(), Some("two"));
    assert_eq!(database.lost, [Hash::of(b"the pod's")], "the loser is in the history");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_sends_no_content_that_did_not_change_and_a_damaged_base_deletes_nothing() {
    let (folder, mut database) = (Folder::new(), Database::default());
    for n in 0..200 {
        folder.write(&format!("f{n}"), &n.to_string());
    }
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    link.until(&mut database, "all files", |d| d.tree.len() == 200).await;
    link.push(&database, vec![], false).await;
    let rev = database.rev;
    link.until(&mut database, "the revision", |d| d.visible >= rev).await;
    drop(link);
    sync.end(Duration::from_millis(10)).await;

    std::fs::remove_file(folder.app("f0")).unwrap();
    let sync = folder.start();
    let before = database.received;
    let mut link = Link::up(&sync, 2).await;
    assert_eq!(link.hello.base_rev, Revision(rev));
    link.welcome(&database).await;
    link.until(&mut database, "the delete", |d| d.tree.len() == 199).await;
    assert_eq!(database.received, before, "no content goes twice");
    drop(link);
    sync.end(Duration::from_millis(10)).await;

    let base = folder.dir.path().join(".berth/base");
    let mut bytes = std::fs::read(&base).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&base, bytes).unwrap();
    std::fs::remove_file(folder.app("f1")).unwrap();
    let sync = folder.start();
    let mut link = Link::up(&sync, 3).await;
    assert_eq!(link.hello.base_rev, Revision::ZERO);
    link.welcome(&database).await;
    let rev = database.rev;
    link.until(&mut database, "the union", |d| d.visible >= rev).await;
    assert_eq!(database.tree.len(), 199);
    assert_eq!(folder.read("f1").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn most_files_gone_at_a_start_are_asked_for_and_come_back_when_they_should() {
    let (folder, mut database) = (Folder::new(), Database::default());
    for n in 0..20 {
        folder.write(&format!("f{n}"), &n.to_string());
    }
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    link.until(&mut database, "all files", |d| d.tree.len() == 20).await;
    link.push(&database, vec![], false).await;
    let rev = database.rev;
    link.until(&mut database, "the revision", |d| d.visible >= rev).await;
    drop(link);
    sync.end(Duration::from_millis(10)).await;

    for n in 0..15 {
        std::fs::remove_file(folder.app(&format!("f{n}"))).unwrap();
    }
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 2, &database).await;
    folder.write("new", "x");
    link.until(&mut database, "a new file", |d| d.text("new").is_some()).await;
    assert_eq!((database.held, database.tree.len()), (15, 21), "nothing is deleted before somebody says so");
    link.say(FromControlPlane::MassDeleteDecision { delete: false }).await;
    let ending = async { while let Ok(Some(_)) = frame::read::<_, FromAgent>(&mut link.stream).await {} };
    tokio::time::timeout(PATIENCE, ending).await.unwrap();
    drop(link);
    let mut link = Link::up(&sync, 3).await;
    assert_eq!(link.hello.base_rev, Revision::ZERO);
    link.welcome(&database).await;
    link.until(&mut database, "the folder", |_| folder.read("f3").as_deref() == Some("3")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_folder_in_the_place_of_the_known_one_deletes_nothing_unasked() {
    let (folder, mut database) = (Folder::new(), Database::default());
    for name in ["a", "b", "c"] {
        folder.write(name, name);
    }
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    link.until(&mut database, "all files", |d| d.tree.len() == 3).await;
    link.push(&database, vec![], false).await;
    let rev = database.rev;
    link.until(&mut database, "the revision", |d| d.visible >= rev).await;
    drop(link);
    sync.end(Duration::from_millis(10)).await;

    for round in 2..4 {
        // Made anew, perhaps of the same inode, and asked for also at the start after.
        if round == 2 {
            std::fs::remove_dir_all(folder.app("")).unwrap();
            std::fs::create_dir(folder.app("")).unwrap();
        }
        let sync = folder.start();
        let mut link = Link::up(&sync, round).await;
        link.welcome(&database).await;
        folder.write("new", &round.to_string());
        let text = round.to_string();
        link.until(&mut database, "a new file", |d| d.text("new").as_ref() == Some(&text) && d.held == 3)
            .await;
        assert_eq!(database.tree.len(), 4, "nothing is deleted before somebody says so");
        database.held = 0;
        link.push(&database, vec![], false).await;
        let rev = database.rev;
        link.until(&mut database, "the revision", |d| d.visible >= rev).await;
        drop(link);
        sync.end(Duration::from_millis(10)).await;
    }

    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 4, &database).await;
    link.say(FromControlPlane::MassDeleteDecision { delete: true }).await;
    link.until(&mut database, "what was decided", |d| d.tree.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_in_step_is_listed_and_stays() {
    let (folder, mut database) = (Folder::new(), Database::default());
    std::os::unix::fs::symlink("/etc/passwd", folder.app("outside")).unwrap();
    std::os::unix::fs::symlink("inside", folder.app("link")).unwrap();
    let fifo = folder.app("fifo");
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    link.until(&mut database, "problems", |d| d.problems.len() == 2 && d.tree.len() == 1).await;
    let codes: Vec<_> = database.problems.iter().map(|p| (p.path.as_str(), p.code.as_str())).collect();
    assert_eq!(codes, [("fifo", "special_file"), ("outside", "symlink_outside")]);
    assert!(database.tree.contains_key(&path("link")));
    // A folder swapped for a symlink: nothing is written through it.
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.app("dir")).unwrap();
    let op = database.save("dir/x", "escaped");
    let rev = database.rev;
    link.push(&database, vec![op], false).await;
    link.until(&mut database, "the revision", |d| d.visible >= rev).await;
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_moves_in_the_pod_is_renamed_file_by_file_and_no_content_travels() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    // More than one batch holds, so that what is gone must wait for what is new.
    for n in 0..2_500 {
        folder.write(&format!("old/f{n}"), &format!("{n} {}", "x".repeat(100)));
    }
    link.until(&mut database, "all files", |d| d.tree.len() == 2_501).await;
    let before = database.received;
    std::fs::rename(folder.app("old"), folder.app("new")).unwrap();
    link.until(&mut database, "the move", |d| d.tree.len() == 2_501 && !d.tree.contains_key(&path("old")))
        .await;
    assert_eq!((database.renamed.len(), database.received - before), (2_500, 0));
    assert!(database.renamed.contains(&("old/f7".to_owned(), "new/f7".to_owned())));

    // Another file that only has the number of one that went is no move.
    database.renamed.clear();
    std::fs::remove_file(folder.app("new/f7")).unwrap();
    folder.write("new/another", "other");
    link.until(&mut database, "another", |d| d.text("new/another").is_some() && d.text("new/f7").is_none())
        .await;
    assert_eq!(database.renamed, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_folder_that_keeps_changing_is_gone_through_again_and_long_before_the_next_sweep() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    for n in 0..2_500 {
        folder.write(&format!("big/f{n}"), "text");
    }
    link.until(&mut database, "all files", |d| d.tree.len() == 2_501).await;
    let since = std::time::Instant::now();
    // Each time it may be another folder, and what changed elsewhere told nobody.
    for n in 0..3 {
        std::fs::rename(folder.app("big"), folder.dir.path().join("outside")).unwrap();
        std::fs::remove_file(folder.dir.path().join(format!("outside/f{n}"))).unwrap();
        std::fs::write(folder.dir.path().join(format!("outside/g{n}")), "new").unwrap();
        std::fs::rename(folder.dir.path().join("outside"), folder.app("big")).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let is_new = |d: &Database, n: u32| {
        d.text(&format!("big/g{n}")).is_some() && d.text(&format!("big/f{n}")).is_none()
    };
    link.until(&mut database, "what changed", |d| d.tree.len() == 2_501 && (0..3).all(|n| is_new(d, n)))
        .await;
    assert!(since.elapsed() < PATIENCE / 2, "only a sweep found it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_has_is_not_sent_again_unless_it_turns_out_to_lack_it() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    let text = "y".repeat(100_000);
    folder.write("a", &text);
    link.until(&mut database, "the file", |d| d.text("a").is_some()).await;
    let before = database.received;
    folder.write("copy", &text);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.app("a"), mode).unwrap();
    let executable = |d: &Database| d.tree.get(&path("a")).is_some_and(|entry| entry.mode == 0o755);
    link.until(&mut database, "both", |d| d.text("copy").is_some() && executable(d)).await;
    assert_eq!(database.received, before);

    database.contents.clear();
    folder.write("second", &text);
    link.until(&mut database, "the content again", |d| d.text("second").as_ref() == Some(&text)).await;
    assert_eq!(database.received, before + text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moved_in_the_database_is_taken_from_where_the_pod_has_it() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    folder.write("from/a", "here already");
    link.until(&mut database, "the file", |d| d.text("from/a").is_some()).await;
    let mut ops = vec![database.delete("from/a"), database.delete("from")];
    ops.push(database.save("to/a", "here already"));
    ops.push(database.save("to/b", "not here"));
    let rev = database.rev;
    link.push_with(&HashMap::new(), rev, ops, false).await;
    link.until(&mut database, "a question for the rest", |d| !d.needed.is_empty()).await;
    assert_eq!(database.needed, [Hash::of(b"not here")]);
    assert_eq!(folder.read("to/a").as_deref(), Some("here already"));
    let op = database.save("to/b", "not here");
    link.push(&database, vec![op], false).await;
    link.until(&mut database, "the revision", |d| d.visible > rev).await;
    assert_eq!(folder.read("to/b").as_deref(), Some("not here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_cannot_be_had_is_a_problem_of_its_path_and_holds_up_nothing_else() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    let ops = vec![database.save("lost", "damaged"), database.save("whole", "whole")];
    let (lost, rev) = (Hash::of(b"damaged"), database.rev);
    let contents = HashMap::from([(Hash::of(b"whole"), b"whole".to_vec())]);
    link.push_with(&contents, rev, ops, false).await;
    link.say(FromControlPlane::Unavailable { hashes: vec![lost] }).await;
    link.until(&mut database, "the revision", |d| d.visible >= rev && !d.problems.is_empty()).await;
    let codes: Vec<_> = database.problems.iter().map(|p| (p.path.as_str(), p.code.as_str())).collect();
    assert_eq!(codes, [("lost", "content_damaged")]);
    assert_eq!(folder.read("whole").as_deref(), Some("whole"));
    let op = database.save("lost", "saved anew");
    let rev = database.rev;
    link.push(&database, vec![op], false).await;
    link.until(&mut database, "the save", |d| d.visible >= rev && d.problems.is_empty()).await;
    assert_eq!(folder.read("lost").as_deref(), Some("saved anew"));
}
