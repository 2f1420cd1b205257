//! Large contents over a real link: in parts, both ways.

use super::*;
use crate::agents::sync::{To, Transfer};
use shared::chunk::{Packed, Part, Recipe, cut};
use shared::link::sync::{PartData, RecipePage, RecipePages};

/// Bytes that don't compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn parts_of(bytes: &[u8]) -> (Recipe, Vec<Packed>) {
    let mut parts = Vec::new();
    let recipe = cut(bytes, |_, data| {
        parts.push(Packed::pack(data));
        Ok(())
    });
    (recipe.unwrap(), parts)
}

impl Peer {
    async fn offer(&mut self, recipe: &Recipe) {
        for page in RecipePage::of(recipe) {
            self.say(FromAgent::Offer(page)).await;
        }
    }

    /// Offers a content and answers which of its parts must be sent.
    async fn lacking(&mut self, recipe: &Recipe) -> Vec<u32> {
        self.offer(recipe).await;
        match self.told().await {
            FromControlPlane::Lacking { content, parts, last: true } if content == recipe.hash => parts,
            other => panic!("{other:?}"),
        }
    }

    async fn part(&mut self, recipe: &Recipe, parts: &[Packed], part: u32) {
        let packed = parts[part as usize].clone();
        self.say(FromAgent::Part(PartData { content: recipe.hash, part, packed })).await;
    }

    async fn upload(&mut self, recipe: &Recipe, parts: &[Packed]) -> FromControlPlane {
        for part in self.lacking(recipe).await {
            self.part(recipe, parts, part).await;
        }
        self.told().await
    }

    async fn recipe(&mut self, content: Hash) -> Recipe {
        self.say(FromAgent::Need { hashes: vec![content] }).await;
        let mut pages = RecipePages::default();
        loop {
            let FromControlPlane::Recipe(page) = self.told().await else { panic!("no recipe") };
            if let Some(recipe) = pages.take(page, u64::MAX).unwrap() {
                return recipe;
            }
        }
    }
}

fn whole(at: &str, recipe: &Recipe) -> Op {
    Op::Put { path: path(at), item: None, entry: Entry::file(0o644, recipe.size, recipe.hash), pre: None }
}

fn not_stored(told: &FromControlPlane) -> (&str, bool) {
    match told {
        FromControlPlane::NotStored { failure, retry, .. } => (&failure.code, *retry),
        other => panic!("{other:?}"),
    }
}

async fn save_large(harbour: &Harbour, session: SessionId, at: &str, bytes: &[u8]) -> Revision {
    let (author, bytes) = (Author::editor("test"), Bytes::copy_from_slice(bytes));
    harbour.store.save_file(session, &path(at), bytes, None, Precondition::Any, &author).await.unwrap().rev
}

#[tokio::test]
async fn a_large_file_of_the_pod_is_offered_sent_in_parts_and_committed_by_its_hash() {
    let (harbour, session, linked, _) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let mut bytes = noise(1, 5 << 20);
    let (recipe, parts) = parts_of(&bytes);
    let stored = FromControlPlane::Stored { content: recipe.hash };
    assert_eq!(peer.upload(&recipe, &parts).await, stored);
    let committed = peer.commit(&[whole("large", &recipe)], &[]).await;
    assert!(matches!(committed.results[..], [OpResult::Applied { .. }]));
    assert_eq!(harbour.store.read_file(session, &path("large")).await.unwrap().1, bytes);
    peer.batch().await;
    // What is there is not asked for again, and of a changed file only what changed.
    peer.offer(&recipe).await;
    assert_eq!(peer.told().await, stored);
    bytes[2 << 20] ^= 1;
    let (changed, parts) = parts_of(&bytes);
    let lacking = peer.lacking(&changed).await;
    assert!((1..=3).contains(&lacking.len()), "{lacking:?}");
    for part in lacking {
        peer.part(&changed, &parts, part).await;
    }
    assert_eq!(peer.told().await, FromControlPlane::Stored { content: changed.hash });
}

