//! Both ends of file sync on one thread and in a time of their own, driven by a seed: the agent's engine over a file
//! system in memory whose watcher loses, the control plane's draft, resolver, codec and ledger over rows in memory,
//! and a link that is cut at any byte.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`world`] | the time, and who does what next |
//! | [`files`] | files, programs' writes, power cuts, and the agent's hands on them |
//! | [`watcher`] | marks that get lost |
//! | [`link`] | messages on their way |
//! | [`log`] | what a run says of them |
//! | [`server`] | the control plane's end |
//! | [`large`] | the same for large contents, which go in parts |
//! | [`script`] | what users, programs and fate do |
//! | [`oracle`] | what must hold |
//! | [`regressions`] | what seeds once found |
//!
//! `./e2e/test simulation` runs a fixed count of seeds, `./e2e/test simulation SECONDS` fresh ones. A seed that
//! fails is printed and replays exactly.

mod files;
mod large;
mod link;
mod log;
mod oracle;
mod regressions;
mod script;
mod server;
mod watcher;
mod world;

use crate::seeded;
use rand::Rng;
use script::Plan;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use world::World;

/// Seeds of a run that nobody gave a time.
const SEEDS: u64 = 5_000;
/// How long everything has to come to rest: three sweeps, with what may be refused or hot between them.
const REST: Duration = Duration::from_secs(200);
/// How long it takes at most where nothing is in the way: what is only found by a sweep is missed by then.
const SOON: Duration = Duration::from_secs(5);

/// One run, from its seed to the oracle's last word.
fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    let plan = Plan::draw(&mut world);
    world.sweeps = !plan.is_undisturbed();
    world.note(|| format!("{plan:?}"));
    let mut backup = None;
    for _ in 0..plan.actions {
        script::act(&mut world, &plan, &mut backup);
        let pause = plan.pause.mul_f64(world.rng.random());
        // Several things may happen at the same moment.
        if world.rng.random_ratio(3, 4) {
            let until = world.now + pause;
            world.advance(until);
        }
    }
    if plan.is_undisturbed() {
        let until = world.now + SOON;
        world.advance(until);
        oracle::in_step(&world);
        world.count("runs in step at once");
    }
    script::heal(&mut world);
    let end = world.now + REST;
    while world.now < end {
        let until = world.now + Duration::from_secs(10);
        world.advance(until);
        script::decide(&mut world);
    }
    script::count_meetings(&mut world);
    oracle::quiet(&mut world, plan.is_one_sided());
    world
}

#[test]
#[expect(clippy::print_stderr, reason = "the report is what a run is for")]
fn nothing_is_lost_and_both_sides_meet_whatever_happens() {
    let totals: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let ran = seeded::cases("simulation", SEEDS, |seed| {
        let world = run(seed);
        let lost = world.files.borrow().watcher.lost;
        let mut totals = totals.lock().unwrap();
        let more = [
            ("events dropped", lost[0]),
            ("events late", lost[1]),
            ("event queues overflowed", lost[2]),
            ("races won by a program", world.files.borrow().raced),
            ("batches of pods committed", world.server.batches),
            ("bases checked", world.server.checks),
            ("seconds simulated", world.now.as_secs()),
        ];
        for (what, n) in world.counts.iter().map(|(what, n)| (*what, *n)).chain(more) {
            *totals.entry(what).or_default() += n;
        }
    });
    eprintln!("{ran} seeds held. What was done and befell:");
    for (what, n) in totals.into_inner().unwrap() {
        eprintln!("  {n:>9} {what}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..30 {
        assert_eq!(run(seed).trace, run(seed).trace, "seed {seed}");
    }
}
