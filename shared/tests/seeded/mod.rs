//! Cases by their seeds: a fixed count, or for as long as told. A case that fails says how to run it alone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The variable with the one seed to run.
const SEED: &str = "BERTH_TEST_SEED";
/// The variable with the seconds for which to run fresh seeds.
const SECONDS: &str = "BERTH_TEST_SECONDS";

/// Names the case when it fails.
struct Named<'a> {
    what: &'a str,
    seed: u64,
    failed: &'a AtomicBool,
}

impl Drop for Named<'_> {
    #[expect(clippy::print_stderr, reason = "whoever ran the test must see it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failed.store(true, Ordering::Relaxed);
            eprintln!("\n{}: the case of seed {} failed. Again, alone: {SEED}={1}", self.what, self.seed);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a whole number, not {text:?}")))
}

/// Runs `case` for the seeds 0 to `count`; or for the one seed of `BERTH_TEST_SEED`; or for fresh seeds as long as
/// `BERTH_TEST_SECONDS` says. On every core at once; a case has one thread to itself. Answers how many ran.
#[expect(clippy::print_stderr, reason = "the count is what a run is for")]
pub fn cases(what: &str, count: u64, case: impl Fn(u64) + Sync) -> u64 {
    if let Some(seed) = number(SEED) {
        let _named = Named { what, seed, failed: &AtomicBool::new(false) };
        case(seed);
        return 1;
    }
    let until = number(SECONDS).map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let first = if until.is_some() { rand::random::<u64>() >> 1 } else { 0 };
    let (taken, done, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        loop {
            let n = taken.fetch_add(1, Ordering::Relaxed);
            let over = until.map_or(n >= count, |until| Instant::now() >= until);
            if over || failed.load(Ordering::Relaxed) {
                return;
            }
            let _named = Named { what, seed: first + n, failed: &failed };
            case(first + n);
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let done = done.into_inner();
    eprintln!("{what}: {done} cases from seed {first}");
    done
}
