//! What the machine does without Berth: the least that each figure could be.

use super::{Report, Times};
use sea_orm::{ConnectOptions, ConnectionTrait, Database};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Bytes of the file that saves and writes are about.
pub(crate) const FILE_BYTES: usize = 4096;

/// Median milliseconds of the least parts of a save.
pub(crate) struct Floors {
    /// A commit of one row with the file's bytes, by the database that the run uses.
    pub commit: f64,
    /// Writing the file beside its place, and renaming it there.
    pub rename: f64,
}

/// Measures both, in `folder` and in the database that is given, or SQLite as Berth sets it up.
pub(crate) async fn of_a_save(
    report: &mut Report,
    folder: &Path,
    rounds: usize,
    url: Option<&str>,
) -> Floors {
    let renames = (0..rounds).map(|n| {
        let begun = Instant::now();
        std::fs::write(folder.join("floor.new"), format!("{n:FILE_BYTES$}")).expect("to write");
        std::fs::rename(folder.join("floor.new"), folder.join("floor")).expect("to rename");
        begun.elapsed()
    });
    let renames = Times::new(renames.collect());
    // The folder is the session's own, and stays as it was.
    let _ = std::fs::remove_file(folder.join("floor"));
    report.add("floor: bare stage and rename of 4 KB, p50", renames.p50(), "ms");

    let scratch = tempfile::tempdir().expect("a folder");
    let own = format!("sqlite://{}?mode=rwc", scratch.path().join("floor.sqlite").display());
    let mut options = ConnectOptions::new(url.unwrap_or(&own));
    options.max_connections(1).sqlx_logging(false);
    let database = Database::connect(options).await.expect("a database");
    if url.is_none() {
        database
            .execute_unprepared("pragma journal_mode = wal; pragma synchronous = full")
            .await
            .expect("settings");
    }
    let run = async |sql: String| {
        database.execute_unprepared(&sql).await.expect("a statement");
    };
    run("create table berth_bench_floor (n integer primary key, data text)".to_owned()).await;
    let mut commits = Vec::new();
    for n in 0..rounds {
        let begun = Instant::now();
        run(format!("insert into berth_bench_floor values ({n}, '{n:FILE_BYTES$}')")).await;
        commits.push(begun.elapsed());
    }
    run("drop table berth_bench_floor".to_owned()).await;
    let commits = Times::new(commits);
    report.add("floor: bare commit of 4 KB, p50", commits.p50(), "ms");
    Floors { commit: commits.p50(), rename: renames.p50() }
}

/// Seconds that `tar | tar` takes from a folder into another, which is made.
pub(crate) fn tar(from: &Path, to: &Path) -> f64 {
    std::fs::create_dir_all(to).expect("a folder");
    let line = "tar c -C \"$1\" . | tar x -C \"$2\"";
    let begun = Instant::now();
    let status = Command::new("sh").args(["-c", line, "sh"]).arg(from).arg(to).status();
    assert!(status.is_ok_and(|status| status.success()), "tar failed");
    begun.elapsed().as_secs_f64()
}

/// Entries below a folder, and the milliseconds that a `stat` of each took.
pub(crate) fn scan(folder: &Path) -> (usize, f64) {
    let begun = Instant::now();
    (walk(folder), begun.elapsed().as_secs_f64() * 1e3)
}

fn walk(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let below = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => 1 + walk(&entry.path()),
        _ => 1,
    };
    entries.flatten().map(below).sum()
}
