//! Batches made to do harm, one by one: each is refused, and by its own name.
#![allow(clippy::unwrap_used, reason = "a test")]

use shared::batch::{self, BatchError, Claims, Op};
use shared::limits::SyncLimits;
use shared::path::WorkspacePath;
use shared::tree::{Entry, Hash, Kind};
use std::io::Write;

/// A batch under construction: every layer can be made wrong.
struct Forged {
    tar: Vec<u8>,
    items: u64,
}

fn put(path: &str, bytes: &[u8]) -> Op {
    let entry = Entry::file(0o644, bytes.len() as u64, Hash::of(bytes));
    Op::Put { path: WorkspacePath::new(path).unwrap(), item: None, entry, pre: None }
}

fn with(op: Op, change: impl FnOnce(&mut Entry)) -> Op {
    let Op::Put { path, item, mut entry, pre } = op else { panic!("no put") };
    change(&mut entry);
    Op::Put { path, item, entry, pre }
}

fn name(bytes: &[u8]) -> String {
    format!("b/{}", Hash::of(bytes))
}

impl Forged {
    fn of(ops: &[Op]) -> Self {
        Self::with_manifest(&rmp_serde::to_vec_named(ops).unwrap(), ops.len() as u64)
    }

    fn with_manifest(manifest: &[u8], items: u64) -> Self {
        Self { tar: Vec::new(), items }.entry("manifest", b'0', manifest)
    }

    fn entry(self, name: &str, kind: u8, body: &[u8]) -> Self {
        self.entry_of_size(name, kind, body.len() as u64, body)
    }

    fn entry_of_size(mut self, name: &str, kind: u8, size: u64, body: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_size(size);
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes[156] = kind;
        if matches!(kind, b'1' | b'2') {
            bytes[157..168].copy_from_slice(b"/etc/passwd");
        }
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(body);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self
    }

    fn content(self, bytes: &[u8]) -> Self {
        self.entry(&name(bytes), b'0', bytes)
    }

    fn end(mut self) -> Self {
        self.tar.resize(self.tar.len() + 1024, 0);
        self
    }

    fn claims(&self, compressed: usize) -> Claims {
        Claims {
            items: self.items,
            bytes: self.tar.len() as u64,
            tar_hash: Hash::of(&self.tar),
            compressed: compressed as u64,
        }
    }

    /// Compressed and claimed as what it is.
    fn decode(self) -> Result<Vec<Op>, BatchError> {
        let whole = self.end();
        let data = zstd::encode_all(&whole.tar[..], 3).unwrap();
        decode(&data, whole.claims(data.len()))
    }
}

fn decode(data: &[u8], claims: Claims) -> Result<Vec<Op>, BatchError> {
    let limits = SyncLimits { file_bytes: 1 << 20, ..SyncLimits::default() };
    batch::decode(data, claims, &limits, |_, _| Ok(()))
}

/// What the error says, which is what the log and the page show.
fn says(refused: Result<Vec<Op>, BatchError>) -> String {
    refused.expect_err("it was taken").to_string()
}

macro_rules! refused {
    ($($test:ident: $batch:expr => $error:pat,)+) => {$(
        #[test]
        fn $test() {
            let decoded = $batch;
            assert!(matches!(decoded, Err($error)), "{decoded:?}");
        }
    )+};
}

