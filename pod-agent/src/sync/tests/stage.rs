//! The agent's own folder, which whoever works in the pod may touch.

use super::fixtures::{Database, Folder, Link, PATIENCE};
use std::fs;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_is_removed_is_made_anew() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let mut link = Link::welcomed(&sync, 1, &database).await;
    for round in 0..3 {
        fs::remove_dir_all(folder.dir.path().join(".berth")).unwrap();
        let text = format!("round {round}");
        let op = database.save("main.py", &text);
        let rev = database.rev;
        link.push(&database, vec![op], false).await;
        link.until(&mut database, "visible", |d| d.visible >= rev).await;
        assert_eq!(folder.read("main.py"), Some(text));
    }
    // And what it knows is kept again.
    sync.end(Duration::ZERO).await;
    assert!(folder.dir.path().join(".berth/base").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_cannot_be_written_is_told_and_what_came_arrives_once_it_can() {
    let (folder, mut database) = (Folder::new(), Database::default());
    let sync = folder.start();
    let stage = folder.dir.path().join(".berth/stage");
    fs::remove_dir(&stage).unwrap();
    fs::write(&stage, "in the way").unwrap();
    database.save("main.py", "print(1)");
    let mut link = Link::welcomed(&sync, 1, &database).await;
    link.until(&mut database, "it is told", |d| {
        d.problems.iter().any(|it| it.path == "main.py" && it.code == "unwritable")
    })
    .await;
    assert_eq!((database.visible, folder.read("main.py")), (0, None));
    // What the session writes goes on.
    folder.write("other", "x");
    link.until(&mut database, "a file of the session's", |d| d.text("other").is_some()).await;
    fs::remove_file(&stage).unwrap();
    // It lets go of the stream, and has all told anew over the next.
    tokio::time::timeout(PATIENCE, &mut link.serving).await.unwrap().unwrap();
    let mut link = Link::welcomed(&sync, 2, &database).await;
    let rev = database.rev;
    link.until(&mut database, "it is there and no problem any more", |d| {
        d.visible >= rev && d.problems.is_empty()
    })
    .await;
    assert_eq!(folder.read("main.py").as_deref(), Some("print(1)"));
}
