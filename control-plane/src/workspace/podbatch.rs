//! Committing a batch from the pod.

use super::blobs::{self, Blob};
use super::commit::{Applied, Locked, Needs, load, write};
use super::draft::Draft;
use super::merge::MERGE_BYTES;
use super::pod::{Resolver, texts_needed};
use super::store::{Attempt, Done};
use super::types::{Author, PodBatch, PodOp};
use super::uploads;
use super::{Error, Result, Store};
use crate::entities::now_ms;
use bytes::Bytes;
use sea_orm::DatabaseTransaction;
use shared::chunk::is_large;
use shared::id::SessionId;
use shared::link::sync::{Committed, OpResult};
use shared::tree::{Entry, Hash, Kind};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

impl Store {
    /// Commits what happened in the pod: see [`PodBatch`]. Each operation gets its own answer, in the batch's
    /// order; one that is refused leaves the rest working. A batch sent again gets the same answer. One that came
    /// by a superseded link is refused as a whole.
    pub async fn commit_pod_batch(&self, session: SessionId, batch: PodBatch) -> Result<Committed> {
        let limits = self.limits;
        if batch.ops.len() as u64 > limits.batch_items {
            return Err(Error::BatchTooLarge { limit: limits.batch_items, unit: "operations" });
        }
        let bytes: u64 = batch.contents.values().map(|bytes| bytes.len() as u64).sum();
        // A single file may be larger than a batch may be.
        if bytes > limits.batch_bytes.max(limits.file_bytes) {
            return Err(Error::BatchTooLarge { limit: limits.batch_bytes, unit: "bytes" });
        }
        let PodBatch { id, epoch, base_rev, removal, ops, contents } = batch;
        let blobs = blobs::encode_all(contents.into_values().collect()).await?;
        let brought: HashMap<Hash, u64> = blobs.iter().map(|blob| (blob.hash, blob.size)).collect();
        // Encoded blobs stay at hand: merges need some of their bytes.
        let bytes_of = Arc::new(blobs.clone());
        let upload = Hash::of(id.0.as_bytes());
        let inline = Arc::new(self.store_large(session, blobs, upload).await?);
        let stored_before = inline.is_empty() && !brought.is_empty();
        let (ops, brought) = (Arc::new(ops), Arc::new(brought));

        let author = Author::pod();
        let done = self
            .committed(session, Some(id), author.clone(), move |tx, locked| {
                let (ops, brought, inline, bytes_of) =
                    (ops.clone(), brought.clone(), inline.clone(), bytes_of.clone());
                let author = author.clone();
                Box::pin(async move {
                    if locked.epoch != epoch {
                        return Err(Error::Superseded { was: epoch, now: locked.epoch });
                    }
                    if let Some((rev, results)) = &locked.answered {
                        return Ok(unchanged(Committed { batch: id, rev: *rev, results: decode(results)? }));
                    }
                    let sizes = sizes_of(tx, locked, &ops, &brought).await?;
                    let mut draft = Draft::new(locked.totals);
                    load_all(tx, session, &ops, &mut draft).await?;
                    let texts = texts_of(tx, locked, &texts_needed(&draft, &ops), &bytes_of).await?;
                    let ops: Vec<PodOp> = ops.iter().map(|op| true_size(op, &sizes)).collect();
                    let known: HashSet<Hash> = sizes.into_keys().collect();
                    let (results, merged) =
                        Resolver::new(&mut draft, base_rev, &limits, &known, &texts).resolve(&ops);
                    let differences = draft.differences(locked.rev, &author);
                    if differences.is_empty() {
                        // Nothing to write: sent again, it would find the same.
                        return Ok(unchanged(Committed { batch: id, rev: locked.rev_before(), results }));
                    }
                    let mut contents = inline.to_vec();
                    contents.extend(merged.into_iter().map(Blob::encode));
                    contents.sort_by_key(|blob| blob.hash);
                    contents.dedup_by_key(|blob| blob.hash);
                    let applied =
                        Applied { batch: id, removal: removal.unwrap_or(id), results: encode(&results)? };
                    write(tx, locked, &differences, &author, &contents, Some(applied)).await?;
                    let fate = Fate::of(&ops, &results, &brought, stored_before.then_some(upload));
                    fate.note(tx, locked).await?;
                    let answer = Committed { batch: id, rev: locked.rev, results };
                    Ok(Attempt {
                        done: Done { rev: locked.rev, differences, answer },
                        more: false,
                        commit: true,
                    })
                })
            })
            .await?;
        Ok(done.answer)
    }
}

