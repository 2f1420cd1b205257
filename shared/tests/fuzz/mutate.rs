//! Ways to spoil bytes.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Numbers at which programs go wrong.
const EDGES: &[u64] =
    &[0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX];

/// A number: mostly small, sometimes at an edge, sometimes anything.
pub fn number(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..4) {
        0 => EDGES.choose(rng).copied().unwrap_or(0).wrapping_add(rng.random_range(0..3)).wrapping_sub(1),
        1 => rng.random(),
        _ => rng.random_range(0..100),
    }
}

/// Some bytes.
pub fn bytes(rng: &mut StdRng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..=most)];
    if rng.random() {
        rng.fill(&mut bytes[..]);
    } else {
        bytes.fill(rng.random());
    }
    bytes
}

/// Spoils bytes in one to four places: bits, numbers, pieces cut, doubled, moved or put in.
pub fn spoil(rng: &mut StdRng, data: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..=4) {
        if data.is_empty() {
            data.extend(bytes(rng, 64));
            continue;
        }
        let at = rng.random_range(0..data.len());
        let end = (at + rng.random_range(1..=64)).min(data.len());
        match rng.random_range(0..8) {
            0 => data[at] ^= 1 << rng.random_range(0..8),
            1 => data[at] = rng.random(),
            2 => data.truncate(at),
            3 => drop(data.drain(at..end)),
            4 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            5 => {
                let piece: Vec<u8> = data.drain(at..end).collect();
                let to = rng.random_range(0..=data.len());
                data.splice(to..to, piece);
            }
            6 => {
                let piece = bytes(rng, 40);
                data.splice(at..at, piece);
            }
            _ => {
                let edge = number(rng).to_be_bytes();
                let width = *[1, 2, 4, 8].choose(rng).unwrap_or(&1);
                for (to, byte) in data[at..].iter_mut().zip(&edge[8 - width..]) {
                    *to = *byte;
                }
            }
        }
    }
}
