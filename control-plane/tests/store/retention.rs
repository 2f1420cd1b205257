//! What is kept, and for how long.

use crate::harness::{Fixture, author, delete, on_sqlite, path, rename};
use crate::on_each_database;
use control_plane::entities::{blob, item_version, now_ms};
use control_plane::workspace::{HistoryQuery, Swept, erase};
use sea_orm::{ConnectionTrait, EntityTrait, PaginatorTrait};
use shared::id::Revision;
use shared::tree::Hash;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

async fn versions(it: &Fixture) -> usize {
    let query = HistoryQuery { limit: 1_000, ..HistoryQuery::default() };
    it.store.history(it.session, &query).await.unwrap().len()
}

async fn blobs(it: &Fixture) -> u64 {
    blob::Entity::find().count(it.store.database().reader()).await.unwrap()
}

/// Makes all that there is `ms` older.
async fn age(it: &Fixture, ms: i64) {
    let db = it.store.database().writer();
    for sql in ["UPDATE item_versions SET at = at - ", "UPDATE blobs SET touched_at = touched_at - "] {
        db.execute_unprepared(&format!("{sql}{ms}")).await.unwrap();
    }
}

/// Puts all versions into this hour, so that the clock's next one does not part them; answers its start.
async fn one_hour(it: &Fixture) -> i64 {
    let hour = now_ms() / HOUR * HOUR;
    let db = it.store.database().writer();
    db.execute_unprepared(&format!("UPDATE item_versions SET at = {hour}")).await.unwrap();
    hour
}

on_each_database!(a_day_of_history_is_whole_and_older_history_thins_out, |it| {
    // Ten saves in one hour, so that the clock's hour does not cut them.
    for i in 0..10 {
        it.save("a", &format!("{i}")).await;
    }
    let hour = one_hour(&it).await;
    it.store.sweep(hour + DAY).await.unwrap();
    assert_eq!(versions(&it).await, 10, "all of a day");
    it.store.sweep(hour + DAY + 1).await.unwrap();
    assert_eq!(versions(&it).await, 1, "the last of the hour");
    it.store.sweep(hour + 400 * DAY).await.unwrap();
    assert_eq!(versions(&it).await, 1, "what is live keeps its version for ever");
    assert_eq!(it.read("a").await.unwrap(), "9");
});

on_each_database!(contents_nobody_refers_to_go_after_a_day_and_no_earlier, |it| {
    it.save("a", "superseded").await;
    it.save("a", "live").await;
    it.save("gone", "deleted").await;
    it.batch(vec![delete("gone")]).await.unwrap();
    it.store.put_content(it.session, &path("x"), "orphan".into()).await.unwrap();
    let now = one_hour(&it).await;
    assert_eq!(it.store.sweep(now + DAY - HOUR).await.unwrap().blobs, 0);
    // The orphan, and what was superseded within the hour.
    assert_eq!(it.store.sweep(now + DAY + 2 * HOUR).await.unwrap().blobs, 2);
    assert_eq!(it.store.sweep(now + 40 * DAY).await.unwrap().blobs, 1, "what was deleted");
    assert_eq!(it.read("a").await.unwrap(), "live");
    assert_eq!(blobs(&it).await, 1);
});

on_each_database!(a_content_that_is_saved_again_is_safe_from_the_sweep, |it| {
    it.store.put_content(it.session, &path("x"), "again".into()).await.unwrap();
    age(&it, 3 * DAY).await;
    it.save("a", "again").await;
    assert_eq!(it.store.sweep(now_ms()).await.unwrap().blobs, 0);
    assert_eq!(it.store.blob(it.session, Hash::of(b"again")).await.unwrap().unwrap(), "again");
});