/// What became of contents that were stored before the commit.
#[derive(Debug, Default)]
struct Fate {
    /// They are in the tree or in the history now, or are noted otherwise.
    committed: Vec<Hash>,
    /// Nothing refers to them.
    refused: Vec<(Hash, u64)>,
}

impl Fate {
    fn of(ops: &[PodOp], results: &[OpResult], brought: &HashMap<Hash, u64>, upload: Option<Hash>) -> Self {
        let mut fate = Self::default();
        let (mut kept, mut refused) = (HashSet::new(), HashSet::new());
        for (op, result) in ops.iter().zip(results) {
            let Some(hash) = content_of(op) else { continue };
            let taken = !matches!(result, OpResult::Refused(_));
            if taken { &mut kept } else { &mut refused }.insert(hash);
            let large =
                matches!(op, PodOp::Put { entry, .. } | PodOp::Rename { entry, .. } if is_large(entry.size));
            if taken && large {
                fate.committed.push(hash);
            }
        }
        if let Some(upload) = upload {
            fate.committed.push(upload);
            let none = brought.iter().filter(|(hash, _)| !kept.contains(*hash) && refused.contains(*hash));
            fate.refused.extend(none.map(|(hash, size)| (*hash, *size)));
        }
        fate
    }

    async fn note(&self, tx: &DatabaseTransaction, locked: &Locked) -> Result<()> {
        if !self.committed.is_empty() {
            uploads::committed(tx, locked.session, locked.owner, &self.committed).await?;
        }
        if !self.refused.is_empty() {
            uploads::note(tx, locked.session, &self.refused, now_ms()).await?;
        }
        Ok(())
    }
}

fn unchanged(answer: Committed) -> Attempt<Committed> {
    let differences = Default::default();
    Attempt { done: Done { rev: answer.rev, differences, answer }, more: false, commit: false }
}

/// Loads all that the operations touch; where an item is elsewhere by now, that place as well.
async fn load_all(
    tx: &DatabaseTransaction,
    session: SessionId,
    ops: &[PodOp],
    draft: &mut Draft,
) -> Result<()> {
    let is_dir = |entry: Option<&Entry>| entry.is_none_or(|entry| entry.kind == Kind::Dir);
    let mut needs = Needs::default();
    needs.moves();
    for op in ops {
        needs.point(op.path());
        match op {
            PodOp::Put { path, pre: Some(pre), entry }
                if pre.kind == Kind::Dir && entry.kind != Kind::Dir =>
            {
                needs.subtree(path);
            }
            PodOp::Put { .. } => {}
            PodOp::Delete { path, pre } => {
                if is_dir(pre.as_ref()) {
                    needs.subtree(path);
                }
            }
            PodOp::Rename { from, item, entry, pre, .. } => {
                needs.point(from);
                // Either may be a lie; a folder is never moved without what it holds.
                if is_dir(pre.as_ref()) || entry.kind == Kind::Dir {
                    needs.subtree(from);
                }
                if let Some(item) = item {
                    needs.id(*item);
                }
            }
        }
    }
    load(tx, session, &needs, draft).await?;

    let mut elsewhere = Needs::default();
    let mut any = false;
    for op in ops {
        match op {
            PodOp::Put { path, pre: Some(_), .. } if draft.get(path).is_none() => {
                if let Some(id) = draft.moved_id(path) {
                    elsewhere.id(id);
                    any = true;
                }
            }
            PodOp::Rename { from, item: Some(id), .. }
                if draft.find(*id).is_some_and(|place| place != *from) =>
            {
                elsewhere.id(*id);
                any = true;
            }
            _ => {}
        }
    }
    if !any {
        return Ok(());
    }
    load(tx, session, &elsewhere, draft).await?;
    let mut above = Needs::default();
    for path in elsewhere.found_in(draft) {
        above.point(&path);
    }
    load(tx, session, &above, draft).await
}