refused! {
    // Tar entries of every type but a regular file's.
    a_symlink_entry: Forged::of(&[put("a", b"")]).entry(&name(b""), b'2', b"").decode() => BatchError::ForeignEntry,
    a_hard_link_entry: Forged::of(&[put("a", b"")]).entry(&name(b""), b'1', b"").decode() => BatchError::ForeignEntry,
    a_character_device_entry: Forged::of(&[put("a", b"")]).entry(&name(b""), b'3', b"").decode()
        => BatchError::ForeignEntry,
    a_block_device_entry: Forged::of(&[put("a", b"")]).entry(&name(b""), b'4', b"").decode()
        => BatchError::ForeignEntry,
    a_folder_entry: Forged::of(&[put("a", b"")]).entry(&name(b""), b'5', b"").decode() => BatchError::ForeignEntry,
    a_fifo_entry: Forged::of(&[put("a", b"")]).entry(&name(b""), b'6', b"").decode() => BatchError::ForeignEntry,
    a_sparse_entry: Forged::of(&[put("a", b"text")]).entry(&name(b"text"), b'S', b"text").decode()
        => BatchError::ForeignEntry,
    an_entry_of_an_unknown_type: Forged::of(&[put("a", b"text")]).entry(&name(b"text"), b'Z', b"text").decode()
        => BatchError::ForeignEntry,

    // Extensions that would rename or resize the entry that follows.
    a_gnu_long_name: Forged::of(&[put("a", b"text")])
        .entry("././@LongLink", b'L', b"../../etc/passwd\0").content(b"text").decode() => BatchError::ForeignEntry,
    a_gnu_long_name_that_names_a_content: Forged::of(&[put("a", b"text")])
        .entry("././@LongLink", b'L', name(b"text").as_bytes()).entry("x", b'0', b"text").decode()
        => BatchError::ForeignEntry,
    a_gnu_long_link: Forged::of(&[put("a", b"text")])
        .entry("././@LongLink", b'K', b"/etc/passwd\0").content(b"text").decode() => BatchError::ForeignEntry,
    a_pax_header_with_a_path: Forged::of(&[put("a", b"text")])
        .entry("x", b'x', b"25 path=../../etc/passwd\n").content(b"text").decode() => BatchError::ForeignEntry,
    a_pax_header_with_a_size: Forged::of(&[put("a", b"text")])
        .entry("x", b'x', b"10 size=1\n").content(b"text").decode() => BatchError::ForeignEntry,
    a_global_pax_header: Forged::of(&[put("a", b"text")])
        .entry("x", b'g', b"25 path=../../etc/passwd\n").content(b"text").decode() => BatchError::ForeignEntry,

    // Names that are no content's.
    an_entry_that_climbs_out: Forged::of(&[put("a", b"text")]).entry("../../etc/passwd", b'0', b"text").decode()
        => BatchError::ForeignEntry,
    an_entry_with_an_absolute_name: Forged::of(&[put("a", b"text")]).entry("/etc/passwd", b'0', b"text").decode()
        => BatchError::ForeignEntry,
    a_content_that_climbs_out: Forged::of(&[put("a", b"text")]).entry("b/../../x", b'0', b"text").decode()
        => BatchError::ForeignEntry,
    a_content_with_half_a_hash: Forged::of(&[put("a", b"text")]).entry(&name(b"text")[..40], b'0', b"text").decode()
        => BatchError::ForeignEntry,
    a_second_manifest: Forged::of(&[put("a", b"text")]).entry("manifest", b'0', b"\x90").decode()
        => BatchError::ForeignEntry,

    // Contents out of place.
    a_content_twice: Forged::of(&[put("a", b"text")]).content(b"text").content(b"text").decode()
        => BatchError::ContentOutOfPlace,
    a_content_of_two_operations_twice: Forged::of(&[put("a", b"text"), put("b", b"text")])
        .content(b"text").content(b"text").decode() => BatchError::ContentOutOfPlace,
    a_content_that_no_operation_names: Forged::of(&[put("a", b"text")]).content(b"other").decode()
        => BatchError::ContentOutOfPlace,
    contents_in_another_order: Forged::of(&[put("a", b"one"), put("b", b"two")])
        .content(b"two").content(b"one").decode() => BatchError::ContentOutOfPlace,
    a_content_for_a_delete: Forged::of(&[Op::Delete { path: WorkspacePath::new("a").unwrap(), item: None, pre: None }])
        .content(b"text").decode() => BatchError::ContentOutOfPlace,

    // Contents that are not what they go by.
    a_content_with_another_hash: Forged::of(&[put("a", b"text")]).entry(&name(b"text"), b'0', b"lies").decode()
        => BatchError::WrongHash,
    a_content_shorter_than_its_header: Forged::of(&[put("a", b"text")])
        .entry_of_size(&name(b"text"), b'0', 4, b"").decode() => BatchError::WrongHash,
    a_content_with_another_size: Forged::of(&[put("a", b"text")]).entry(&name(b"text"), b'0', b"text and more").decode()
        => BatchError::Inconsistent("a content's size"),
    a_content_of_eight_exabytes: Forged::of(&[put("a", b"text")])
        .entry_of_size(&name(b"text"), b'0', (1 << 63) - 1, b"text").decode()
        => BatchError::Inconsistent("a content's size"),

    // Manifests.
    a_file_over_the_limit: Forged::of(&[with(put("a", b""), |e| e.size = 2 << 20)]).decode()
        => BatchError::FileTooLarge(2_097_152, 1_048_576),
    fewer_operations_than_claimed: Forged { items: 3, ..Forged::of(&[put("a", b"")]) }.decode()
        => BatchError::Inconsistent("its number of operations"),
    more_operations_than_claimed: Forged { items: 1, ..Forged::of(&[put("a", b""), put("b", b"")]) }.decode()
        => BatchError::Inconsistent("its number of operations"),
}

