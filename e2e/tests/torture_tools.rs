//! Archivers, copiers, editors and databases at work in a session.
#![allow(clippy::unwrap_used, reason = "a test")]

use e2e::oracle::{assert_equal, assert_no_conflict, settle, sha256};
use e2e::{Server, Viewer};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn ten_thousand_files_unpacked_copied_and_removed_end_equal() {
    let server = Server::start().await;
    let session = server.session("tar").await;
    let app = server.app(&session);
    session.sh(r#"
        mkdir ../src && cd ../src
        for d in $(seq 1 100); do mkdir -p d$d/e; for n in $(seq 1 100); do echo "$d $n" > d$d/e/f$n; done; done
        tar cf ../all.tar . && cd - && mkdir out && tar xf ../all.tar -C out
    "#).await;
    let tree = assert_equal(&session, &app, &[], 10_201).await;
    assert_eq!(tree.values().filter(|what| what.starts_with("file")).count(), 10_000);
    // Over what is there: tar replaces each file.
    session.sh("cd out && tar xf ../../all.tar && find . -name 'f*1' -exec sed -i 's/$/ edited/' {} +").await;
    assert_equal(&session, &app, &[], 10_201).await;
    session.sh("cp -r out/d1 copied && rm -r out/d*1 && mkdir -p empty/in/empty").await;
    let tree = assert_equal(&session, &app, &[], 8_000).await;
    assert!(tree.contains_key("empty/in/empty"));
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn rsync_in_place_and_with_temporary_files_ends_equal() {
    let server = Server::start().await;
    let session = server.session("rsync").await;
    let app = server.app(&session);
    session.sh(r#"set -e
        mkdir ../from && for n in $(seq 1 200); do head -c 3000 /dev/urandom > ../from/f$n; done
        head -c 8000000 /dev/urandom > ../from/big
        rsync -a --inplace ../from/ to/; rsync -a ../from/ whole/
        for round in 1 2 3 4 5; do
            for n in $(seq 1 20); do head -c 3000 /dev/urandom > ../from/f$((round * 20 + n)); done
            printf 'changed %s' $round | dd of=../from/big bs=1 seek=$((round * 1000000)) conv=notrunc status=none
            rsync -a --inplace --no-whole-file ../from/ to/; rsync -a --delete ../from/ whole/
        done
        rm ../from/f1 && rsync -a --inplace --delete ../from/ to/ && rsync -a --delete ../from/ whole/ && diff -r to whole
    "#).await;
    let tree = assert_equal(&session, &app, &[], 400).await;
    assert_eq!(tree.get("to/big"), tree.get("whole/big"));
    assert!(!tree.contains_key("to/f1"));
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn sed_shells_and_atomic_replacers_end_equal() {
    let server = Server::start().await;
    let session = server.session("sed").await;
    session
        .sh(r#"set -e
        for n in $(seq 1 300); do echo "text $n" > f$n; done
        for round in 1 2 3; do sed -i "s/text/text$round/" f*; done
        printf a > appended; for n in $(seq 1 300); do echo $n >> appended; done
        echo one > swap; for n in $(seq 1 300); do echo $n > swap.new; mv swap.new swap; done
        for n in $(seq 1 100); do ln -sf f$n link; done
        for n in 1 2 3; do dd if=/dev/urandom of=big bs=100k count=20 status=none; truncate -s 1M big; done
        for n in $(seq 1 50); do chmod 755 f$n; chmod 600 f$n; done; install -m 750 f1 installed
        touch kind; rm kind; mkdir kind; touch kind/x; rm -r kind; ln -s f1 kind; rm kind; echo file > kind
    "#)
        .await;
    let tree = assert_equal(&session, &server.app(&session), &[], 304).await;
    assert_eq!(tree["link"], "symlink f100");
    assert!(tree["installed"].starts_with("file 750"));
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn a_subtree_moved_out_and_back_ends_equal_whether_seen_or_not() {
    let server = Server::start().await;
    let session = server.session("mv").await;
    let app = server.app(&session);
    session.sh(r#"for d in $(seq 1 30); do mkdir -p src/d$d; for n in $(seq 1 30); do echo "$d $n" > src/d$d/f$n; done; done; echo x > stays"#).await;
    let before = assert_equal(&session, &app, &[], 900).await;
    // Too quick to be seen.
    session.sh("for n in 1 2 3 4 5; do mv src ../elsewhere && mv ../elsewhere src; done").await;
    assert_eq!(assert_equal(&session, &app, &[], 900).await, before);
    session.sh("mv src ../elsewhere").await;
    let without = assert_equal(&session, &app, &[], 1).await;
    assert_eq!(without.len(), 1, "{without:?}");
    session.sh("echo changed > ../elsewhere/d1/f1; mv ../elsewhere src").await;
    let after = assert_equal(&session, &app, &[], 900).await;
    let differing: Vec<_> = before.iter().filter(|(path, what)| after.get(*path) != Some(what)).collect();
    assert_eq!(differing.len(), 1, "{differing:?}");
    session.sh("mv src renamed; mv renamed/d1 renamed/d2/; mv renamed/d2/d1 .; rm -r renamed/d3").await;
    assert_equal(&session, &app, &[], 800).await;
    assert_no_conflict(&session).await;
}

/// Opens an editor in a terminal and types to it; the editor ends by itself.
async fn edit(terminal: &mut Viewer, command: &str, ready: &str, keys: &[&str]) {
    terminal.forget();
    terminal.type_text(&format!("{command}\n")).await;
    terminal.wait_for(ready).await;
    for keys in keys {
        terminal.type_text(keys).await;
        terminal.wait_for_acks().await;
    }
    terminal.wait_for(e2e::server::PROMPT).await;
}

#[tokio::test]
async fn vim_and_nano_in_a_terminal_end_equal_with_what_was_typed() {
    let server = Server::start().await;
    let session = server.session("editors").await;
    let mut terminal = session.terminal().await;
    terminal.wait_for(e2e::server::PROMPT).await;
    for (n, text) in ["first", "second", "third"].into_iter().enumerate() {
        // With a backup, a swap file and a rename, as vim does by default and with its safest settings.
        let settings = ["", "-c 'set backup writebackup backupcopy=no'", "-c 'set backupcopy=yes'"][n];
        let vim = format!("vim -u NONE -c 'set noswapfile!' {settings} vim.txt");
        edit(&mut terminal, &vim, "vim.txt", &[&format!("Goline {text}\x1b"), ":wq\r"]).await;
        let nano = "nano --ignorercfiles nano.txt";
        edit(&mut terminal, nano, "GNU nano", &[&format!("{text}\r"), "\x0f", "\r", "\x18"]).await;
    }
    settle(&session).await;
    let vim = String::from_utf8(session.read("vim.txt").await.unwrap().to_vec()).unwrap();
    assert_eq!(vim.trim_start(), "line first\nline second\nline third\n");
    let nano = String::from_utf8(session.read("nano.txt").await.unwrap().to_vec()).unwrap();
    assert!(["first", "second", "third"].iter().all(|text| nano.contains(text)), "{nano}");
    let tree = assert_equal(&session, &server.app(&session), &[], 2).await;
    assert_eq!(tree.len(), 2, "no swap or backup file is in step: {tree:?}");
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn sqlite_under_load_ends_as_a_whole_database_on_both_sides() {
    let server = Server::start().await;
    let session = server.session("sqlite").await;
    let app = server.app(&session);
    let load = r#"
import sqlite3, sys, time
mode, end = sys.argv[1], time.time() + 5
c = sqlite3.connect(f"{mode}.db", isolation_level=None)
c.execute(f"pragma journal_mode={mode}")
c.execute("create table t(n integer primary key, x)")
n = 0
while time.time() < end:
    c.execute("begin")
    c.executemany("insert into t(x) values (?)", [("x" * 200,)] * 20)
    c.execute("update t set x = 'changed' where n % 17 = 0")
    c.execute("commit")
    n += 20
print(c.execute("select count(*) from t").fetchone()[0] == n)
c.close()
"#;
    session.save("load.py", load).await;
    settle(&session).await;
    let modes = ["wal", "delete"].map(|mode| session.exec(json!(["python3", "load.py", mode]), json!({})));
    let other = async {
        // Hot files hold up nobody else.
        for n in 0..20 {
            session.sh(&format!("echo {n} > beside")).await;
            session.wait_for_file("beside", format!("{n}\n").as_bytes()).await;
        }
    };
    let (ran, ()) = tokio::join!(futures::future::join_all(modes), other);
    for ran in ran {
        assert_eq!(ran.out(), "True\n", "{}", String::from_utf8_lossy(&ran.stderr));
    }
    assert_equal(&session, &app, &[], 4).await;
    // The database's copies are whole databases, by SQLite's own word.
    let folder = tempfile::tempdir().unwrap();
    for mode in ["wal", "delete"] {
        let file = folder.path().join(mode);
        std::fs::write(&file, session.read(&format!("{mode}.db")).await.unwrap()).unwrap();
        let check = std::process::Command::new("sqlite3").arg(&file).arg("pragma integrity_check").output();
        assert_eq!(String::from_utf8(check.unwrap().stdout).unwrap(), "ok\n", "{mode}");
    }
    assert_no_conflict(&session).await;
}

#[tokio::test]
async fn a_dev_server_never_serves_an_empty_torn_or_missing_page_during_a_thousand_saves() {
    let server = Server::start().await;
    let session = server.session("dev-server").await;
    let page = |n: u32| char::from(b'a' + (n % 26) as u8).to_string().repeat(20_000 + n as usize % 7);
    let rev = session.save("site/index.html", page(0)).await;
    let serve = r#"
import http.server, os, sys
os.chdir("site")
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
open("../port.new", "w").write(str(server.server_port)); os.rename("../port.new", "../port")
server.serve_forever()
"#;
    let starting = session.exec(
        json!(["sh", "-c", "python3 -c \"$0\" </dev/null >/dev/null 2>&1 &", serve]),
        json!({"after_rev": rev}),
    );
    assert_eq!(starting.await.code(), Some(0));
    let port = server.app(&session).join("port");
    let port = e2e::eventually("the dev server listens", Duration::from_secs(30), || async {
        std::fs::read_to_string(&port).ok().filter(|port| !port.is_empty())
    })
    .await;
    let dev = e2e::Api::new(format!("http://127.0.0.1:{port}"), "");
    let saving = async {
        for n in 0..1_000 {
            session.save("site/index.html", page(n)).await;
        }
    };
    let mut polls = 0;
    let polling = async {
        loop {
            let reply = dev.get("/index.html").await;
            assert_eq!(reply.status, 200, "missing: {}", reply.text());
            let first = reply.body.first().copied().unwrap_or_default();
            let whole = reply.body.iter().all(|byte| *byte == first) && reply.body.len() >= 20_000;
            assert!(whole, "torn or empty: {} bytes", reply.body.len());
            polls += 1;
        }
    };
    tokio::select! { () = saving => {}, () = polling => {} }
    assert!(polls >= 100, "{polls} polls");
    let rev = session.save("site/index.html", "the last").await;
    assert_eq!(session.exec("cat site/index.html", json!({"after_rev": rev})).await.out(), "the last");
    let tree = assert_equal(&session, &server.app(&session), &[], 3).await;
    assert_eq!(tree["site/index.html"], format!("file 644 {}", sha256(b"the last")));
    assert_no_conflict(&session).await;
}
