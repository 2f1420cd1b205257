//! A terminal's recent output: a ring of bytes, each numbered from the terminal's start.

use shared::id::Offset;
use std::collections::VecDeque;

/// The last bytes of a terminal's output. Grows up to its capacity, then forgets the oldest.
#[derive(Debug)]
pub struct History {
    bytes: VecDeque<u8>,
    capacity: usize,
    end: u64,
}

impl History {
    /// Keeps up to `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, end: 0 }
    }

    /// The number of the oldest byte that is still here.
    pub fn start(&self) -> Offset {
        Offset(self.end - self.bytes.len() as u64)
    }

    /// The number that the next byte will have.
    pub fn end(&self) -> Offset {
        Offset(self.end)
    }

    /// How many bytes it keeps at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends output.
    pub fn push(&mut self, output: &[u8]) {
        self.end += output.len() as u64;
        let kept = &output[output.len().saturating_sub(self.capacity)..];
        let over = (self.bytes.len() + kept.len()).saturating_sub(self.capacity);
        self.bytes.drain(..over);
        self.bytes.extend(kept);
    }

    /// Up to `limit` bytes from `from` on; none if `from` was forgotten or lies ahead of the end.
    pub fn read(&self, from: Offset, limit: usize) -> Option<Vec<u8>> {
        if from < self.start() || from > self.end() {
            return None;
        }
        let skip = (from.0 - self.start().0) as usize;
        let take = limit.min(self.bytes.len() - skip);
        let mut read = Vec::with_capacity(take);
        let (front, back) = self.bytes.as_slices();
        if skip < front.len() {
            read.extend_from_slice(&front[skip..front.len().min(skip + take)]);
        }
        let rest = take - read.len();
        let back_skip = skip.saturating_sub(front.len());
        read.extend_from_slice(&back[back_skip..back_skip + rest]);
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written_at_that_offset(
            outputs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40),
            capacity in 1usize..64,
            from in 0u64..1200,
            limit in 0usize..80,
        ) {
            let mut history = History::new(capacity);
            let mut all = Vec::new();
            for output in &outputs {
                history.push(output);
                all.extend_from_slice(output);
            }
            prop_assert_eq!(history.end().0 as usize, all.len());
            prop_assert_eq!(history.start().0 as usize, all.len().saturating_sub(capacity));
            let kept = (history.start().0..=history.end().0).contains(&from);
            let expected = kept.then(|| all[from as usize..].iter().copied().take(limit).collect::<Vec<u8>>());
            prop_assert_eq!(history.read(Offset(from), limit), expected);
        }
    }
}
