//! Large contents: kept in parts, shared between versions, put together from what a pod sends, read piece by piece.

use crate::harness::{Fixture, author, code, path};
use crate::on_each_database;
use bytes::{Bytes, BytesMut};
use control_plane::workspace::{HistoryQuery, PodBatch, PodOp, Precondition};
use futures::TryStreamExt;
use sea_orm::{ConnectionTrait, FromQueryResult, Statement};
use shared::chunk::{Packed, Part, Recipe, cut};
use shared::id::{BatchId, InstanceId, Revision};
use shared::link::sync::OpResult;
use shared::tree::{Entry, Hash};
use std::collections::HashMap;

/// Bytes that don't compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn recipe(bytes: &[u8]) -> (Recipe, Vec<(Part, Packed)>) {
    let mut parts = Vec::new();
    let recipe = cut(bytes, |part, data| {
        parts.push((part, Packed::pack(data)));
        Ok(())
    });
    (recipe.unwrap(), parts)
}

#[derive(FromQueryResult)]
struct Count {
    n: i64,
}

impl Fixture {
    /// The number `n` that a query selects.
    pub(crate) async fn count(&self, what: &str) -> i64 {
        let db = self.store.database().reader();
        let statement = Statement::from_string(db.get_database_backend(), format!("SELECT {what}"));
        Count::find_by_statement(statement).one(db).await.unwrap().unwrap().n
    }

    /// Bytes of contents as they are kept.
    async fn kept_bytes(&self) -> i64 {
        self.count("CAST(coalesce(sum(length(data)), 0) AS BIGINT) AS n FROM blobs").await
    }

    async fn save_bytes(&self, at: &str, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        self.store
            .save_file(self.session, &path(at), bytes, None, Precondition::Any, &author())
            .await
            .unwrap();
    }

    async fn streamed(&self, at: &str, from: u64, to: u64) -> Bytes {
        let (_, content) = self.store.open_file(self.session, &path(at)).await.unwrap();
        let pieces: Vec<Bytes> = content.read(from, to).try_collect().await.unwrap();
        let mut all = BytesMut::new();
        pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        all.freeze()
    }

    /// Sends parts as a pod does, and puts them together.
    async fn upload(&self, bytes: &[u8]) -> control_plane::workspace::Result<Recipe> {
        let (recipe, parts) = recipe(bytes);
        let lacking = self.store.lacking_parts(self.session, &recipe.parts).await?;
        for part in parts.into_iter().filter(|(part, _)| lacking.contains(&part.hash)) {
            self.store.put_parts(self.session, vec![part]).await?;
        }
        self.store.assemble(self.session, &recipe).await?;
        Ok(recipe)
    }

    /// Commits a file as a pod does whose content is stored already.
    async fn commit(&self, at: &str, entry: Entry) -> OpResult {
        let link = self.store.link_up(self.session, "r", "a", InstanceId::random(), 60_000).await.unwrap();
        let batch = PodBatch {
            id: BatchId::random(),
            epoch: link,
            base_rev: Revision::ZERO,
            removal: None,
            ops: vec![PodOp::Put { path: path(at), entry, pre: None }],
            contents: HashMap::new(),
        };
        self.store.commit_pod_batch(self.session, batch).await.unwrap().results.remove(0)
    }
}

on_each_database!(a_large_file_is_read_back_whole_and_in_any_range, |it| {
    let bytes = noise(1, 5 << 20);
    it.save_bytes("large", &bytes).await;
    let (item, whole) = it.store.read_file(it.session, &path("large")).await.unwrap();
    assert_eq!((item.entry.size, item.entry.hash), (bytes.len() as u64, Hash::of(&bytes)));
    assert_eq!(whole, bytes);
    let len = bytes.len() as u64;
    for (from, to) in [(0, len), (0, 1), (len - 1, len), (1_000_000, 1_000_001), (99_999, 3_333_333), (7, 7)]
    {
        assert_eq!(it.streamed("large", from, to).await, bytes[from as usize..to as usize], "{from}..{to}");
    }
    let (_, content) = it.store.open_file(it.session, &path("large")).await.unwrap();
    assert!(bytes.starts_with(&content.head().await.unwrap()) && content.whole().is_none());
});

on_each_database!(a_byte_changed_in_a_large_file_costs_a_few_parts_in_the_database, |it| {
    let mut bytes = noise(2, 16 << 20);
    it.save_bytes("large", &bytes).await;
    let before = it.kept_bytes().await;
    bytes[9 << 20] ^= 1;
    it.save_bytes("large", &bytes).await;
    let cost = it.kept_bytes().await - before;
    assert!(cost > 0 && cost < 1 << 20, "{cost} bytes");
    assert_eq!(it.read_bytes("large").await, bytes);
});

