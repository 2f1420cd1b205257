//! Large files, in parts, both ways.

use super::fixtures::{Database, Folder, Link, PATIENCE};
use crate::sync::Sync;
use shared::batch::Op;
use shared::chunk::{Packed, Recipe, cut};
use shared::id::Revision;
use shared::link::sync::{FromAgent, FromControlPlane, PartData, RecipePage, RecipePages, Standing};
use shared::link::{Failure, frame};
use shared::tree::Hash;
use std::collections::HashMap;
use std::time::Duration;

/// The database's side of large contents.
#[derive(Default)]
pub(super) struct Side {
    pages: RecipePages,
    offer: Option<Recipe>,
    lacking: Vec<u32>,
    parts: HashMap<Hash, Vec<u8>>,
    /// Bytes of parts that came.
    uploaded: usize,
    /// Parts that the agent asked for.
    asked: Vec<u32>,
    /// How many of them it is still sent, if not all.
    patience: Option<usize>,
    /// Takes no offer.
    refusal: Option<Failure>,
}

fn recipe_of(bytes: &[u8]) -> (Recipe, Vec<Vec<u8>>) {
    let mut parts = Vec::new();
    let recipe = cut(bytes, |_, data| {
        parts.push(data);
        Ok(())
    });
    (recipe.unwrap(), parts)
}

impl Link {
    /// Serves what is said of large contents, as the control plane does.
    pub(super) async fn hear_of_large(&mut self, database: &mut Database, message: FromAgent) {
        let large = &mut database.large;
        match message {
            FromAgent::Offer(page) => {
                let Some(recipe) = large.pages.take(page, 1 << 40).unwrap() else { return };
                let content = recipe.hash;
                if let Some(failure) = large.refusal.clone() {
                    return self.say(FromControlPlane::NotStored { content, failure, retry: false }).await;
                }
                let numbered = (0u32..).zip(&recipe.parts);
                let lacking = numbered.filter(|(_, part)| !large.parts.contains_key(&part.hash));
                large.lacking = lacking.map(|(place, _)| place).collect();
                large.offer = Some(recipe);
                let parts = large.lacking.clone();
                self.say(FromControlPlane::Lacking { content, parts, last: true }).await;
                self.complete(database).await;
            }
            FromAgent::Part(PartData { content, part, packed }) => {
                let Some(recipe) = large.offer.as_ref().filter(|recipe| recipe.hash == content) else {
                    return;
                };
                let part_of = recipe.parts[part as usize];
                let bytes = packed.unpack(part_of).unwrap();
                large.uploaded += bytes.len();
                large.parts.insert(part_of.hash, bytes.to_vec());
                large.lacking.retain(|place| *place != part);
                self.complete(database).await;
            }
            FromAgent::NeedParts { content, parts } => {
                let (recipe, bytes) = recipe_of(&database.contents[&content]);
                large.asked.extend(&parts);
                let most = large.patience.unwrap_or(usize::MAX);
                for part in parts.into_iter().take(most) {
                    assert!((part as usize) < recipe.parts.len());
                    let packed = Packed::pack(bytes[part as usize].clone());
                    self.say(FromControlPlane::Part(PartData { content, part, packed })).await;
                }
            }
            _ => {}
        }
    }

    async fn complete(&mut self, database: &mut Database) {
        let large = &mut database.large;
        if !large.lacking.is_empty() {
            return;
        }
        let Some(recipe) = large.offer.take() else { return };
        let whole: Vec<u8> = recipe.parts.iter().flat_map(|part| large.parts[&part.hash].clone()).collect();
        assert_eq!(Hash::of(&whole), recipe.hash);
        database.contents.insert(recipe.hash, whole);
        self.say(FromControlPlane::Stored { content: recipe.hash }).await;
    }

    /// Tells of a large file without its content, and of its recipe when that is asked for.
    async fn push_large(&mut self, database: &mut Database, op: Op) {
        let content = op.content().unwrap();
        database.needed.clear();
        self.push_with(&HashMap::new(), database.rev, vec![op], false).await;
        self.until(database, "a question for the content", |d| d.needed.contains(&content)).await;
        self.tell_recipe(database, content).await;
    }

    async fn tell_recipe(&mut self, database: &Database, content: Hash) {
        let (recipe, _) = recipe_of(&database.contents[&content]);
        for page in RecipePage::of(&recipe) {
            self.say(FromControlPlane::Recipe(page)).await;
        }
    }
}

impl Folder {
    /// Writes a file elsewhere and moves it in: nobody sees a part of it.
    fn put(&self, path: &str, text: &str) {
        let fresh = self.dir.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.app(path)).unwrap();
    }
}

