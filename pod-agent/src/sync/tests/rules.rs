//! The workspace's own rules on what is left out.

use super::fixtures::{Database, Folder, Link, path};
use shared::ignore::{IGNORE_FILE, IGNORE_LINES};
use shared::link::sync::FromControlPlane;

#[tokio::test(flavor = "multi_thread")]
async fn rules_hold_until_the_database_knows_that_they_are_gone_and_then_all_comes() {
    let (folder, mut database) = (Folder::new(), Database::default());
    folder.write(IGNORE_FILE, "*.log\n");
    folder.write("build.log", "noise");
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    link.until(&mut database, "the rules", |d| d.text(IGNORE_FILE).is_some()).await;
    for (token, emptied) in [(1, true), (2, false)] {
        // As an editor does for a moment while it saves; a look at everything falls just then.
        match emptied {
            true => std::fs::write(folder.app(IGNORE_FILE), "").unwrap(),
            false => std::fs::remove_file(folder.app(IGNORE_FILE)).unwrap(),
        }
        link.say(FromControlPlane::Settle { token }).await;
        link.until(&mut database, "the rules go", |d| {
            d.text(IGNORE_FILE).is_none_or(|rules| rules.is_empty())
        })
        .await;
        assert_eq!(database.text("build.log"), None, "{token}");
        link.until(&mut database, "what they left out", |d| d.text("build.log").is_some()).await;
        std::fs::remove_file(folder.app("build.log")).unwrap();
        link.until(&mut database, "it goes", |d| d.text("build.log").is_none()).await;
        folder.write(IGNORE_FILE, "*.log\n");
        link.until(&mut database, "the rules", |d| d.text(IGNORE_FILE).as_deref() == Some("*.log\n")).await;
        folder.write("build.log", "noise");
        folder.write("seen", &token.to_string());
        link.until(&mut database, "the next file", |d| d.text("seen") == Some(token.to_string())).await;
        assert!(!database.tree.contains_key(&path("build.log")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_do_not_count_are_told_and_the_others_do() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    let is_told =
        |d: &Database| d.problems.iter().any(|it| (&*it.path, &*it.code) == (IGNORE_FILE, "ignore_rules"));
    let many = "*.tmp\n".repeat(IGNORE_LINES);
    let latin = [b"*.log\n# caf\xe9\n".as_slice()].concat();
    let long = ["*.log\n".as_bytes(), &[b'#'; 80_000], b"\n*.dat\n"].concat();
    for (n, rules) in [format!("*.log\n{many}").into_bytes(), latin, long].into_iter().enumerate() {
        std::fs::write(folder.app(IGNORE_FILE), rules).unwrap();
        link.until(&mut database, "it is told", is_told).await;
        folder.write("build.log", "noise");
        folder.write(&format!("seen-{n}"), "x");
        link.until(&mut database, "the next file", |d| d.text(&format!("seen-{n}")).is_some()).await;
        assert_eq!(database.text("build.log"), None);
        folder.write(IGNORE_FILE, "*.log\n");
        link.until(&mut database, "it is no more", |d| !is_told(d)).await;
    }
}