on_each_database!(a_large_file_that_compresses_is_kept_compressed, |it| {
    let bytes = b"all work and no play makes jack a dull boy\n".repeat(100_000);
    it.save_bytes("large", &bytes).await;
    assert!(it.kept_bytes().await < bytes.len() as i64 / 20);
    assert_eq!(Hash::of(&it.read_bytes("large").await), Hash::of(&bytes));
});

impl Fixture {
    async fn read_bytes(&self, at: &str) -> Bytes {
        self.store.read_file(self.session, &path(at)).await.unwrap().1
    }
}

on_each_database!(what_a_pod_sends_in_parts_is_put_together_and_committed_by_its_hash_alone, |it| {
    let bytes = noise(3, 3 << 20);
    let recipe = it.upload(&bytes).await.unwrap();
    assert_eq!(it.store.recipe(it.session, recipe.hash).await.unwrap(), Some(recipe.clone()));
    let done = it.commit("large", Entry::file(0o755, recipe.size, recipe.hash)).await;
    assert!(matches!(done, OpResult::Applied { .. }), "{done:?}");
    assert_eq!(it.read_bytes("large").await, bytes);
    it.assert_totals().await;
    // What changes is all that must be sent.
    let mut changed = bytes;
    changed[1 << 20] ^= 1;
    let (next, _) = self::recipe(&changed);
    let lacking = it.store.lacking_parts(it.session, &next.parts).await.unwrap();
    assert!((1..=3).contains(&lacking.len()), "{} parts", lacking.len());
    // And what one session's owner has, another of its sessions need not send.
    let sibling = it.sibling().await;
    assert!(sibling.store.lacking_parts(sibling.session, &recipe.parts).await.unwrap().is_empty());
});

on_each_database!(a_pod_cannot_give_a_hash_to_bytes_that_are_not_its_own, |it| {
    let (truth, parts) = recipe(&noise(4, 2 << 20));
    it.store.put_parts(it.session, parts.clone()).await.unwrap();
    let other = Recipe { hash: Hash::of(b"what another session will ask for"), ..truth.clone() };
    assert_eq!(code(it.store.assemble(it.session, &other).await), "content_malformed");
    let mut swapped = truth.clone();
    swapped.parts.swap(0, 1);
    assert_eq!(code(it.store.assemble(it.session, &swapped).await), "content_malformed");
    let short = Recipe { size: truth.size - 1, ..truth.clone() };
    assert_eq!(code(it.store.assemble(it.session, &short).await), "content_malformed");
    // Sizes that lie about parts which are there.
    let mut lying = truth.clone();
    (lying.parts[0].size, lying.parts[1].size) = (lying.parts[0].size - 2, lying.parts[1].size + 2);
    assert_eq!(code(it.store.assemble(it.session, &lying).await), "content_malformed");
    for wrong in [other.hash, truth.hash] {
        assert_eq!(it.store.recipe(it.session, wrong).await.unwrap(), None);
        let refused = it.commit("f", Entry::file(0o644, truth.size, wrong)).await;
        assert!(matches!(&refused, OpResult::Refused(why) if why.code == "content_missing"), "{refused:?}");
    }
    // A part that isn't what it says is not kept either.
    let (part, packed) = parts[0].clone();
    let lie = Part { hash: Hash::of(b"another"), ..part };
    assert_eq!(code(it.store.put_parts(it.session, vec![(lie, packed)]).await), "content_malformed");
    assert_eq!(it.store.lacking_parts(it.session, &[lie]).await.unwrap().len(), 1);
    it.store.assemble(it.session, &truth).await.unwrap();
});

on_each_database!(a_content_whose_parts_are_not_there_is_not_put_together_and_may_be_sent_again, |it| {
    let bytes = noise(5, 2 << 20);
    let (recipe, mut parts) = recipe(&bytes);
    let last = parts.pop().unwrap();
    it.store.put_parts(it.session, parts).await.unwrap();
    let why = it.store.assemble(it.session, &recipe).await.unwrap_err();
    assert_eq!((why.code(), why.is_transient()), ("parts_missing", true));
    assert_eq!(it.store.lacking_parts(it.session, &recipe.parts).await.unwrap().len(), 1);
    it.store.put_parts(it.session, vec![last]).await.unwrap();
    it.store.assemble(it.session, &recipe).await.unwrap();
    it.store.assemble(it.session, &recipe).await.unwrap();
});

