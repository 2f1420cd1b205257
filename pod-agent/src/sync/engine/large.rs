//! Large contents, in parts: offered to the database before a batch names them, and fetched from it after a batch
//! named them. Parts that are lacking are all that travels, and those that came stay over a lost link.

use super::unkept::Unkept;
use super::{Engine, RETRY};
use crate::sync::disk::{Agreed, Disk, Stamp};
use shared::chunk::{self, Packed, Part, Recipe};
use shared::link::Failure;
use shared::link::sync::{FromAgent, PART_NUMBERS, PartData, RecipePage, RecipePages};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::time::Instant;

/// Parts that are said before anything else there is to do is looked at: half a megabyte at most.
const PARTS_AT_ONCE: usize = 2;

/// Bytes that no content has. The limits are not asked: what is stored may be of before they were lowered.
const CONTENT_BYTES: u64 = 1 << 40;

/// What the engine knows of large contents on their way.
#[derive(Debug, Default)]
pub(super) struct Large {
    /// Those that the database said it has, on this link.
    stored: HashSet<Hash>,
    /// Files whose contents are to be uploaded, one after the other.
    waiting: BTreeSet<WorkspacePath>,
    upload: Option<Upload>,
    /// Those that were asked for on this link, small ones among them until they come.
    asked: HashSet<Hash>,
    /// Small ones that came since all that was wanted was last there.
    came: HashSet<Hash>,
    pages: RecipePages,
    fetching: HashMap<Hash, Fetch>,
}

/// A content on its way to the database.
#[derive(Debug)]
struct Upload {
    path: WorkspacePath,
    entry: Entry,
    stamp: Stamp,
    recipe: Recipe,
    /// Where each part begins.
    offsets: Vec<u64>,
    /// Parts that are still to be sent.
    lacking: VecDeque<u32>,
}

/// A content on its way from the database.
#[derive(Debug)]
struct Fetch {
    recipe: Recipe,
    /// Parts that are not staged.
    missing: HashSet<Hash>,
}

impl Large {
    /// Whether there are parts to be sent now.
    pub(super) fn is_due(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| !upload.lacking.is_empty())
    }

    /// Whether it is the turn of the next file that waits for an upload.
    pub(super) fn is_next_due(&self) -> bool {
        self.upload.is_none() && !self.waiting.is_empty()
    }

    /// Whether the database said that it has this content.
    pub(super) fn is_stored(&self, hash: Hash) -> bool {
        self.stored.contains(&hash)
    }

    /// The base knows it from now on, or the database turned out not to have it after all.
    pub(super) fn let_go(&mut self, hash: Hash) {
        self.stored.remove(&hash);
    }

    /// Whether it was asked for already; it is from now on.
    pub(super) fn ask(&mut self, hash: Hash) -> bool {
        !self.asked.insert(hash)
    }

    /// One that travels in batches came. It may be asked for again once it has gone where it was wanted.
    pub(super) fn came(&mut self, hash: Hash) {
        self.asked.remove(&hash);
        self.came.insert(hash);
    }

    /// Whether one that travels in batches came, and should be staged.
    pub(super) fn has_come(&self, hash: Hash) -> bool {
        self.came.contains(&hash)
    }

    /// It is named anew. What was asked before that may have been of something that is no more, and get no answer.
    pub(super) fn named(&mut self, hash: Hash) {
        if !self.fetching.contains_key(&hash) {
            self.asked.remove(&hash);
        }
    }

    /// Forgets what was to be fetched: nothing is wanted any more.
    pub(super) fn forget(&mut self) {
        self.came.clear();
        if !self.asked.is_empty() {
            self.asked.clear();
            self.fetching.clear();
        }
    }
}

impl<D: Disk> Engine<D> {
    // --- to the database ---

    /// A large file that the database may not have is to be committed: its content goes first.
    pub(super) fn upload(&mut self, path: WorkspacePath, entry: Entry, stamp: Stamp) {
        let same = self.large.upload.as_ref().is_some_and(|upload| upload.path == path);
        match &self.large.upload {
            Some(upload) if !(same && upload.entry.hash != entry.hash) => {
                if !same {
                    self.large.waiting.insert(path);
                }
            }
            // None, or one of what the file no longer is.
            _ => self.offer(path, entry, stamp),
        }
    }

