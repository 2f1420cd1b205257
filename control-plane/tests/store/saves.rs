//! Saving and reading files.

use crate::harness::{author, code, delete, on_postgres, path, rename};
use crate::on_each_database;
use bytes::Bytes;
use control_plane::workspace::{Origin, Precondition};
use sea_orm::ConnectionTrait;
use shared::id::Revision;
use shared::tree::{Hash, Kind};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;

on_each_database!(a_saved_file_is_read_back_with_its_parents_made, |it| {
    let saved = it.save("src/deep/main.py", "print(1)\n").await;
    assert_eq!((saved.rev, saved.size), (Revision(1), 9));
    assert_eq!(saved.hash, Hash::of(b"print(1)\n"));
    assert_eq!(it.read("src/deep/main.py").await.unwrap(), "print(1)\n");
    assert_eq!(it.paths().await, ["src/", "src/deep/", "src/deep/main.py"]);
    it.assert_totals().await;
});

on_each_database!(each_save_is_one_revision_and_the_same_bytes_again_are_none, |it| {
    assert_eq!(it.save("a", "1").await.rev, Revision(1));
    assert_eq!(it.save("a", "2").await.rev, Revision(2));
    assert_eq!(it.save("b", "x").await.rev, Revision(3));
    assert_eq!(it.save("a", "2").await.rev, Revision(2), "the revision that stands");
    assert_eq!(it.rev().await, 3);
});