on_each_database!(another_owner_has_neither_the_parts_nor_the_content, |it| {
    use sea_orm::EntityTrait;
    let bytes = noise(6, 2 << 20);
    let recipe = it.upload(&bytes).await.unwrap();
    let foreign = it.sibling().await;
    let db = it.store.database().writer();
    let row = control_plane::entities::workspace_state::Entity::find_by_id(foreign.session.0);
    let owner = row.one(db).await.unwrap().unwrap().owner_id;
    let text = "UPDATE workspace_state SET owner_id = $1 WHERE session_uuid = $2";
    let values = [(owner + 1).into(), foreign.session.0.into()];
    db.execute_raw(Statement::from_sql_and_values(db.get_database_backend(), text, values)).await.unwrap();
    let lacking = foreign.store.lacking_parts(foreign.session, &recipe.parts).await.unwrap();
    assert_eq!(lacking.len(), recipe.parts.len());
    assert_eq!(foreign.store.recipe(foreign.session, recipe.hash).await.unwrap(), None);
    assert_eq!(code(foreign.store.assemble(foreign.session, &recipe).await), "parts_missing");
});

const HOUR: i64 = 3_600_000;

on_each_database!(the_sweep_keeps_every_part_that_a_content_is_made_of_and_takes_the_others, |it| {
    let now = control_plane::entities::now_ms();
    let mut bytes = noise(7, 4 << 20);
    it.save_bytes("large", &bytes).await;
    let first = it.kept_bytes().await;
    bytes[1 << 20] ^= 1;
    it.upload(&bytes).await.unwrap();
    let (_, orphans) = recipe(&noise(8, 2 << 20));
    it.store.put_parts(it.session, orphans).await.unwrap();
    let swept = it.store.sweep(now + 23 * HOUR).await.unwrap();
    assert_eq!(swept.blobs, 0, "too young");
    let swept = it.store.sweep(now + 25 * HOUR).await.unwrap();
    assert!(swept.blobs > 10, "{swept:?}");
    assert_eq!(it.kept_bytes().await, first, "what the tree holds stays, and nothing else");
    bytes[1 << 20] ^= 1;
    assert_eq!(it.read_bytes("large").await, bytes);
    assert_eq!(it.count("count(*) AS n FROM uploads").await, 0);
    // Gone from the tree and from the history, it goes as a whole.
    it.batch(vec![crate::harness::delete("large")]).await.unwrap();
    it.store.sweep(now + 31 * 24 * HOUR).await.unwrap();
    assert_eq!(it.count("count(*) AS n FROM blobs").await, 0);
    assert_eq!(it.count("count(*) AS n FROM blob_parts").await, 0);
});

on_each_database!(a_pod_that_uploads_and_never_commits_is_stopped_at_its_workspaces_size, |it| {
    let it = it.limited(|limits| limits.workspace_bytes = 4 << 20);
    let mut stored = 0;
    let mut refused = None;
    for seed in 0..20 {
        for part in recipe(&noise(100 + seed, 1 << 20)).1 {
            match it.store.put_parts(it.session, vec![part.clone()]).await {
                Ok(()) => stored += u64::from(part.0.size),
                Err(why) => refused = Some(why.code()),
            }
        }
    }
    assert_eq!(refused, Some("uploads_full"));
    assert!(stored <= 4 << 20 && it.kept_bytes().await <= 4 << 20, "{stored} bytes");
    // Another session of the owner is not stopped by it.
    let sibling = it.sibling().await;
    sibling.store.put_parts(sibling.session, recipe(&noise(9, 1 << 20)).1).await.unwrap();
    // An hour later what was never committed is let go to make room.
    let db = it.store.database().writer();
    for text in ["UPDATE uploads SET at = at - 3700000", "UPDATE blobs SET touched_at = touched_at - 3700000"]
    {
        db.execute_unprepared(text).await.unwrap();
    }
    let bytes = noise(10, 2 << 20);
    it.upload(&bytes).await.unwrap();
    assert!(it.kept_bytes().await <= 5 << 20, "{} bytes", it.kept_bytes().await);
});

on_each_database!(a_large_content_that_is_let_go_takes_its_parts_with_it_whoever_sent_it, |it| {
    let it = it.limited(|limits| limits.workspace_bytes = 4 << 20);
    let db = it.store.database().writer();
    for (round, by_api) in [true, false, true, false].into_iter().enumerate() {
        let bytes = noise(300 + round as u64, 3 << 20);
        if by_api {
            it.store.put_content(it.session, &path("x"), bytes.into()).await.unwrap();
        } else {
            it.upload(&bytes).await.unwrap();
        }
        let kept = it.kept_bytes().await;
        assert!(kept < 4 << 20, "{kept} bytes: those of before are not gone");
        for text in
            ["UPDATE uploads SET at = at - 3700000", "UPDATE blobs SET touched_at = touched_at - 3700000"]
        {
            db.execute_unprepared(text).await.unwrap();
        }
    }
});