    fn offer(&mut self, path: WorkspacePath, entry: Entry, stamp: Stamp) {
        self.large.upload = None;
        let cut = self.disk.read(&path, Kind::File).and_then(|content| chunk::cut(content, |_, _| Ok(())));
        match cut {
            Ok(recipe) if recipe.hash == entry.hash => {
                let sizes = recipe.parts.iter().map(|part| u64::from(part.size));
                let offsets = sizes.scan(0, |end, size| Some(std::mem::replace(end, *end + size))).collect();
                for page in RecipePage::of(&recipe) {
                    self.say(FromAgent::Offer(page));
                }
                let lacking = VecDeque::new();
                self.large.upload = Some(Upload { path, entry, stamp, recipe, offsets, lacking });
            }
            // It changed since it was looked at.
            _ => self.is_hot(path),
        }
    }

    /// If no upload is under way, the next file that waits for one is looked at again, and offered if it still must
    /// be. If not, its turn is the one's after it.
    pub(super) fn upload_next(&mut self) {
        if self.large.is_next_due()
            && let Some(path) = self.large.waiting.pop_first()
        {
            self.dirty.insert_new(path, self.now);
        }
    }

    /// The control plane lacks these parts of what is on offer.
    pub(super) fn lacking(&mut self, content: Hash, parts: Vec<u32>) {
        if let Some(upload) = self.large.upload.as_mut().filter(|upload| upload.recipe.hash == content) {
            let known = upload.recipe.parts.len();
            upload.lacking.extend(parts.into_iter().filter(|part| (*part as usize) < known));
        }
    }

    /// Sends some of the parts that are lacking.
    pub(super) fn send_parts(&mut self) {
        for _ in 0..PARTS_AT_ONCE {
            let Some(upload) = &mut self.large.upload else { return };
            let Some(place) = upload.lacking.pop_front() else { return };
            // Places were checked when they came.
            let (Some(part), Some(offset)) =
                (upload.recipe.parts.get(place as usize), upload.offsets.get(place as usize))
            else {
                return;
            };
            let content = upload.recipe.hash;
            match self.disk.read_at(&upload.path, *offset, part.size) {
                Ok(bytes) if Hash::of(&bytes) == part.hash => {
                    let packed = Packed::pack(bytes);
                    self.say(FromAgent::Part(PartData { content, part: place, packed }));
                }
                // Somebody writes to it: what was sent stays, and may be of use for what it becomes.
                _ => {
                    let path = upload.path.clone();
                    self.large.upload = None;
                    self.is_hot(path);
                    return;
                }
            }
        }
    }

    /// The database has the content: now the file can be committed.
    pub(super) fn stored(&mut self, content: Hash) {
        self.large.stored.insert(content);
        self.unknown.remove(&content);
        if let Some(upload) = self.large.upload.take_if(|upload| upload.recipe.hash == content) {
            self.dirty.insert(upload.path, self.now);
        }
    }

    /// The database doesn't take the content.
    pub(super) fn not_stored(&mut self, content: Hash, failure: &Failure, retry: bool) {
        let Some(upload) = self.large.upload.take_if(|upload| upload.recipe.hash == content) else { return };
        tracing::info!(code = failure.code, retry, "a large content was refused");
        let path = upload.path;
        if retry {
            self.dirty.insert(path, self.now + RETRY);
        } else {
            self.problem(&path, &failure.code, &failure.message);
            self.set_aside(path.clone());
            let refused = Agreed { entry: upload.entry, item: None, stamp: Some(upload.stamp) };
            self.refused.insert(path, Some(refused), self.now);
        }
    }

    // --- from the database ---

    /// A page of what a wanted content is made of.
    pub(super) fn take_recipe(&mut self, page: RecipePage) {
        match self.large.pages.take(page, CONTENT_BYTES) {
            Ok(None) => {}
            Ok(Some(recipe)) => self.fetch(recipe),
            Err(why) => {
                tracing::warn!(%why, "a recipe from the control plane cannot be used");
                self.unlinked();
            }
        }
    }

    fn fetch(&mut self, recipe: Recipe) {
        let paths: Vec<WorkspacePath> = self
            .wanted
            .iter()
            .filter(|(_, target)| target.is_some_and(|target| target.entry.hash == recipe.hash))
            .map(|(path, _)| path.clone())
            .collect();
        if paths.is_empty() || self.large.fetching.contains_key(&recipe.hash) {
            return;
        }
        let mut missing: HashSet<Hash> = recipe.parts.iter().map(|part| part.hash).collect();
        missing.retain(|hash| !self.disk.is_staged(*hash));
        // What stands there now is most likely an older version.
        for path in &paths {
            if missing.is_empty() {
                break;
            }
            self.fill(path, &mut missing);
        }
        let mut unasked = missing.clone();
        let numbered = (0u32..).zip(&recipe.parts);
        let parts: Vec<u32> =
            numbered.filter(|(_, part)| unasked.remove(&part.hash)).map(|(place, _)| place).collect();
        let content = recipe.hash;
        self.large.fetching.insert(content, Fetch { recipe, missing });
        for parts in parts.chunks(PART_NUMBERS) {
            self.say(FromAgent::NeedParts { content, parts: parts.to_vec() });
        }
        self.finish(content);
    }

