//! Large contents from an agent: offered by recipe, sent in those parts that are lacking, put together.

use super::Context;
use super::progress::{Progress, To};
use crate::workspace::Error;
use shared::chunk::{BadParts, Packed, Part, Recipe};
use shared::link::Failure;
use shared::link::sync::{FromControlPlane, PART_NUMBERS, PartData, RecipePage, RecipePages};
use shared::tree::Hash;
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Bytes of parts that are stored with one transaction.
const STORE_BYTES: usize = 2 << 20;
/// How long the database may take for parts, or for putting a content together.
const STORE_TIMEOUT: Duration = Duration::from_secs(120);

/// What one stream's agent uploads: one content at a time, so that it costs this server no more than its recipe
/// and [`STORE_BYTES`].
#[derive(Debug)]
pub(super) struct Upload {
    pages: RecipePages,
    offer: Option<Offer>,
    progress: Progress,
}

/// A content on offer, of which some parts are still to come. No I/O.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) recipe: Recipe,
    /// Places in the recipe of those parts that are still to come, in order.
    lacking: VecDeque<u32>,
    /// Parts that came and are not stored yet.
    came: Vec<(Part, Packed)>,
    came_bytes: usize,
}

/// The agent's stream takes no more answers: it is over.
pub(super) struct Over;

impl Upload {
    pub(super) fn new() -> Self {
        Self { pages: RecipePages::default(), offer: None, progress: Progress::new(To::Database) }
    }

    /// Takes a page of an offer; answers once the offer is whole.
    pub(super) async fn offered(
        &mut self,
        context: &Context,
        page: RecipePage,
        answers: &mpsc::Sender<FromControlPlane>,
    ) -> Result<(), Over> {
        let (content, size) = (page.content, page.size);
        let limit = context.agents.0.settings.limits.file_bytes;
        // What was on offer before is given up; its parts stay for the next time.
        self.give_up(context);
        let recipe = match self.pages.take(page, limit) {
            Ok(None) => return Ok(()),
            Ok(Some(recipe)) => recipe,
            Err(_) if size > limit => {
                let message = format!("the file is {size} bytes; a file may have {limit}");
                return refuse(content, Failure::new("file_too_large", message), false, answers).await;
            }
            Err(why) => return fail(content, &Error::BadParts(why), answers).await,
        };
        match self.look_up(context, recipe).await {
            Ok(None) => say(FromControlPlane::Stored { content }, answers).await,
            Ok(Some(offer)) => {
                for message in offer.asked_for() {
                    say(message, answers).await?;
                }
                self.progress.expect(offer.bytes_lacking(), Instant::now());
                self.offer = Some(offer);
                self.complete(context, answers).await
            }
            Err(why) => fail(content, &why, answers).await,
        }
    }

    /// What must be sent of a content; none if it is stored already.
    async fn look_up(&self, context: &Context, recipe: Recipe) -> Result<Option<Offer>, Error> {
        let (store, session) = (&context.agents.0.store, context.session);
        if !store.known_blobs(session, &[recipe.hash]).await?.is_empty() {
            return Ok(None);
        }
        let unknown = store.lacking_parts(session, &recipe.parts).await?;
        Ok(Some(Offer::new(recipe, unknown)))
    }

    /// Takes a part.
    pub(super) async fn part(
        &mut self,
        context: &Context,
        data: PartData,
        answers: &mpsc::Sender<FromControlPlane>,
    ) -> Result<(), Over> {
        let Some(offer) = &mut self.offer else { return Ok(()) };
        let Some(part) = offer.take(data) else { return Ok(()) };
        context.went(&mut self.progress, u64::from(part.size));
        if offer.came_bytes >= STORE_BYTES
            && let Err(why) = offer.store(context).await
        {
            let content = offer.recipe.hash;
            self.give_up(context);
            return fail(content, &why, answers).await;
        }
        self.complete(context, answers).await
    }