on_each_database!(tombstones_go_after_a_month_and_who_knows_less_is_told_so, |it| {
    it.save("a", "1").await;
    it.batch(vec![rename("a", "b")]).await.unwrap();
    it.batch(vec![delete("b")]).await.unwrap();
    age(&it, 31 * DAY).await;
    it.save("c", "new").await;
    let swept = it.store.sweep(now_ms()).await.unwrap();
    assert_eq!(swept.tombstones, 2);
    let since = |rev| it.store.changes_since(it.session, Revision(rev), None, 10);
    assert!(since(2).await.unwrap().pruned);
    let known = since(3).await.unwrap();
    assert!(!known.pruned && known.changes.len() == 1);
    assert_eq!(it.store.sweep(now_ms()).await.unwrap(), Swept::default(), "once is enough");
});

on_each_database!(a_history_beyond_its_bound_loses_its_oldest_but_nothing_live, |it| {
    for i in 0..20 {
        it.save("hot", &format!("{i:02}").repeat(500)).await;
    }
    it.save("live", &"x".repeat(9_000)).await;
    it.store.sweep_beyond(now_ms(), 11_000).await.unwrap();
    assert_eq!(versions(&it).await, 1 + 1 + 5);
    assert_eq!(it.read("hot").await.unwrap(), "19".repeat(500));
    it.store.restore(it.session, Some(&path("hot")), Revision(16), &author()).await.unwrap();
    assert_eq!(it.read("hot").await.unwrap(), "15".repeat(500), "the newer ones are still there");
});

/// Makes of the one version that there is 2^14: more than are looked at by one statement.
async fn many(it: &Fixture) {
    let db = it.store.database().writer();
    for doubled in 0..14 {
        let older = 1 << doubled;
        let text = format!(
            "INSERT INTO item_versions
                (session_uuid, owner_id, item_id, rev, path, op, kind, mode, size, hash, origin, actor, at)
             SELECT session_uuid, owner_id, item_id, rev + {older}, path, op, kind, mode, size, hash, origin, actor, at
             FROM item_versions ORDER BY id"
        );
        db.execute_unprepared(&text).await.unwrap();
    }
}

on_each_database!(a_history_of_any_length_thins_out_page_by_page, |it| {
    it.save("hot", "x").await;
    let few = it.statements(it.store.sweep(now_ms() + 2 * DAY)).await.0;
    many(&it).await;
    // Three of each hour, the newest of them of now and nothing of it of a day ago; then the item is deleted.
    let (hour, db) = (one_hour(&it).await, it.store.database().writer());
    let start = hour - 40 * DAY;
    let text = format!("UPDATE item_versions SET at = {start} + rev / 3 * {HOUR}");
    db.execute_unprepared(&text).await.unwrap();
    db.execute_unprepared(
        "UPDATE item_versions SET op = 'delete' WHERE rev = (SELECT max(rev) FROM item_versions)",
    )
    .await
    .unwrap();
    let last = (1 << 14) / 3;
    let now = start + last * HOUR + 2 * HOUR;
    let (statements, swept) = it.statements(it.store.sweep(now)).await;
    let swept = swept.unwrap();
    // The last day's whole, six days' hours, 23 days' last ones; the boundaries may cut a bucket.
    let kept = (1 << 14) - swept.versions as i64;
    assert!((22 * 3 + 6 * 24 + 22..=25 * 3 + 6 * 24 + 25).contains(&kept), "{kept} are left");
    assert!(statements > few && statements < few + 12, "{statements} statements, {few} for one version");
    // A month later nothing keeps what was deleted, whichever page it is on.
    it.store.sweep(now + 40 * DAY).await.unwrap();
    assert_eq!(versions(&it).await, 0);
});

