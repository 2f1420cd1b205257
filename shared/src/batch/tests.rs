//! Batches: what comes back, and what is refused.

use super::*;
use std::collections::HashMap;

/// Operations and the contents that came with them.
type Decoded = (Vec<Op>, HashMap<Hash, Vec<u8>>);
/// A tar entry made by hand.
type Forged<'a> = (&'a str, tar::EntryType, &'a [u8]);

fn put(path: &str, bytes: &[u8]) -> Op {
    let entry = Entry::file(0o644, bytes.len() as u64, Hash::of(bytes));
    Op::Put { path: WorkspacePath::new(path).unwrap(), item: None, entry, pre: None }
}

fn claims(encoded: &Encoded) -> Claims {
    Claims {
        items: encoded.items,
        bytes: encoded.bytes,
        tar_hash: encoded.tar_hash,
        compressed: encoded.data.len() as u64,
    }
}

fn decoded(encoded: &Encoded, claims: Claims) -> Result<Decoded, BatchError> {
    let mut contents = HashMap::new();
    let ops = decode(&encoded.data[..], claims, &SyncLimits::default(), |hash, bytes| {
        contents.insert(hash, bytes);
        Ok(())
    })?;
    Ok((ops, contents))
}

fn encoded(files: &[(&str, &[u8])]) -> Encoded {
    let ops: Vec<Op> = files.iter().map(|(path, bytes)| put(path, bytes)).collect();
    let contents: HashMap<Hash, Vec<u8>> = files.iter().map(|(_, b)| (Hash::of(b), b.to_vec())).collect();
    encode(&ops, |hash| Ok(contents.get(&hash).map(|bytes| &bytes[..]))).unwrap()
}

/// A batch made by hand, so that it may be wrong.
fn forged(ops: &[Op], entries: &[Forged<'_>]) -> Encoded {
    let mut tar = tar::Builder::new(Vec::new());
    let manifest = rmp_serde::to_vec_named(ops).unwrap();
    append(&mut tar, MANIFEST, manifest.len() as u64, &manifest[..]).unwrap();
    for (name, kind, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        if *kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *bytes).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let (bytes, tar_hash) = (tar.len() as u64, Hash::of(&tar));
    let data = zstd::encode_all(&tar[..], 3).unwrap();
    Encoded { data, items: ops.len() as u64, bytes, tar_hash }
}

#[test]
fn what_is_decoded_is_what_was_encoded_and_equal_contents_travel_once() {
    let files: &[(&str, &[u8])] = &[("a", b"same"), ("b", b"same"), ("c/d", b"other"), ("empty", b"")];
    let batch = encoded(files);
    let (ops, contents) = decoded(&batch, claims(&batch)).unwrap();
    assert_eq!(ops, files.iter().map(|(p, b)| put(p, b)).collect::<Vec<_>>());
    assert_eq!(contents.len(), 3);
    assert!(contents.iter().all(|(hash, bytes)| Hash::of(bytes) == *hash));
}

#[test]
fn each_lie_in_the_head_or_end_is_found() {
    let batch = encoded(&[("a", b"text")]);
    let honest = claims(&batch);
    let lies = [
        Claims { items: 2, ..honest },
        Claims { bytes: honest.bytes - 1, ..honest },
        Claims { bytes: honest.bytes + 1, ..honest },
        Claims { tar_hash: Hash::of(b"x"), ..honest },
        Claims { items: u64::MAX / 2, ..honest },
        Claims { bytes: u64::MAX, ..honest },
    ];
    for lie in lies {
        assert!(decoded(&batch, lie).is_err(), "{lie:?}");
    }
}

#[test]
fn entries_that_no_batch_has_refuse_it() {
    let op = put("a", b"text");
    let right = format!("{CONTENT_PREFIX}{}", Hash::of(b"text"));
    let regular = tar::EntryType::Regular;
    let cases: &[(&[Op], &[Forged<'_>])] = &[
        (std::slice::from_ref(&op), &[("../../etc/passwd", regular, b"text")]),
        (std::slice::from_ref(&op), &[("b/zz", regular, b"text")]),
        (std::slice::from_ref(&op), &[(&right, tar::EntryType::Symlink, b"")]),
        (std::slice::from_ref(&op), &[(&right, regular, b"lies")]),
        (std::slice::from_ref(&op), &[(&right, regular, b"text"), (&right, regular, b"text")]),
        (&[op.clone(), op.clone()], &[(&right, regular, b"text")]),
        (&[], &[(&right, regular, b"text")]),
    ];
    for (n, (ops, entries)) in cases.iter().enumerate() {
        let batch = forged(ops, entries);
        assert!(decoded(&batch, claims(&batch)).is_err(), "case {n}");
    }
    let fine = forged(std::slice::from_ref(&op), &[(&right, regular, b"text")]);
    assert!(decoded(&fine, claims(&fine)).is_ok());
}

#[test]
fn a_bomb_is_refused_before_it_is_unpacked_and_a_file_of_zeros_is_none() {
    let zeros = vec![0; 40 << 20];
    let mut batch = encoded(&[("zeros", &zeros)]);
    assert!(decoded(&batch, claims(&batch)).is_ok());
    batch.data.truncate(100_000);
    assert!(matches!(decoded(&batch, claims(&batch)), Err(BatchError::Bomb(_))));
}

#[test]
fn a_file_that_changed_since_it_was_hashed_makes_no_batch() {
    let ops = [put("a", b"text")];
    for now in [&b"tex"[..], b"texts", b"Text", b""] {
        assert!(matches!(encode(&ops, |_| Ok(Some(now))), Err(BatchError::WrongHash)), "{now:?}");
    }
}

#[test]
fn bytes_that_are_no_batch_are_an_error_and_no_panic() {
    let batch = encoded(&[("a", b"some text that is long enough to be cut"), ("b", b"more")]);
    let honest = claims(&batch);
    for cut in 0..batch.data.len() {
        let short = Encoded { data: batch.data[..cut].to_vec(), ..batch.clone() };
        assert!(decoded(&short, honest).is_err(), "cut at {cut}");
    }
    for flipped in 0..batch.data.len() {
        let mut broken = batch.clone();
        broken.data[flipped] ^= 0x41;
        if let Ok((ops, _)) = decoded(&broken, honest) {
            // Some bits of a frame's head carry nothing.
            assert_eq!(ops.len(), 2);
        }
    }
}
