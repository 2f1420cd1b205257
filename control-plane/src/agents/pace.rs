//! How often a pod's words may wake the rest of the server.

use std::time::Duration;
use tokio::time::Instant;

/// Allows so many in a row, and from then on one in each interval. Who speaks faster waits, and so, once its
/// stream is full, does the pod; nobody else.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    burst: Duration,
    /// When all that came would have been due, one in each interval.
    due: Instant,
}

impl Pace {
    /// `burst` in a row, then one in each `every`.
    pub(super) fn new(burst: u32, every: Duration) -> Self {
        Self { every, burst: every * burst, due: Instant::now() }
    }

    /// Counts one, and waits if it came too soon. A wait that is given up was counted.
    pub(super) async fn keep(&mut self) {
        let now = Instant::now();
        self.due = self.due.max(now) + self.every;
        if self.due > now + self.burst {
            tokio::time::sleep_until(self.due - self.burst).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_burst_passes_at_once_and_a_flood_at_its_pace() {
        let mut pace = Pace::new(100, Duration::from_millis(2));
        let start = Instant::now();
        for _ in 0..100 {
            assert!(pace.keep().now_or_never().is_some(), "one of a burst was held up");
        }
        for _ in 0..100 {
            pace.keep().await;
        }
        // Of 200, all but the burst were due one after the other.
        assert!(start.elapsed() >= Duration::from_millis(199), "{:?}", start.elapsed());
    }
}