/// Whether the manifest is refused, and with these words.
fn manifest_refused(refused: Result<Vec<Op>, BatchError>, words: &str) {
    let matches = matches!(&refused, Err(BatchError::Manifest(why)) if why.contains(words));
    assert!(matches, "{refused:?}");
}

#[test]
fn a_batch_without_a_manifest() {
    manifest_refused(Forged { tar: Vec::new(), items: 0 }.decode(), "missing");
    let only_content = Forged { tar: Vec::new(), items: 1 }.content(b"text");
    manifest_refused(only_content.decode(), "missing or too large");
}

#[test]
fn a_manifest_larger_than_its_operations_could_be() {
    let padded = vec![0xc0; 20_000];
    manifest_refused(Forged::with_manifest(&padded, 1).decode(), "missing or too large");
}

#[test]
fn a_manifest_with_something_behind_it() {
    let mut manifest = rmp_serde::to_vec_named(&[put("a", b"")]).unwrap();
    manifest.push(0xc0);
    manifest_refused(Forged::with_manifest(&manifest, 1).decode(), "something follows");
}

#[test]
fn a_manifest_of_nothing_but_brackets() {
    for bracket in [0x91, 0x81, 0xdd] {
        let refused = Forged::with_manifest(&vec![bracket; 8_000], 0).decode();
        assert!(matches!(refused, Err(BatchError::Manifest(_) | BatchError::Inconsistent(_))), "{refused:?}");
    }
}

#[test]
fn paths_that_climb_out_of_the_workspace() {
    for path in ["../x", "/etc/passwd", "a/../../x", "a//b", ".", "a/", "a\0b", ""] {
        let honest = rmp_serde::to_vec_named(&[put("placeholder", b"")]).unwrap();
        let at = honest.windows(11).position(|w| w == b"placeholder").unwrap();
        let mut manifest = honest[..at - 1].to_vec();
        manifest.push(0xa0 | path.len() as u8);
        manifest.extend_from_slice(path.as_bytes());
        manifest.extend_from_slice(&honest[at + 11..]);
        manifest_refused(Forged::with_manifest(&manifest, 1).decode(), "path");
    }
}

#[test]
fn a_path_named_twice() {
    manifest_refused(Forged::of(&[put("a", b"x"), put("a", b"y")]).decode(), "\"a\" is named twice");
}

#[test]
fn modes_that_would_give_more_than_permissions() {
    for mode in [0o4755, 0o2755, 0o1777, 0o100_644, u32::MAX] {
        manifest_refused(
            Forged::of(&[with(put("a", b""), |e| e.mode = mode)]).decode(),
            "cannot be like that",
        );
    }
}

#[test]
fn folders_and_symlinks_that_are_none() {
    let folder = with(put("a", b"text"), |e| e.kind = Kind::Dir);
    manifest_refused(Forged::of(&[folder]).decode(), "cannot be like that");
    let executable = with(put("a", b"b"), |e| e.kind = Kind::Symlink);
    manifest_refused(Forged::of(&[executable]).decode(), "cannot be like that");
}

