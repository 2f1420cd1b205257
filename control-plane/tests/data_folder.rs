//! A data folder belongs to one database, and that to one account.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

use clap::Parser;
use control_plane::config::Cli;
use control_plane::server::{StartError, claim, open};
use control_plane::workspace::Database;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_data_folder_is_refused_with_another_database_than_its_own() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = |name: &str| format!("sqlite://{}/{name}?mode=rwc", elsewhere.path().display());
    let own = Database::open(&url("own")).await.unwrap();
    claim(data.path(), &own).await.unwrap();
    claim(data.path(), &own).await.unwrap();
    own.close().await.unwrap();
    // Fresh, as after a mistyped URL or a database that was removed.
    let other = Database::open(&url("other")).await.unwrap();
    let refused = claim(data.path(), &other).await.unwrap_err();
    assert!(matches!(refused, StartError::OtherDatabase(_)), "{refused}");
    assert!(refused.to_string().contains("--database-url"), "{refused}");
    // A copy that was put back is the same database.
    std::fs::copy(elsewhere.path().join("own"), elsewhere.path().join("copy")).unwrap();
    let copy = Database::open(&url("copy")).await.unwrap();
    claim(data.path(), &copy).await.unwrap();
}

#[tokio::test]
async fn a_database_is_for_its_owner_alone_also_in_a_folder_that_is_open_to_others() {
    let data = tempfile::tempdir().unwrap();
    fs::set_permissions(data.path(), Permissions::from_mode(0o755)).unwrap();
    let flags = ["control-plane", "--data", data.path().to_str().unwrap()];
    let settings = Cli::try_parse_from(flags).unwrap().settings;
    let modes = || {
        let files = ["berth.sqlite", "berth.sqlite-wal", "berth.sqlite-shm"];
        files.map(|name| fs::metadata(data.path().join(name)).unwrap().permissions().mode() & 0o777)
    };
    let database = open(&settings).await.unwrap();
    assert_eq!(modes(), [0o600; 3], "as they were made");
    database.close().await.unwrap();
    fs::set_permissions(data.path().join("berth.sqlite"), Permissions::from_mode(0o644)).unwrap();
    let _database = open(&settings).await.unwrap();
    assert_eq!(modes(), [0o600; 3], "as an earlier version made them");
}
