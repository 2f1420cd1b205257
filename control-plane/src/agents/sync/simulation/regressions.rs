//! What seeds once found, told step by step, at every moment at which it can happen.

use super::files::Body;
use super::world::World;
use crate::workspace::{Op, Origin, Precondition};
use bytes::Bytes;
use shared::limits::SyncLimits;
use shared::path::WorkspacePath;
use shared::tree::{Hash, digest};
use std::time::Duration;

fn path(text: &str) -> WorkspacePath {
    WorkspacePath::new(text).unwrap()
}

fn user(world: &mut World, op: Op) {
    let before = world.server.memory.rev;
    world.server.memory.batch(&[op], Origin::Editor).unwrap();
    world.committed(before);
}

fn save(world: &mut World, at: &str, text: &'static str) {
    let bytes = Bytes::from_static(text.as_bytes());
    user(world, Op::Write { path: path(at), bytes, mode: None, precondition: Precondition::Any });
}

fn delete(world: &mut World, at: &str) {
    user(world, Op::Delete { path: path(at), precondition: Precondition::Any });
}

fn write(world: &mut World, at: &str, text: &'static str) {
    assert!(world.files.borrow_mut().write(&path(at), Bytes::from_static(text.as_bytes()), true));
}

/// Bytes that no compression makes fewer.
fn noise(size: usize) -> Bytes {
    let hashes = (0u32..).flat_map(|n| Hash::of(&n.to_be_bytes()).0);
    hashes.take(size).collect()
}

fn pod(world: &World, at: &str) -> Option<Bytes> {
    match world.files.borrow().body(&path(at)) {
        Some(Body::File(bytes)) => Some(bytes.clone()),
        _ => None,
    }
}

fn pass(world: &mut World, time: Duration) {
    let until = world.now + time;
    world.advance(until);
}

/// A world whose agent is linked, and both sides in step.
fn linked(seed: u64) -> World {
    let mut world = World::new(seed);
    pass(&mut world, Duration::from_secs(5));
    assert!(world.is_linked());
    world
}

/// Each case at many moments: something happens so many milliseconds after something else.
fn at_each_moment(case: impl Fn(u64, Duration)) {
    for seed in 0..8 {
        for ms in (0..200).step_by(10) {
            case(seed, Duration::from_millis(ms));
        }
    }
}

const REST: Duration = Duration::from_secs(20);

#[test]
fn a_batch_read_before_a_commit_and_sent_after_its_answer_undoes_nothing() {
    at_each_moment(|seed, moment| {
        let mut world = linked(seed);
        write(&mut world, "a", "one");
        pass(&mut world, REST);
        delete(&mut world, "a");
        pass(&mut world, moment);
        // It may be deleted by now: then it is new.
        write(&mut world, "a", "two");
        pass(&mut world, REST);
        assert_eq!(pod(&world, "a").as_deref(), Some(&b"two"[..]));
        assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
    });
}

#[test]
fn a_content_asked_for_comes_also_when_something_newer_was_sent_meanwhile() {
    at_each_moment(|seed, moment| {
        let mut world = linked(seed);
        save(&mut world, "a", "old");
        pass(&mut world, REST);
        world.stop_agent(true, Duration::from_secs(1));
        // The whole tree is told then, without contents.
        save(&mut world, "a", "new");
        save(&mut world, "b", "another");
        world.server.memory.prune();
        while !world.is_linked() {
            pass(&mut world, Duration::from_millis(10));
        }
        pass(&mut world, moment);
        save(&mut world, "c", "newer");
        save(&mut world, "b", "newer than another");
        pass(&mut world, REST);
        assert_eq!(world.server.visible, world.server.memory.rev);
        assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
    });
}

/// A program writes on after what was sent of it, with something that befalls the answer before and after that.
fn who_writes_on_is_in_no_conflict_with_himself(before: fn(&mut World), meanwhile: fn(&mut World)) {
    at_each_moment(|seed, moment| {
        let mut world = linked(seed);
        write(&mut world, "a", "one\n");
        pass(&mut world, REST);
        before(&mut world);
        write(&mut world, "a", "two\n");
        pass(&mut world, moment);
        meanwhile(&mut world);
        write(&mut world, "a", "three\n");
        pass(&mut world, REST);
        let conflict = world.server.memory.versions.iter().find(|version| version.open_conflict);
        assert!(conflict.is_none(), "{conflict:?}");
        assert_eq!(pod(&world, "a").as_deref(), Some(&b"three\n"[..]));
        assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
    });
}

