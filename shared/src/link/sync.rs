//! File sync on the link: batches both ways, and what is said about them.
//!
//! ```text
//! agent ── Open::Sync(Hello{base_rev, …}) ─▶ control plane
//!       ◀─ Welcome{rev} ──
//!       ◀─ Begin{…}  Chunk…  End{…} ──          catch-up in one or several batches, then live ones
//!       ── Visible{rev} ─▶                      after the renames
//!       ── Begin{…}  Chunk…  End{…} ─▶          what changed in the pod
//!       ◀─ Committed{batch, rev, results} ──    after the database's commit
//! ```
//! A batch that fits goes in one message ([`Batch::Whole`]); a larger one is cut into chunks.
//! Batches of one direction never interleave.
//!
//! Contents that are large ([`crate::chunk::is_large`]) never travel in a batch, but in parts, before it or after it:
//! ```text
//! agent ── Offer{recipe} ─▶                         control plane ── Batch without the content ─▶ agent
//!       ◀─ Lacking{parts} ──                                      ◀─ Need{content} ──
//!       ── Part … ─▶                                              ── Recipe{recipe} ─▶
//!       ◀─ Stored ──       or NotStored, and why                  ◀─ NeedParts{parts} ──
//!       ── Batch without the content ─▶                           ── Part … ─▶
//! ```
//! Whoever gets parts keeps them, so that after a lost link only those are asked for that are still lacking.

mod batch;

pub use batch::{Assembled, Assembly, Batch, Begin, CHUNK_BYTES, Disorder, End, Whole};

use super::Failure;
use crate::chunk::{BadParts, Packed, Part, Recipe};
use crate::id::{BatchId, ItemId, LinkEpoch, Revision, VolumeId};
use crate::path::WorkspacePath;
use crate::tree::{Entry, Hash};
use serde::{Deserialize, Serialize};

/// Parts of a recipe in one message: some 60 bytes each, a message's limit with room.
pub const RECIPE_PARTS: usize = 3_000;
/// Numbers of parts in one message: 5 bytes each.
pub const PART_NUMBERS: usize = 30_000;

/// The code of a refused operation whose content came neither with the batch nor is in the database: it is sent again
/// with its content.
pub const CONTENT_MISSING: &str = "content_missing";

/// What the agent's base holds when its sync stream opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The link's epoch, from the welcome.
    pub epoch: LinkEpoch,
    /// The revision of its base; 0 if it has none.
    pub base_rev: Revision,
    /// The digest of its base ([`crate::tree::digest`]). One that isn't the database's at that revision makes the base
    /// [`Standing::Foreign`].
    pub base_digest: Hash,
    /// The volume it lies on. On another one than the session's last, the base is [`Standing::Outdated`].
    pub volume: VolumeId,
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromAgent {
    /// A batch of changes made in the pod, or a part of one.
    Batch(Batch),
    /// Every change up to this revision is in `/app`, by rename.
    Visible {
        /// The revision.
        rev: Revision,
    },
    /// Contents that the agent lacks, by hash: those of the control plane's batches that came without. Large ones are
    /// answered by their recipe, the others by a batch.
    Need {
        /// At most [`crate::limits::SyncLimits::batch_items`] in all, cut into messages.
        hashes: Vec<Hash>,
    },
    /// What a large content is made of that the pod will commit. One at a time: the next is offered once this one is
    /// stored, or is not. An offer of a content again begins it anew.
    Offer(RecipePage),
    /// A part of the content on offer that the control plane said it lacks.
    Part(PartData),
    /// Parts that the agent lacks of a content whose recipe it was sent.
    NeedParts {
        /// The content.
        content: Hash,
        /// Their places in the recipe, at most [`PART_NUMBERS`] in a message.
        parts: Vec<u32>,
    },
    /// The paths that cannot be synced now; each message replaces the whole list.
    Problems {
        /// At most 1,000; the rest is counted.
        problems: Vec<Problem>,
        /// How many more there are.
        more: u64,
    },
    /// What the base holds while nothing is on its way: told from time to time, so that a difference that no change
    /// brings to light is found. Where the database holds something else at that revision, it ends the stream, and
    /// what is wrong is found at the next one's hello.
    Check {
        /// The base's revision.
        rev: Revision,
        /// Its digest ([`crate::tree::digest`]).
        digest: Hash,
    },
    /// What the engine is doing.
    State(State),
    /// A scan on reconnect found so much gone that it is held: at least half and at least ten items.
    MassDelete {
        /// How many items.
        items: u64,
        /// The topmost paths gone, at most 100.
        paths: Vec<WorkspacePath>,
    },
    /// The answer to [`FromControlPlane::Settle`]: all batches of changes made before the question are committed.
    Settled {
        /// The question's number.
        token: u64,
        /// The revision by which they are.
        rev: Revision,
    },
}