on_each_database!(what_is_committed_no_longer_counts_as_uploaded, |it| {
    let it = it.limited(|limits| limits.workspace_bytes = 5 << 20);
    for seed in 20..26 {
        let recipe = it.upload(&noise(seed, 3 << 20)).await.unwrap();
        let done = it.commit("large", Entry::file(0o644, recipe.size, recipe.hash)).await;
        assert!(matches!(done, OpResult::Applied { .. } | OpResult::Superseded { .. }), "{done:?}");
    }
    assert_eq!(it.count("count(*) AS n FROM uploads").await, 0);
});

on_each_database!(a_pod_whose_changes_are_all_refused_fills_the_database_no_further_than_that, |it| {
    let it = it.limited(|limits| (limits.workspace_bytes, limits.workspace_items) = (4 << 20, 1));
    it.save("f", "the one item there may be").await;
    let link = it.store.link_up(it.session, "r", "a", InstanceId::random(), 60_000).await.unwrap();
    let send = async |seed: u64| {
        let content = noise(200 + seed, 500_000);
        let entry = Entry::file(0o644, content.len() as u64, Hash::of(&content));
        let ops = vec![PodOp::Put { path: path(&format!("n{seed}")), entry, pre: None }];
        let contents = HashMap::from([(entry.hash, Bytes::from(content))]);
        let (id, base_rev) = (BatchId::random(), Revision::ZERO);
        let batch = PodBatch { id, epoch: link, base_rev, removal: None, ops, contents };
        it.store.commit_pod_batch(it.session, batch).await
    };
    for seed in 0..8 {
        let done = send(seed).await.unwrap();
        assert!(matches!(&done.results[0], OpResult::Refused(why) if why.code == "too_many_items"));
    }
    for seed in 8..12 {
        assert_eq!(code(send(seed).await), "uploads_full");
    }
    assert!(it.kept_bytes().await <= 4 << 20);
    // What is refused again and again is there once.
    send(0).await.unwrap();
});

on_each_database!(a_large_content_of_the_old_form_is_read_and_becomes_parts_when_a_pod_asks, |it| {
    let bytes = noise(11, 3 << 20);
    it.save_bytes("large", &bytes).await;
    // As it was kept before there were parts.
    let db = it.store.database().writer();
    let backend = db.get_database_backend();
    let hash = Hash::of(&bytes);
    db.execute_unprepared("DELETE FROM blob_parts").await.unwrap();
    let text = "UPDATE blobs SET encoding = 0, chunks = 3 WHERE hash = $1";
    db.execute_raw(Statement::from_sql_and_values(backend, text, [hash.0.to_vec().into()])).await.unwrap();
    for (seq, chunk) in (0i64..).zip(bytes.chunks(1 << 20)) {
        let text = "INSERT INTO blob_chunks (owner_id, hash, seq, data)
            SELECT owner_id, hash, $2, $3 FROM blobs WHERE hash = $1";
        let values = [hash.0.to_vec().into(), seq.into(), chunk.to_vec().into()];
        db.execute_raw(Statement::from_sql_and_values(backend, text, values)).await.unwrap();
    }
    assert_eq!(it.read_bytes("large").await, bytes);
    assert_eq!(it.streamed("large", 5, 2_000_000).await, bytes[5..2_000_000]);
    let made = it.store.recipe(it.session, hash).await.unwrap().unwrap();
    assert_eq!(made, recipe(&bytes).0);
    assert_eq!(it.count("count(*) AS n FROM blob_chunks").await, 0);
    assert_eq!(it.read_bytes("large").await, bytes);
    let packed = it.store.packed_parts(it.session, &made.parts[..2]).await.unwrap();
    let joined: Vec<u8> =
        packed.iter().zip(&made.parts).flat_map(|(packed, part)| packed.unpack(*part).unwrap()).collect();
    assert_eq!(joined, bytes[..joined.len()]);
});

on_each_database!(an_old_version_of_a_large_file_is_restored_and_read, |it| {
    let (old, new) = (noise(12, 2 << 20), noise(13, 2 << 20));
    it.save_bytes("large", &old).await;
    it.save_bytes("large", &new).await;
    it.store.restore(it.session, Some(&path("large")), Revision(1), &author()).await.unwrap();
    assert_eq!(it.read_bytes("large").await, old);
    let query = HistoryQuery { limit: 10, ..HistoryQuery::default() };
    let versions = it.store.history(it.session, &query).await.unwrap();
    let newer = versions.iter().find(|version| version.hash == Hash::of(&new)).unwrap();
    let (version, content) = it.store.open_version(it.session, newer.id).await.unwrap();
    let pieces: Vec<Bytes> = content.unwrap().read(0, version.size).try_collect().await.unwrap();
    assert_eq!(pieces.concat(), new);
});
