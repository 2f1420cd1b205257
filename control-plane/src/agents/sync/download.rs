//! Large contents for an agent: their recipes, and those parts that it asks for.

use super::progress::{Progress, To};
use super::push::{Push, PushError};
use crate::workspace;
use shared::chunk::{Part, Recipe};
use shared::link::sync::{FromControlPlane, PartData, RecipePage};
use shared::tree::Hash;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// Parts that are read and sent before anything else there is to say is looked at: half a megabyte on average.
const PARTS_AT_ONCE: usize = 4;
/// Parts that an agent may have asked for and not been sent: those of 8 GiB.
const PARTS_WAITING: usize = 1 << 16;
/// How long a recipe is kept of which no part is due. A link that is silent for as long is cut.
const KEPT_FOR: Duration = Duration::from_secs(10 * 60);

/// What an agent asked for of large contents.
#[derive(Debug)]
pub(super) struct Download {
    /// The recipes that it was sent, and when it last was or got something of them.
    recipes: HashMap<Hash, (Recipe, Instant)>,
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

    /// The agent is sent what a content is made of, and may ask for its parts from now on.
    pub(super) fn tell(&mut self, recipe: Recipe, now: Instant) -> Vec<RecipePage> {
        self.forget_old(now);
        let pages = RecipePage::of(&recipe).collect();
        self.recipes.insert(recipe.hash, (recipe, now));
        pages
    }

    /// Forgets what the agent, which asks for parts as soon as it has a recipe, asks nothing of any more. What it says
    /// to show tells nothing of that: what cannot be brought now may be on its way all the same.
    fn forget_old(&mut self, now: Instant) {
        let due: HashSet<Hash> = self.due.iter().map(|(content, _)| *content).collect();
        self.recipes
            .retain(|content, (_, last)| due.contains(content) || now.duration_since(*last) < KEPT_FOR);
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
        let now = Instant::now();
        for (content, _) in &some {
            if let Some((_, last)) = self.recipes.get_mut(content) {
                *last = now;
            }
        }
        let known = |(content, place)| Some((content, place, self.part(content, place)?));
        some.into_iter().filter_map(known).collect()
    }

    fn part(&self, content: Hash, place: u32) -> Option<Part> {
        self.recipes.get(&content)?.0.parts.get(place as usize).copied()
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
        for page in self.download.tell(recipe, Instant::now()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str) -> Recipe {
        let part = Part { hash: Hash::of(name.as_bytes()), size: 100_000 };
        Recipe { hash: Hash::of(&[name.as_bytes(), b" whole"].concat()), size: 100_000, parts: vec![part] }
    }

    #[test]
    fn a_recipe_is_kept_while_parts_of_it_are_due_and_for_a_while_after() {
        let (mut download, now) = (Download::new(), Instant::now());
        let [asked, silent, later] = ["asked", "silent", "later"].map(recipe);
        download.tell(asked.clone(), now);
        download.tell(silent.clone(), now);
        download.want(asked.hash, &[0]).unwrap();
        download.tell(later.clone(), now + KEPT_FOR - Duration::from_secs(1));
        download.want(silent.hash, &[0]).unwrap();
        assert_eq!(download.take_some().len(), 2, "nothing is forgotten yet");
        download.want(asked.hash, &[0]).unwrap();
        download.forget_old(Instant::now() + KEPT_FOR);
        download.want(silent.hash, &[0]).unwrap();
        let left: Vec<Hash> = download.take_some().into_iter().map(|(content, ..)| content).collect();
        assert_eq!(left, [asked.hash]);
    }
}