/// What the control plane says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromControlPlane {
    /// The first answer.
    Welcome {
        /// The database's revision now.
        rev: Revision,
        /// What the agent's base is worth.
        base: Standing,
    },
    /// A batch of changes made in the database, or a part of one.
    Batch(Batch),
    /// The agent's batch is committed.
    Committed(Committed),
    /// The agent's batch is refused as a whole, and why: `superseded`, `batch_malformed`, `batch_too_large`,
    /// `database_unavailable`. `retry` says whether the same batch may be sent again.
    Refused {
        /// Which.
        batch: BatchId,
        /// Why.
        failure: Failure,
        /// Whether sending it again later can help.
        retry: bool,
    },
    /// Which parts of the offered content must be sent.
    Lacking {
        /// The content.
        content: Hash,
        /// Their places in the recipe, at most [`PART_NUMBERS`] in a message, rising.
        parts: Vec<u32>,
        /// Whether that is all. Once they are sent, [`FromControlPlane::Stored`] follows.
        last: bool,
    },
    /// The offered content is stored: a batch may name it without bringing it.
    Stored {
        /// The content.
        content: Hash,
    },
    /// The offered content is not stored, and why: `content_malformed`, `file_too_large`, `uploads_full`,
    /// `parts_missing`, `database_unavailable`. `retry` says whether offering it again can help.
    NotStored {
        /// The content.
        content: Hash,
        /// Why.
        failure: Failure,
        /// Whether the same offer may be made again, later.
        retry: bool,
    },
    /// Contents that the database cannot give, since they are damaged or gone. Asking again is of no use on this link.
    Unavailable {
        /// Which.
        hashes: Vec<Hash>,
    },
    /// What a large content that the agent asked for is made of.
    Recipe(RecipePage),
    /// A part that the agent asked for.
    Part(PartData),
    /// Answer [`FromAgent::Settled`] once everything written before now is committed.
    Settle {
        /// Given back in the answer.
        token: u64,
    },
    /// What a user decided about a held mass delete.
    MassDeleteDecision {
        /// Delete them, or put them back.
        delete: bool,
    },
}

/// What an agent's base is worth to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// What changed since follows.
    Current,
    /// Not all that was deleted since is known any more, or there is none: the whole tree follows, in batches with
    /// [`Begin::full`]. What the base has and the tree has not was deleted.
    Outdated,
    /// This database never agreed on it: perhaps it was put back to an earlier state. The whole tree follows, and the
    /// base is dropped: both sides' files are united, and nothing is deleted.
    Foreign,
}

/// A recipe, or some of it: it comes in order, and in one message if it fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipePage {
    /// The content.
    pub content: Hash,
    /// Its bytes.
    pub size: u64,
    /// The next of its parts, at most [`RECIPE_PARTS`].
    pub parts: Vec<Part>,
    /// Whether these are the last.
    pub last: bool,
}

impl RecipePage {
    /// A recipe, cut into pages.
    pub fn of(recipe: &Recipe) -> impl Iterator<Item = Self> {
        let pages = recipe.parts.chunks(RECIPE_PARTS).count().max(1);
        (0..pages).map(move |page| {
            let parts = recipe.parts.iter().skip(page * RECIPE_PARTS).take(RECIPE_PARTS);
            let parts = parts.copied().collect();
            Self { content: recipe.hash, size: recipe.size, parts, last: page + 1 == pages }
        })
    }
}

/// A recipe in the making, from the pages that come.
#[derive(Clone, Debug, Default)]
pub struct RecipePages(Option<Recipe>);

impl RecipePages {
    /// Takes a page. Answers the recipe once it is all there and holds together; holds no more than a content of
    /// `most_bytes` may have.
    pub fn take(&mut self, page: RecipePage, most_bytes: u64) -> Result<Option<Recipe>, BadParts> {
        let RecipePage { content, size, parts, last } = page;
        let mut recipe = match self.0.take() {
            Some(recipe) if (recipe.hash, recipe.size) == (content, size) => recipe,
            // Another content: the one before is given up.
            _ => Recipe { hash: content, size, parts: Vec::new() },
        };
        if size > most_bytes {
            return Err(BadParts::Size);
        }
        if (recipe.parts.len() + parts.len()) as u64 > Recipe::most_parts(size) {
            return Err(BadParts::Cut);
        }
        recipe.parts.extend(parts);
        if last {
            recipe.check()?;
            return Ok(Some(recipe));
        }
        self.0 = Some(recipe);
        Ok(None)
    }
}