/// Text that doesn't compress to nothing and has no two equal parts.
fn large_text(seed: u64, bytes: usize) -> String {
    let mut noise = vec![0; bytes / 2];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut noise);
    noise.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn started(folder: &Folder, database: &Database) -> (Sync, Link) {
    let sync = folder.start();
    let mut link = Link::up(&sync, 1).await;
    link.welcome(database).await;
    (sync, link)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_in_parts_and_a_byte_changed_in_it_costs_a_few() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let (_sync, mut link) = started(&folder, &database).await;
    let mut text = large_text(1, 4 << 20);
    folder.put("large", &text);
    link.until(&mut database, "the large file", |d| d.text("large").as_ref() == Some(&text)).await;
    assert_eq!((database.received, database.large.uploaded), (0, text.len()), "none of it in a batch");
    text.replace_range(2_000_000..2_000_001, "!");
    folder.put("large", &text);
    link.until(&mut database, "the change", |d| d.text("large").as_ref() == Some(&text)).await;
    let cost = database.large.uploaded - text.len();
    assert!(cost < 1 << 20, "{cost} bytes for one");
    // A copy and a move of it cost nothing.
    folder.put("copy", &text);
    link.until(&mut database, "the copy", |d| d.text("copy").as_ref() == Some(&text)).await;
    std::fs::rename(folder.app("large"), folder.app("moved")).unwrap();
    link.until(&mut database, "the move", |d| d.text("moved").is_some() && d.text("large").is_none()).await;
    assert_eq!((database.received, database.large.uploaded - text.len()), (0, cost));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_pass_a_large_one_and_settling_waits_for_both() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let (sync, mut link) = started(&folder, &database).await;
    let texts = [large_text(2, 8 << 20), large_text(3, 8 << 20)];
    folder.put("large1", &texts[0]);
    folder.put("large2", &texts[1]);
    link.until(&mut database, "an offer", |d| d.large.offer.is_some()).await;
    folder.put("small", "s");
    link.until(&mut database, "the small file", |d| d.text("small").is_some()).await;
    assert!(database.text("large1").is_none() || database.text("large2").is_none());
    let settling = tokio::spawn({
        let sync = sync.clone();
        async move { sync.settle(PATIENCE).await }
    });
    let both = |d: &Database| {
        d.text("large1").as_ref() == Some(&texts[0]) && d.text("large2").as_ref() == Some(&texts[1])
    };
    link.until(&mut database, "both large files", both).await;
    // Nothing more need be said over the link, and it takes no sweep.
    assert!(tokio::time::timeout(PATIENCE / 2, settling).await.unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_loses_its_link_goes_on_where_it_was() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let (sync, mut link) = started(&folder, &database).await;
    let text = large_text(4, 8 << 20);
    folder.put("large", &text);
    link.until(&mut database, "some of it", |d| d.large.uploaded > 2 << 20).await;
    drop(link);
    let before = database.large.uploaded;
    let mut link = Link::welcomed(&sync, 2, &database).await;
    link.until(&mut database, "all of it", |d| d.text("large").as_ref() == Some(&text)).await;
    assert_eq!(database.large.uploaded, text.len(), "{before} bytes came before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_uploaded_arrives_as_it_is_in_the_end() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let (_sync, mut link) = started(&folder, &database).await;
    let mut text = large_text(5, 8 << 20);
    folder.put("large", &text);
    link.until(&mut database, "some of it", |d| d.large.uploaded > 1 << 20).await;
    text.replace_range(7_000_000..7_000_004, "last");
    folder.put("large", &text);
    link.until(&mut database, "the last of it", |d| d.text("large").as_ref() == Some(&text)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_is_refused_is_told_as_a_problem_and_the_rest_goes_on() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let (_sync, mut link) = started(&folder, &database).await;
    database.large.refusal = Some(Failure::new("uploads_full", "no more"));
    folder.put("large", &large_text(6, 2 << 20));
    link.until(&mut database, "a problem", |d| d.problems.iter().any(|p| p.code == "uploads_full")).await;
    folder.put("small", "s");
    link.until(&mut database, "the small file", |d| d.text("small").is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_comes_in_parts_and_of_a_newer_one_only_what_is_new() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let (_sync, mut link) = started(&folder, &database).await;
    let mut text = large_text(7, 4 << 20);
    let op = database.save("large", &text);
    link.push_large(&mut database, op).await;
    let rev = database.rev;
    link.until(&mut database, "the file", |d| d.visible >= rev).await;
    assert!(folder.read("large").as_ref() == Some(&text));
    let all = std::mem::take(&mut database.large.asked).len();
    assert_eq!(all, recipe_of(text.as_bytes()).0.parts.len());

    text.replace_range(2_000_000..2_000_001, "!");
    let op = database.save("large", &text);
    link.push_large(&mut database, op).await;
    let rev = database.rev;
    link.until(&mut database, "the newer one", |d| d.visible >= rev).await;
    assert!(folder.read("large").as_ref() == Some(&text));
    let some = std::mem::take(&mut database.large.asked).len();
    assert!((1..=3).contains(&some), "{some} of {all} parts");

    // Moved by the database: it lies in the workspace, and nothing of it travels.
    let ops = vec![database.delete("large"), database.save("moved/large", &text)];
    link.push_with(&HashMap::new(), database.rev, ops, false).await;
    let rev = database.rev;
    link.until(&mut database, "the move", |d| d.visible >= rev).await;
    assert!(folder.read("moved/large").as_ref() == Some(&text) && folder.read("large").is_none());
    assert!(database.large.asked.is_empty());
    let left: Vec<_> = std::fs::read_dir(folder.dir.path().join(".berth/stage")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_loses_its_link_or_its_agent_asks_only_for_the_rest() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let (sync, mut link) = started(&folder, &database).await;
    let text = large_text(8, 6 << 20);
    let op = database.save("large", &text);
    database.large.patience = Some(10);
    link.push_large(&mut database, op.clone()).await;
    link.until(&mut database, "a question for parts", |d| !d.large.asked.is_empty()).await;
    let all = std::mem::take(&mut database.large.asked).len();
    let staged = || std::fs::read_dir(folder.dir.path().join(".berth/stage")).unwrap().count();
    let deadline = std::time::Instant::now() + PATIENCE;
    while staged() < 10 {
        assert!(std::time::Instant::now() < deadline, "in vain");
        tokio::task::yield_now().await;
    }
    drop(link);

    let mut link = Link::up(&sync, 2).await;
    link.say(FromControlPlane::Welcome { rev: Revision(database.rev), base: Standing::Current }).await;
    link.push_large(&mut database, op.clone()).await;
    link.until(&mut database, "the rest", |d| !d.large.asked.is_empty()).await;
    assert_eq!(std::mem::take(&mut database.large.asked).len(), all - 10);
    while staged() < 20 {
        assert!(std::time::Instant::now() < deadline, "in vain");
        tokio::task::yield_now().await;
    }
    drop(link);
    sync.end(Duration::from_secs(1)).await;
    drop(sync);

    // A torn file is no part.
    let stage = folder.dir.path().join(".berth/stage");
    let torn = std::fs::read_dir(&stage).unwrap().next().unwrap().unwrap().path();
    std::fs::write(torn, "torn").unwrap();
    let sync = folder.start();
    let mut link = Link::up(&sync, 3).await;
    link.say(FromControlPlane::Welcome { rev: Revision(database.rev), base: Standing::Current }).await;
    database.large.patience = None;
    link.push_large(&mut database, op).await;
    let rev = database.rev;
    link.until(&mut database, "the file", |d| d.visible >= rev).await;
    assert_eq!(database.large.asked.len(), all - 19);
    assert!(folder.read("large").as_ref() == Some(&text));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_is_in_the_folder_while_a_large_file_is_still_coming() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let (_sync, mut link) = started(&folder, &database).await;
    let text = large_text(9, 4 << 20);
    let op = database.save("large", &text);
    database.large.patience = Some(5);
    link.push_large(&mut database, op).await;
    link.until(&mut database, "a question for parts", |d| !d.large.asked.is_empty()).await;
    let asked = std::mem::take(&mut database.large.asked);
    let op = database.save("small", "at once");
    link.push(&database, vec![op], false).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while folder.read("small").is_none() {
        assert!(std::time::Instant::now() < deadline, "in vain");
        tokio::task::yield_now().await;
    }
    assert_eq!(folder.read("large"), None);
    let (recipe, parts) = recipe_of(text.as_bytes());
    for part in asked.into_iter().skip(5) {
        let packed = Packed::pack(parts[part as usize].clone());
        link.say(FromControlPlane::Part(PartData { content: recipe.hash, part, packed })).await;
    }
    let rev = database.rev;
    link.until(&mut database, "both", |d| d.visible >= rev).await;
    assert!(folder.read("large").as_ref() == Some(&text));
    assert!(database.large.asked.is_empty(), "nothing was asked for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_not_what_they_should_be_never_become_a_file() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let (sync, mut link) = started(&folder, &database).await;
    let text = large_text(10, 2 << 20);
    let op = database.save("large", &text);
    link.push_with(&HashMap::new(), database.rev, vec![op.clone()], false).await;
    link.until(&mut database, "a question", |d| !d.needed.is_empty()).await;
    // A recipe of parts that make up something else.
    let (mut recipe, _) = recipe_of(large_text(11, 2 << 20).as_bytes());
    let other = large_text(11, 2 << 20);
    recipe.hash = Hash::of(text.as_bytes());
    for page in RecipePage::of(&recipe) {
        link.say(FromControlPlane::Recipe(page)).await;
    }
    let (_, parts) = recipe_of(other.as_bytes());
    for (part, bytes) in (0u32..).zip(parts) {
        let data = PartData { content: recipe.hash, part, packed: Packed::pack(bytes) };
        link.say(FromControlPlane::Part(data)).await;
    }
    // The agent has done with this stream.
    let ended = async { while frame::expect::<_, FromAgent>(&mut link.stream).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(folder.read("large"), None);
    let mut link = Link::up(&sync, 2).await;
    link.say(FromControlPlane::Welcome { rev: Revision(database.rev), base: Standing::Current }).await;
    link.push_large(&mut database, op).await;
    let rev = database.rev;
    link.until(&mut database, "the file", |d| d.visible >= rev).await;
    assert!(folder.read("large").as_ref() == Some(&text));
}
