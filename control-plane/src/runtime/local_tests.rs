//! Tests of the local runtime's folders.

use super::*;
use std::os::unix::fs::symlink;

fn runtime(data: &Path) -> LocalRuntime {
    LocalRuntime::new(data, PathBuf::from("/nonexistent")).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn folders_and_files_are_their_owners_alone() {
    let data = tempfile::tempdir().unwrap();
    let (runtime, session) = (runtime(data.path()), SessionId::random());
    runtime.prepare_blocking(session).unwrap();
    runtime.announce("127.0.0.1:7".parse().unwrap()).unwrap();
    let volume = runtime.volume(session);
    for folder in [volume.join("app"), volume.join(".berth"), volume] {
        assert_eq!(mode(&folder), 0o700);
    }
    assert_eq!(mode(&runtime.address_file()), 0o600);
    assert_eq!(fs::read_to_string(runtime.address_file()).unwrap(), "ws://127.0.0.1:7\n");
}

#[test]
fn a_link_in_a_folders_place_is_refused_and_what_it_leads_to_untouched() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (runtime, session) = (runtime(data.path()), SessionId::random());
    fs::write(elsewhere.path().join("precious"), "x").unwrap();
    symlink(elsewhere.path(), runtime.volume(session)).unwrap();
    assert_eq!(runtime.prepare_blocking(session).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    runtime.remove_blocking(session).unwrap();
    assert!(elsewhere.path().join("precious").exists());
    assert!(fs::symlink_metadata(runtime.volume(session)).is_err());
}

#[test]
fn removing_follows_no_link_and_minds_no_missing_rights() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (runtime, session) = (runtime(data.path()), SessionId::random());
    runtime.prepare_blocking(session).unwrap();
    fs::write(elsewhere.path().join("precious"), "x").unwrap();
    let app = runtime.volume(session).join("app");
    symlink(elsewhere.path(), app.join("out")).unwrap();
    fs::create_dir(app.join("closed")).unwrap();
    fs::write(app.join("closed/file"), "x").unwrap();
    fs::set_permissions(app.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    runtime.remove_blocking(session).unwrap();
    assert!(!runtime.volume(session).exists());
    assert!(elsewhere.path().join("precious").exists());
    // A second time there is nothing to do.
    runtime.remove_blocking(session).unwrap();
}

#[test]
fn a_removal_that_was_cut_short_is_finished_by_the_next_look() {
    let data = tempfile::tempdir().unwrap();
    let runtime = runtime(data.path());
    let half = data.path().join("sessions").join(format!("{REMOVED_PREFIX}{}", SessionId::random()));
    fs::create_dir_all(half.join("app")).unwrap();
    let session = SessionId::random();
    runtime.prepare_blocking(session).unwrap();
    let there = runtime.list_blocking().unwrap();
    assert_eq!(there, [(session, Observed { volume: true, ..Observed::default() })]);
    assert!(!half.exists());
}

#[test]
fn a_log_is_begun_anew_when_large_and_its_end_is_shown_without_what_a_terminal_would_obey() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("agent.log");
    fs::write(&log, vec![b'x'; LOG_BYTES as usize + 1]).unwrap();
    open_log(folder.path()).unwrap().write_all(b"one\ntwo\n\nthree\x1b[2J\nfour\n").unwrap();
    assert_eq!(tail(&log).unwrap(), "two / three[2J / four");
    assert!(folder.path().join("agent.log.1").exists());
}