/// A part on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartData {
    /// The content it is of.
    pub content: Hash,
    /// Its place in the recipe.
    pub part: u32,
    /// Its bytes.
    pub packed: Packed,
}

/// The database's answer to a pod's batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Which batch.
    pub batch: BatchId,
    /// The revision that holds it.
    pub rev: Revision,
    /// What became of each operation, in manifest order.
    pub results: Vec<OpResult>,
}

/// What became of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResult {
    /// The database now holds what the pod has.
    Applied {
        /// The item's id.
        item: Option<ItemId>,
    },
    /// The database holds something else now (a merge, or, after a conflict, its own); the pod's bytes are in
    /// the history. The next batch from the control plane brings it; the pod's state counts as agreed until then.
    Superseded {
        /// Whether it was a conflict rather than a clean merge.
        conflict: bool,
        /// What the database holds, or none if nothing.
        now: Option<Entry>,
    },
    /// Not taken: `file_too_large`, `workspace_full`, `too_many_items`, `not_a_directory`, … The rest of the batch is.
    Refused(Failure),
}

/// A path that cannot be synced now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The path, as far as it can be told; names that aren't UTF-8 are escaped.
    pub path: String,
    /// `special_file`, `name_not_utf8`, `symlink_outside`, `unreadable`, `too_large`, `no_space`, `hot_file`, `in_the_way`, …
    pub code: String,
    /// For a person.
    pub message: String,
}

/// What the sync engine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Comparing and catching up.
    CatchingUp,
    /// Both sides agree, or will within milliseconds.
    Live,
    /// The workspace's file system has no room; saves wait in the database.
    Full,
    /// A mass delete waits for a decision.
    Held,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{PART_MAX, PART_MIN};
    use crate::link::frame;

    fn long(parts: usize) -> Recipe {
        let part = Part { hash: Hash::of(b"x"), size: PART_MIN as u32 };
        Recipe { hash: Hash::of(b"whole"), size: (parts * PART_MIN) as u64, parts: vec![part; parts] }
    }

    #[test]
    fn a_recipe_of_any_length_goes_in_pages_that_fit_and_comes_out_whole() {
        for parts in [1, RECIPE_PARTS, RECIPE_PARTS + 1, 3 * RECIPE_PARTS] {
            let recipe = long(parts);
            let mut pages = RecipePages::default();
            let mut whole = None;
            for page in RecipePage::of(&recipe) {
                frame::encode(&FromControlPlane::Recipe(page.clone())).unwrap();
                assert_eq!(whole, None);
                whole = pages.take(page, u64::MAX).unwrap();
            }
            assert_eq!(whole, Some(recipe));
        }
    }

    #[test]
    fn a_recipe_that_lies_or_never_ends_is_refused_and_the_next_is_taken() {
        let recipe = long(10);
        let page = |size, last| RecipePage { content: recipe.hash, size, parts: recipe.parts.clone(), last };
        let mut pages = RecipePages::default();
        assert_eq!(pages.take(page(recipe.size, true), recipe.size - 1), Err(BadParts::Size));
        assert_eq!(pages.take(page(recipe.size + 1, true), u64::MAX), Err(BadParts::Size));
        assert_eq!(pages.take(page(recipe.size, false), u64::MAX), Ok(None));
        assert_eq!(pages.take(page(recipe.size, false), u64::MAX), Err(BadParts::Cut));
        assert_eq!(pages.take(page(recipe.size, true), u64::MAX), Ok(Some(recipe.clone())));
        // One that is given up in the middle is no part of the next.
        assert_eq!(pages.take(page(2 * recipe.size, false), u64::MAX), Ok(None));
        assert_eq!(pages.take(page(recipe.size, true), u64::MAX), Ok(Some(recipe)));
    }

    #[test]
    fn the_longest_part_and_the_most_numbers_fit_into_a_message() {
        let packed = Packed { zstd: false, data: vec![7; PART_MAX].into() };
        let part = PartData { content: Hash::of(b"x"), part: u32::MAX, packed };
        frame::encode(&FromControlPlane::Part(part)).unwrap();
        let parts = vec![u32::MAX; PART_NUMBERS];
        frame::encode(&FromAgent::NeedParts { content: Hash::of(b"x"), parts }).unwrap();
    }
}
