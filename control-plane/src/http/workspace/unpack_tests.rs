//! Hostile and plain archives.

use super::*;
use std::io::Write;

fn limits() -> SyncLimits {
    SyncLimits {
        file_bytes: 40 << 20,
        workspace_bytes: 64 << 20,
        workspace_items: 100,
        ..SyncLimits::default()
    }
}

fn unpacked(archive: &[u8]) -> Result<Vec<Unpacked>, Refused> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(archive).unwrap();
    let mut all = Vec::new();
    unpack(&mut file, &limits(), &mut |piece| {
        all.push(piece);
        Ok(())
    })?;
    Ok(all)
}

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default().unix_permissions(0o755)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A tar entry whose name is written as it is, unchecked.
fn tarred(name: &str, kind: tar::EntryType, link: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, bytes).unwrap();
    tar.into_inner().unwrap()
}

fn code(archive: &[u8]) -> &'static str {
    unpacked(archive).unwrap_err().code()
}

#[test]
fn plain_archives_of_each_form_give_their_files() {
    let file = || Unpacked::File(WorkspacePath::new("a/b.txt").unwrap(), b"text".to_vec(), Some(0o755));
    assert_eq!(unpacked(&zipped(&[("a/b.txt", b"text")])).unwrap(), [file()]);
    let tar = tarred("./a/b.txt", tar::EntryType::Regular, "", b"text");
    let plain = || Unpacked::File(WorkspacePath::new("a/b.txt").unwrap(), b"text".to_vec(), Some(0o644));
    assert_eq!(unpacked(&tar).unwrap(), [plain()]);
    assert_eq!(unpacked(&zstd::encode_all(&tar[..], 3).unwrap()).unwrap(), [plain()]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&tar).unwrap();
    assert_eq!(unpacked(&gz.finish().unwrap()).unwrap(), [plain()]);
}

#[test]
fn traversal_is_refused_whole() {
    assert_eq!(code(&zipped(&[("fine", b""), ("../../etc/passwd", b"x")])), "path_dot_part");
    assert_eq!(code(&zipped(&[("/etc/passwd", b"x")])), "path_absolute");
    assert_eq!(code(&tarred("../x", tar::EntryType::Regular, "", b"x")), "path_dot_part");
    assert_eq!(code(&tarred("/x", tar::EntryType::Directory, "", b"")), "path_absolute");
    assert_eq!(code(&zipped(&[("a\\..\\..\\x", b"x")])), "path_dot_part");
    assert_eq!(code(&zipped(&[(&"d/".repeat(70), b""), ("x", b"")])), "path_too_deep");
}

#[test]
fn links_that_leave_the_workspace_and_special_files_are_left_out() {
    let skipped = |archive: Vec<u8>| match unpacked(&archive).unwrap().remove(0) {
        Unpacked::Skipped(_, why) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(skipped(tarred("a", tar::EntryType::Symlink, "/etc/passwd", b"")), "symlink_outside");
    assert_eq!(skipped(tarred("a/b", tar::EntryType::Symlink, "x/../../../y", b"")), "symlink_outside");
    assert_eq!(skipped(tarred("a", tar::EntryType::Link, "/etc/passwd", b"")), "hard_link");
    assert_eq!(skipped(tarred("a", tar::EntryType::Fifo, "", b"")), "special_file");
    let inside = unpacked(&tarred("a/b", tar::EntryType::Symlink, "../c", b"")).unwrap();
    assert_eq!(inside, [Unpacked::Symlink(WorkspacePath::new("a/b").unwrap(), "../c".into())]);
}

#[test]
fn bombs_of_each_kind_are_stopped_while_they_unpack() {
    let zeros = vec![0; 30 << 20];
    assert_eq!(code(&zipped(&[("bomb", &zeros)])), "archive_bomb");
    assert_eq!(
        code(&zstd::encode_all(&tarred("bomb", tar::EntryType::Regular, "", &zeros)[..], 3).unwrap()),
        "archive_bomb"
    );
    // Noise doesn't shrink, so it is no bomb, only too much.
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(41 << 20)
    .collect();
    assert_eq!(code(&tarred("large", tar::EntryType::Regular, "", &noise)), "file_too_large");
    let half = &noise[..33 << 20];
    assert_eq!(code(&zipped(&[("a", half), ("b", half)])), "workspace_full");
    let names: Vec<String> = (0..101).map(|i| i.to_string()).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    assert_eq!(code(&zipped(&many)), "too_many_items");
}

#[test]
fn what_is_no_archive_or_half_of_one_is_refused() {
    assert_eq!(code(b""), "bad_format");
    assert_eq!(code(b"just text"), "bad_format");
    let whole = zipped(&[("a", b"text")]);
    assert_eq!(code(&whole[..whole.len() - 10]), "archive_damaged");
    let tar = zstd::encode_all(&tarred("a", tar::EntryType::Regular, "", &[7; 5000])[..], 3).unwrap();
    assert_eq!(code(&tar[..tar.len() / 2]), "archive_damaged");
}

/// Everything that was allocated for a name would have been read first.
#[test]
fn a_name_longer_than_any_real_one_is_not_held_in_memory() {
    for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(32 << 20);
        header.set_cksum();
        let mut archive = Vec::from(*header.as_bytes());
        archive.resize(archive.len() + (32 << 20), b'a');
        archive.extend(tarred("x", tar::EntryType::Regular, "", b""));
        let (gated, allowed) = Gated::new(&archive[..]);
        allowed.set(BETWEEN_BYTES);
        let mut tar = tar::Archive::new(gated);
        assert!(tar.entries().unwrap().next().unwrap().is_err() && allowed.get() == 0, "{kind:?}");
        let refused = unpacked(&zstd::encode_all(&archive[..], 3).unwrap()).unwrap_err();
        assert_eq!(refused.code(), "archive_damaged", "{kind:?}");
        assert!(refused.to_string().len() < 1_000, "{kind:?}");
    }
}

#[test]
fn a_long_name_that_real_programs_write_is_taken() {
    let name = format!("{}/{}", "a".repeat(200), "b".repeat(200));
    let mut tar = tar::Builder::new(Vec::new());
    for _ in 0..3 {
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        tar.append_data(&mut header, &name, &b"text"[..]).unwrap();
    }
    assert_eq!(unpacked(&tar.into_inner().unwrap()).unwrap().len(), 3);
}

#[test]
fn what_stands_in_an_answer_of_a_name_is_short() {
    let long = tarred_long(&"a/".repeat(5_000));
    let refused = unpacked(&long).unwrap_err();
    assert_eq!(refused.code(), "path_too_long");
    assert!(refused.to_string().len() < 1_000);
}

fn tarred_long(name: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(name.len() as u64);
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, name.as_bytes()).unwrap();
    let mut archive = tar.into_inner().unwrap();
    // Without the end that the builder wrote.
    archive.truncate(512 + name.len().next_multiple_of(512));
    archive.extend(tarred("x", tar::EntryType::Regular, "", b""));
    archive
}

#[test]
fn a_zip_with_more_entries_than_a_workspace_is_refused_before_all_are_held() {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for n in 0..20_000 {
        let name = format!("{n:0>100}");
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    }
    let archive = zip.finish().unwrap().into_inner();
    let refused = unpacked(&archive).unwrap_err();
    assert_eq!(refused.code(), "archive_damaged", "{refused}");
}
