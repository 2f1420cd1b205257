//! Programs that nobody here wrote, at work in a session; then what stands on disk must be what the database has.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::{Options, Server, Session, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// `path → sha256` of the session's files by `find` and `sha256sum`, ignored ones left out.
fn on_disk(app: &Path) -> BTreeMap<String, String> {
    let script = r"find . \( -name .git -o -name node_modules -o -name .venv -o -name __pycache__ -o -name target -o -name .cache \) -prune -o -type f -print0 | xargs -0 -r sha256sum -z";
    let output = std::process::Command::new("sh").args(["-c", script]).current_dir(app).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split('\0')
        .filter(|line| !line.is_empty())
        .map(|line| (line[66..].trim_start_matches("./").to_owned(), line[..64].to_owned()))
        .collect()
}

/// The same of the database's export.
async fn in_database(session: &Session) -> BTreeMap<String, String> {
    let archive = session.archive("tar.zst").await;
    let mut tar = tar::Archive::new(zstd::Decoder::new(&archive[..]).unwrap());
    let mut found = BTreeMap::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let sum = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
            let hex = sum.iter().map(|byte| format!("{byte:02x}")).collect();
            found.insert(entry.path().unwrap().to_str().unwrap().trim_start_matches("./").to_owned(), hex);
        }
    }
    found
}