#[test]
fn who_writes_on_while_an_answer_is_lost_is_in_no_conflict_with_himself() {
    who_writes_on_is_in_no_conflict_with_himself(|_| {}, World::cut);
}

#[test]
fn who_writes_on_while_the_database_loses_its_answer_is_in_no_conflict_with_himself() {
    who_writes_on_is_in_no_conflict_with_himself(|world| world.server.lost_answers = 1, |_| {});
}

#[test]
fn a_save_brought_in_before_the_answer_to_what_the_pod_sent_undoes_no_merge_of_both() {
    let merges = std::cell::Cell::new(0);
    at_each_moment(|seed, moment| {
        let mut world = linked(seed);
        save(&mut world, "a", "1\n2\n3\n");
        pass(&mut world, REST);
        write(&mut world, "a", "one\n2\n3\n");
        pass(&mut world, moment);
        let sent_before = world.server.memory.keeps(Hash::of(b"one\n2\n3\n"));
        save(&mut world, "a", "1\n2\nthree\n");
        assert!(world.files.borrow_mut().remove(&path("a")));
        pass(&mut world, REST);
        assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
        let merged = !sent_before && world.server.memory.keeps(Hash::of(b"one\n2\n3\n"));
        let expected: &[u8] = if merged { b"one\n2\nthree\n" } else { b"1\n2\nthree\n" };
        assert_eq!(pod(&world, "a").as_deref(), Some(expected), "{seed} {moment:?}");
        merges.set(merges.get() + u32::from(merged));
    });
    assert!(merges.get() > 0, "it never came to a merge");
}

#[test]
fn nothing_in_a_refused_folder_is_sent_to_where_a_file_stands() {
    let mut world = linked(1);
    write(&mut world, "a", "a file");
    pass(&mut world, REST);
    world.server.refusals = 1;
    assert!(world.files.borrow_mut().remove(&path("a")));
    write(&mut world, "a/b", "in a folder");
    pass(&mut world, Duration::from_secs(5));
    write(&mut world, "a/b", "in a folder still");
    pass(&mut world, Duration::from_secs(100));
    assert_eq!(pod(&world, "a/b").as_deref(), Some(&b"in a folder still"[..]));
    assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
    let conflict = world.server.memory.versions.iter().find(|version| version.open_conflict);
    assert!(conflict.is_none(), "{conflict:?}");
}

#[test]
fn what_was_stored_before_the_limits_were_lowered_comes_and_hinders_nobody() {
    let mut world = linked(1);
    let noise = noise(3_000_000);
    for (at, size) in [("large", 3_000_000), ("small", 500_000)] {
        let bytes = noise.slice(..size);
        user(&mut world, Op::Write { path: path(at), bytes, mode: None, precondition: Precondition::Any });
    }
    pass(&mut world, REST);
    world.server.memory.limits = SyncLimits { file_bytes: 100_000, ..SyncLimits::default() };
    world.restart_server();
    // A new pod has nothing yet.
    world.stop_agent(false, Duration::from_secs(1));
    world.files.borrow_mut().wipe();
    pass(&mut world, REST);
    save(&mut world, "b", "text");
    write(&mut world, "c", "text");
    pass(&mut world, Duration::from_secs(5));
    assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
    assert!(world.server.problems.is_empty(), "{:?}", world.server.problems);
    // What is written from now on is under the new limits, and listed for as long as it is.
    write(&mut world, "small", "short");
    let wrote = world.files.borrow_mut().write(&path("large"), noise.slice(1..3_000_000), true);
    assert!(wrote);
    pass(&mut world, Duration::from_secs(100));
    assert_eq!(world.server.problems.iter().map(|it| &*it.code).collect::<Vec<_>>(), ["too_large"]);
    world.server.memory.limits = SyncLimits::default();
    world.restart_server();
    pass(&mut world, Duration::from_secs(5));
    assert!(world.server.problems.is_empty(), "{:?}", world.server.problems);
    assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
}

