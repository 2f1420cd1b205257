//! Kernels and file systems without `openat2`, an exchange, or a rename that replaces nothing: what is promised of
//! putting files in holds there, too.
#![allow(unsafe_code, reason = "neither the standard library nor rustix has seccomp's filters")]

use super::super::apply::apply;
use super::super::disk::{Applied, Seen};
use super::super::root::Root;
use super::super::scan;
use super::super::stage::Stage;
use super::fixtures::{Database, Folder, Link, path};
use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long, sock_filter};
use shared::tree::{Entry, Hash};

/// `RENAME_NOREPLACE` and `RENAME_EXCHANGE`.
const RENAME_FLAGS: u32 = 3;

/// A call that fails: its number, the flags in its fifth argument with which it does (none: always), and how.
type Lack = (c_long, u32, i32);

/// This kernel; one without both calls, such as gVisor or an old one; a file system that renames plainly.
const KERNELS: [&[Lack]; 3] = [
    &[],
    &[(libc::SYS_openat2, 0, libc::ENOSYS), (libc::SYS_renameat2, 0, libc::ENOSYS)],
    &[(libc::SYS_renameat2, RENAME_FLAGS, libc::EINVAL)],
];

/// Does something on a thread for which, and for all it starts, these calls fail.
fn lacking<T: Send + 'static>(lacks: &[Lack], work: impl FnOnce() -> T + Send + 'static) -> T {
    let lacks = lacks.to_vec();
    let run = move || {
        refuse(&lacks);
        work()
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn refuse(lacks: &[Lack]) {
    let step = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let (number, fifth) = (0, 48);
    let mut program = Vec::new();
    for (call, flags, error) in lacks {
        program.push(step(BPF_LD | BPF_W | BPF_ABS, 0, 0, number));
        if *flags == 0 {
            program.push(step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, *call as u32));
        } else {
            program.push(step(BPF_JMP | BPF_JEQ | BPF_K, 0, 3, *call as u32));
            program.push(step(BPF_LD | BPF_W | BPF_ABS, 0, 0, fifth));
            program.push(step(BPF_JMP | BPF_JSET | BPF_K, 0, 1, *flags));
        }
        program.push(step(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | *error as u32));
    }
    program.push(step(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter is a whole program that outlives both calls, which change this thread alone.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    assert!(done, "{}", std::io::Error::last_os_error());
}

fn text(content: &str) -> Entry {
    Entry::file(0o644, content.len() as u64, Hash::of(content.as_bytes()))
}

#[test]
fn files_are_put_in_replaced_and_removed_and_nothing_else_is_on_any_kernel() {
    for lacks in KERNELS {
        lacking(lacks, || {
            let folder = Folder::new();
            let root = Root::open(&folder.app("")).unwrap();
            let mut stage = Stage::open(&folder.dir.path().join(".berth")).unwrap();
            let ours = text("ours");
            stage.put(ours.hash, b"ours").unwrap();
            let target = Entry::symlink("f");
            stage.put(target.hash, b"f").unwrap();
            let mut apply = |at: &str, old: Option<&Entry>, new: Option<&Entry>| {
                apply(&root, &mut stage, &path(at), old, new)
            };

            assert_eq!(apply("d/new", None, Some(&ours)), Applied::Done);
            assert_eq!(apply("d/link", None, Some(&target)), Applied::Done);
            assert_eq!(apply("d/folder", None, Some(&Entry::dir(0o755))), Applied::Done);
            folder.write("f", "first");
            assert_eq!(apply("f", Some(&text("first")), Some(&ours)), Applied::Done);
            assert_eq!(apply("d/link", Some(&target), Some(&ours)), Applied::Done);
            for at in ["d/new", "d/link", "f"] {
                assert_eq!(folder.read(at).as_deref(), Some("ours"), "{at}");
            }
            assert_eq!(apply("d/new", Some(&ours), None), Applied::Done);
            assert_eq!(folder.read("d/new"), None);

            // What a program wrote since it was looked at stays.
            for (at, old, new) in [
                ("created", None, Some(&ours)),
                ("changed", Some(text("first")), Some(&ours)),
                ("deleted", Some(text("first")), None),
            ] {
                folder.write(at, "theirs");
                assert_eq!(apply(at, old.as_ref(), new), Applied::Changed, "{at}");
                assert_eq!(folder.read(at).as_deref(), Some("theirs"), "{at}");
            }
            assert_eq!(apply("gone", Some(&text("first")), Some(&ours)), Applied::Changed);
            assert_eq!(folder.read("gone"), None);

            let left = std::fs::read_dir(folder.dir.path().join(".berth/stage")).unwrap();
            let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left.len(), 2, "only the contents are left in the stage: {left:?}");
        });
    }
}

#[test]
fn no_link_is_followed_on_any_kernel() {
    for lacks in KERNELS {
        lacking(lacks, || {
            let folder = Folder::new();
            let outside = tempfile::tempdir().unwrap();
            std::fs::write(outside.path().join("x"), "secret").unwrap();
            folder.write("real/x", "inside");
            for (link, target) in [("out", outside.path()), ("in", &folder.app("real"))] {
                std::os::unix::fs::symlink(target, folder.app(link)).unwrap();
            }
            let root = Root::open(&folder.app("")).unwrap();
            let mut stage = Stage::open(&folder.dir.path().join(".berth")).unwrap();
            stage.put(text("ours").hash, b"ours").unwrap();
            let deep = "a/".repeat(40) + "x";
            folder.write(&deep, "deep");
            assert!(matches!(scan::look(&root, &path(&deep), None), Seen::Entry(..)));
            for at in ["out/x", "in/x", "out/new/x"] {
                assert_eq!(scan::look(&root, &path(at), None), Seen::Nothing, "{at}");
                let applied = apply(&root, &mut stage, &path(at), None, Some(&text("ours")));
                assert!(matches!(applied, Applied::Failed("in_the_way", _)), "{at}: {applied:?}");
            }
            assert_eq!(std::fs::read_to_string(outside.path().join("x")).unwrap(), "secret");
            assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
            assert_eq!(folder.read("real/x").as_deref(), Some("inside"));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_stay_in_step_on_any_kernel() {
    for lacks in KERNELS {
        let (folder, mut database) = (Folder::new(), Database::default());
        let settings = folder.settings();
        let sync = lacking(lacks, || crate::sync::Sync::start(settings).unwrap());
        let mut up = Link::welcomed(&sync, 1, &database).await;
        for n in 0..20 {
            let op = database.save("d/saved", &format!("saved {n}"));
            let rev = database.rev;
            up.push(&database, vec![op], false).await;
            up.until(&mut database, "a save", |d| d.visible >= rev).await;
            assert_eq!(folder.read("d/saved"), Some(format!("saved {n}")));
            let written = format!("written {n}");
            folder.write("d/written", &written);
            up.until(&mut database, "a write", |d| d.text("d/written").as_deref() == Some(&written)).await;
        }
        std::fs::rename(folder.app("d"), folder.app("e")).unwrap();
        up.until(&mut database, "a move", |d| d.text("e/saved").is_some() && d.text("d/saved").is_none())
            .await;
        let op = database.delete("e/saved");
        let rev = database.rev;
        up.push(&database, vec![op], false).await;
        up.until(&mut database, "a delete", |d| d.visible >= rev).await;
        assert_eq!((folder.read("e/saved"), database.lost.len()), (None, 0));
    }
}
