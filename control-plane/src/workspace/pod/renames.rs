//! Renames from the pod, all of a batch at once: what is renamed is taken out first and put in afterwards, so that
//! chains, swaps and folders that change places with what is in them need no order and no intermediate name.

use super::super::types::PodOp;
use super::Resolver;
use shared::id::ItemId;
use shared::link::Failure;
use shared::link::sync::OpResult;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Item, Kind};

/// An item that is taken out, with all it held.
struct Taken<'o> {
    /// The operation's place in the batch.
    index: usize,
    from: &'o WorkspacePath,
    to: &'o WorkspacePath,
    entry: &'o Entry,
    pre: Option<&'o Entry>,
    item: Item,
    /// What was below it, by the path it had, folders before what they hold.
    below: Vec<(WorkspacePath, Item)>,
}

impl Resolver<'_> {
    /// Decides every rename of the batch. `new_folders` is called between taking out and putting in: folders that
    /// the pod made for what it renamed are there by then.
    pub(super) fn renames(
        &mut self,
        ops: &[PodOp],
        results: &mut [Option<OpResult>],
        new_folders: impl FnOnce(&mut Self, &mut [Option<OpResult>]),
    ) {
        let mut renames: Vec<usize> =
            (0..ops.len()).filter(|index| matches!(ops[*index], PodOp::Rename { .. })).collect();
        // The deepest first: what leaves a folder that is itself renamed is not taken along.
        renames.sort_by(|a, b| from_of(&ops[*b]).cmp(&from_of(&ops[*a])));
        let mut taken = Vec::new();
        let mut others = Vec::new();
        for index in renames {
            let PodOp::Rename { from, to, item, entry, pre } = &ops[index] else { continue };
            let place = item.and_then(|id| self.draft.find(id)).unwrap_or_else(|| from.clone());
            let here = self.draft.get(&place).copied();
            if let Err(why) = self.admit(entry, from, here.as_ref().map(|here| here.entry)) {
                results[index] = Some(OpResult::Refused(Failure::from(&why)));
                continue;
            }
            match here {
                Some(here) if place == *from && here.entry.kind == entry.kind => {
                    let below = self.take_out(from);
                    taken.push(Taken { index, from, to, entry, pre: pre.as_ref(), item: here, below });
                }
                _ => others.push((index, place)),
            }
        }
        new_folders(self, results);
        // Folders before what goes into them.
        taken.sort_by(|a, b| a.to.cmp(b.to));
        for taken in taken {
            let index = taken.index;
            results[index] = Some(self.put_in(taken));
        }
        for (index, place) in others {
            let PodOp::Rename { from, to, entry, pre, .. } = &ops[index] else { continue };
            results[index] = Some(self.rename_of_another(from, to, &place, entry, pre.as_ref()));
        }
    }

    fn take_out(&mut self, from: &WorkspacePath) -> Vec<(WorkspacePath, Item)> {
        let below: Vec<_> = self.draft.below(from).map(|(path, item)| (path.clone(), *item)).collect();
        for (path, _) in below.iter().rev() {
            self.draft.set(path, None);
        }
        self.draft.set(from, None);
        below
    }

    fn put_in(&mut self, taken: Taken<'_>) -> OpResult {
        let Taken { from, to, entry, pre, item, .. } = taken;
        let replaces = self.draft.get(to).is_some_and(|there| {
            // What the pod's base held there, it replaced knowingly.
            there.rev <= self.base_rev && there.entry.kind != Kind::Dir && entry.kind != Kind::Dir
        });
        let free = replaces || self.draft.get(to).is_none();
        let new_paths: Option<Vec<_>> =
            taken.below.iter().map(|(path, inner)| Some((path.rebase(from, to)?.ok()?, *inner))).collect();
        if let (true, None, Some(below)) = (free, self.draft.blocked_by(to), new_paths)
            && self.draft.make_parents(to).is_ok()
        {
            self.draft.set(to, Some(item));
            self.arrived.insert(item.id);
            for (path, inner) in below {
                self.draft.set(&path, Some(inner));
                self.arrived.insert(inner.id);
            }
            return self.put(to, *entry, pre);
        }
        self.cannot_go(taken)
    }

    /// Something that the pod didn't know of is in the way.
    fn cannot_go(&mut self, taken: Taken<'_>) -> OpResult {
        let Taken { from, to, entry, pre, item, below, .. } = taken;
        // Back to where it was, if that is free.
        let stays = self.draft.get(from).is_none() && self.draft.blocked_by(from).is_none();
        if stays && self.draft.make_parents(from).is_ok() {
            self.draft.set(from, Some(item));
            for (path, inner) in below {
                self.draft.set(&path, Some(inner));
            }
        }
        if entry.kind == Kind::Dir {
            return contested();
        }
        // In the pod nothing is at the old path: it goes here, too, if it is still what it was.
        let result = self.put(to, *entry, None);
        if stays {
            self.delete(from, pre);
        }
        result
    }

    /// The item isn't where the pod's base has it, or is none of that kind any more.
    fn rename_of_another(
        &mut self,
        from: &WorkspacePath,
        to: &WorkspacePath,
        place: &WorkspacePath,
        entry: &Entry,
        pre: Option<&Entry>,
    ) -> OpResult {
        if entry.kind == Kind::Dir {
            return contested();
        }
        match self.draft.get(place).copied() {
            // Renamed on both sides: the database's name stays, and the edit lands there.
            Some(_) if place != from => {
                self.put(place, *entry, pre);
                self.stays(to)
            }
            Some(_) => {
                let result = self.put(to, *entry, None);
                self.delete(from, pre);
                result
            }
            // Deleted here, renamed there: what the pod has stays.
            None => self.put(to, *entry, None),
        }
    }

    /// What the agent's base held where an item arrived that it renamed: the item as it stands, unless that is newer.
    pub(super) fn known_of_arrived(&self, here: &Item) -> Option<Entry> {
        let known = self.arrived.contains(&here.id) && here.rev <= self.base_rev;
        known.then_some(here.entry)
    }
}

fn from_of(op: &PodOp) -> Option<&WorkspacePath> {
    match op {
        PodOp::Rename { from, .. } => Some(from),
        _ => None,
    }
}

/// Its contents would have to come along, and some may be other ones: the agent sends them one by one.
fn contested() -> OpResult {
    OpResult::Refused(Failure::new(
        "rename_contested",
        "the folder was changed in the workspace meanwhile; its contents are compared one by one",
    ))
}

/// Items that a rename of this batch put where they are.
pub(super) type Arrived = std::collections::HashSet<ItemId>;