#[test]
fn nobody_waits_for_the_delete_of_a_file_that_changed_and_is_too_large_by_now() {
    let mut world = linked(1);
    save(&mut world, "a", "as it was saved");
    pass(&mut world, REST);
    world.server.memory.limits = SyncLimits { file_bytes: 5, ..SyncLimits::default() };
    world.restart_server();
    // Through a memory map, of which no event tells.
    let mapped = Bytes::from_static(b"as it is mapped");
    assert!(world.files.borrow_mut().write(&path("a"), mapped.clone(), false));
    delete(&mut world, "a");
    pass(&mut world, REST);
    assert_eq!(world.server.visible, world.server.memory.rev);
    assert_eq!(pod(&world, "a"), Some(mapped));
    assert_eq!(world.server.problems.iter().map(|it| &*it.code).collect::<Vec<_>>(), ["too_large"]);
}

#[test]
fn what_has_no_room_is_sent_again_less_and_less_often_and_stays_listed() {
    let mut world = linked(1);
    world.server.memory.limits = SyncLimits { workspace_items: 1, ..SyncLimits::default() };
    // Watches ran out, so that everything is looked at every 2 s.
    world.files.borrow_mut().watcher.most = 0;
    world.stop_agent(true, Duration::ZERO);
    write(&mut world, "a", "text");
    pass(&mut world, REST);
    write(&mut world, "b", "text");
    pass(&mut world, REST);
    let batches = world.server.batches;
    for _ in 0..200 {
        pass(&mut world, Duration::from_secs(5));
        let codes: Vec<_> = world.server.problems.iter().map(|it| it.code.as_str()).collect();
        assert_eq!(codes, ["polling", "too_many_items"]);
    }
    let more = world.server.batches - batches;
    assert!((2..8).contains(&more), "sent {more} times in 1,000 s");
    // Less often than every 200 s by now; but soon after there is room.
    delete(&mut world, "a");
    pass(&mut world, Duration::from_secs(100));
    assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
}

#[test]
fn what_cannot_be_had_stays_listed_until_it_can() {
    let mut world = linked(1);
    user(&mut world, Op::Symlink { path: path("out"), target: "/etc".into() });
    write(&mut world, "d/e", "text");
    write(&mut world, "d/node_modules/x", "of a tool");
    pass(&mut world, REST);
    delete(&mut world, "d");
    pass(&mut world, Duration::from_secs(300));
    let codes = |world: &World| world.server.problems.iter().map(|p| p.code.clone()).collect::<Vec<_>>();
    assert_eq!(codes(&world), ["in_the_way", "symlink_outside"]);
    // Nobody is told of what happens to files that are ignored.
    assert!(world.files.borrow_mut().remove(&path("d/node_modules")));
    pass(&mut world, Duration::from_secs(70));
    assert_eq!(codes(&world), ["symlink_outside"]);
    assert!(world.files.borrow().body(&path("d")).is_none());
}

#[test]
fn what_is_sent_of_a_folder_that_moves_away_meanwhile_is_looked_at_again() {
    at_each_moment(|seed, moment| {
        let mut world = linked(seed);
        write(&mut world, "d/a", "one");
        pass(&mut world, REST);
        write(&mut world, "d/b", "two");
        pass(&mut world, moment);
        assert!(world.files.borrow_mut().move_out(&path("d")));
        // Then the folder is there again, and with it nobody but this one.
        save(&mut world, "d/a", "one more");
        pass(&mut world, REST);
        assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
        assert_eq!(pod(&world, "d/a").as_deref(), Some(&b"one more"[..]));
    });
}

#[test]
fn a_large_file_in_the_place_of_a_folder_in_which_a_user_saved_is_looked_at_once() {
    let mut world = linked(1);
    save(&mut world, "d/a", "one");
    pass(&mut world, REST);
    world.stop_agent(true, Duration::from_secs(1));
    for at in ["d", "d/a"] {
        user(&mut world, Op::Chmod { path: path(at), mode: 0o700 });
    }
    assert!(world.files.borrow_mut().remove(&path("d")));
    let large = noise(3_000_000);
    assert!(world.files.borrow_mut().write(&path("d"), large.clone(), true));
    // Of a busy loop, while the content travels, the world itself would complain.
    pass(&mut world, REST);
    assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
    assert!(world.server.memory.keeps(Hash::of(&large)), "what the pod wrote is in the history");
}

