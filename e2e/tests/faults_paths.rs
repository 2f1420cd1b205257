//! Paths that resist: unreadable, written all the time, with clocks that lie, or swapped for something else.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::oracle::{assert_equal, assert_no_conflict, in_database, problem, settle};
use e2e::{Options, Server, eventually};
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long an agent may take to see and heal, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_cannot_be_read_is_told_kept_and_in_step_again_once_it_can() {
    let server = Server::with(Options { ordinary: true, ..Options::default() }).await;
    let session = server.session("unreadable").await;
    session.sh("mkdir dir; echo one > file; echo two > dir/inner; echo three > other").await;
    assert_equal(&session, &server.app(&session), &[], 4).await;
    // Before the change, so that no look falls between.
    session.sh("chmod 000 file dir; echo more > new; chmod 000 new; echo changed > other").await;
    session.wait_for_file("other", b"changed\n").await;
    for path in ["file", "dir/inner", "new"] {
        eventually(&format!("{path} is told"), SOON, || async {
            problem(&session, path).await.filter(|code| code == "unreadable")
        })
        .await;
    }
    assert_eq!(
        session.sh("cat file 2>&1 || true").await,
        "cat: file: Permission denied\n",
        "no root's rights"
    );
    settle(&session).await;
    assert_eq!(session.read("file").await.unwrap(), "one\n", "what cannot be read is not deleted");
    assert_eq!(session.read("dir/inner").await.unwrap(), "two\n");
    assert_eq!(session.read("new").await, None);
    // A save on it is kept, and comes once it can.
    session.save("file", "saved\n").await;
    session.save("dir/inner", "saved, too\n").await;
    session.sh("chmod 644 file new; chmod 755 dir").await;
    session.wait_for_file("new", b"more\n").await;
    eventually("the saves arrive", SOON, || async {
        let ran = session.exec("cat file dir/inner", json!({})).await;
        (ran.out() == "saved\nsaved, too\n").then_some(())
    })
    .await;
    assert_equal(&session, &server.app(&session), &[], 5).await;
    for path in ["file", "dir", "dir/inner", "new"] {
        assert_eq!(problem(&session, path).await, None, "{path}");
    }
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn read_only_folders_come_back_with_what_they_hold_and_take_what_is_saved() {
    let server = Server::with(Options { ordinary: true, ..Options::default() }).await;
    let session = server.session("read-only").await;
    let app = server.app(&session);
    session
        .sh("mkdir -p pkg/mod/deep; echo one > pkg/a; echo two > pkg/mod/b; echo three > pkg/mod/deep/c")
        .await;
    session.sh("chmod -R a-w pkg; touch pkg/new 2>&1 || echo refused").await;
    settle(&session).await;
    let before = assert_equal(&session, &app, &[], 6).await;
    session.stop().await;
    // As on another machine, whose volume is empty.
    std::fs::remove_dir_all(server.folder(&session)).unwrap();
    session.start().await;
    session.wait_for_file("pkg/mod/deep/c", b"three\n").await;
    settle(&session).await;
    assert_eq!(assert_equal(&session, &app, &[], 6).await, before);
    // The page's user may, and the folder stays as it is.
    session.save("pkg/mod/b", "saved\n").await;
    session.save("pkg/mod/new/d", "saved, too\n").await;
    eventually("the saves arrive", SOON, || async {
        let ran = session.exec("cat pkg/mod/b pkg/mod/new/d; stat -c %a pkg pkg/mod", json!({})).await;
        (ran.out() == "saved\nsaved, too\n555\n555\n").then_some(())
    })
    .await;
    settle(&session).await;
    assert_equal(&session, &app, &[], 8).await;
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn a_file_that_is_written_all_the_time_holds_up_no_other_and_ends_whole() {
    let server = Server::start().await;
    let session = server.session("hot").await;
    let writing = r#"
import os, time
f = open("hot", "wb"); f.write(b"0" * 20_000_000); f.flush()
n = 0
while not os.path.exists(".cache/end"):
    n += 1
    f.seek((n * 4099) % 20_000_000); f.write(b"%d" % n); f.flush(); time.sleep(0.001)
print(n > 100)
"#;
    session.sh("mkdir .cache").await;
    let app = server.app(&session);
    let writer = session.exec(json!(["python3", "-c", writing]), json!({"timeout_s": 120}));
    let others = async {
        eventually("the hot file is told", SOON, || async {
            problem(&session, "hot").await.filter(|code| code == "hot_file")
        })
        .await;
        for n in 0..20 {
            session.sh(&format!("echo {n} > other")).await;
            session.wait_for_file("other", format!("{n}\n").as_bytes()).await;
            let rev = session.save("saved", format!("{n}")).await;
            assert_eq!(session.exec("cat saved", json!({"after_rev": rev})).await.out(), format!("{n}"));
            // It does not hold up who asks, either.
            settle(&session).await;
        }
        std::fs::write(app.join(".cache/end"), "").unwrap();
    };
    let (ran, ()) = tokio::join!(writer, others);
    assert_eq!(ran.out(), "True\n", "{}", String::from_utf8_lossy(&ran.stderr));
    eventually("the last state of the hot file", SOON, || async {
        let (here, there) = (std::fs::read(app.join("hot")).unwrap(), session.read("hot").await);
        there.filter(|there| *there == here)
    })
    .await;
    assert_equal(&session, &app, &[], 3).await;
    assert_eq!(problem(&session, "hot").await, None);
    assert_no_conflict(&session).await;
}

fn touch(arguments: &[&str], file: &Path) {
    assert!(Command::new("touch").args(arguments).arg(file).status().unwrap().success());
}

#[tokio::test]
async fn times_that_lie_hide_no_change() {
    let server = Server::start().await;
    let session = server.session("clock").await;
    let app = server.app(&session);
    session.sh("for n in 1 2 3 4 5 6; do echo first > f$n; done; sleep 0.05").await;
    assert_equal(&session, &app, &[], 6).await;
    // The same size and the same time, as a restored backup or a build tool leaves it; then times of other ages.
    let rewrite = |name: &str, text: &str, time: &[&str]| {
        let file = app.join(name);
        let like = app.join("../like");
        touch(&["-r", file.to_str().unwrap()], &like);
        std::fs::write(&file, text).unwrap();
        if time.is_empty() {
            touch(&["-r", like.to_str().unwrap()], &file);
        } else {
            touch(time, &file);
        }
    };
    let ages: [&[&str]; 3] = [&[], &["-d", "2099-01-01"], &["-d", "1970-01-01"]];
    for (n, age) in ages.iter().enumerate() {
        rewrite(&format!("f{}", n + 1), "other\n", age);
    }
    let tree = assert_equal(&session, &app, &[], 6).await;
    assert_eq!((&tree["f1"], &tree["f2"]), (&tree["f3"], &tree["f3"]));
    // From the future, a second time: the clock must not make it look unchanged.
    rewrite("f2", "third\n", &["-d", "2099-01-01"]);
    assert_equal(&session, &app, &[], 6).await;
    assert_eq!(session.read("f2").await.unwrap(), "third\n");
    session.stop().await;
    // While nobody looks, only the inode's own time tells.
    for (n, age) in ages.iter().enumerate() {
        rewrite(&format!("f{}", n + 4), "apart\n", age);
    }
    session.start().await;
    assert_equal(&session, &app, &[], 6).await;
    for n in 4..7 {
        assert_eq!(session.read(&format!("f{n}")).await.unwrap(), "apart\n");
    }
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn programs_that_keep_times_and_sizes_hide_no_change() {
    let server = Server::start().await;
    let session = server.session("kept-times").await;
    let app = server.app(&session);
    // As long and as old as what they replace: an hour older by the clock than the files were when they were read, as
    // after a clock that was set back. `like` keeps the time.
    let files = "f1 f2 f3 f4 f5 f6";
    session
        .sh(&format!(
            "touch -d '1 hour ago' ../like; mkdir ../from
            for f in {files}; do echo first > $f; touch -r ../like $f; done; sleep 0.05"
        ))
        .await;
    assert_equal(&session, &app, &[], 6).await;
    for (round, text) in ["other", "third", "again"].into_iter().enumerate() {
        let replace = format!(
            "set -e
            for f in {files}; do echo {text} > ../from/$f; touch -r ../like ../from/$f; done
            cp -p ../from/f1 f1
            rsync -a --ignore-times ../from/f2 f2
            rsync -a --inplace --ignore-times ../from/f3 f3
            tar c -C ../from f4 | tar x
            mv ../from/f5 f5
            echo {text} > f6; touch -r ../like f6"
        );
        if round == 1 {
            // While nobody looks, only the inode and its own time tell.
            session.stop().await;
            let ran = Command::new("sh").args(["-c", &replace]).current_dir(&app).status();
            assert!(ran.unwrap().success());
            session.start().await;
        } else {
            session.sh(&replace).await;
        }
        let tree = assert_equal(&session, &app, &[], 6).await;
        let sum = e2e::oracle::sha256(format!("{text}\n").as_bytes());
        assert!(tree.values().all(|what| what.ends_with(&sum)), "{text}: {tree:#?}");
    }
    assert_no_conflict(&session).await;
}

/// What nobody may change, not even root, until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    /// Or why it cannot be.
    fn make(at: &Path) -> Result<Self, String> {
        let ran = Command::new("chattr").arg("+i").arg(at).output().map_err(|why| why.to_string())?;
        let immutable = Self(at.to_owned());
        if ran.status.success() {
            return Ok(immutable);
        }
        Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).output();
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_told_its_saves_are_kept_and_come_once_it_can() {
    let environment = vec![("BERTH_AGENT_SWEEP".to_owned(), "1".to_owned())];
    let server = Server::with(Options { environment, ..Options::default() }).await;
    let session = server.session("unwritable").await;
    let app = server.app(&session);
    session.sh("mkdir dir; echo one > file; echo two > dir/inner; echo three > other").await;
    assert_equal(&session, &app, &[], 4).await;
    let held = match (Immutable::make(&app.join("file")), Immutable::make(&app.join("dir"))) {
        (Ok(file), Ok(dir)) => (file, dir),
        (Err(why), _) | (_, Err(why)) => return e2e::skipped(&format!("nothing is immutable here: {why}")),
    };
    session.save("file", "saved\n").await;
    session.save("dir/new", "saved, too\n").await;
    session.api.delete(&session.file("dir/inner")).await.expect(200);
    for path in ["file", "dir/new", "dir/inner"] {
        eventually(&format!("{path} is told"), SOON, || async {
            problem(&session, path).await.filter(|code| code == "unwritable")
        })
        .await;
    }
    // It holds up nobody else, and nothing of it is half done.
    let rev = session.save("other", "works\n").await;
    assert_eq!(
        session.exec("cat other file; ls dir", json!({"after_rev": rev})).await.out(),
        "works\none\ninner\n"
    );
    session.sh("echo written > beside").await;
    session.wait_for_file("beside", b"written\n").await;
    settle(&session).await;
    assert_eq!(session.read("file").await.unwrap(), "saved\n", "the save is kept in the database");
    assert_eq!(session.read("dir/inner").await, None, "what could not be removed is not told as new");

    drop(held);
    eventually("the saves arrive", SOON, || async {
        let ran = session.exec("cat file dir/new; ls dir", json!({})).await;
        (ran.out() == "saved\nsaved, too\nnew\n").then_some(())
    })
    .await;
    for path in ["file", "dir/new", "dir/inner"] {
        eventually(&format!("{path} is no problem any more"), SOON, || async {
            problem(&session, path).await.is_none().then_some(())
        })
        .await;
    }
    assert_equal(&session, &app, &[], 5).await;
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn a_folder_swapped_for_a_link_is_never_written_through_and_its_files_are_not_lost() {
    let server = Server::start().await;
    let session = server.session("swapped").await;
    let app = server.app(&session);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("sentinel"), "untouched").unwrap();
    session.sh("mkdir -p d/e; echo one > d/e/f; echo two > d/g").await;
    assert_equal(&session, &app, &[], 4).await;

    std::fs::rename(app.join("d"), app.join("real")).unwrap();
    symlink(outside.path(), app.join("d")).unwrap();
    settle(&session).await;
    assert_eq!(problem(&session, "d").await.as_deref(), Some("symlink_outside"));
    assert_eq!(session.read("real/e/f").await.unwrap(), "one\n");
    session.save("d/e/f", "through the link").await;
    session.save("d/new", "through the link").await;
    let rev = session.save("after", "works").await;
    assert_eq!(session.exec("cat after", json!({"after_rev": rev})).await.out(), "works");
    let seen: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(seen, ["sentinel"], "nothing is written, nothing deleted");
    assert_eq!(session.read("d/new").await.unwrap(), "through the link", "the save is kept");
    // With the link gone, the folder comes back.
    std::fs::remove_file(app.join("d")).unwrap();
    eventually("the saves arrive", SOON, || async {
        std::fs::read_to_string(app.join("d/new")).ok().filter(|text| text == "through the link")
    })
    .await;
    let tree = assert_equal(&session, &app, &[], 7).await;
    assert!(tree.contains_key("d/e/f") && tree.contains_key("real/e/f"));
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn what_cannot_be_in_step_is_listed_left_alone_and_holds_up_nothing() {
    let server = Server::start().await;
    let session = server.session("special").await;
    session.sh(r#"set -e
        mkfifo pipe; ln -s /etc/hostname absolute; ln -s ../../x escaping; ln -s "$(printf 'x\377')" odd
        touch "$(printf 'bad\377name')"; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
        mkdir -p "$(printf 'd/%.0s' $(seq 1 70))"; echo fine > fine"#).await;
    settle(&session).await;
    assert_eq!(session.read("fine").await.unwrap(), "fine\n");
    for (path, code) in [
        ("pipe", "special_file"),
        ("socket", "special_file"),
        ("absolute", "symlink_outside"),
        ("escaping", "symlink_outside"),
        ("odd", "name_not_utf8"),
    ] {
        assert_eq!(problem(&session, path).await.as_deref(), Some(code), "{path}");
    }
    let told = session.api.get(&session.workspace("/problems")).await.expect(200).json();
    let codes: Vec<_> =
        told["problems"].as_array().unwrap().iter().map(|p| p["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"name_not_utf8") && codes.contains(&"path_too_deep"), "{told}");
    let there = in_database(&session).await;
    assert!(!there.contains_key("pipe") && there.contains_key("fine"));
    // Where a special file is in the way, a save is kept and the file stays.
    session.save("pipe", "saved").await;
    settle(&session).await;
    assert_eq!(session.sh("test -p pipe && echo still").await, "still\n");
    assert_eq!(session.read("pipe").await.unwrap(), "saved");
    session.sh("rm pipe").await;
    eventually("the save arrives", SOON, || async {
        let ran = session.exec("cat pipe", json!({"timeout_s": 5})).await;
        (ran.out() == "saved").then_some(())
    })
    .await;
}
