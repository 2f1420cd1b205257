//! A part of a workspace in memory, changed there, and told apart from what it was. No I/O.
//!
//! A draft holds the items that a commit touches, with all their ancestors, and for an item that goes or moves
//! everything below it. The loader sees to that; the draft trusts it.

use super::types::{Author, DIR_MODE, FILE_MODE, Op, Origin, Precondition, VersionOp};
use super::{Error, Result};
use shared::id::{ItemId, Revision};
use shared::limits::SyncLimits;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Item, Kind};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;

/// What a workspace holds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Live items.
    pub(super) items: u64,
    /// Bytes of their contents.
    pub(super) bytes: u64,
}

/// The part of a workspace that one commit works on.
#[derive(Debug, Default)]
pub(super) struct Draft {
    live: BTreeMap<WorkspacePath, Item>,
    /// Where each live item is.
    places: HashMap<ItemId, WorkspacePath>,
    /// Where an item that left a path is known to have gone.
    moved: HashMap<WorkspacePath, ItemId>,
    /// What stood at each path changed, before the first change.
    before: BTreeMap<WorkspacePath, Option<Item>>,
    /// Versions that never stand in the tree.
    losers: Vec<NewVersion>,
    /// Items whose new content came of a merge.
    merged: HashSet<ItemId>,
    totals: Totals,
}

/// A row of the tree that must be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowChange {
    pub(super) path: WorkspacePath,
    /// The item that is, or was, there.
    pub(super) item: Item,
    /// The folder that holds it; none at the top.
    pub(super) parent: Option<ItemId>,
    pub(super) deleted: bool,
    /// If it is gone by a move: itself, live elsewhere.
    pub(super) moved_to: Option<ItemId>,
}

/// A version that must be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewVersion {
    pub(super) item: ItemId,
    pub(super) path: WorkspacePath,
    pub(super) op: VersionOp,
    pub(super) entry: Entry,
    pub(super) origin: Origin,
    pub(super) conflict_of: Option<Revision>,
    /// Whether a person should look at it.
    pub(super) open_conflict: bool,
}

/// All that tells a draft from what was loaded.
#[derive(Debug, Default)]
pub(super) struct Differences {
    pub(super) rows: Vec<RowChange>,
    pub(super) versions: Vec<NewVersion>,
    pub(super) totals: Totals,
}

impl Differences {
    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.versions.is_empty()
    }

    /// The contents that what is written refers to.
    pub(super) fn contents(&self) -> HashSet<Hash> {
        let rows = self.rows.iter().map(|row| row.item.entry.hash);
        rows.chain(self.versions.iter().map(|version| version.entry.hash)).collect()
    }
}

impl Draft {
    /// Of a workspace that holds `totals` in all, with nothing loaded yet.
    pub(super) fn new(totals: Totals) -> Self {
        Self { totals, ..Self::default() }
    }

    /// Takes in a live item, as loaded.
    pub(super) fn load(&mut self, path: WorkspacePath, item: Item) {
        self.places.insert(item.id, path.clone());
        self.live.insert(path, item);
    }

    /// Takes in that `item` left `path`, as loaded.
    pub(super) fn load_moved(&mut self, path: WorkspacePath, item: ItemId) {
        self.moved.insert(path, item);
    }

    /// What is at a path now.
    pub(super) fn get(&self, path: &WorkspacePath) -> Option<&Item> {
        self.live.get(path)
    }