#[test]
fn a_large_file_waits_for_others_only_as_long_as_they_are_uploaded() {
    let large = noise(1_100_000);
    at_each_moment(|seed, moment| {
        let mut world = linked(seed);
        for at in ["a", "b", "c"] {
            assert!(world.files.borrow_mut().write(
                &path(at),
                large.slice(usize::from(at.as_bytes()[0])..),
                true
            ));
        }
        pass(&mut world, moment);
        // Perhaps its turn has not come, and it is no large one any more when it has.
        assert!(world.files.borrow_mut().remove(&path("b")));
        // No sweep finds what was forgotten in this time.
        pass(&mut world, Duration::from_secs(10));
        assert_eq!(world.server.memory.tree(), world.files.borrow().tree(), "{seed} {moment:?}");
    });
}

#[test]
fn a_folder_whose_delete_was_overruled_is_kept_in_step_whatever_becomes_of_the_link() {
    for (top, agent_too) in [("d", false), ("d", true), ("node_modules", false), ("node_modules", true)] {
        let mut world = linked(1);
        save(&mut world, &format!("{top}/tool/a"), "by a user");
        pass(&mut world, REST);
        // What the user saves next has no room in the pod, where a file takes the folder's place meanwhile.
        world.files.borrow_mut().full = true;
        save(&mut world, &format!("{top}/tool/b"), "new");
        pass(&mut world, Duration::from_secs(30));
        assert!(world.files.borrow_mut().remove(&path(top)));
        write(&mut world, top, "a file");
        // Long enough for the delete to be sent and answered.
        pass(&mut world, Duration::from_millis(1500));
        if agent_too {
            world.stop_agent(true, Duration::from_secs(1));
        } else {
            world.cut();
        }
        world.files.borrow_mut().full = false;
        pass(&mut world, Duration::from_secs(100));
        assert_eq!(world.server.memory.tree(), world.files.borrow().tree(), "{top}");
        assert_eq!(world.hello().unwrap().base_digest, digest(&world.server.memory.tree()), "{top}");
    }
}

#[test]
fn a_full_volume_is_tried_again_less_and_less_often_and_heals() {
    let mut world = linked(1);
    world.files.borrow_mut().full = true;
    save(&mut world, "a", "text");
    pass(&mut world, Duration::from_secs(300));
    let links = world.counts["links"];
    assert!((5..30).contains(&links), "{links} links in 300 s");
    world.files.borrow_mut().full = false;
    pass(&mut world, Duration::from_secs(40));
    assert_eq!(pod(&world, "a").as_deref(), Some(&b"text"[..]));
    assert!(world.server.problems.is_empty());
    let healed = world.counts["links"];
    pass(&mut world, Duration::from_secs(300));
    assert_eq!(world.counts["links"], healed, "a link that nothing is wrong with stays");
}

#[test]
fn of_an_ignored_folder_only_what_the_database_has_is_kept_in_step() {
    let mut world = linked(1);
    write(&mut world, "node_modules/tool/a", "of a tool");
    write(&mut world, "node_modules/b", "of a tool");
    save(&mut world, "node_modules/tool/by/user", "by a user");
    // Sweeps included.
    pass(&mut world, Duration::from_secs(150));
    assert_eq!(pod(&world, "node_modules/tool/by/user").as_deref(), Some(&b"by a user"[..]));
    let paths: Vec<_> = world.server.memory.tree().into_keys().map(|path| path.to_string()).collect();
    let of_user = ["node_modules", "node_modules/tool", "node_modules/tool/by", "node_modules/tool/by/user"];
    assert_eq!(paths, of_user);
    // And that at once, also where the folder was there before anybody watched it.
    assert!(world.files.borrow_mut().remove(&path("node_modules/tool/by")));
    pass(&mut world, Duration::from_secs(5));
    assert!(world.server.memory.item(&path("node_modules/tool/by")).is_none());
}