    /// Puts the content together once all its parts are there, and says so.
    async fn complete(
        &mut self,
        context: &Context,
        answers: &mpsc::Sender<FromControlPlane>,
    ) -> Result<(), Over> {
        let Some(mut offer) = self.offer.take_if(|offer| offer.is_complete()) else { return Ok(()) };
        let content = offer.recipe.hash;
        let done = match offer.store(context).await {
            Ok(()) => {
                let assembling = context.agents.0.store.assemble(context.session, &offer.recipe);
                in_time(assembling).await
            }
            Err(why) => Err(why),
        };
        self.give_up(context);
        match done {
            Ok(()) => say(FromControlPlane::Stored { content }, answers).await,
            Err(why) => fail(content, &why, answers).await,
        }
    }

    fn give_up(&mut self, context: &Context) {
        self.offer = None;
        context.transferred(&mut self.progress);
    }
}

impl Offer {
    /// `unknown` are those of its parts that the database lacks: each is asked for once, wherever it is first.
    pub(super) fn new(recipe: Recipe, mut unknown: HashSet<Hash>) -> Self {
        let numbered = (0u32..).zip(&recipe.parts);
        let lacking =
            numbered.filter(|(_, part)| unknown.remove(&part.hash)).map(|(place, _)| place).collect();
        Self { recipe, lacking, came: Vec::new(), came_bytes: 0 }
    }

    /// Takes a part. One that wasn't asked for next is of an offer that was given up, and is passed over.
    pub(super) fn take(&mut self, data: PartData) -> Option<Part> {
        if self.recipe.hash != data.content || self.lacking.front() != Some(&data.part) {
            return None;
        }
        self.lacking.pop_front();
        let part = self.part(data.part);
        self.came_bytes += data.packed.data.len();
        self.came.push((part, data.packed));
        Some(part)
    }

    /// What came since it was last asked.
    pub(super) fn take_came(&mut self) -> Vec<(Part, Packed)> {
        self.came_bytes = 0;
        std::mem::take(&mut self.came)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.lacking.is_empty()
    }

    /// The messages that ask for what is lacking.
    pub(super) fn asked_for(&self) -> Vec<FromControlPlane> {
        let content = self.recipe.hash;
        let mut messages = Vec::new();
        let mut rest: Vec<u32> = self.lacking.iter().copied().collect();
        loop {
            let later = rest.split_off(rest.len().min(PART_NUMBERS));
            let last = later.is_empty();
            messages.push(FromControlPlane::Lacking { content, parts: rest, last });
            if last {
                return messages;
            }
            rest = later;
        }
    }

    fn bytes_lacking(&self) -> u64 {
        self.lacking.iter().map(|place| u64::from(self.part(*place).size)).sum()
    }

    fn part(&self, place: u32) -> Part {
        // Places come from the recipe itself; this is never the other.
        let none = Part { hash: Hash([0; 32]), size: 0 };
        self.recipe.parts.get(place as usize).copied().unwrap_or(none)
    }

    async fn store(&mut self, context: &Context) -> Result<(), Error> {
        let came = self.take_came();
        if came.is_empty() {
            return Ok(());
        }
        in_time(context.agents.0.store.put_parts(context.session, came)).await
    }
}

async fn in_time(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let late = |_| Error::Database(sea_orm::DbErr::Custom("it took too long".into()));
    tokio::time::timeout(STORE_TIMEOUT, work).await.map_err(late)?
}

async fn say(message: FromControlPlane, answers: &mpsc::Sender<FromControlPlane>) -> Result<(), Over> {
    answers.send(message).await.map_err(|_| Over)
}

async fn refuse(
    content: Hash,
    failure: Failure,
    retry: bool,
    answers: &mpsc::Sender<FromControlPlane>,
) -> Result<(), Over> {
    say(FromControlPlane::NotStored { content, failure, retry }, answers).await
}

async fn fail(content: Hash, why: &Error, answers: &mpsc::Sender<FromControlPlane>) -> Result<(), Over> {
    if matches!(why, Error::Database(_) | Error::Damaged(_) | Error::BadParts(BadParts::Content)) {
        tracing::warn!(%why, "a pod's large content was not stored");
    }
    refuse(content, Failure::from(why), why.is_transient(), answers).await
}
