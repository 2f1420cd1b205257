//! The base's file, beside which the workspace's user may put anything.

use super::fixtures::{Database, Folder, Link, PATIENCE};
use crate::sync::disk::Disk;
use crate::sync::local::LocalDisk;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

fn state(folder: &Folder) -> PathBuf {
    folder.dir.path().join(".berth")
}

fn disk(folder: &Folder) -> LocalDisk {
    LocalDisk::open(&folder.settings(), || {}).unwrap()
}

/// Makes a FIFO.
fn fifo(at: &Path) {
    mknodat(CWD, at, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// Reads the base as an agent's start does; a panic if that takes for ever.
fn load(disk: LocalDisk) -> Result<Option<Vec<u8>>, String> {
    let (done, loaded) = mpsc::channel();
    std::thread::spawn(move || done.send(disk.load_base().map_err(|why| why.to_string())));
    loaded.recv_timeout(PATIENCE).expect("the base is read or refused")
}

#[test]
fn what_is_no_file_of_a_bases_size_is_no_base() {
    let folder = Folder::new();
    let base = state(&folder).join("base");
    assert_eq!(load(disk(&folder)), Ok(None));

    fifo(&base);
    assert_eq!(load(disk(&folder)), Err("it is no regular file".to_owned()));
    std::fs::remove_file(&base).unwrap();

    let elsewhere = folder.dir.path().join("elsewhere");
    std::fs::write(&elsewhere, "somebody else's").unwrap();
    symlink(&elsewhere, &base).unwrap();
    assert!(load(disk(&folder)).is_err(), "a link is not followed");
    std::fs::remove_file(&base).unwrap();

    // Takes no room on the disk, and would take all memory.
    std::fs::File::create(&base).unwrap().set_len(1 << 40).unwrap();
    assert!(load(disk(&folder)).is_err_and(|why| why.contains("bytes")));

    std::fs::write(&base, "a base").unwrap();
    assert_eq!(load(disk(&folder)), Ok(Some(b"a base".to_vec())));
}

#[test]
fn a_base_is_written_over_nothing_that_was_put_in_its_way() {
    let folder = Folder::new();
    let fresh = state(&folder).join("base.new");
    let elsewhere = folder.dir.path().join("elsewhere");
    std::fs::write(&elsewhere, "untouched").unwrap();
    let store = |text: &'static [u8]| {
        let mut disk = disk(&folder);
        let (done, stored) = mpsc::channel();
        std::thread::spawn(move || {
            let write = |to: &mut dyn Write| to.write_all(text);
            done.send(disk.store_base(&write).map_err(|why| why.to_string()))
        });
        stored.recv_timeout(PATIENCE).expect("the base is stored or refused").unwrap();
    };
    symlink(&elsewhere, &fresh).unwrap();
    store(b"first");
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"untouched");
    fifo(&fresh);
    store(b"second");
    assert_eq!(load(disk(&folder)), Ok(Some(b"second".to_vec())));
}

#[tokio::test]
async fn a_fifo_in_the_bases_place_holds_up_no_agent_and_loses_nothing() {
    let (folder, mut database) = (Folder::new(), Database::default());
    folder.write("here", "in the folder");
    database.save("there", "in the database");
    fifo(&state(&folder).join("base"));
    let united = async {
        let sync = folder.start();
        let mut up = Link::welcomed(&sync, 1, &database).await;
        up.until(&mut database, "both sides are united", |d| {
            d.text("here").as_deref() == Some("in the folder") && folder.read("there").is_some()
        })
        .await;
    };
    tokio::time::timeout(PATIENCE, united).await.expect("the agent starts");
    assert_eq!(database.text("there").as_deref(), Some("in the database"));
}
