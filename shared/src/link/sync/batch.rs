//! A batch on the wire: cut into messages, and put together from them.

use crate::batch::Claims;
use crate::id::{BatchId, Revision};
use crate::limits::SyncLimits;
use crate::tree::Hash;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of an encoded batch up to which it goes in one message; also the size of a chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes that a batch may be longer than its contents: tar heads, the manifest, a codec's frame.
const OVERHEAD_BYTES: u64 = 16 << 20;

/// A batch on the wire, whole or in parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Batch {
    /// All in one message: at most [`CHUNK_BYTES`] of data.
    Whole(Whole),
    /// The head of one in parts.
    Begin(Begin),
    /// A part, at most [`CHUNK_BYTES`].
    Chunk(Bytes),
    /// The end of one in parts.
    End(End),
}

/// A batch's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Unique: a batch sent again is answered again, and applied once.
    pub batch: BatchId,
    /// What the sender's changes are based on.
    pub base_rev: Revision,
    /// Control plane to agent: the revision reached when this batch is applied and it is the `last`.
    pub target_rev: Revision,
    /// Operations in the manifest.
    pub items: u64,
    /// Uncompressed bytes of the tar.
    pub bytes: u64,
    /// Agent to control plane: this goes on telling what the named batch began to tell as gone. Together they are one
    /// change to whoever undoes it.
    #[serde(default)]
    pub removal: Option<BatchId>,
    /// Control plane to agent: together with its successors up to `last` this names the *whole* tree, not a change.
    #[serde(default)]
    pub full: bool,
    /// Control plane to agent: no more batches follow for `target_rev`.
    #[serde(default = "yes")]
    pub last: bool,
}

fn yes() -> bool {
    true
}

/// A batch's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// BLAKE3 of the uncompressed tar.
    pub tar_hash: Hash,
}

/// A batch, encoded, with all that is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// Its head.
    pub begin: Begin,
    /// The encoded batch.
    pub data: Bytes,
    /// Its end.
    pub end: End,
}

impl Whole {
    /// What its sender claims of it, for [`crate::batch::decode`].
    pub fn claims(&self) -> Claims {
        Claims {
            items: self.begin.items,
            bytes: self.begin.bytes,
            tar_hash: self.end.tar_hash,
            compressed: self.data.len() as u64,
        }
    }

    /// The messages in which it travels, in order.
    pub fn into_messages(self) -> Vec<Batch> {
        if self.data.len() <= CHUNK_BYTES {
            return vec![Batch::Whole(self)];
        }
        let Self { begin, data, end } = self;
        let starts = (0..data.len()).step_by(CHUNK_BYTES);
        let chunks = starts.map(|at| Batch::Chunk(data.slice(at..data.len().min(at + CHUNK_BYTES))));
        [Batch::Begin(begin)].into_iter().chain(chunks).chain([Batch::End(end)]).collect()
    }
}

/// A batch that arrives in messages. It holds no more bytes than its receiver's limits and its own head allow.
#[derive(Debug, Default)]
pub struct Assembly {
    begin: Option<Begin>,
    data: Vec<u8>,
    /// Over a limit: the rest is dropped as it comes.
    is_too_large: bool,
}

/// A batch of which the last message arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Assembled {
    /// All of it, as large as its head says at most.
    Whole(Whole),
    /// It is larger than the limits or its own head allow, and was not kept.
    TooLarge(BatchId),
}

/// Messages in an order in which nobody who keeps to the protocol sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disorder {
    /// A batch before the end of the one before it.
    #[error("a batch began inside another")]
    Nested,
    /// A chunk or an end without a head.
    #[error("a part of no batch")]
    Stray,
}