#[test]
fn a_symlink_whose_target_is_no_text() {
    for target in [&b"\xff\xfe"[..], b"a\0b"] {
        let link = with(put("a", target), |e| (e.kind, e.mode) = (Kind::Symlink, 0o777));
        manifest_refused(Forged::of(&[link]).content(target).decode(), "no text");
    }
}

#[test]
fn claims_beyond_any_limit_are_refused_unread() {
    let claims = Forged::of(&[]).end().claims(1);
    // Nothing is read: there is nothing to read.
    let unread = |claims| decode(b"", claims);
    let limit = SyncLimits::default().batch_items;
    let many = unread(Claims { items: limit + 1, ..claims });
    assert!(matches!(many, Err(BatchError::TooManyItems(n, 10_000)) if n == limit + 1), "{many:?}");
    let endless = unread(Claims { items: u64::MAX, ..claims });
    assert!(matches!(endless, Err(BatchError::TooManyItems(u64::MAX, 10_000))), "{endless:?}");
    let large = unread(Claims { bytes: u64::MAX, compressed: u64::MAX, ..claims });
    assert!(matches!(large, Err(BatchError::TooLarge(_))), "{large:?}");
    let bomb = unread(Claims { bytes: 60 << 20, compressed: 1_000, ..claims });
    assert!(matches!(bomb, Err(BatchError::Bomb(200))), "{bomb:?}");
}

#[test]
fn a_bomb_that_claims_to_be_small_is_unpacked_no_further_than_it_claims() {
    let honest = Forged::of(&[put("a", b"text")]).content(b"text").end();
    let mut longer = honest.tar.clone();
    longer.resize(200 << 20, 0);
    let data = zstd::encode_all(&longer[..], 1).unwrap();
    assert_eq!(
        says(decode(&data, honest.claims(data.len()))),
        "the batch could not be unpacked: it is longer than it claims"
    );
}

#[test]
fn a_window_that_would_take_much_memory_is_refused() {
    let honest = Forged::of(&[put("a", b"text")]).content(b"text").end();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&honest.tar).unwrap();
    encoder.flush().unwrap();
    let data = encoder.finish().unwrap();
    let why = says(decode(&data, honest.claims(data.len())));
    assert!(why.contains("Frame requires too much memory"), "{why}");
}

#[test]
fn frames_behind_the_last_and_bytes_that_are_no_frame() {
    let honest = Forged::of(&[put("a", b"text")]).content(b"text").end();
    let mut data = zstd::encode_all(&honest.tar[..], 3).unwrap();
    let one = data.len();
    data.extend(zstd::encode_all(&b"another frame"[..], 3).unwrap());
    let why = says(decode(&data, honest.claims(data.len())));
    assert_eq!(why, "the batch could not be unpacked: it is longer than it claims");
    data.truncate(one);
    data.extend_from_slice(b"no frame");
    let why = says(decode(&data, honest.claims(data.len())));
    assert_eq!(why, "the batch could not be unpacked: Unknown frame descriptor");
}

#[test]
fn a_batch_in_a_batch_is_not_unpacked() {
    let inner = Forged::of(&[put("evil", b"text")]).content(b"text").end();
    let inner = zstd::encode_all(&inner.tar[..], 3).unwrap();
    let outer = zstd::encode_all(&inner[..], 3).unwrap();
    let claims = Claims {
        items: 1,
        bytes: inner.len() as u64,
        tar_hash: Hash::of(&inner),
        compressed: outer.len() as u64,
    };
    assert!(matches!(decode(&outer, claims), Err(BatchError::Io(_) | BatchError::Manifest(_))));
}

#[test]
fn the_honest_batch_that_all_these_spoil_is_taken() {
    let ops = [put("a", b"one"), put("b", b"two"), put("c", b"one")];
    assert_eq!(Forged::of(&ops).content(b"one").content(b"two").decode().unwrap(), ops);
}
