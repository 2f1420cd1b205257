//! Decoders under bytes that nobody should have sent: they never panic, never take memory beyond what was claimed,
//! end soon, and either refuse or give exactly what was encoded.
//!
//! `./e2e/test fuzz` runs a fixed count of seeds, `./e2e/test fuzz SECONDS` fresh ones.
#![allow(clippy::unwrap_used, reason = "a test")]

mod batches;
mod make;
mod memory;
mod messages;
mod mutate;
#[path = "../seeded/mod.rs"]
mod seeded;
mod texts;

use rand::SeedableRng;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// How long one decode may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs cases whose every choice comes of their seed, and sees to it that each ends soon.
fn fuzz(what: &str, count: u64, case: impl Fn(&mut StdRng) + Sync) {
    seeded::cases(what, count, |seed| {
        let started = Instant::now();
        case(&mut StdRng::seed_from_u64(seed));
        assert!(started.elapsed() < PATIENCE, "it took {:?}", started.elapsed());
    });
}
