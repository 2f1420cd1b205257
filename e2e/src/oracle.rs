//! Whether a session's folder and the database hold the same, by an independent look at each: `find` and
//! `sha256sum` on one side, the exported archive on the other.

use crate::Session;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is left out of step by default.
const IGNORED: &[&str] =
    &["node_modules", ".venv", "__pycache__", "target", ".cache", "*.sw?", "4913", ".#*", "*~", ".git"];
/// How long a session may take to have everything committed, on a busy machine.
const SETTLE_WITHIN: Duration = Duration::from_secs(180);
/// Differences that are shown.
const SHOWN: usize = 10;

/// `path → what is there`: `file 644 <sha256>`, `dir 755` or `symlink <target>`.
pub type Tree = BTreeMap<String, String>;

/// What a session's folder holds, but for what is ignored by default and not among `kept`, and for symlinks that
/// point outside by an absolute path: those stay in the session.
pub fn on_disk(app: &Path, kept: &[&str]) -> Tree {
    let mut find = String::from("find . -mindepth 1 ");
    let ignored: Vec<_> = IGNORED.iter().filter(|name| !kept.contains(*name)).collect();
    let names: Vec<_> = ignored.iter().map(|name| format!("-name '{name}'")).collect();
    find.push_str(&format!(r"\( {} \) -prune -o ", names.join(" -o ")));
    let run = |script: String| {
        let output = Command::new("sh").args(["-c", &script]).current_dir(app).output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{script}: {said}");
        String::from_utf8(output.stdout).expect("names in UTF-8")
    };
    let kinds = r"\( -type f -printf 'f %m %P\0\0' -o -type d -printf 'd %m %P\0\0' -o -type l -printf 'l 0 %P\0%l\0' \)";
    let listed = run(format!("{find}{kinds}"));
    let sums = run(format!("{find}-type f -print0 | xargs -0 -r sha256sum -z"));
    let sums: BTreeMap<&str, &str> =
        sums.split_terminator('\0').map(|line| (line[66..].trim_start_matches("./"), &line[..64])).collect();
    let mut tree = Tree::new();
    let mut parts = listed.split_terminator('\0');
    while let (Some(head), Some(target)) = (parts.next(), parts.next()) {
        let mut head = head.splitn(3, ' ');
        let (kind, mode, path) = (head.next(), head.next(), head.next().unwrap_or_default());
        let mode = u32::from_str_radix(mode.unwrap_or_default(), 8).unwrap_or_default() & 0o777;
        let what = match kind {
            Some("f") => format!("file {mode:o} {}", sums.get(path).copied().unwrap_or("gone meanwhile")),
            Some("d") => format!("dir {mode:o}"),
            _ if target.starts_with('/') => continue,
            _ => format!("symlink {target}"),
        };
        tree.insert(path.to_owned(), what);
    }
    tree
}

/// What the database holds, by its export.
pub async fn in_database(session: &Session) -> Tree {
    let archive = session.archive("tar.zst").await;
    let mut tar = tar::Archive::new(zstd::Decoder::new(&archive[..]).expect("zstd"));
    let mut tree = Tree::new();
    for entry in tar.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_str().expect("UTF-8").trim_end_matches('/').to_owned();
        let mode = entry.header().mode().expect("a mode") & 0o777;
        let kind = entry.header().entry_type();
        let what = if kind.is_dir() {
            format!("dir {mode:o}")
        } else if kind.is_symlink() {
            let target = entry.link_name().expect("a target").unwrap_or_default().into_owned();
            format!("symlink {}", target.display())
        } else {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("a content");
            format!("file {mode:o} {}", sha256(&bytes))
        };
        tree.insert(path, what);
    }
    tree
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let sum = <sha2::Sha256 as sha2::Digest>::digest(bytes);
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until everything written in the session so far is committed; answers the revision that holds it.
pub async fn settle(session: &Session) -> u64 {
    let deadline = Instant::now() + SETTLE_WITHIN;
    loop {
        let reply = session.api.post(&session.workspace("/settle"), &json!({})).await;
        if reply.status == 200 {
            return reply.json()["rev"].as_u64().expect("a revision");
        }
        // One question's patience may be shorter than what a burst takes here.
        assert!(reply.status == 503 && Instant::now() < deadline, "{} {}", reply.status, reply.text());
    }
}

/// Asserts that folder and database hold the same *as soon as* the session has settled, and at least so many
/// entries; answers them.
pub async fn assert_equal(session: &Session, app: &Path, kept: &[&str], at_least: usize) -> Tree {
    settle(session).await;
    let (disk, database) = (on_disk(app, kept), in_database(session).await);
    assert!(disk.len() >= at_least, "only {} entries", disk.len());
    if disk != database {
        let problems = session.api.get(&session.workspace("/problems")).await.text();
        panic!(
            "{} entries on disk, {} in the database\non disk, not so in the database: {:#?}\nin the database, not so on disk: {:#?}\nproblems: {:.2000}",
            disk.len(),
            database.len(),
            other(&disk, &database),
            other(&database, &disk),
            problems
        );
    }
    disk
}

fn other<'a>(left: &'a Tree, right: &Tree) -> Vec<(&'a String, &'a String)> {
    left.iter().filter(|(path, what)| right.get(*path) != Some(what)).take(SHOWN).collect()
}

/// Asserts that nothing is a conflict, as nothing may be that only one side changed.
pub async fn assert_no_conflict(session: &Session) {
    let conflicts = conflicts(session).await;
    assert!(conflicts.is_empty(), "{conflicts:#?}");
}

/// Versions that lost a conflict which nobody has settled.
pub async fn conflicts(session: &Session) -> Vec<Value> {
    let reply = session.api.get(&session.workspace("/history?conflicts=true&limit=1000")).await.expect(200);
    reply.json()["versions"].as_array().expect("versions").clone()
}

/// The code of the problem told at a path, if one is.
pub async fn problem(session: &Session, path: &str) -> Option<String> {
    let told = session.api.get(&session.workspace("/problems")).await.expect(200).json();
    let at = told["problems"].as_array()?.iter().find(|problem| problem["path"] == path)?;
    Some(at["code"].as_str()?.to_owned())
}
