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
        for page in RecipePage::of(&recipe) {
            self.say(&FromControlPlane::Recipe(page)).await?;
        }
        self.download.recipes.insert(content, recipe);
        Ok(())
    }

    /// The agent lacks parts of a content whose recipe it was sent; what it wasn't sent it has no business with.
    pub(super) fn want_parts(&mut self, content: Hash, parts: &[u32]) -> Result<(), PushError> {
        if self.download.due.len() + parts.len() > PARTS_WAITING {
            return Err(PushError::Greedy);
        }
        for place in parts {
            if let Some(part) = self.download.part(content, *place) {
                self.download.progress.expect(u64::from(part.size), Instant::now());
                self.download.due.push_back((content, *place));
            }
        }
        Ok(())
    }

    /// Sends some of the parts that are due.
    pub(super) async fn push_parts(&mut self) -> Result<(), PushError> {
        let some = self.download.due.len().min(PARTS_AT_ONCE);
        let some: Vec<(Hash, u32)> = self.download.due.drain(..some).collect();
        let parts = some.iter().map_while(|(content, place)| self.download.part(*content, *place));
        let parts: Vec<Part> = parts.collect();
        let all = match self.context.agents.0.store.packed_parts(self.context.session, &parts).await {
            Err(workspace::Error::Damaged(_)) => {
                let contents: HashSet<Hash> = some.into_iter().map(|(content, _)| content).collect();
                self.download.due.retain(|(content, _)| !contents.contains(content));
                return self.say_unavailable(contents.into_iter().collect()).await;
            }
            all => all?,
        };
        for (((content, part), packed), Part { size, .. }) in some.into_iter().zip(all).zip(parts) {
            self.say(&FromControlPlane::Part(PartData { content, part, packed })).await?;
            self.context.went(&mut self.download.progress, u64::from(size));
        }
        if !self.download.is_due() {
            self.context.transferred(&mut self.download.progress);
        }
        Ok(())
    }
}
