//! A program that swaps a folder for a symlink at full speed, so that whatever was checked a moment ago is not so any
//! more. Behind the symlink lies a folder outside that nobody may read or change.

use super::super::apply::apply;
use super::super::disk::Seen;
use super::super::root::Root;
use super::super::scan;
use super::super::stage::Stage;
use super::fixtures::{Database, Folder, Link, path};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, open, renameat_with};
use shared::tree::{Entry, Hash, Kind};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What nobody outside may see.
const SECRET: &[u8] = b"a secret that lies outside";
/// Names that are in the folder outside, and that are asked for inside.
const NAMES: &[&str] = &["x", "y", "z"];

/// A swapping thread; ends and joins when dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapper {
    /// Swaps what is at `one` and at `other`, over and over.
    fn start(one: PathBuf, other: PathBuf) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, swaps, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// All that lies in a folder: bytes and modes.
fn all_of(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let at = entry.unwrap().path();
        let mode = std::fs::symlink_metadata(&at).unwrap().permissions().mode();
        if at.is_dir() {
            all.extend(all_of(&at));
            all.insert(at, (Vec::new(), mode));
        } else {
            all.insert(at.clone(), (std::fs::read(&at).unwrap(), mode));
        }
    }
    all
}

/// A folder outside with its secrets, a folder `d` inside, and beside the workspace a symlink that leads out.
fn outside(folder: &Folder) -> (tempfile::TempDir, PathBuf) {
    let outside = tempfile::tempdir().unwrap();
    for name in NAMES {
        std::fs::write(outside.path().join(name), SECRET).unwrap();
    }
    std::fs::create_dir(outside.path().join("sub")).unwrap();
    std::fs::create_dir(folder.app("d")).unwrap();
    let link = folder.dir.path().join("link");
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    (outside, link)
}

#[test]
fn a_folder_swapped_for_a_symlink_while_files_are_put_in_lets_nothing_in_or_out() {
    let folder = Folder::new();
    let (outside, link) = outside(&folder);
    let before = all_of(outside.path());
    let root = Root::open(&folder.app("")).unwrap();
    let mut stage = Stage::open(&folder.dir.path().join(".berth")).unwrap();
    let texts: Vec<String> = (0..8).map(|n| format!("text {n}")).collect();
    let file = |n: usize| Entry::file(0o600 + (n as u32 % 2) * 0o44, 6, Hash::of(texts[n % 8].as_bytes()));
    for text in &texts {
        stage.put(Hash::of(text.as_bytes()), text.as_bytes()).unwrap();
    }
    let secret = Entry::file(0o644, SECRET.len() as u64, Hash::of(SECRET));
    let swapper = Swapper::start(folder.app("d"), link);
    let mut done = 0;
    for n in 0..20_000 {
        let name = NAMES[n % NAMES.len()];
        let at = path(&format!("d/{name}"));
        let seen = scan::look(&root, &at, None);
        let here = match seen {
            Seen::Entry(entry, _) => Some(entry),
            _ => None,
        };
        assert!(here.is_none_or(|here| here.hash != secret.hash), "the secret was read at {at:?}");
        let wanted = file(n);
        let applied = match n % 6 {
            0 => apply(&root, &mut stage, &at, here.as_ref(), None),
            // As if the secret had been seen there, to have it replaced, deleted or changed in mode.
            1 => apply(&root, &mut stage, &at, Some(&secret), Some(&wanted)),
            2 => apply(&root, &mut stage, &at, Some(&secret), None),
            3 => apply(&root, &mut stage, &at, Some(&secret), Some(&Entry { mode: 0o777, ..secret })),
            4 => apply(&root, &mut stage, &path("d/sub/deep/x"), None, Some(&wanted)),
            _ => apply(&root, &mut stage, &at, here.as_ref(), Some(&wanted)),
        };
        done += u32::from(applied == super::super::disk::Applied::Done);
    }
    assert!(swapper.swaps.load(Ordering::Relaxed) > 1_000 && done > 100, "they never met");
    drop(swapper);
    assert_eq!(all_of(outside.path()), before, "something outside changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_swapped_for_a_symlink_under_the_engine_brings_no_secret_into_the_database() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let (outside, link) = outside(&folder);
    let before = all_of(outside.path());
    let sync = folder.start();
    let mut up = Link::welcomed(&sync, 1, &database).await;
    let swapper = Swapper::start(folder.app("d"), link.clone());
    for n in 0..150 {
        let op = database.save(&format!("d/{}", NAMES[n % NAMES.len()]), &format!("saved {n}"));
        up.push(&database, vec![op], false).await;
        folder.write(&format!("written {}", n % 5), &n.to_string());
        let file = format!("written {}", n % 5);
        let text = n.to_string();
        up.until(&mut database, "what a program wrote", |d| d.text(&file) == Some(text.clone())).await;
    }
    assert!(swapper.swaps.load(Ordering::Relaxed) > 1_000);
    drop(swapper);
    assert!(!database.contents.contains_key(&Hash::of(SECRET)), "a secret is in the database");
    assert_eq!(all_of(outside.path()), before, "something outside changed");
    // With the folder back in its place everything comes to rest.
    let is_link = |at: &Path| open(at, OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).is_err();
    if is_link(&folder.app("d")) {
        renameat_with(CWD, folder.app("d"), CWD, &link, RenameFlags::EXCHANGE).unwrap();
    }
    let op = database.save("d/last", "the last");
    let rev = database.rev;
    up.push(&database, vec![op], false).await;
    up.until(&mut database, "the last save", |d| d.visible >= rev).await;
    assert_eq!(folder.read("d/last").as_deref(), Some("the last"));
    assert!(database.tree.values().all(|entry| entry.kind != Kind::Symlink), "{:?}", database.tree);
}
