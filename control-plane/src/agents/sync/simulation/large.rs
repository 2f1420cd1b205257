//! Large contents at the control plane's end: the real offers and downloads, over contents in memory.

use super::super::download::Download;
use super::super::upload::Offer;
use crate::workspace::memory::Memory;
use shared::link::Failure;
use shared::link::sync::{FromControlPlane, PartData, RecipePage, RecipePages};
use shared::tree::Hash;
use std::time::Instant;

/// What one stream has on its way, in both directions.
pub struct Transfers {
    pages: RecipePages,
    offer: Option<Offer>,
    pub download: Download,
}

impl Transfers {
    pub fn new() -> Self {
        Self { pages: RecipePages::default(), offer: None, download: Download::new() }
    }

    /// Takes a page of an offer.
    pub fn offered(&mut self, memory: &mut Memory, away: bool, page: RecipePage) -> Vec<FromControlPlane> {
        self.offer = None;
        let (content, size, limit) = (page.content, page.size, memory.limits.file_bytes);
        match self.pages.take(page, limit) {
            Ok(None) => Vec::new(),
            Ok(Some(_)) if away => vec![not_stored(content)],
            Ok(Some(recipe)) if memory.contents.contains_key(&recipe.hash) => {
                vec![FromControlPlane::Stored { content }]
            }
            Ok(Some(recipe)) => {
                let unknown = memory.lacking_parts(&recipe.parts);
                let offer = self.offer.insert(Offer::new(recipe, unknown));
                let mut said = offer.asked_for();
                said.extend(self.complete(memory));
                said
            }
            Err(_) if size > limit => {
                let failure = Failure::new("file_too_large", "the limit was lowered");
                vec![FromControlPlane::NotStored { content, failure, retry: false }]
            }
            Err(why) => panic!("the agent offers what nobody may: {why}"),
        }
    }

    /// Takes a part.
    pub fn part(&mut self, memory: &mut Memory, away: bool, data: PartData) -> Vec<FromControlPlane> {
        let content = data.content;
        let Some(offer) = &mut self.offer else { return Vec::new() };
        if offer.take(data).is_none() {
            return Vec::new();
        }
        if away {
            self.offer = None;
            return vec![not_stored(content)];
        }
        memory.put_parts(offer.take_came()).expect("the agent sends what its recipe says");
        self.complete(memory).into_iter().collect()
    }

    fn complete(&mut self, memory: &mut Memory) -> Option<FromControlPlane> {
        let offer = self.offer.take_if(|offer| offer.is_complete())?;
        memory.assemble(&offer.recipe).expect("the parts make up the content");
        Some(FromControlPlane::Stored { content: offer.recipe.hash })
    }

    /// Tells what a content is made of.
    pub fn recipe(&mut self, memory: &mut Memory, content: Hash) -> Vec<FromControlPlane> {
        match memory.recipe(content) {
            Some(recipe) => {
                let pages = self.download.tell(recipe, Instant::now());
                pages.into_iter().map(FromControlPlane::Recipe).collect()
            }
            None => vec![FromControlPlane::Unavailable { hashes: vec![content] }],
        }
    }

    /// Some of the parts that the agent asked for.
    pub fn parts(&mut self, memory: &Memory) -> Vec<FromControlPlane> {
        let some = self.download.take_some().into_iter();
        let part = |(content, part, what)| PartData { content, part, packed: memory.packed_part(what) };
        some.map(part).map(FromControlPlane::Part).collect()
    }
}

fn not_stored(content: Hash) -> FromControlPlane {
    let failure = Failure::new("database_unavailable", "the database is away");
    FromControlPlane::NotStored { content, failure, retry: true }
}
