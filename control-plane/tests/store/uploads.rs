//! What the API uploads and no commit comes to need: charged while it waits, gone when it is refused.

use crate::harness::{Fixture, author, code, path, write};
use crate::on_each_database;
use bytes::Bytes;
use control_plane::entities::workspace_state;
use control_plane::workspace::{Error, Op, Precondition};
use sea_orm::{EntityTrait, QuerySelect};
use shared::id::Revision;
use shared::tree::{Entry, Hash};
use std::time::Duration;

/// Contents that don't compress: one that is written before the commit, and one that is kept in parts.
const SIZES: [usize; 2] = [400_000, 3 << 20];

fn noise(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

impl Fixture {
    /// Bytes of all contents, and how many uploads are noted.
    async fn kept(&self) -> (u64, u64) {
        // Encoding 2 is of parts, which count by themselves.
        let bytes = "CAST(coalesce(sum(size), 0) AS BIGINT) AS n FROM blobs WHERE encoding <> 2";
        (self.count(bytes).await as u64, self.count("count(*) AS n FROM uploads").await as u64)
    }

    async fn put(&self, bytes: &Bytes) -> control_plane::workspace::Result<Hash> {
        self.store.put_content(self.session, &path("x"), bytes.clone()).await
    }
}

fn put(at: &str, bytes: Bytes, precondition: Precondition) -> Op {
    Op::Write { path: path(at), bytes, mode: None, precondition }
}

fn file(bytes: &Bytes) -> Entry {
    Entry::file(0o644, bytes.len() as u64, Hash::of(bytes))
}

on_each_database!(a_save_that_is_refused_leaves_nothing_in_the_database, |it| {
    it.save("f", "stands").await;
    let it = it.limited(|limits| limits.workspace_bytes = 8 << 20);
    let before = it.kept().await;
    for (seed, size) in SIZES.into_iter().enumerate() {
        let bytes = noise(seed as u64, size);
        let stale = Precondition::Rev(Revision(0));
        let save = it.store.save_file(it.session, &path("f"), bytes.clone(), None, stale, &author()).await;
        assert_eq!(code(save), "stale");
        assert_eq!(it.kept().await, before, "{size} bytes against another revision");
        let below = it.batch(vec![put("f/below", bytes.clone(), Precondition::Any)]).await;
        assert_eq!(code(below), "not_a_directory");
        assert_eq!(it.kept().await, before, "{size} bytes below a file");
        // One that is written over in the same batch is in no version.
        it.batch(vec![put("f", bytes, Precondition::Any), write("f", "stands")]).await.unwrap();
        assert_eq!(it.kept().await, before, "{size} bytes written over at once");
    }
    for seed in 10..20 {
        let bytes = noise(seed, 9 << 20);
        let save = it.batch(vec![put("large", bytes, Precondition::Any)]).await;
        assert_eq!(code(save), "workspace_full");
    }
    assert_eq!(it.kept().await, before, "more than the workspace may hold");
});

on_each_database!(a_save_that_the_database_does_not_answer_is_told_so_in_time, |it| {
    it.save("f", "stands").await;
    let hasty = Fixture { store: it.store.clone().with_patience(Duration::from_millis(300)), ..it.clone() };
    // Whoever holds the workspace's row, or SQLite's one writer, answers as little as a database that is frozen.
    let holds = it.store.database().begin().await.unwrap();
    let row = workspace_state::Entity::find_by_id(it.session.0).lock_exclusive();
    row.one(&holds).await.unwrap();
    let small = hasty.try_save("f", "late", Precondition::Any).await;
    let large = hasty.batch(vec![put("large", noise(30, SIZES[0]), Precondition::Any)]).await;
    assert!(matches!(small, Err(Error::Unanswered)), "{small:?}");
    assert!(matches!(large, Err(Error::Database(_))), "{large:?}");
    assert_eq!((code(small), code(large)), ("database_unavailable", "database_unavailable"));
    holds.rollback().await.unwrap();
    // The one may come to pass all the same, the other has left nothing.
    it.store.take_turn(it.session).await;
    assert_eq!(it.read("f").await.unwrap(), "late");
    assert_eq!(it.kept().await, (10, 0));
});

on_each_database!(small_contents_that_no_version_is_of_are_not_written_at_all, |it| {
    it.batch(vec![write("f", "written over"), write("f", "stands")]).await.unwrap();
    assert_eq!(it.kept().await, (6, 0));
    assert_eq!(it.read("f").await.unwrap(), "stands");
});

on_each_database!(what_is_committed_is_no_upload_any_more, |it| {
    let it = it.limited(|limits| limits.workspace_bytes = 5 << 20);
    for seed in 0..4 {
        for (at, size) in ["before", "parts"].into_iter().zip(SIZES) {
            let bytes = noise(seed, size);
            it.batch(vec![put(at, bytes.clone(), Precondition::Any)]).await.unwrap();
            assert_eq!(it.store.read_file(it.session, &path(at)).await.unwrap().1, bytes);
            assert_eq!(it.kept().await.1, 0, "{size} bytes");
        }
    }
});

on_each_database!(contents_that_wait_for_their_import_are_bounded_and_go_when_it_is_given_up, |it| {
    let it = it.limited(|limits| limits.workspace_bytes = 4 << 20);
    for _ in 0..2 {
        let mut waiting = Vec::new();
        let refused = loop {
            match it.put(&noise(waiting.len() as u64, 1_500_000)).await {
                Ok(hash) => waiting.push(hash),
                Err(why) => break why.code(),
            }
        };
        assert_eq!((refused, waiting.len()), ("uploads_full", 2));
        let kept = it.kept().await;
        assert!(kept.0 == 3_000_000 && kept.1 > 2, "{kept:?}");
        it.store.forget_contents(it.session, &waiting).await;
        assert_eq!(it.kept().await, (0, 0));
    }
});

on_each_database!(an_import_that_is_refused_leaves_nothing_and_one_that_is_taken_in_no_upload, |it| {
    it.save("f", "stands").await;
    let before = it.kept().await;
    let all: Vec<Bytes> = SIZES.iter().map(|size| noise(*size as u64, *size)).collect();
    for (top, taken) in [("f", false), ("d", true)] {
        let mut entries = vec![(path(top), Entry::dir(0o755))];
        for (n, bytes) in all.iter().enumerate() {
            it.put(bytes).await.unwrap();
            entries.push((path(&format!("{top}/{n}")), file(bytes)));
        }
        let done = it.store.import(it.session, entries, &author()).await;
        if taken {
            done.unwrap();
            assert_eq!(it.kept().await, (before.0 + SIZES.iter().sum::<usize>() as u64, 0));
        } else {
            assert_eq!(code(done), "not_a_directory");
            assert_eq!(it.kept().await, before);
        }
    }
    for (n, bytes) in all.iter().enumerate() {
        assert_eq!(it.store.read_file(it.session, &path(&format!("d/{n}"))).await.unwrap().1, bytes);
    }
});

on_each_database!(what_somebody_else_has_come_to_need_stays, |it| {
    let sibling = it.sibling().await;
    for size in SIZES {
        let bytes = noise(size as u64 + 1, size);
        let hash = it.put(&bytes).await.unwrap();
        // In the same millisecond perhaps: the owner has it already, so it is only said to be needed.
        sibling.put(&bytes).await.unwrap();
        it.store.forget_contents(it.session, &[hash]).await;
        let at = path(&format!("f{size}"));
        sibling.store.import(sibling.session, vec![(at.clone(), file(&bytes))], &author()).await.unwrap();
        it.store.forget_contents(it.session, &[hash]).await;
        assert_eq!(sibling.store.read_file(sibling.session, &at).await.unwrap().1, bytes);
    }
});