#[test]
fn an_ignored_folder_of_another_mode_is_watched_once_a_user_saves_in_it() {
    let mut world = linked(1);
    write(&mut world, "node_modules/a", "of a tool");
    assert!(world.files.borrow_mut().chmod(&path("node_modules"), 0o700));
    save(&mut world, "node_modules/b", "by a user");
    pass(&mut world, Duration::from_secs(5));
    write(&mut world, "node_modules/b", "by a tool");
    // No sweep finds it in this time.
    pass(&mut world, Duration::from_secs(5));
    let item = world.server.memory.item(&path("node_modules/b")).unwrap();
    assert_eq!(item.entry.hash, Hash::of(b"by a tool"));
}

#[test]
fn a_folder_in_the_place_of_a_file_that_kept_changing_is_told_before_what_it_holds() {
    at_each_moment(|seed, moment| {
        let mut world = linked(seed);
        write(&mut world, "b", "old");
        pass(&mut world, REST);
        // What keeps changing is sent by itself, after what others there are.
        world.files.borrow_mut().hot.insert(path("b"));
        write(&mut world, "b", "new");
        pass(&mut world, moment);
        assert!(world.files.borrow_mut().remove(&path("b")));
        write(&mut world, "a", "another");
        write(&mut world, "b/c/d", "in a folder");
        pass(&mut world, REST);
        assert_eq!(pod(&world, "b/c/d").as_deref(), Some(&b"in a folder"[..]), "{seed} {moment:?}");
        assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
        let conflict = world.server.memory.versions.iter().find(|version| version.open_conflict);
        assert!(conflict.is_none(), "{seed} {moment:?}: {conflict:?}");
    });
}

#[test]
fn a_database_put_back_to_an_earlier_state_takes_nothing_from_the_pod() {
    // It stays behind the agent's base, is as far again, or further when the agent sees it.
    for since in 0..4 {
        let mut world = linked(1);
        world.server.put_back = true;
        save(&mut world, "both", "then");
        write(&mut world, "changed", "then");
        pass(&mut world, REST);
        let earlier = world.server.memory.clone();
        write(&mut world, "changed", "now");
        write(&mut world, "new", "the pod's");
        pass(&mut world, REST);
        world.server.memory = earlier;
        world.restart_server();
        for _ in 0..since {
            save(&mut world, "saved", "the page's");
            delete(&mut world, "saved");
        }
        save(&mut world, "saved", "the page's");
        // Where nothing else tells, the next sweep does.
        pass(&mut world, Duration::from_secs(150));
        let tree = world.server.memory.tree();
        assert_eq!(tree, world.files.borrow().tree(), "{since}");
        for at in ["both", "changed", "new", "saved"] {
            assert!(tree.contains_key(&path(at)), "{since}: {at}");
        }
        let kept = |text: &[u8]| {
            let has = |entry: &shared::tree::Entry| entry.hash == Hash::of(text);
            tree.values().any(has) || world.server.memory.versions.iter().any(|kept| has(&kept.entry))
        };
        assert!(kept(b"now") && kept(b"the pod's") && kept(b"the page's"), "{since}");
    }
}

#[test]
fn of_more_files_than_can_be_looked_at_at_once_the_rest_follows() {
    let mut world = linked(1);
    world.most_unknown = 30;
    world.server.memory.limits = SyncLimits { workspace_items: 10, ..SyncLimits::default() };
    world.stop_agent(true, Duration::from_secs(1));
    pass(&mut world, REST);
    for n in 0..100 {
        write(&mut world, &format!("{n:03}"), "text");
    }
    let told = |world: &World| world.server.problems.iter().any(|problem| problem.code == "too_many_files");
    pass(&mut world, Duration::from_secs(150));
    assert_eq!(world.server.memory.tree().len(), 10);
    assert!(told(&world));
    assert!(world.server.problems.len() <= 31, "{} problems", world.server.problems.len());
    // What can be is in step, and what was not looked at is once there is room.
    for n in 0..95 {
        world.files.borrow_mut().remove(&path(&format!("{n:03}")));
    }
    pass(&mut world, Duration::from_secs(400));
    assert_eq!(world.server.memory.tree(), world.files.borrow().tree());
    assert!(world.server.problems.is_empty(), "{:?}", world.server.problems);
}