#[tokio::test]
async fn after_a_lost_link_only_the_parts_that_are_not_there_are_asked_for() {
    let (harbour, session, linked, _) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let (recipe, parts) = parts_of(&noise(2, 8 << 20));
    let all = peer.lacking(&recipe).await;
    assert_eq!(all.len(), recipe.parts.len());
    for part in &all[..all.len() / 2] {
        peer.part(&recipe, &parts, *part).await;
    }
    until("some are stored", async || {
        harbour.store.lacking_parts(session, &recipe.parts).await.unwrap().len() < all.len()
    })
    .await;
    drop(peer);
    let credential = harbour.credential(session).await;
    let mut peer = Peer::fresh(harbour.link(&credential).await).await;
    let rest = peer.lacking(&recipe).await;
    assert!(rest.len() < all.len(), "{} of {}", rest.len(), all.len());
    for part in rest {
        peer.part(&recipe, &parts, part).await;
    }
    assert_eq!(peer.told().await, FromControlPlane::Stored { content: recipe.hash });
}

#[tokio::test]
async fn a_pod_that_lies_about_a_large_content_is_told_so_and_its_stream_goes_on() {
    let (harbour, session, linked, _) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let (recipe, parts) = parts_of(&noise(3, 2 << 20));
    // Another hash than its bytes have.
    let poison = Recipe { hash: Hash::of(b"what others ask for"), ..recipe.clone() };
    assert_eq!(not_stored(&peer.upload(&poison, &parts).await), ("content_malformed", false));
    let committed = peer.commit(&[whole("poison", &poison)], &[]).await;
    assert!(matches!(&committed.results[0], OpResult::Refused(why) if why.code == "content_missing"));
    // A recipe that doesn't hold together, and one of a file larger than any may be.
    let long = Recipe { size: recipe.size + 1, ..recipe.clone() };
    peer.offer(&long).await;
    assert_eq!(not_stored(&peer.told().await), ("content_malformed", false));
    let huge = Recipe { size: 1 << 60, ..recipe.clone() };
    peer.offer(&huge).await;
    assert_eq!(not_stored(&peer.told().await), ("file_too_large", false));
    // A part that is another than was asked for; the rest of them is on its way, and is passed over.
    let (other, _) = parts_of(&noise(4, 2 << 20));
    let garbage = vec![parts[0].clone(); other.parts.len()];
    for part in peer.lacking(&other).await {
        peer.part(&other, &garbage, part).await;
    }
    assert_eq!(not_stored(&peer.told().await), ("content_malformed", false));
    // Parts of nothing, and out of place.
    peer.part(&recipe, &parts, 0).await;
    let packed = parts[0].clone();
    let nowhere = PartData { content: other.hash, part: u32::MAX, packed };
    peer.say(FromAgent::Part(nowhere)).await;
    peer.say(FromAgent::NeedParts { content: recipe.hash, parts: vec![0, 1, u32::MAX] }).await;
    assert_eq!(peer.upload(&recipe, &parts).await, FromControlPlane::Stored { content: recipe.hash });
    assert!(harbour.store.blob(session, poison.hash).await.unwrap().is_none());
}

#[tokio::test]
async fn an_offer_without_an_end_and_one_given_up_cost_nothing_and_the_next_is_taken() {
    let (_harbour, _, linked, _) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let (recipe, parts) = parts_of(&noise(5, 2 << 20));
    let page =
        |last| RecipePage { content: recipe.hash, size: recipe.size, parts: recipe.parts.clone(), last };
    peer.say(FromAgent::Offer(page(false))).await;
    peer.say(FromAgent::Offer(page(false))).await;
    peer.say(FromAgent::Offer(page(false))).await;
    assert_eq!(not_stored(&peer.told().await), ("content_malformed", false));
    let (other, _) = parts_of(&noise(6, 3 << 20));
    assert_eq!(peer.lacking(&other).await.len(), other.parts.len());
    assert_eq!(peer.upload(&recipe, &parts).await, FromControlPlane::Stored { content: recipe.hash });
}

