//! A workspace's rows in memory, changed by the same draft and resolver as those of a database: for tests by the
//! thousand, and for the simulation of both ends.

use super::draft::{Differences, Draft, Totals};
use super::merge::merge;
use super::pod::{Resolver, texts_needed};
use super::podbatch::true_size;
use super::types::{Author, Changed, Op, Origin, PodBatch, PodOp, Snapshot, VersionOp};
use super::{Error, Result};
use bytes::Bytes;
use shared::chunk::{self, BadParts, Packed, Part, Recipe, is_large};
use shared::id::{BatchId, ItemId, LinkEpoch, Revision, VolumeId};
use shared::limits::SyncLimits;
use shared::link::sync::{Committed, OpResult};
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Item, Tree};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A row of the tree: an item, or what is left of one.
#[derive(Clone, Copy, Debug)]
struct Row {
    item: Item,
    deleted: bool,
    moved_to: Option<ItemId>,
}

/// A version, as far as tests ask.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) path: WorkspacePath,
    pub(crate) op: VersionOp,
    pub(crate) entry: Entry,
    /// Whether a person is to look at it.
    pub(crate) open_conflict: bool,
}

/// One workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) rev: Revision,
    pub(crate) epoch: LinkEpoch,
    pub(crate) versions: Vec<Kept>,
    pub(crate) contents: BTreeMap<Hash, Bytes>,
    parts: BTreeMap<Hash, Bytes>,
    rows: BTreeMap<WorkspacePath, Row>,
    applied: BTreeMap<BatchId, (Revision, Vec<OpResult>)>,
    volume: Option<VolumeId>,
    totals: Totals,
    /// Tombstones up to here are gone.
    pruned: Revision,
    pub(crate) limits: SyncLimits,
}

impl Memory {
    /// What stands.
    pub(crate) fn tree(&self) -> Tree {
        let live = self.rows.iter().filter(|(_, row)| !row.deleted);
        live.map(|(path, row)| (path.clone(), row.item.entry)).collect()
    }