on_each_database!(contents_of_every_size_and_kind_come_back_whole, |it| {
    let mut noise = vec![0u8; 3 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let contents: Vec<Bytes> = vec![
        Bytes::new(),
        Bytes::from_static(b"x"),
        Bytes::from(vec![b'a'; 5 << 20]),
        Bytes::from(noise.clone()),
        Bytes::from([&noise[..100_000], &vec![0; 200_000]].concat()),
    ];
    for (i, bytes) in contents.iter().enumerate() {
        let at = path(&format!("f{i}"));
        it.store
            .save_file(it.session, &at, bytes.clone(), Some(0o755), Precondition::Any, &author())
            .await
            .unwrap();
        let (item, read) = it.store.read_file(it.session, &at).await.unwrap();
        assert_eq!(read, *bytes, "content {i}");
        assert_eq!((item.entry.kind, item.entry.mode), (Kind::File, 0o755));
        assert_eq!(it.store.blob(it.session, Hash::of(bytes)).await.unwrap(), Some(bytes.clone()));
    }
    it.assert_totals().await;
});

on_each_database!(a_save_based_on_an_old_revision_is_refused_and_told_the_new_one, |it| {
    let first = it.save("a", "1").await.rev;
    let second = it.try_save("a", "2", Precondition::Rev(first)).await.unwrap().rev;
    let stale = it.try_save("a", "3", Precondition::Rev(first)).await.unwrap_err();
    assert_eq!(stale.code(), "stale");
    assert!(stale.to_string().contains(&second.to_string()), "{stale}");
    assert_eq!(code(it.try_save("a", "3", Precondition::NotExists).await), "exists");
    assert_eq!(code(it.try_save("new", "3", Precondition::Rev(first)).await), "stale");
    it.try_save("new", "3", Precondition::NotExists).await.unwrap();
    assert_eq!(it.read("a").await.unwrap(), "2");
    assert_eq!(it.rev().await, 3, "what was refused made no revision");
});

on_each_database!(of_many_saves_with_one_precondition_exactly_one_wins, |it| {
    let base = it.save("a", "base").await.rev;
    let tries = (0..16).map(|i| {
        let it = it.clone();
        tokio::spawn(async move { it.try_save("a", &format!("{i}"), Precondition::Rev(base)).await.is_ok() })
    });
    let won = futures::future::join_all(tries).await;
    assert_eq!(won.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
    assert_eq!(it.rev().await, 2);
});

on_each_database!(concurrent_saves_lose_nothing_and_every_revision_is_one_of_them, |it| {
    let mut changes = it.store.changes();
    let writers = (0..8).map(|writer| {
        let it = it.clone();
        tokio::spawn(async move {
            let mut revs = Vec::new();
            for n in 0..12 {
                revs.push(it.save(&format!("w{writer}/f{n}"), &format!("{writer}-{n}")).await.rev);
                revs.push(it.save("shared", &format!("{writer}-{n}")).await.rev);
            }
            assert!(revs.is_sorted(), "a writer's own saves keep their order");
            revs
        })
    });
    let revs: Vec<_> =
        futures::future::join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    let distinct: BTreeSet<_> = revs.iter().map(|rev| rev.0).collect();
    assert_eq!(distinct, (1..=8 * 24).collect());
    assert_eq!(it.rev().await, 8 * 24);
    for writer in 0..8 {
        for n in 0..12 {
            assert_eq!(it.read(&format!("w{writer}/f{n}")).await.unwrap(), format!("{writer}-{n}"));
        }
    }
    let mut told = BTreeSet::new();
    while let Ok(change) = changes.try_recv() {
        assert_eq!(change.origin, Origin::Editor);
        told.insert(change.rev.0);
    }
    assert_eq!(told, distinct, "each commit was told once it was durable");
    it.assert_totals().await;
});

on_each_database!(nothing_can_be_written_into_a_file_or_over_a_folder, |it| {
    it.save("file", "x").await;
    it.save("dir/inner", "x").await;
    assert_eq!(code(it.try_save("file/below", "y", Precondition::Any).await), "not_a_directory");
    assert_eq!(code(it.try_save("dir", "y", Precondition::Any).await), "is_a_directory");
    assert_eq!(code(it.store.read_file(it.session, &path("dir")).await), "is_a_directory");
    assert_eq!(code(it.read("nowhere").await), "not_found");
    assert_eq!(it.rev().await, 2);
});

on_each_database!(what_is_over_a_limit_is_refused_by_name_and_changes_nothing, |it| {
    let small = it.limited(|limits| {
        limits.file_bytes = 100;
        limits.workspace_bytes = 150;
        limits.workspace_items = 4;
    });
    assert_eq!(code(small.try_save("a", &"x".repeat(101), Precondition::Any).await), "file_too_large");
    small.save("a", &"x".repeat(100)).await;
    assert_eq!(code(small.try_save("b", &"y".repeat(51), Precondition::Any).await), "workspace_full");
    small.save("b", &"y".repeat(50)).await;
    small.save("a", &"x".repeat(10)).await;
    assert_eq!(code(small.try_save("d/e/f", "z", Precondition::Any).await), "too_many_items");
    small.save("d/e", "z").await;
    small.batch(vec![delete("d")]).await.unwrap();
    assert_eq!(small.paths().await, ["a", "b"]);
    small.assert_totals().await;
});

on_each_database!(a_workspace_over_a_lowered_limit_can_still_shrink, |it| {
    it.save("big", &"x".repeat(1000)).await;
    let small = it.limited(|limits| limits.workspace_bytes = 100);
    assert_eq!(code(small.try_save("more", "1", Precondition::Any).await), "workspace_full");
    small.save("big", &"x".repeat(500)).await;
    small.batch(vec![delete("big")]).await.unwrap();
    small.save("more", "1").await;
});

on_each_database!(a_session_that_is_none_is_told_apart_from_an_empty_one, |it| {
    let nobody = crate::harness::Fixture { session: shared::id::SessionId::random(), ..it.clone() };
    assert_eq!(code(nobody.try_save("a", "1", Precondition::Any).await), "session_not_found");
    assert_eq!(code(nobody.store.snapshot(nobody.session).await), "session_not_found");
    assert_eq!(code(nobody.store.rev(nobody.session).await), "session_not_found");
    assert_eq!(it.snapshot().await.items, []);
});

on_each_database!(what_changed_since_a_revision_is_told_once_a_path_with_what_is_there_now, |it| {
    it.save("a", "1").await;
    it.save("dir/b", "1").await;
    let since = Revision(it.rev().await);
    it.save("a", "2").await;
    it.save("a", "3").await;
    it.batch(vec![rename("dir", "moved")]).await.unwrap();
    it.save("c", "1").await;
    it.batch(vec![delete("c")]).await.unwrap();
    let page = it.store.changes_since(it.session, since, None, 100).await.unwrap();
    assert_eq!((page.rev, page.pruned), (Revision(it.rev().await), false));
    let told: Vec<_> =
        page.changes.iter().map(|c| (c.path.as_str(), c.deleted, c.moved_to.is_some())).collect();
    assert_eq!(
        told,
        [
            ("a", false, false),
            ("dir", true, true),
            ("dir/b", true, true),
            ("moved", false, false),
            ("moved/b", false, false),
            ("c", true, false),
        ]
    );
    let item = |at: &str| page.changes.iter().find(|c| c.path.as_str() == at).unwrap();
    assert_eq!(item("dir/b").moved_to, Some(item("moved/b").item.id), "a rename keeps the item");

    let mut paged = Vec::new();
    let mut cursor = None;
    loop {
        let page = it.store.changes_since(it.session, since, cursor.as_ref(), 2).await.unwrap();
        assert!(page.changes.len() <= 2);
        paged.extend(page.changes);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, page.changes);
    let nothing = it.store.changes_since(it.session, page.rev, None, 10).await.unwrap();
    assert_eq!((nothing.changes.len(), nothing.next), (0, None));
});

on_each_database!(one_tenant_cannot_read_what_is_only_anothers, |it| {
    use control_plane::entities::user;
    use sea_orm::{
        ActiveValue::{NotSet, Set},
        EntityTrait,
    };
    it.save("secret", "only mine").await;
    let sibling = it.sibling().await;
    let hash = Hash::of(b"only mine");
    assert!(sibling.store.blob(sibling.session, hash).await.unwrap().is_some(), "shared within one owner");

    let db = it.store.database();
    let other = user::ActiveModel {
        id: NotSet,
        uuid: Set(uuid::Uuid::new_v4()),
        name: Set("mallory".into()),
        email: Set(None),
        password_hash: Set(None),
        admin: Set(0),
        created_at: Set(0),
        disabled_at: Set(None),
    };
    let other = user::Entity::insert(other).exec(db.writer()).await.unwrap().last_insert_id;
    let foreign = it.sibling().await;
    use control_plane::entities::workspace_state::{ActiveModel, Entity};
    let row =
        ActiveModel { session_uuid: Set(foreign.session.0), owner_id: Set(other), ..Default::default() };
    Entity::update(row).exec(db.writer()).await.unwrap();
    assert_eq!(foreign.store.blob(foreign.session, hash).await.unwrap(), None);
    assert_eq!(foreign.store.known_blobs(foreign.session, &[hash]).await.unwrap(), []);
});

/// PostgreSQL's alone: SQLite has one connection that writes, and a queue for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saves_that_queue_in_one_workspace_leave_the_database_to_others() {
    on_postgres(|it| async move {
        let other = it.sibling().await;
        // Another replica is at work in the workspace.
        let elsewhere = it.store.database().begin().await.unwrap();
        let hold = format!("UPDATE workspace_state SET rev = rev WHERE session_uuid = '{}'", it.session);
        elsewhere.execute_unprepared(&hold).await.unwrap();
        let mut queue = JoinSet::new();
        for n in 0..50 {
            let it = it.clone();
            queue.spawn(async move { it.save(&format!("f{n}"), "queued").await });
        }
        for n in 0..50 {
            let saved = tokio::time::timeout(Duration::from_secs(5), other.save("a", &n.to_string())).await;
            assert!(saved.is_ok(), "save {n} beside the queue");
        }
        elsewhere.rollback().await.unwrap();
        queue.join_all().await;
        assert_eq!(it.rev().await, 50);
    })
    .await;
}