    /// Stages those of the missing parts that a file holds.
    fn fill(&mut self, path: &WorkspacePath, missing: &mut HashSet<Hash>) {
        let mut found = Vec::new();
        // Twice: what is read cannot be staged meanwhile, and in memory it is one part at most.
        let Ok(content) = self.disk.read(path, Kind::File) else { return };
        let mut at = 0;
        let cut = chunk::cut(content, |part, _| {
            if missing.contains(&part.hash) {
                found.push((at, part));
            }
            at += u64::from(part.size);
            Ok(())
        });
        if cut.is_err() {
            return;
        }
        for (at, part) in found {
            if self.stage_from(path, at, part).is_ok_and(|staged| staged) {
                missing.remove(&part.hash);
            }
        }
    }

    fn stage_from(&mut self, path: &WorkspacePath, at: u64, part: Part) -> io::Result<bool> {
        let bytes = self.disk.read_at(path, at, part.size)?;
        let right = Hash::of(&bytes) == part.hash;
        if right {
            self.disk.stage(part.hash, &bytes)?;
        }
        Ok(right)
    }

    /// A large content that lies somewhere in the workspace is staged from there.
    pub(super) fn stage_large(&mut self, path: &WorkspacePath, hash: Hash) -> io::Result<()> {
        let content = self.disk.read(path, Kind::File)?;
        let recipe = chunk::cut(content, |_, _| Ok(()))?;
        if recipe.hash != hash {
            return Ok(());
        }
        let mut at = 0;
        for part in &recipe.parts {
            if !self.disk.is_staged(part.hash) && !self.stage_from(path, at, *part)? {
                return Ok(());
            }
            at += u64::from(part.size);
        }
        self.disk.join_staged(&recipe).map(drop)
    }

    /// A part that was asked for.
    pub(super) fn take_part(&mut self, data: &PartData) {
        let Some(fetch) = self.large.fetching.get_mut(&data.content) else { return };
        let Some(part) = fetch.recipe.parts.get(data.part as usize) else { return };
        let Ok(bytes) = data.packed.unpack(*part) else {
            tracing::warn!("a part from the control plane is not what it should be");
            return self.unlinked();
        };
        let staged = self.disk.stage(part.hash, &bytes);
        match staged {
            Ok(()) => {
                fetch.missing.remove(&part.hash);
                self.finish(data.content);
            }
            Err(why) => self.cannot_fetch(data.content, &why),
        }
    }

    /// Puts a content together whose parts are all there, and brings it to where it is wanted.
    fn finish(&mut self, content: Hash) {
        let Some(fetch) = self.large.fetching.get(&content).filter(|fetch| fetch.missing.is_empty()) else {
            return;
        };
        let joined = self.disk.join_staged(&fetch.recipe);
        match joined {
            Ok(true) => {
                self.large.fetching.remove(&content);
                self.large.asked.remove(&content);
                self.apply_wanted();
            }
            Ok(false) => {
                tracing::warn!("a large content from the control plane is not what it should be");
                self.unlinked();
            }
            Err(why) => self.cannot_fetch(content, &why),
        }
    }

    /// There is no room for it now, or the stage failed otherwise: it is tried again over a new stream.
    fn cannot_fetch(&mut self, content: Hash, why: &io::Error) {
        tracing::warn!(%why, "a large content could not be staged");
        self.large.fetching.remove(&content);
        self.unkept = Some(Unkept::of(why));
        self.apply_wanted();
    }

    /// Whether there is room for what is wanted at a path: a large content is put together beside what stands there,
    /// then copied with its mode. Asked before it travels, so that it does not take the last room from others.
    pub(super) fn has_room_for(&self, path: &WorkspacePath) -> bool {
        let Some(entry) = self.wanted.get(path).copied().flatten().map(|target| target.entry) else {
            return true;
        };
        let coming = self.large.asked.contains(&entry.hash) || !chunk::is_large(entry.size);
        coming || self.disk.has_room(2 * entry.size)
    }

    /// When parts are to be sent.
    pub(super) fn next_part(&self) -> Option<Instant> {
        (self.link.is_some() && self.large.is_due()).then_some(self.now)
    }

    /// The link is gone: what was on its way is offered and asked for again over the next.
    pub(super) fn let_go_of_large(&mut self) {
        let large = std::mem::take(&mut self.large);
        let paths = large.waiting.into_iter().chain(large.upload.map(|upload| upload.path));
        self.dirty.extend(paths.map(|path| (path, self.now)));
    }
}
