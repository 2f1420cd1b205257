//! Large contents for an agent: their recipes, and those parts that it asks for.

use super::progress::{Progress, To};
use super::push::{Push, PushError};
use crate::workspace;
use shared::chunk::{Part, Recipe};
use shared::link::sync::{FromControlPlane, PartData, RecipePage};
use shared::tree::Hash;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

/// Parts that are read and sent before anything else there is to say is looked at: half a megabyte on average.
const PARTS_AT_ONCE: usize = 4;
/// Parts that an agent may have asked for and not been sent: those of 8 GiB.
const PARTS_WAITING: usize = 1 << 16;

/// What an agent asked for of large contents.
#[derive(Debug)]
pub(super) struct Download {
    /// The recipes that it was sent.
    recipes: HashMap<Hash, Recipe>,
    /// The parts that it waits for.
    due: VecDeque<(Hash, u32)>,
    progress: Progress,
}

impl Download {
    pub(super) fn new() -> Self {
        Self { recipes: HashMap::new(), due: VecDeque::new(), progress: Progress::new(To::Pod) }
    }

    /// Whether parts are to be sent.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The agent has all that it was told of.
    pub(super) fn forget(&mut self) {
        self.recipes.clear();
        self.due.clear();
    }

    /// The agent is sent what a content is made of, and may ask for its parts from now on.
    pub(super) fn tell(&mut self, recipe: Recipe) -> Vec<RecipePage> {
        let pages = RecipePage::of(&recipe).collect();
        self.recipes.insert(recipe.hash, recipe);
        pages
    }

    /// The agent lacks parts of a content whose recipe it was sent; what it wasn't sent it has no business with.
    pub(super) fn want(&mut self, content: Hash, parts: &[u32]) -> Result<(), PushError> {
        if self.due.len() + parts.len() > PARTS_WAITING {
            return Err(PushError::Greedy);
        }
        for place in parts {
            if let Some(part) = self.part(content, *place) {
                self.progress.expect(u64::from(part.size), Instant::now());
                self.due.push_back((content, *place));
            }
        }
        Ok(())
    }

    /// Takes some of the parts that are due: of which content, at which place, and what.
    pub(super) fn take_some(&mut self) -> Vec<(Hash, u32, Part)> {
        let some = self.due.len().min(PARTS_AT_ONCE);
        let some: Vec<(Hash, u32)> = self.due.drain(..some).collect();
        let known = |(content, place)| Some((content, place, self.part(content, place)?));
        some.into_iter().filter_map(known).collect()
    }

    fn part(&self, content: Hash, place: u32) -> Option<Part> {
        self.recipes.get(&content)?.parts.get(place as usize).copied()
    }
}

impl Push<'_> {
    /// Says what a large content is made of.
    pub(super) async fn send_recipe(&mut self, content: Hash) -> Result<(), PushError> {
        let (store, session) = (&self.context.agents.0.store, self.context.session);
        let recipe = match store.recipe(session, content).await {
            Ok(Some(recipe)) => recipe,
            Ok(None) | Err(workspace::Error::Damaged(_)) => return self.say_unavailable(vec![content]).await,
            Err(why) => return Err(why.into()),
        };
        for page in self.download.tell(recipe) {
            self.say(&FromControlPlane::Recipe(page)).await?;
        }
        Ok(())
    }

    /// Sends some of the parts that are due.
    pub(super) async fn push_parts(&mut self) -> Result<(), PushError> {
        let some = self.download.take_some();
        let parts: Vec<Part> = some.iter().map(|(_, _, part)| *part).collect();
        let all = match self.context.agents.0.store.packed_parts(self.context.session, &parts).await {
            Err(workspace::Error::Damaged(_)) => {
                let contents: HashSet<Hash> = some.into_iter().map(|(content, ..)| content).collect();
                self.download.due.retain(|(content, _)| !contents.contains(content));
                return self.say_unavailable(contents.into_iter().collect()).await;
            }
            all => all?,
        };
        for ((content, place, part), packed) in some.into_iter().zip(all) {
            self.say(&FromControlPlane::Part(PartData { content, part: place, packed })).await?;
            self.context.went(&mut self.download.progress, u64::from(part.size));
        }
        if !self.download.is_due() {
            self.context.transferred(&mut self.download.progress);
        }
        Ok(())
    }
}