async fn both_sides_become_equal(server: &Server, session: &Session, files_at_least: usize) {
    let app = server.app(session);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let (disk, database) = (on_disk(&app), in_database(session).await);
        if disk == database {
            assert!(disk.len() >= files_at_least, "{} files", disk.len());
            return;
        }
        if std::time::Instant::now() > deadline {
            let only = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| -> Vec<String> {
                a.iter()
                    .filter(|(path, sum)| b.get(*path) != Some(sum))
                    .map(|(path, _)| path.clone())
                    .take(10)
                    .collect()
            };
            panic!(
                "{} on disk, {} in the database; disk only or other: {:?}; database only or other: {:?}",
                disk.len(),
                database.len(),
                only(&disk, &database),
                only(&database, &disk)
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn git_at_work_ends_equal_on_both_sides() {
    let server = Server::start().await;
    let session = server.session("git").await;
    session.sh(r"
        git init -q -b main origin && cd origin && git config user.email a@b && git config user.name t
        for n in $(seq 1 20); do
            mkdir -p d$((n % 5))
            for m in $(seq 1 20); do echo $n $m > d$((n % 5))/f$m.txt; done
            git add -A && git commit -qm $n
        done
        cd .. && git clone -q origin clone && cd clone && git config user.email a@b && git config user.name t
        for n in 1 2 3 4 5 6 7 8 9 10; do git checkout -q HEAD~1; done
        git checkout -q main && git checkout -q -b side HEAD~5 && echo side > side.txt && git add -A && git commit -qm side
        git rebase -q main && touch junk && mkdir junkdir && touch junkdir/x && git clean -fdxq && git gc -q
    ").await;
    both_sides_become_equal(&server, &session, 150).await;
}

#[tokio::test]
async fn tar_sed_mv_rsync_and_editors_end_equal_on_both_sides() {
    let server = Server::start().await;
    let session = server.session("tools").await;
    session.sh(r#"
        mkdir src && for n in $(seq 1 3000); do mkdir -p src/d$((n % 60))/e$((n % 7)); echo "text $n" > src/d$((n % 60))/e$((n % 7))/f$n; done
        tar cf all.tar src && mkdir out && tar xf all.tar -C out && rm all.tar
        find src -name 'f*1' | xargs sed -i s/text/edited/
        mv src ../elsewhere-$$ && mv ../elsewhere-$$ moved && cp -r moved copied && rm -r out/src/d1*
        for n in 1 2 3; do dd if=/dev/urandom of=big bs=100k count=20 status=none; done
        printf 'a' > appended; for n in $(seq 1 200); do echo $n >> appended; done
        ln -s appended link && chmod 755 big && mkdir -p empty/in/empty
        echo one > swap && for n in $(seq 1 100); do echo $n > swap.new && mv swap.new swap; done
        python3 -c "import sqlite3; c = sqlite3.connect('load.db'); c.execute('create table t(x)'); [(c.execute('insert into t values (?)', (n,)), c.commit()) for n in range(100)]; c.close()"
    "#).await;
    both_sides_become_equal(&server, &session, 5000).await;
    let tree = session.tree().await;
    let item = |path: &str| {
        tree["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["path"] == path)
            .cloned()
            .unwrap_or(Value::Null)
    };
    assert_eq!(item("link")["kind"], "symlink");
    assert_eq!(item("empty/in/empty")["kind"], "dir");
    assert_eq!(item("big")["mode"], 0o755);
}

#[tokio::test]
async fn edits_on_both_sides_at_once_lose_nothing() {
    let server = Server::start().await;
    let session = server.session("both").await;
    let there: Vec<String> = (0..100).map(|n| format!("pod/{n}")).collect();
    let editor = async {
        for n in 0..100 {
            session.save(&format!("editor/{n}"), format!("by the editor {n}")).await;
        }
    };
    let program = session.sh("mkdir -p pod; for n in $(seq 0 99); do echo by the program $n > pod/$n; done");
    tokio::join!(editor, program);
    both_sides_become_equal(&server, &session, 200).await;
    let sums = in_database(&session).await;
    assert!(there.iter().all(|path| sums.contains_key(path)));
}

#[tokio::test]
async fn what_changed_on_both_sides_while_they_were_apart_is_merged_or_kept() {
    let mut server = Server::start().await;
    let session = server.session("apart").await;
    let rev = session.save("merge.txt", "one\ntwo\nthree\nfour\nfive\n").await;
    session.exec(json!(["cat", "merge.txt"]), json!({"after_rev": rev})).await;
    let app = server.app(&session);
    session.stop().await;
    // Different lines: the session's folder by hand, the database by the editor.
    std::fs::write(app.join("merge.txt"), "ONE\ntwo\nthree\nfour\nfive\n").unwrap();
    session.save("merge.txt", "one\ntwo\nthree\nfour\nFIVE\n").await;
    std::fs::write(app.join("offline.txt"), "made offline\n").unwrap();
    assert_eq!(server.terminate().await, Some(0));
    server.restart().await;
    session.start().await;
    session.wait_for_file("merge.txt", b"ONE\ntwo\nthree\nfour\nFIVE\n").await;
    session.wait_for_file("offline.txt", b"made offline\n").await;
    both_sides_become_equal(&server, &session, 2).await;
}

#[tokio::test]
async fn a_reader_in_the_session_never_sees_a_torn_or_missing_file() {
    let server = Server::start().await;
    let session = server.session("torn").await;
    session.save("page.html", "x".repeat(20_000)).await;
    let reader = session.exec(
        json!(["python3", "-c", "import time\nend=time.time()+6\nbad=0\nn=0\nwhile time.time()<end:\n  try:\n    t=open('page.html').read()\n    n+=1\n    bad+=len(t)!=20000 or len(set(t))!=1\n  except FileNotFoundError:\n    bad+=1\nprint(bad, n>100)"]),
        json!({"timeout_s": 60}),
    );
    let writer = async {
        for n in 0..300u32 {
            let letter = char::from(b'a' + (n % 26) as u8);
            session.save("page.html", letter.to_string().repeat(20_000)).await;
        }
    };
    let (ran, ()) = tokio::join!(reader, writer);
    assert_eq!(ran.out(), "0 True\n", "{}", String::from_utf8_lossy(&ran.stderr));
}

#[tokio::test]
async fn a_full_folder_keeps_the_save_tells_it_and_heals() {
    let server = Server::with(Options { sessions_bytes: Some(24 << 20), ..Options::default() }).await;
    let session = server.session("full").await;
    let mut events = e2e::events::Events::of(&session).await;
    session.save("before.txt", "fits\n").await;
    let ran = session.exec("cat /dev/zero > .cache-filler 2>/dev/null; mkdir -p .cache; mv .cache-filler .cache/filler; cat /dev/zero >> .cache/filler; df --output=avail . | tail -1", json!({})).await;
    assert!(ran.out().trim().parse::<u64>().is_ok_and(|left| left < 64), "{}", ran.out());

    let text = vec![b'x'; 300_000];
    session.save("saved.txt", text.clone()).await;
    assert_eq!(session.read("saved.txt").await.unwrap(), text, "the save is kept in the database");
    events
        .find(|event| {
            (event["type"] == "sync" && event["state"] == "full")
                || (event["type"] == "problem" && event["path"] == "saved.txt")
        })
        .await;
    // The terminal and the server live on.
    assert_eq!(session.sh("echo alive").await, "alive\n");
    assert_eq!(session.state().await["state"], "running");

    session.sh("rm -r .cache").await;
    eventually("it heals when there is room", Duration::from_secs(60), || async {
        let ran = session.exec("wc -c < saved.txt", json!({})).await;
        (ran.out().trim() == "300000").then_some(())
    })
    .await;
    session.sh("echo again > after.txt").await;
    session.wait_for_file("after.txt", b"again\n").await;
}
