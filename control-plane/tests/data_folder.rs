//! A data folder belongs to one database.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

use control_plane::server::{StartError, claim};
use control_plane::workspace::Database;

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
