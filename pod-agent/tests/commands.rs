//! Commands over a stream in memory: output apart and whole, exit, time limit, and the end of all they started.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use pod_agent::environment::Environment;
use pod_agent::exec;
use shared::id::Revision;
use shared::link::exec::{Command, Input, Output};
use shared::link::frame;
use shared::link::terminal::Exit;
use std::time::Duration;
use support::alive;
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::sync::watch;

fn start(argv: &[&str], change: impl FnOnce(&mut Command)) -> (TempDir, DuplexStream) {
    start_with(&[], argv, change)
}

fn start_with(flags: &[&str], argv: &[&str], change: impl FnOnce(&mut Command)) -> (TempDir, DuplexStream) {
    let folder = tempfile::tempdir().unwrap();
    let settings = support::settings(folder.path(), flags);
    let mut command = Command {
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        cwd: String::new(),
        environment: [("GREETING".to_owned(), "hello".to_owned())].into(),
        timeout_ms: 20_000,
        after_rev: None,
    };
    change(&mut command);
    let (ours, theirs) = tokio::io::duplex(4096);
    let (_, visible) = watch::channel(Revision(5));
    tokio::spawn(exec::serve(command, Environment::new(&settings), visible, theirs));
    (folder, ours)
}

#[derive(Default, Debug)]
struct Told {
    out: Vec<u8>,
    err: Vec<u8>,
    end: Option<(Exit, bool)>,
    failed: Option<String>,
}

async fn all(stream: &mut DuplexStream) -> Told {
    let mut told = Told::default();
    while let Ok(Some(output)) =
        tokio::time::timeout(Duration::from_secs(30), frame::read(stream)).await.unwrap()
    {
        match output {
            Output::Started { .. } => {}
            Output::Stdout(bytes) => told.out.extend(bytes),
            Output::Stderr(bytes) => told.err.extend(bytes),
            Output::Exit { exit, timed_out } => told.end = Some((exit, timed_out)),
            Output::Failed(failure) => told.failed = Some(failure.code),
        }
    }
    told
}

/// A process' state, as `ps` has it.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[tokio::test]
async fn output_and_errors_come_apart_with_the_exit_code_and_the_input_arrives() {
    let (_folder, mut stream) = start(&["sh", "-c", "cat; echo $GREETING; echo bad >&2; exit 4"], |_| {});
    frame::write(&mut stream, &Input::Stdin(Bytes::from_static(b"in "))).await.unwrap();
    frame::write(&mut stream, &Input::StdinEnd).await.unwrap();
    let told = all(&mut stream).await;
    assert_eq!((told.out.as_slice(), told.err.as_slice()), (&b"in hello\n"[..], &b"bad\n"[..]));
    assert_eq!(told.end, Some((Exit { code: Some(4), signal: None }, false)));
}

#[tokio::test]
async fn a_workspace_with_a_name_for_users_is_where_commands_start_and_what_they_see() {
    let (mount, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(mount.path().join("src")).unwrap();
    let shown = other.path().join("app");
    std::os::unix::fs::symlink(mount.path(), &shown).unwrap();
    let shown = shown.to_str().unwrap();
    let script = ["sh", "-c", "echo $PWD; pwd; echo $HOME; echo text > file"];
    for (cwd, expected) in [("", shown.to_owned()), ("src", format!("{shown}/src"))] {
        let (_folder, mut stream) =
            start_with(&["--shown-as", shown], &script, |command| command.cwd = cwd.to_owned());
        let told = all(&mut stream).await;
        let home = std::env::var("HOME").unwrap_or_else(|_| shown.to_owned());
        assert_eq!(String::from_utf8_lossy(&told.out), format!("{expected}\n{expected}\n{home}\n"));
        assert!(mount.path().join(cwd).join("file").is_file(), "the same folder by both names");
    }
}

#[tokio::test]
async fn a_slow_caller_gets_all_of_a_quick_command_even_after_its_end() {
    let (_folder, mut stream) = start(&["seq", "1", "100000"], |_| {});
    let Output::Started { pid } = frame::expect(&mut stream).await.unwrap() else { panic!() };
    // Held up by 4 KiB, until the command has written all that its pipe holds, and sleeps.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while state(pid) != Some('S') {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    let told = all(&mut stream).await;
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(told.out == expected.as_bytes(), "{} of {} bytes", told.out.len(), expected.len());
    assert_eq!(told.end, Some((Exit { code: Some(0), signal: None }, false)));
}

#[tokio::test]
async fn the_time_limit_ends_the_command_and_its_children() {
    let mark = format!("41{}", std::process::id());
    let (_folder, mut stream) =
        start(&["sh", "-c", &format!("setsid sleep {mark} & echo up; wait")], |c| c.timeout_ms = 500);
    let told = all(&mut stream).await;
    assert_eq!(told.out, b"up\n");
    assert_eq!(told.end, Some((Exit { code: None, signal: Some("SIGKILL".into()) }, true)));
    assert!(!alive(&format!("sleep {mark}")));
}

#[tokio::test]
async fn the_end_of_the_stream_ends_the_command_and_its_children() {
    let mark = format!("42{}", std::process::id());
    let (_folder, mut stream) = start(&["sh", "-c", &format!("setsid sleep {mark} & echo up; wait")], |_| {});
    while !matches!(frame::expect(&mut stream).await.unwrap(), Output::Stdout(_)) {}
    assert!(alive("wait"));
    drop(stream);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while alive(&format!("sleep {mark}")) {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_background_child_that_holds_the_output_does_not_hold_the_end() {
    let (_folder, mut stream) = start(&["sh", "-c", "sleep 5 & echo done"], |_| {});
    let began = std::time::Instant::now();
    let told = all(&mut stream).await;
    assert_eq!(told.out, b"done\n");
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    for (argv, cwd, rev, code) in [
        (vec!["no-such-program"], "", None, "not_found"),
        (vec!["true"], "nowhere", None, "cwd_missing"),
        (vec![], "", None, "bad_command"),
        (vec!["true"], "", Some(Revision(6)), "revision_not_visible"),
    ] {
        let (_folder, mut stream) = start(&argv, |c| {
            c.cwd = cwd.into();
            c.after_rev = rev;
        });
        assert_eq!(all(&mut stream).await.failed.as_deref(), Some(code));
    }
}