on_each_database!(tiny_versions_meet_the_bound_too_however_many_they_are, |it| {
    it.save("hot", "x").await;
    many(&it).await;
    let swept = it.store.sweep_beyond(now_ms(), 3_000 * 1_025).await.unwrap();
    assert_eq!(swept.versions, (1 << 14) - 1 - 3_000);
    assert_eq!(it.store.sweep_beyond(now_ms(), 3_000 * 1_025).await.unwrap(), Swept::default());
    it.store.sweep_beyond(now_ms(), 0).await.unwrap();
    assert_eq!((versions(&it).await, it.read("hot").await.unwrap().as_str()), (1, "x"));
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_that_cannot_be_swept_keeps_no_other_from_its_turn() {
    on_sqlite(async |it| {
        let others = [it.sibling().await, it.sibling().await];
        for it in others.iter().chain([&it]) {
            it.save("a", "superseded").await;
            it.save("a", "live").await;
        }
        it.store.put_content(it.session, &path("x"), "orphan".into()).await.unwrap();
        let hour = one_hour(&it).await;
        let broken = format!(
            "CREATE TRIGGER broken BEFORE DELETE ON item_versions WHEN OLD.session_uuid = X'{}'
             BEGIN SELECT RAISE(ABORT, 'broken'); END",
            it.session.0.simple()
        );
        it.store.database().writer().execute_unprepared(&broken).await.unwrap();
        let swept = it.store.sweep(hour + DAY + 2 * HOUR).await.unwrap();
        assert_eq!((swept.versions, swept.blobs), (2, 1));
        assert_eq!(versions(&it).await, 2);
    })
    .await;
}

on_each_database!(an_erased_workspace_leaves_nothing, |it| {
    it.save("dir/a", "1").await;
    let tx = it.store.database().begin().await.unwrap();
    erase(&tx, it.session).await.unwrap();
    tx.commit().await.unwrap();
    let db = it.store.database().reader();
    assert_eq!(item_version::Entity::find().count(db).await.unwrap(), 0);
    assert_eq!(it.store.sweep(now_ms() + 2 * DAY).await.unwrap().blobs, 1);
    assert_eq!(blobs(&it).await, 0);
});

on_each_database!(after_a_week_one_version_a_day_is_kept_and_after_a_month_only_what_is_live, |it| {
    for i in 0..6 {
        it.save("a", &format!("{i}")).await;
    }
    // Two on each of three days, eight days and more ago, the second one two hours after the first.
    let today = now_ms() / DAY * DAY;
    let db = it.store.database().writer();
    let text = format!(
        "UPDATE item_versions SET at = {today} - 10 * {DAY} + ((rev - 1) / 2) * {DAY} + ((rev - 1) % 2) * 2 * {HOUR}"
    );
    db.execute_unprepared(&text).await.unwrap();
    it.store.sweep(today - 3 * DAY).await.unwrap();
    assert_eq!(versions(&it).await, 6, "two hours apart, they are of two hours, and no week old");
    it.store.sweep(today).await.unwrap();
    let query = HistoryQuery { limit: 100, ..HistoryQuery::default() };
    let kept = it.store.history(it.session, &query).await.unwrap();
    assert_eq!(
        kept.iter().map(|version| version.rev.0).collect::<Vec<_>>(),
        [6, 4, 2],
        "the last of each day"
    );
    it.store.sweep(today + 40 * DAY).await.unwrap();
    assert_eq!(versions(&it).await, 1);
});

on_each_database!(what_lost_a_conflict_is_kept_for_a_month_whatever_else_there_was_that_hour, |it| {
    it.save("f", "base").await;
    let pod = crate::pod::Pod::linked(&it).await;
    for i in 0..3 {
        it.save("f", &format!("editor {i}")).await;
    }
    pod.put("f", "pod", Some(crate::pod::file("base"))).send().await;
    let hour = one_hour(&it).await;
    it.store.sweep(hour + 29 * DAY).await.unwrap();
    let open = crate::pod::losers(&it, true).await;
    assert_eq!((open.len(), open[0].1.as_str()), (1, "pod"), "still asked about, with its bytes");
    it.store.sweep(hour + 31 * DAY).await.unwrap();
    assert_eq!(crate::pod::losers(&it, false).await.len(), 0);
    assert_eq!(blobs(&it).await, 1);
});