/// The size of each content that the operations name and that is at hand.
async fn sizes_of(
    tx: &DatabaseTransaction,
    locked: &Locked,
    ops: &[PodOp],
    brought: &HashMap<Hash, u64>,
) -> Result<HashMap<Hash, u64>> {
    let mut sizes = brought.clone();
    let missing: HashSet<Hash> =
        ops.iter().filter_map(content_of).filter(|h| !sizes.contains_key(h)).collect();
    if !missing.is_empty() {
        let mut missing: Vec<_> = missing.into_iter().collect();
        missing.sort();
        // Told to be needed, so that the sweep leaves them until the commit refers to them.
        let known: Vec<_> = blobs::touch(tx, locked.owner, &missing).await?.into_iter().collect();
        sizes.extend(blobs::sizes(tx, locked.owner, &known).await?);
    }
    Ok(sizes)
}

fn content_of(op: &PodOp) -> Option<Hash> {
    match op {
        PodOp::Put { entry, .. } | PodOp::Rename { entry, .. } if entry.kind != Kind::Dir => Some(entry.hash),
        _ => None,
    }
}

/// The operation with the size that its content has, whatever the pod says, and a folder as a folder is.
pub(super) fn true_size(op: &PodOp, sizes: &HashMap<Hash, u64>) -> PodOp {
    let mut op = op.clone();
    if let PodOp::Put { entry, .. } | PodOp::Rename { entry, .. } = &mut op {
        *entry = match entry.kind {
            Kind::Dir => Entry::dir(entry.mode),
            Kind::File => {
                Entry::file(entry.mode, sizes.get(&entry.hash).copied().unwrap_or(entry.size), entry.hash)
            }
            Kind::Symlink => {
                let size = sizes.get(&entry.hash).copied().unwrap_or(entry.size);
                Entry { kind: Kind::Symlink, mode: 0o777, size, hash: entry.hash }
            }
        };
    }
    op
}

/// The bytes of the texts that merges need, from the batch or from the database.
async fn texts_of(
    tx: &DatabaseTransaction,
    locked: &Locked,
    needed: &HashSet<Hash>,
    brought: &[Blob],
) -> Result<HashMap<Hash, Bytes>> {
    let mut texts = HashMap::new();
    for blob in brought.iter().filter(|blob| needed.contains(&blob.hash)) {
        texts.insert(blob.hash, blob.decode()?);
    }
    let mut missing: Vec<Hash> = needed.iter().filter(|hash| !texts.contains_key(hash)).copied().collect();
    if !missing.is_empty() {
        // By their true sizes: what the pod says of them must not make this read large ones by the dozen.
        let sizes = blobs::sizes(tx, locked.owner, &missing).await?;
        missing.retain(|hash| sizes.get(hash).is_some_and(|size| *size <= MERGE_BYTES));
        texts.extend(blobs::fetch(tx, locked.owner, &missing).await?);
    }
    Ok(texts)
}

fn encode(results: &[OpResult]) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(results).map_err(|error| Error::Damaged(error.to_string()))?;
    zstd::bulk::compress(&json, 1).map_err(|error| Error::Damaged(error.to_string()))
}

fn decode(stored: &[u8]) -> Result<Vec<OpResult>> {
    let json = zstd::stream::decode_all(stored).map_err(|error| Error::Damaged(error.to_string()))?;
    serde_json::from_slice(&json).map_err(|error| Error::Damaged(error.to_string()))
}
