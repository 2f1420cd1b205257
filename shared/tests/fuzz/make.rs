//! Things that are valid, made at random.

use crate::mutate;
use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use shared::batch::Op;
use shared::id::{BatchId, ItemId, Revision};
use shared::link::Failure;
use shared::link::sync::Begin;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::collections::BTreeMap;
use uuid::Uuid;

/// One of these, made now.
macro_rules! one_of {
    ($rng:expr, $($made:expr),+ $(,)?) => {{
        let choices: &[&dyn Fn(&mut rand::rngs::StdRng) -> _] = &[$(&$made),+];
        let n = rand::Rng::random_range($rng, 0..choices.len());
        choices[n]($rng)
    }};
}
pub(crate) use one_of;

pub fn maybe<T>(rng: &mut StdRng, make: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    if rng.random() { Some(make(rng)) } else { None }
}

pub fn some<T>(rng: &mut StdRng, most: usize, mut make: impl FnMut(&mut StdRng) -> T) -> Vec<T> {
    (0..rng.random_range(0..=most)).map(|_| make(rng)).collect()
}

pub fn id(rng: &mut StdRng) -> Uuid {
    Uuid::from_u128(rng.random())
}

pub fn text(rng: &mut StdRng) -> String {
    let length = rng.random_range(0..40);
    (0..length)
        .map(|_| if rng.random_ratio(1, 8) { rng.random() } else { rng.random_range('a'..='z') })
        .collect()
}

pub fn data(rng: &mut StdRng) -> Bytes {
    mutate::bytes(rng, 200).into()
}

pub fn failure(rng: &mut StdRng) -> Failure {
    Failure::new(text(rng), text(rng))
}

pub fn path(rng: &mut StdRng) -> WorkspacePath {
    loop {
        let parts: Vec<_> = (0..rng.random_range(1..6)).map(|_| text(rng)).collect();
        if let Ok(path) = WorkspacePath::new(parts.join("/")) {
            return path;
        }
    }
}

/// An entry, and its content where it has one.
pub fn entry(rng: &mut StdRng) -> (Entry, Option<Vec<u8>>) {
    match rng.random_range(0..6) {
        0 => (Entry::dir(0o755), None),
        1 => {
            let target = text(rng).replace('\0', "x");
            (Entry::symlink(&target), Some(target.into_bytes()))
        }
        _ => {
            let bytes = mutate::bytes(rng, 3_000);
            let mode = if rng.random() { 0o644 } else { rng.random_range(0..=0o777) };
            (Entry::file(mode, bytes.len() as u64, Hash::of(&bytes)), Some(bytes))
        }
    }
}

/// Operations with the contents that they need; no path twice.
pub fn ops(rng: &mut StdRng) -> (Vec<Op>, BTreeMap<Hash, Vec<u8>>) {
    let (mut ops, mut contents) = (BTreeMap::new(), BTreeMap::new());
    let mut last: Option<(Entry, Option<Vec<u8>>)> = None;
    for _ in 0..rng.random_range(0..8) {
        let path = path(rng);
        let (item, pre) = (maybe(rng, |r| ItemId(id(r))), maybe(rng, |r| entry(r).0));
        // Equal contents in several places, too.
        let (entry, content) = match last.take() {
            Some(last) if rng.random_ratio(1, 3) => last,
            _ => entry(rng),
        };
        last = Some((entry, content.clone()));
        let op = match rng.random_range(0..4) {
            0 => Op::Delete { path: path.clone(), item, pre },
            1 => Op::Rename { from: self::path(rng), to: path.clone(), item, entry, pre },
            _ => Op::Put { path: path.clone(), item, entry, pre },
        };
        if let Some(hash) = op.content() {
            contents.insert(hash, content.unwrap_or_default());
        }
        ops.insert(path, op);
    }
    let mut ops: Vec<_> = ops.into_values().collect();
    let turn = rng.random_range(0..=ops.len());
    ops.rotate_left(turn);
    // A turn may have parted a content from the only operation that was left with it.
    contents.retain(|hash, _| ops.iter().any(|op| op.content() == Some(*hash)));
    (ops, contents)
}

pub fn begin(rng: &mut StdRng) -> Begin {
    Begin {
        batch: BatchId(id(rng)),
        base_rev: Revision(mutate::number(rng)),
        target_rev: Revision(mutate::number(rng)),
        items: mutate::number(rng),
        bytes: mutate::number(rng),
        removal: rng.random::<bool>().then(|| BatchId(id(rng))),
        full: rng.random(),
        last: rng.random(),
    }
}

/// Whether an operation is within the format's rules.
pub fn is_sound(op: &Op) -> bool {
    op.entry().is_none_or(|entry| {
        entry.mode <= 0o777
            && match entry.kind {
                Kind::File => true,
                Kind::Dir => entry.size == 0,
                Kind::Symlink => entry.mode == 0o777,
            }
    })
}
