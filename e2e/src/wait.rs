//! Conditions with a deadline, in the place of sleeps.

use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until `probe` gives something, at most for `patience`.
pub async fn until<T, F, R>(patience: Duration, mut probe: F) -> Option<T>
where
    F: FnMut() -> R,
    R: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = probe().await {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// As [`until`]; panics with `what` if it does not come true.
pub async fn eventually<T, F, R>(what: &str, patience: Duration, probe: F) -> T
where
    F: FnMut() -> R,
    R: Future<Output = Option<T>>,
{
    let found = until(patience, probe).await;
    found.unwrap_or_else(|| panic!("not within {patience:?}: {what}"))
}
