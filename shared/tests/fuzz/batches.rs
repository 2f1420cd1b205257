//! Batches spoiled at each of their layers: the claims, the manifest, the tar, the compressed bytes.

use crate::{fuzz, make, memory, mutate};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use shared::batch::{self, BatchError, Claims, Op};
use shared::limits::SyncLimits;
use shared::tree::{Hash, Kind};
use std::collections::{BTreeMap, HashSet};
use std::io::Write;

/// Bytes of memory that decoding may take beside what the batch claims to hold: buffers of fixed size.
const MEMORY_BYTES: usize = 1 << 20;

type Contents = BTreeMap<Hash, Vec<u8>>;

/// Small limits, so that going beyond them costs little.
fn limits() -> SyncLimits {
    SyncLimits { file_bytes: 100_000, batch_bytes: 200_000, batch_items: 100, ..SyncLimits::default() }
}

/// A tar entry, valid or not.
struct Part {
    name: Vec<u8>,
    kind: u8,
    size: u64,
    body: Vec<u8>,
}

impl Part {
    fn new(name: impl Into<Vec<u8>>, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { name: name.into(), kind: b'0', size: body.len() as u64, body }
    }
}

fn parts(ops: &[Op], contents: &BTreeMap<Hash, Vec<u8>>) -> Vec<Part> {
    let mut parts = vec![Part::new("manifest", rmp_serde::to_vec_named(ops).unwrap())];
    let mut done = HashSet::new();
    for hash in ops.iter().filter_map(Op::content).filter(|hash| done.insert(*hash)) {
        parts.push(Part::new(format!("b/{hash}"), contents[&hash].clone()));
    }
    parts
}