#[tokio::test]
async fn a_large_file_goes_to_the_pod_by_its_recipe_and_in_the_parts_that_it_asks_for() {
    let (harbour, session, linked, _) = start().await;
    let bytes = noise(7, 4 << 20);
    save_large(&harbour, session, "large", &bytes).await;
    let rev = save(&harbour, session, "small", "s").await;
    let mut peer = Peer::fresh(linked).await;
    let got = peer.batch().await;
    assert_eq!(got.files(), [("large".to_owned(), None), ("small".to_owned(), Some("s".to_owned()))]);
    assert_eq!(got.begin.target_rev, rev);
    // What the pod was told nothing of it has no business with.
    let secret = Bytes::from(noise(8, 2 << 20));
    let hash = harbour.store.put_content(session, &path("x"), secret).await.unwrap();
    peer.say(FromAgent::Need { hashes: vec![hash] }).await;
    let recipe = peer.recipe(Hash::of(&bytes)).await;
    assert_eq!(recipe, parts_of(&bytes).0);
    let wanted: Vec<u32> = (0..recipe.parts.len() as u32).rev().collect();
    peer.say(FromAgent::NeedParts { content: hash, parts: vec![0] }).await;
    peer.say(FromAgent::NeedParts { content: recipe.hash, parts: wanted.clone() }).await;
    let mut joined = vec![Bytes::new(); recipe.parts.len()];
    for wanted in wanted {
        let FromControlPlane::Part(PartData { content, part, packed }) = peer.told().await else { panic!() };
        assert_eq!((content, part), (recipe.hash, wanted));
        joined[part as usize] = packed.unpack(recipe.parts[part as usize]).unwrap();
    }
    assert_eq!(joined.concat(), bytes);
}

#[tokio::test]
async fn a_save_does_not_wait_behind_a_large_file_and_does_not_break_it_off() {
    let (harbour, session, linked, link) = start().await;
    let bytes = noise(9, 24 << 20);
    save_large(&harbour, session, "large", &bytes).await;
    let mut peer = Peer::fresh(linked).await;
    peer.batch().await;
    let recipe = peer.recipe(Hash::of(&bytes)).await;
    let count = recipe.parts.len();
    peer.say(FromAgent::NeedParts { content: recipe.hash, parts: (0..count as u32).collect() }).await;
    let part = |told| match told {
        FromControlPlane::Part(data) => data.part,
        other => panic!("{other:?}"),
    };
    assert_eq!(part(peer.told().await), 0);
    save(&harbour, session, "small", "at once").await;
    let (mut seen, mut small) = (1, None);
    let mut told = None;
    while seen < count {
        match peer.told().await {
            FromControlPlane::Part(data) => {
                assert_eq!(data.part as usize, seen);
                seen += 1;
            }
            FromControlPlane::Batch(Batch::Whole(_)) => small = Some(seen),
            other => panic!("{other:?}"),
        }
        told = told.or(link.sync().status().transfer);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(small.is_some_and(|seen| seen < count / 2), "the save came after {small:?} of {count} parts");
    // It lasted, so it was told of, until it was over.
    let Some(Transfer { to: To::Pod, done, total }) = told else { panic!("{told:?}") };
    assert!(done <= total && total == recipe.size, "{done} of {total}");
    until("it is over", async || link.sync().status().transfer.is_none()).await;
}

#[tokio::test]
async fn a_long_upload_is_told_of_and_no_longer_once_its_stream_is_lost() {
    let (_harbour, _, linked, link) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let (recipe, parts) = parts_of(&noise(10, 24 << 20));
    let lacking = peer.lacking(&recipe).await;
    let mut left = lacking.iter();
    until("it is told of", async || {
        peer.part(&recipe, &parts, *left.next().unwrap()).await;
        link.sync().status().transfer.is_some()
    })
    .await;
    let transfer = link.sync().status().transfer.unwrap();
    assert_eq!((transfer.to, transfer.total), (To::Database, recipe.size));
    let Peer { _linked, stream, .. } = peer;
    drop(stream);
    until("it is over", async || link.sync().status().transfer.is_none()).await;
}

#[tokio::test]
async fn a_part_of_any_size_travels_and_one_too_long_ends_nothing_but_its_offer() {
    let (_harbour, _, linked, _) = start().await;
    let mut peer = Peer::fresh(linked).await;
    let part = Part { hash: Hash::of(b"x"), size: shared::chunk::PART_MAX as u32 + 1 };
    let recipe = Recipe { hash: Hash::of(b"y"), size: u64::from(part.size) * 8, parts: vec![part; 8] };
    peer.offer(&recipe).await;
    assert_eq!(not_stored(&peer.told().await), ("content_malformed", false));
    peer.commit(&[put("fine", b"fine", None)], &[b"fine"]).await;
}
