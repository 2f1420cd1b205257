//! Large contents in parts, cut where their bytes say so (FastCDC, 2020): a byte changed in a large file changes
//! one part or two, and the others are known by their hashes wherever they have moved to.
//!
//! Where the cuts fall is nothing that the two sides must agree on: a recipe names its parts, and any parts that
//! make up the content will do. Equal cuts only spare more.

use crate::tree::Hash;
use bytes::Bytes;
use fastcdc::v2020::StreamCDC;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};

/// Bytes from which on a content goes, and is kept, in parts. Below, a recipe and two more messages cost more than
/// they spare.
pub const LARGE_BYTES: u64 = 1 << 20;
/// Bytes of a part, but for a content's last.
pub const PART_MIN: usize = 64 * 1024;
/// Bytes of a part on average: what one changed byte costs.
pub const PART_AVERAGE: usize = 128 * 1024;
/// Bytes that no part is longer than: with its head it fits into one message.
pub const PART_MAX: usize = 240 * 1024;
/// zstd's level for parts: 3 is the knee of its curve.
const LEVEL: i32 = 3;
/// How much of a part is compressed to see whether the rest is worth it.
const PROBE_BYTES: usize = 16 * 1024;

/// Whether a content of so many bytes goes in parts.
pub fn is_large(size: u64) -> bool {
    size > LARGE_BYTES
}

/// One part of a large content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// BLAKE3 of its bytes.
    pub hash: Hash,
    /// How many bytes.
    pub size: u32,
}

/// Which parts make up a large content, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// BLAKE3 of the whole.
    pub hash: Hash,
    /// Bytes of the whole.
    pub size: u64,
    /// Its parts; the same one may be there several times.
    pub parts: Vec<Part>,
}

/// Why a recipe or a part from the other side is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParts {
    /// A part is empty or longer than any may be, or the parts are more than the content's size allows.
    #[error("the content is cut into parts that none may have")]
    Cut,
    /// The parts' sizes don't add up to the content's.
    #[error("the parts are not as long as the content")]
    Size,
    /// The bytes don't have the hash or the size that the recipe names.
    #[error("the bytes of a part are not what its recipe says")]
    Content,
}

impl Recipe {
    /// How many parts a content of `size` bytes may have at most: all but the last have at least [`PART_MIN`] bytes.
    pub fn most_parts(size: u64) -> u64 {
        size / PART_MIN as u64 + 1
    }

    /// Whether the numbers hold together. That the parts make up `hash` is known only once they are there.
    pub fn check(&self) -> Result<(), BadParts> {
        let sizes = self.parts.iter().map(|part| part.size);
        if sizes.clone().any(|size| size == 0 || size as usize > PART_MAX)
            || self.parts.len() as u64 > Self::most_parts(self.size)
        {
            return Err(BadParts::Cut);
        }
        if sizes.map(u64::from).sum::<u64>() == self.size { Ok(()) } else { Err(BadParts::Size) }
    }
}

/// Cuts a content into parts and gives each with its bytes to `part`, in order. Holds one part at a time.
pub fn cut(content: impl Read, mut part: impl FnMut(Part, Vec<u8>) -> io::Result<()>) -> io::Result<Recipe> {
    let mut hasher = blake3::Hasher::new();
    let mut recipe = Recipe { hash: Hash([0; 32]), size: 0, parts: Vec::new() };
    for chunk in StreamCDC::new(content, PART_MIN, PART_AVERAGE, PART_MAX) {
        let chunk = chunk.map_err(io::Error::from)?;
        hasher.update(&chunk.data);
        // No longer than PART_MAX.
        let cut = Part { hash: Hash::of(&chunk.data), size: chunk.data.len() as u32 };
        recipe.size += u64::from(cut.size);
        recipe.parts.push(cut);
        part(cut, chunk.data)?;
    }
    recipe.hash = Hash(*hasher.finalize().as_bytes());
    Ok(recipe)
}

/// A part's bytes as they travel and are kept: compressed where that helps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Whether `data` is a zstd frame rather than the bytes themselves.
    pub zstd: bool,
    /// The frame, or the bytes.
    pub data: Bytes,
}

impl Packed {
    /// Packs a part's bytes.
    pub fn pack(bytes: Vec<u8>) -> Self {
        match compress(&bytes) {
            Some(data) => Self { zstd: true, data: data.into() },
            None => Self { zstd: false, data: bytes.into() },
        }
    }

    /// The bytes again, if they are what the recipe says. Allocates no more than `part.size`, whatever the frame
    /// claims.
    pub fn unpack(&self, part: Part) -> Result<Bytes, BadParts> {
        if part.size as usize > PART_MAX {
            return Err(BadParts::Cut);
        }
        let bytes = if self.zstd {
            let bytes = zstd::bulk::decompress(&self.data, part.size as usize);
            Bytes::from(bytes.map_err(|_| BadParts::Content)?)
        } else {
            self.data.clone()
        };
        let right = bytes.len() == part.size as usize && Hash::of(&bytes) == part.hash;
        if right { Ok(bytes) } else { Err(BadParts::Content) }
    }
}

fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let worth_it = |input: usize, output: usize| output < input - input / 20;
    if bytes.len() > PROBE_BYTES {
        let probe = zstd::bulk::compress(&bytes[..PROBE_BYTES], 1).ok()?;
        if !worth_it(PROBE_BYTES, probe.len()) {
            return None;
        }
    }
    zstd::bulk::compress(bytes, LEVEL).ok().filter(|packed| worth_it(bytes.len(), packed.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// Bytes that look like nothing in particular.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn recipe(bytes: &[u8]) -> Recipe {
        let mut joined = Vec::new();
        let recipe = cut(bytes, |part, data| {
            assert_eq!((part.hash, part.size as usize), (Hash::of(&data), data.len()));
            joined.extend(data);
            Ok(())
        });
        assert_eq!(joined, bytes);
        recipe.unwrap()
    }

    fn new_bytes(old: &Recipe, new: &Recipe) -> u64 {
        let known: HashSet<Hash> = old.parts.iter().map(|part| part.hash).collect();
        new.parts.iter().filter(|part| !known.contains(&part.hash)).map(|part| u64::from(part.size)).sum()
    }

    #[test]
    fn a_content_is_its_parts_one_after_the_other() {
        for len in [0, 1, PART_MIN, PART_MAX, PART_MAX + 1, 5 << 20] {
            let bytes = noise(1, len);
            let recipe = recipe(&bytes);
            assert_eq!((recipe.hash, recipe.size), (Hash::of(&bytes), len as u64));
            recipe.check().unwrap();
        }
        let same = vec![7; 3 << 20];
        recipe(&same).check().unwrap();
    }

    #[test]
    fn a_byte_changed_put_in_or_taken_out_costs_a_few_parts() {
        let old = noise(2, 16 << 20);
        let before = recipe(&old);
        let (mut changed, mut longer, mut shorter) = (old.clone(), old.clone(), old);
        changed[9 << 20] ^= 1;
        longer.insert(1 << 20, 1);
        shorter.remove(3 << 20);
        for new in [changed, longer, shorter] {
            let cost = new_bytes(&before, &recipe(&new));
            assert!(cost > 0 && cost <= 4 * PART_MAX as u64, "{cost} bytes");
        }
    }

    #[test]
    fn parts_are_as_long_on_average_as_they_should_be() {
        let recipe = recipe(&noise(3, 32 << 20));
        let average = recipe.size as usize / recipe.parts.len();
        assert!((PART_AVERAGE * 3 / 4..PART_AVERAGE * 4 / 3).contains(&average), "{average}");
    }

    #[test]
    fn a_recipe_that_does_not_hold_together_is_refused() {
        let good = recipe(&noise(4, 2 << 20));
        let size = Recipe { size: good.size + 1, ..good.clone() };
        assert_eq!(size.check(), Err(BadParts::Size));
        let mut empty = good.clone();
        empty.parts.push(Part { hash: Hash::of(b""), size: 0 });
        assert_eq!(empty.check(), Err(BadParts::Cut));
        let crumbs = vec![Part { hash: Hash::of(b"x"), size: 1 }; 2 << 20];
        assert_eq!(Recipe { parts: crumbs, ..good.clone() }.check(), Err(BadParts::Cut));
        let one = vec![Part { hash: good.hash, size: good.size as u32 }];
        assert_eq!(Recipe { parts: one, ..good }.check(), Err(BadParts::Cut));
    }

    #[test]
    fn a_part_is_what_its_recipe_says_or_refused() {
        for bytes in [noise(5, PART_MIN), vec![b'a'; PART_MAX]] {
            let part = Part { hash: Hash::of(&bytes), size: bytes.len() as u32 };
            let packed = Packed::pack(bytes.clone());
            assert_eq!(packed.zstd, bytes[0] == bytes[1] && bytes[1] == bytes[2]);
            assert_eq!(packed.unpack(part).unwrap(), bytes);
            let shorter = Part { size: part.size - 1, ..part };
            let other = Part { hash: Hash::of(b"other"), ..part };
            let huge = Part { size: u32::MAX, ..part };
            for wrong in [shorter, other, huge] {
                assert!(packed.unpack(wrong).is_err(), "{wrong:?}");
            }
        }
        // A bomb allocates what the recipe says and no more.
        let bomb = Packed { zstd: true, data: zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap().into() };
        let part = Part { hash: Hash::of(b"x"), size: 1_000 };
        assert_eq!(bomb.unpack(part), Err(BadParts::Content));
    }

    proptest! {
        #[test]
        fn any_bytes_as_a_part_are_read_or_refused(zstd: bool, data: Vec<u8>, size in 0u32..100_000) {
            let packed = Packed { zstd, data: data.into() };
            let _ = packed.unpack(Part { hash: Hash::of(b""), size });
        }
    }
}