fn tar(parts: &[Part]) -> Vec<u8> {
    let mut tar = Vec::new();
    for part in parts {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_size(part.size);
        header.as_mut_bytes()[156] = part.kind;
        let name = &part.name[..part.name.len().min(100)];
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&part.body);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Wrong parts: foreign types, wrong names and sizes, extensions, duplicates, another order.
fn spoil_parts(rng: &mut StdRng, parts: &mut Vec<Part>) {
    let at = rng.random_range(0..parts.len());
    let hash = Hash::of(b"").to_hex();
    match rng.random_range(0..9) {
        // Links, devices, folders, FIFOs, sparse files, and what describes the next entry.
        0 => parts[at].kind = *b"123456SLKxgDMNV7\0".choose(rng).unwrap_or(&b'1'),
        1 => {
            let names = ["../../etc/passwd", "/etc/passwd", "b/", "b/..", "manifest", "", "b/zz"];
            parts[at].name = names.choose(rng).unwrap_or(&"").as_bytes().to_vec();
        }
        2 => parts[at].size = mutate::number(rng),
        3 => {
            let to = rng.random_range(0..parts.len());
            parts.swap(at, to);
        }
        4 => {
            let (name, body) = (parts[at].name.clone(), parts[at].body.clone());
            parts.push(Part::new(name, body));
        }
        5 => drop(parts.remove(at)),
        6 => parts.insert(at, Part::new(format!("b/{hash}"), "")),
        7 => {
            // A long name or another size for the entry that follows.
            let record = ["path=../../etc/passwd", "size=1", "size=999999999999"].choose(rng).unwrap_or(&"");
            let pax = format!("{} {record}\n", record.len() + 4);
            let (kind, body) =
                *[(b'x', pax.as_bytes()), (b'g', pax.as_bytes()), (b'L', b"../../etc/passwd\0")]
                    .choose(rng)
                    .unwrap_or(&(b'x', b""));
            parts.insert(at, Part { kind, ..Part::new("././@LongLink", body) });
        }
        _ => mutate::spoil(rng, &mut parts[at].body),
    }
    if parts.is_empty() {
        parts.push(Part::new("manifest", [0x90]));
    }
}

/// Operations that are well-formed and still wrong.
fn spoil_ops(rng: &mut StdRng, ops: &mut Vec<Op>) {
    if ops.is_empty() {
        ops.push(Op::Delete { path: make::path(rng), item: None, pre: None });
    }
    let at = rng.random_range(0..ops.len());
    let twin = ops[at].clone();
    if let Op::Put { entry, .. } | Op::Rename { entry, .. } = &mut ops[at] {
        match rng.random_range(0..5) {
            0 => entry.mode = rng.random(),
            1 => entry.size = mutate::number(rng),
            2 => entry.kind = *[Kind::File, Kind::Dir, Kind::Symlink].choose(rng).unwrap_or(&Kind::Dir),
            3 => entry.hash = Hash(rng.random()),
            _ => ops.push(twin),
        }
    } else {
        ops.push(twin);
    }
}

fn compress(rng: &mut StdRng, tar: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    // In one frame or several, with checksums or without, small windows or large.
    let cut = if rng.random_ratio(1, 4) { rng.random_range(0..=tar.len()) } else { tar.len() };
    for piece in [&tar[..cut], &tar[cut..]] {
        let mut encoder = zstd::Encoder::new(Vec::new(), rng.random_range(1..4)).unwrap();
        encoder.include_checksum(rng.random()).unwrap();
        encoder.window_log(rng.random_range(10..=27)).unwrap();
        encoder.write_all(piece).unwrap();
        all.extend(encoder.finish().unwrap());
    }
    all
}

fn spoil_claims(rng: &mut StdRng, claims: &mut Claims) {
    match rng.random_range(0..4) {
        0 => claims.items = mutate::number(rng),
        1 => claims.bytes = mutate::number(rng),
        2 => claims.compressed = mutate::number(rng),
        _ => claims.tar_hash = Hash(rng.random()),
    }
}

/// Decodes and checks all that must hold of whatever comes out.
fn checked(data: &[u8], claims: Claims) -> Result<(Vec<Op>, Contents), BatchError> {
    let mut contents = BTreeMap::new();
    let limits = limits();
    let (decoded, most) = memory::most(|| {
        batch::decode(data, claims, &limits, |hash, bytes| {
            assert_eq!(Hash::of(&bytes), hash, "a content that isn't what it goes by was given out");
            assert!(contents.insert(hash, bytes).is_none(), "a content was given out twice");
            Ok(())
        })
    });
    // What is kept of it, what reading it takes at its worst, and what a path costs beside its bytes.
    let claimed = 6 * claims.bytes.min(10 << 20) as usize + 2_048 * claims.items.min(10_000) as usize;
    assert!(most <= MEMORY_BYTES + claimed, "it took {most} bytes, and claimed {claims:?}");
    let ops = decoded?;
    assert_eq!(ops.len() as u64, claims.items);
    assert!(ops.len() as u64 <= limits.batch_items);
    assert!(contents.values().map(Vec::len).sum::<usize>() as u64 <= claims.bytes);
    let paths: HashSet<_> = ops.iter().map(Op::path).collect();
    assert_eq!(paths.len(), ops.len(), "a path is named twice");
    for op in &ops {
        assert!(make::is_sound(op), "{op:?}");
        let content = op.content().and_then(|hash| contents.get(&hash));
        if let (Some(entry), Some(content)) = (op.entry(), content) {
            assert!(entry.size == content.len() as u64 || ops.iter().any(|o| o.content() == op.content()));
        }
    }
    Ok((ops, contents))
}

#[test]
fn what_is_encoded_comes_back_and_whatever_is_spoiled_is_refused_or_harmless() {
    fuzz("batches", 20_000, |rng| {
        let (mut ops, mut contents) = make::ops(rng);
        if rng.random_ratio(1, 5) {
            let encoded =
                batch::encode(&ops, |hash| Ok(contents.get(&hash).map(|bytes| &bytes[..]))).unwrap();
            let claims = Claims {
                items: encoded.items,
                bytes: encoded.bytes,
                tar_hash: encoded.tar_hash,
                compressed: encoded.data.len() as u64,
            };
            let back = checked(&encoded.data, claims).unwrap();
            assert_eq!(back, (ops, contents));
            return;
        }
        let honest = ops.clone();
        let layer = rng.random_range(0..5);
        if layer == 0 {
            spoil_ops(rng, &mut ops);
            contents.extend(
                ops.iter()
                    .filter_map(Op::content)
                    .map(|hash| (hash, Vec::new()))
                    .filter(|(hash, _)| !honest.iter().any(|op| op.content() == Some(*hash))),
            );
        }
        let mut parts = parts(&ops, &contents);
        if layer == 1 {
            spoil_parts(rng, &mut parts);
        }
        let mut tar = tar(&parts);
        if layer == 2 {
            mutate::spoil(rng, &mut tar);
        }
        let mut data = compress(rng, &tar);
        let mut claims = Claims {
            items: ops.len() as u64,
            bytes: tar.len() as u64,
            tar_hash: Hash::of(&tar),
            compressed: data.len() as u64,
        };
        match layer {
            3 => spoil_claims(rng, &mut claims),
            4 => mutate::spoil(rng, &mut data),
            _ => {}
        }
        if let Ok((back, _)) = checked(&data, claims)
            && layer >= 3
        {
            // The tar was right, and so is what it said.
            assert_eq!(back, honest);
        }
    });
}

#[test]
fn bytes_that_are_no_batch_at_all_are_refused() {
    fuzz("noise for a batch", 5_000, |rng| {
        let data = mutate::bytes(rng, 2_000);
        let claims = Claims {
            items: mutate::number(rng),
            bytes: mutate::number(rng),
            tar_hash: Hash(rng.random()),
            compressed: data.len() as u64,
        };
        assert!(checked(&data, claims).is_err());
    });
}