    /// Each path that was ever there, with the revision of its last change, and what stands.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&WorkspacePath, Revision, Option<Entry>)> {
        self.rows.iter().map(|(path, row)| (path, row.item.rev, (!row.deleted).then_some(row.item.entry)))
    }

    /// The item at a path.
    pub(crate) fn item(&self, path: &WorkspacePath) -> Option<Item> {
        self.rows.get(path).filter(|row| !row.deleted).map(|row| row.item)
    }

    /// Whether a content stands in the tree or the history.
    pub(crate) fn keeps(&self, hash: Hash) -> bool {
        let stands = self.rows.values().any(|row| !row.deleted && row.item.entry.hash == hash);
        stands || self.versions.iter().any(|version| version.entry.hash == hash)
    }

    /// Whether `theirs` is what comes of merging it with `ours`, whichever other content both may have begun from.
    pub(crate) fn merges_to(&self, ours: &Hash, theirs: &Hash) -> bool {
        let (Some(ours), Some(theirs)) = (self.contents.get(ours), self.contents.get(theirs)) else {
            return false;
        };
        let mut bases = self.contents.values().filter(|base| *base != ours);
        bases.any(|base| merge(base, ours, theirs).is_some_and(|merged| merged == *theirs))
    }

    /// All contents in the tree or the history.
    pub(crate) fn kept(&self) -> BTreeSet<Hash> {
        let stand = self.rows.values().filter(|row| !row.deleted).map(|row| row.item.entry.hash);
        stand.chain(self.versions.iter().map(|version| version.entry.hash)).collect()
    }

    /// Forgets the tombstones, as their retention does.
    pub(crate) fn prune(&mut self) {
        self.rows.retain(|_, row| !row.deleted);
        self.pruned = self.rev;
    }

    /// As [`super::Store::see_volume`].
    pub(crate) fn see_volume(&mut self, volume: VolumeId) -> bool {
        self.volume.replace(volume).is_some_and(|known| known != volume)
    }

    /// As [`super::Store::snapshot`].
    pub(crate) fn snapshot(&self) -> Snapshot {
        let live = self.rows.iter().filter(|(_, row)| !row.deleted);
        Snapshot { rev: self.rev, items: live.map(|(path, row)| (path.clone(), row.item)).collect() }
    }

    /// As [`super::Store::changes_since`], all in one page; none if tombstones are missing for it.
    pub(crate) fn changes_since(&self, since: Revision) -> Option<Vec<Changed>> {
        if since < self.pruned {
            return None;
        }
        let new = self.rows.iter().filter(|(_, row)| row.item.rev > since);
        let mut changes: Vec<_> = new
            .map(|(path, row)| Changed {
                path: path.clone(),
                item: row.item,
                deleted: row.deleted,
                moved_to: row.moved_to,
            })
            .collect();
        changes.sort_by(|a, b| (a.item.rev, &a.path).cmp(&(b.item.rev, &b.path)));
        Some(changes)
    }

    /// What a large content is made of; none if there is no such.
    pub(crate) fn recipe(&mut self, content: Hash) -> Option<Recipe> {
        let content = self.contents.get(&content)?.clone();
        Some(self.cut(&content))
    }

    fn cut(&mut self, content: &Bytes) -> Recipe {
        let cut = chunk::cut(&content[..], |part, bytes| {
            self.parts.insert(part.hash, bytes.into());
            Ok(())
        });
        cut.expect("memory can be read")
    }

    /// As [`super::Store::lacking_parts`].
    pub(crate) fn lacking_parts(&self, parts: &[Part]) -> HashSet<Hash> {
        parts.iter().map(|part| part.hash).filter(|hash| !self.parts.contains_key(hash)).collect()
    }

    /// As [`super::Store::put_parts`].
    pub(crate) fn put_parts(&mut self, came: Vec<(Part, Packed)>) -> Result<()> {
        for (part, packed) in came {
            self.parts.insert(part.hash, packed.unpack(part).map_err(Error::BadParts)?);
        }
        Ok(())
    }

    /// As [`super::Store::packed_parts`].
    pub(crate) fn packed_part(&self, part: Part) -> Packed {
        Packed::pack(self.parts[&part.hash].to_vec())
    }

    /// As [`super::Store::assemble`].
    pub(crate) fn assemble(&mut self, recipe: &Recipe) -> Result<()> {
        let parts: Option<Vec<&[u8]>> =
            recipe.parts.iter().map(|part| self.parts.get(&part.hash).map(|bytes| &bytes[..])).collect();
        let content = Bytes::from(parts.ok_or(Error::BadParts(BadParts::Content))?.concat());
        if Hash::of(&content) != recipe.hash {
            return Err(Error::BadParts(BadParts::Content));
        }
        self.contents.insert(recipe.hash, content);
        Ok(())
    }

    /// As [`super::Store::batch`].
    pub(crate) fn batch(&mut self, ops: &[Op], origin: Origin) -> Result<Revision> {
        let mut draft = self.draft();
        for op in ops {
            draft.apply(op)?;
        }
        draft.check_limits(self.totals, &self.limits)?;
        for op in ops {
            let content = match op {
                Op::Write { bytes, .. } => bytes.clone(),
                Op::Symlink { target, .. } => Bytes::from(target.clone()),
                _ => continue,
            };
            if is_large(content.len() as u64) {
                self.cut(&content);
            }
            self.contents.insert(Hash::of(&content), content);
        }
        let author = Author { origin, actor: None };
        let differences = draft.differences(self.next(), &author);
        Ok(self.write(&differences))
    }

    /// As [`super::Store::commit_pod_batch`].
    pub(crate) fn commit_pod_batch(&mut self, batch: PodBatch) -> Result<Committed> {
        if batch.epoch != self.epoch {
            return Err(Error::Superseded { was: batch.epoch, now: self.epoch });
        }
        if let Some((rev, results)) = self.applied.get(&batch.id) {
            return Ok(Committed { batch: batch.id, rev: *rev, results: results.clone() });
        }
        let sizes: HashMap<Hash, u64> = self
            .contents
            .iter()
            .chain(&batch.contents)
            .map(|(hash, bytes)| (*hash, bytes.len() as u64))
            .collect();
        let mut draft = self.draft();
        let text = |hash: &Hash| self.contents.get(hash).or_else(|| batch.contents.get(hash)).cloned();
        let needed = texts_needed(&draft, &batch.ops);
        let texts: HashMap<Hash, Bytes> =
            needed.iter().filter_map(|hash| Some((*hash, text(hash)?))).collect();
        let ops: Vec<PodOp> = batch.ops.iter().map(|op| true_size(op, &sizes)).collect();
        let known: HashSet<Hash> = sizes.into_keys().collect();
        let (results, merged) =
            Resolver::new(&mut draft, batch.base_rev, &self.limits, &known, &texts).resolve(&ops);
        let differences = draft.differences(self.next(), &Author::pod());
        let merged = merged.into_iter().map(|bytes| (Hash::of(&bytes), bytes));
        self.contents.extend(batch.contents.into_iter().chain(merged));
        let rev = self.write(&differences);
        if !differences.is_empty() {
            self.applied.insert(batch.id, (rev, results.clone()));
        }
        Ok(Committed { batch: batch.id, rev, results })
    }

    fn next(&self) -> Revision {
        Revision(self.rev.0 + 1)
    }

    fn draft(&self) -> Draft {
        let mut draft = Draft::new(self.totals);
        for (path, row) in &self.rows {
            match row {
                Row { deleted: false, item, .. } => draft.load(path.clone(), *item),
                Row { moved_to: Some(id), .. } => draft.load_moved(path.clone(), *id),
                _ => {}
            }
        }
        draft
    }

    fn write(&mut self, differences: &Differences) -> Revision {
        if differences.is_empty() {
            return self.rev;
        }
        self.rev = self.next();
        for row in &differences.rows {
            let (item, deleted, moved_to) = (row.item, row.deleted, row.moved_to);
            self.rows.insert(row.path.clone(), Row { item, deleted, moved_to });
        }
        self.versions.extend(differences.versions.iter().map(|version| Kept {
            path: version.path.clone(),
            op: version.op,
            entry: version.entry,
            open_conflict: version.open_conflict,
        }));
        self.totals = differences.totals;
        self.rev
    }
}