impl Assembly {
    /// Takes a message, and answers the batch if it was the last one.
    pub fn take(&mut self, message: Batch, limits: &SyncLimits) -> Result<Option<Assembled>, Disorder> {
        match message {
            Batch::Whole(_) | Batch::Begin(_) if self.begin.is_some() => Err(Disorder::Nested),
            Batch::Whole(whole) if whole.data.len() > CHUNK_BYTES || is_too_large(&whole.begin, limits) => {
                Ok(Some(Assembled::TooLarge(whole.begin.batch)))
            }
            Batch::Whole(whole) => Ok(Some(Assembled::Whole(whole))),
            Batch::Begin(begin) => {
                self.is_too_large = is_too_large(&begin, limits);
                self.begin = Some(begin);
                Ok(None)
            }
            Batch::Chunk(bytes) => {
                let begin = self.begin.as_ref().ok_or(Disorder::Stray)?;
                let most = begin.bytes.saturating_add(OVERHEAD_BYTES);
                self.is_too_large |=
                    bytes.len() > CHUNK_BYTES || (self.data.len() + bytes.len()) as u64 > most;
                if self.is_too_large {
                    self.data = Vec::new();
                } else {
                    self.data.extend_from_slice(&bytes);
                }
                Ok(None)
            }
            Batch::End(end) => {
                let begin = self.begin.take().ok_or(Disorder::Stray)?;
                let data = std::mem::take(&mut self.data).into();
                Ok(Some(if self.is_too_large {
                    Assembled::TooLarge(begin.batch)
                } else {
                    Assembled::Whole(Whole { begin, data, end })
                }))
            }
        }
    }
}

fn is_too_large(begin: &Begin, limits: &SyncLimits) -> bool {
    let most = limits.batch_bytes.saturating_add(OVERHEAD_BYTES);
    begin.items > limits.batch_items || begin.bytes > most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(size: usize) -> Whole {
        let begin = Begin {
            batch: BatchId::random(),
            base_rev: Revision(1),
            target_rev: Revision(2),
            items: 1,
            bytes: size as u64,
            removal: None,
            full: false,
            last: true,
        };
        let data = (0..size).map(|at| at as u8).collect();
        Whole { begin, data, end: End { tar_hash: Hash::of(b"tar") } }
    }

    #[test]
    fn what_is_cut_is_put_together_again_and_one_batch_follows_another() {
        let mut assembly = Assembly::default();
        let limits = SyncLimits::default();
        for (size, messages) in
            [(0, 1), (1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 4), (3 * CHUNK_BYTES, 5), (7, 1)]
        {
            let whole = whole(size);
            let mut cut = whole.clone().into_messages();
            assert_eq!(cut.len(), messages, "{size} bytes");
            let last = cut.pop().unwrap();
            for message in cut {
                assert_eq!(assembly.take(message, &limits), Ok(None));
            }
            assert_eq!(assembly.take(last, &limits), Ok(Some(Assembled::Whole(whole))));
        }
    }

    #[test]
    fn what_is_larger_than_it_says_or_than_the_limits_is_not_kept_and_the_next_is_taken() {
        let limits = SyncLimits { batch_bytes: 1 << 20, batch_items: 10, ..SyncLimits::default() };
        let mut assembly = Assembly::default();
        let lies: [fn(&mut Begin); 3] =
            [|begin| begin.items = 11, |begin| begin.bytes = 1 << 30, |begin| begin.bytes = 0];
        for lie in lies {
            let mut whole = whole(OVERHEAD_BYTES as usize + CHUNK_BYTES);
            lie(&mut whole.begin);
            let batch = whole.begin.batch;
            let mut taken = None;
            for message in whole.into_messages() {
                assert_eq!(taken, None);
                taken = assembly.take(message, &limits).unwrap();
            }
            assert_eq!(taken, Some(Assembled::TooLarge(batch)));
            assert!(assembly.data.capacity() == 0, "nothing of it is kept");
        }
        let small = whole(5);
        let taken = assembly.take(Batch::Whole(small.clone()), &limits);
        assert_eq!(taken, Ok(Some(Assembled::Whole(small))));
    }

    #[test]
    fn messages_out_of_order_are_told_from_others() {
        let limits = SyncLimits::default();
        let end = || Batch::End(whole(1).end);
        assert_eq!(Assembly::default().take(end(), &limits), Err(Disorder::Stray));
        assert_eq!(Assembly::default().take(Batch::Chunk(Bytes::new()), &limits), Err(Disorder::Stray));
        for second in [Batch::Begin(whole(1).begin), Batch::Whole(whole(1))] {
            let mut assembly = Assembly::default();
            assembly.take(Batch::Begin(whole(1).begin), &limits).unwrap();
            assert_eq!(assembly.take(second, &limits), Err(Disorder::Nested));
        }
    }
}