    /// Everything in the draft, folders before what they hold.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&WorkspacePath, &Item)> {
        self.live.iter()
    }

    /// The item that once was at `path`, if it is known to have gone elsewhere.
    pub(super) fn moved_id(&self, path: &WorkspacePath) -> Option<ItemId> {
        self.moved.get(path).copied()
    }

    /// Where the item went that once was at `path`, if it is still live and in the draft.
    pub(super) fn moved_from(&self, path: &WorkspacePath) -> Option<WorkspacePath> {
        self.moved.get(path).and_then(|id| self.find(*id))
    }

    /// Where an item is.
    pub(super) fn find(&self, id: ItemId) -> Option<WorkspacePath> {
        self.places.get(&id).cloned()
    }

    /// What is below a folder, folders before what they hold.
    pub(super) fn below<'a>(
        &'a self,
        folder: &'a WorkspacePath,
    ) -> impl Iterator<Item = (&'a WorkspacePath, &'a Item)> {
        // Ordered by parts: all that is below a path follows it directly.
        self.live
            .range((Bound::Excluded(folder), Bound::Unbounded))
            .take_while(move |(path, _)| path.is_below(folder))
    }

    /// The totals now.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Puts an item at a path, or takes what is there away, and keeps count.
    pub(super) fn set(&mut self, path: &WorkspacePath, item: Option<Item>) {
        let old = match item {
            Some(item) => {
                self.totals.items += 1;
                self.totals.bytes += item.entry.size;
                self.places.insert(item.id, path.clone());
                self.live.insert(path.clone(), item)
            }
            None => self.live.remove(path),
        };
        if let Some(old) = old {
            if self.get(path).is_none_or(|now| now.id != old.id) && self.places.get(&old.id) == Some(path) {
                self.places.remove(&old.id);
            }
            self.totals.items = self.totals.items.saturating_sub(1);
            self.totals.bytes = self.totals.bytes.saturating_sub(old.entry.size);
        }
        self.before.entry(path.clone()).or_insert(old);
    }

    /// Makes the folders above `path` that are missing.
    pub(super) fn make_parents(&mut self, path: &WorkspacePath) -> Result<()> {
        let ancestors: Vec<_> = path.ancestors().collect();
        for folder in ancestors {
            match self.get(&folder) {
                Some(item) if item.entry.kind == Kind::Dir => {}
                Some(_) => return Err(Error::NotADirectory(folder)),
                None => self.set(&folder, Some(new_item(Entry::dir(DIR_MODE)))),
            }
        }
        Ok(())
    }

    /// The topmost thing above `path` that isn't a folder.
    pub(super) fn blocked_by(&self, path: &WorkspacePath) -> Option<(WorkspacePath, Item)> {
        path.ancestors().find_map(|folder| match self.get(&folder) {
            Some(item) if item.entry.kind != Kind::Dir => Some((folder, *item)),
            _ => None,
        })
    }

    /// A file holds this content from now on.
    pub(super) fn write(
        &mut self,
        path: &WorkspacePath,
        (hash, size): (Hash, u64),
        mode: Option<u32>,
    ) -> Result<()> {
        match self.get(path).copied() {
            Some(item) if item.entry.kind == Kind::Dir => Err(Error::IsADirectory(path.clone())),
            Some(item) if item.entry.kind == Kind::File => {
                let entry = Entry::file(mode.unwrap_or(item.entry.mode), size, hash);
                if entry != item.entry {
                    self.set(path, Some(Item { entry, ..item }));
                }
                Ok(())
            }
            // Nothing there, or a link, which the file replaces.
            _ => {
                self.make_parents(path)?;
                self.set(path, Some(new_item(Entry::file(mode.unwrap_or(FILE_MODE), size, hash))));
                Ok(())
            }
        }
    }

    /// A link with this target's hash and length.
    pub(super) fn symlink(&mut self, path: &WorkspacePath, (hash, size): (Hash, u64)) -> Result<()> {
        let entry = Entry { kind: Kind::Symlink, mode: 0o777, size, hash };
        match self.get(path).copied() {
            Some(item) if item.entry.kind == Kind::Dir => Err(Error::IsADirectory(path.clone())),
            Some(item) if item.entry == entry => Ok(()),
            Some(item) if item.entry.kind == Kind::Symlink => {
                self.set(path, Some(Item { entry, ..item }));
                Ok(())
            }
            _ => {
                self.make_parents(path)?;
                self.set(path, Some(new_item(entry)));
                Ok(())
            }
        }
    }

    /// A new folder.
    pub(super) fn mkdir(&mut self, path: &WorkspacePath, mode: Option<u32>) -> Result<()> {
        if self.get(path).is_some() {
            return Err(Error::Exists(path.clone()));
        }
        self.make_parents(path)?;
        self.set(path, Some(new_item(Entry::dir(mode.unwrap_or(DIR_MODE)))));
        Ok(())
    }

    /// Takes an item and all it holds away.
    pub(super) fn delete(&mut self, path: &WorkspacePath) -> Result<()> {
        if self.get(path).is_none() {
            return Err(Error::NotFound(path.clone()));
        }
        let below: Vec<_> = self.below(path).map(|(path, _)| path.clone()).collect();
        for inner in below.iter().rev() {
            self.set(inner, None);
        }
        self.set(path, None);
        Ok(())
    }

    /// An item and all it holds goes elsewhere.
    pub(super) fn rename(&mut self, from: &WorkspacePath, to: &WorkspacePath, overwrite: bool) -> Result<()> {
        let Some(item) = self.get(from).copied() else { return Err(Error::NotFound(from.clone())) };
        if from == to {
            return Ok(());
        }
        if to.is_below(from) {
            return Err(Error::IntoItself(from.clone()));
        }
        let replaces =
            |there: &Item| overwrite && there.entry.kind != Kind::Dir && item.entry.kind != Kind::Dir;
        if self.get(to).is_some_and(|there| !replaces(there)) {
            return Err(Error::Exists(to.clone()));
        }
        let below: Vec<_> = self.below(from).map(|(path, item)| (path.clone(), *item)).collect();
        let mut moved = Vec::with_capacity(below.len());
        for (path, inner) in below {
            if let Some(new) = path.rebase(from, to) {
                moved.push((path, new?, inner));
            }
        }
        self.make_parents(to)?;
        for (path, _, _) in moved.iter().rev() {
            self.set(path, None);
        }
        self.set(from, None);
        self.set(to, Some(item));
        for (_, new, inner) in moved {
            self.set(&new, Some(inner));
        }
        Ok(())
    }

    /// Other permission bits. A link has none of its own.
    pub(super) fn chmod(&mut self, path: &WorkspacePath, mode: u32) -> Result<()> {
        let Some(mut item) = self.get(path).copied() else { return Err(Error::NotFound(path.clone())) };
        let mode = mode & 0o777;
        if item.entry.kind != Kind::Symlink && item.entry.mode != mode {
            item.entry.mode = mode;
            self.set(path, Some(item));
        }
        Ok(())
    }

    /// Whether the precondition holds at `path`.
    pub(super) fn check(&self, path: &WorkspacePath, precondition: Precondition) -> Result<()> {
        let now = self.get(path);
        match precondition {
            Precondition::Any => Ok(()),
            Precondition::NotExists if now.is_none() => Ok(()),
            Precondition::NotExists => Err(Error::Exists(path.clone())),
            Precondition::Rev(rev) => match now {
                Some(item) if item.rev == rev => Ok(()),
                other => Err(Error::Stale {
                    path: path.clone(),
                    current: other.map_or(Revision::ZERO, |item| item.rev),
                }),
            },
        }
    }

    /// Applies one operation of the API.
    pub(super) fn apply(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Write { path, bytes, mode, precondition } => {
                self.check(path, *precondition)?;
                self.write(path, (Hash::of(bytes), bytes.len() as u64), *mode)
            }
            Op::Mkdir { path, mode } => self.mkdir(path, *mode),
            Op::Symlink { path, target } => {
                self.symlink(path, (Hash::of(target.as_bytes()), target.len() as u64))
            }
            Op::Move { from, to, overwrite, precondition } => {
                self.check(from, *precondition)?;
                self.rename(from, to, *overwrite)
            }
            Op::Delete { path, precondition } => {
                self.check(path, *precondition)?;
                self.delete(path)
            }
            Op::Chmod { path, mode } => self.chmod(path, *mode),
        }
    }

    /// Keeps bytes that have no place in the tree as a version of `item`.
    pub(super) fn keep_loser(
        &mut self,
        path: &WorkspacePath,
        item: ItemId,
        entry: Entry,
        instead: Revision,
        open_conflict: bool,
    ) {
        self.losers.push(NewVersion {
            item,
            path: path.clone(),
            op: VersionOp::Loser,
            entry,
            origin: Origin::Pod,
            conflict_of: Some(instead),
            open_conflict,
        });
    }

    /// Says that an item's content came of a merge.
    pub(super) fn mark_merged(&mut self, item: ItemId) {
        self.merged.insert(item);
    }

    /// Whether the totals are within the limits. What was over them already may stay, but not grow.
    pub(super) fn check_limits(&self, before: Totals, limits: &SyncLimits) -> Result<()> {
        if self.totals.bytes > limits.workspace_bytes && self.totals.bytes > before.bytes {
            return Err(Error::WorkspaceFull { limit: limits.workspace_bytes });
        }
        if self.totals.items > limits.workspace_items && self.totals.items > before.items {
            return Err(Error::TooManyItems { limit: limits.workspace_items });
        }
        Ok(())
    }

    /// What must be written for `rev` to hold this.
    pub(super) fn differences(&self, rev: Revision, author: &Author) -> Differences {
        let mut old: HashMap<ItemId, (&WorkspacePath, &Item)> = HashMap::new();
        let mut new: HashMap<ItemId, (&WorkspacePath, &Item)> = HashMap::new();
        let changed: Vec<_> =
            self.before.iter().filter(|(path, was)| self.get(path) != was.as_ref()).collect();
        for (path, was) in &changed {
            if let Some(was) = was {
                old.insert(was.id, (path, was));
            }
            if let Some(now) = self.get(path) {
                new.insert(now.id, (path, now));
            }
        }

        let mut found = Differences { totals: self.totals, ..Differences::default() };
        for (path, was) in changed {
            let (item, deleted) = match (self.get(path), was) {
                (Some(now), _) => (*now, false),
                (None, Some(was)) => (*was, true),
                (None, None) => continue,
            };
            found.rows.push(RowChange {
                path: path.clone(),
                item: Item { rev, ..item },
                parent: path.parent().and_then(|parent| self.get(&parent)).map(|parent| parent.id),
                deleted,
                moved_to: (deleted && new.contains_key(&item.id)).then_some(item.id),
            });

            let (op, entry) = if !deleted {
                let op = match old.get(&item.id) {
                    None => VersionOp::Create,
                    Some((was_at, _)) if *was_at != path => VersionOp::Move,
                    Some((_, was)) if !was.entry.same_content(&item.entry) => VersionOp::Write,
                    Some(_) => VersionOp::Chmod,
                };
                (op, item.entry)
            } else if new.contains_key(&item.id) {
                continue; // The version stands at its new path.
            } else {
                (VersionOp::Delete, item.entry)
            };
            found.versions.push(NewVersion {
                item: item.id,
                path: path.clone(),
                op,
                entry,
                origin: if self.merged.contains(&item.id) { Origin::Merge } else { author.origin },
                conflict_of: None,
                open_conflict: false,
            });
            // What was deleted and stood elsewhere was told above; what was replaced at this path by another
            // item and did not move is gone.
            if let (false, Some(was)) = (deleted, was)
                && was.id != item.id
                && !new.contains_key(&was.id)
            {
                found.versions.push(NewVersion {
                    item: was.id,
                    path: path.clone(),
                    op: VersionOp::Delete,
                    entry: was.entry,
                    origin: author.origin,
                    conflict_of: None,
                    open_conflict: false,
                });
            }
        }
        found.versions.extend(self.losers.iter().cloned());
        found
    }
}

/// A new item; its revision is set when it is written.
pub(super) fn new_item(entry: Entry) -> Item {
    Item { id: ItemId::random(), rev: Revision::ZERO, entry }
}
