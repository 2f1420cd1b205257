//! A machine's clock that is set forth and back, between writes and looks: what changed is never taken for what it was.

use super::super::disk::Stamp;

/// How coarsely the kernel's clock for files ticks here, in nanoseconds.
const TICK: i64 = 4_000_000;
/// How often something happens.
const STEPS: u32 = 200_000;

/// A machine with one file.
struct Machine {
    /// What steps do not touch.
    run: i64,
    /// What the clock shows beyond that.
    ahead: i64,
    mtime: i64,
    ctime: i64,
    content: u32,
    random: u64,
}

impl Machine {
    fn random(&mut self, below: i64) -> i64 {
        // Knuth's; only spread matters.
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 20) as i64 % below
    }

    /// What files are stamped with.
    fn tick(&self) -> i64 {
        self.ahead + self.run / TICK * TICK
    }

    fn write(&mut self, keeps_time: bool) {
        self.content += 1;
        self.ctime = self.tick();
        if !keeps_time {
            self.mtime = self.ctime;
        }
    }

    fn stat(&self) -> Stamp {
        let read_ns = self.ahead + self.run;
        Stamp { dev: 1, ino: 1, size: 1, mtime_ns: self.mtime, ctime_ns: self.ctime, mode: 0o644, read_ns }
    }
}

#[test]
fn a_clock_that_is_set_hides_no_change_and_a_file_at_rest_is_believed_again() {
    let mut it = Machine { run: 0, ahead: 0, mtime: 0, ctime: 0, content: 0, random: 7 };
    let (mut known, mut seen, mut believed) = (it.stat(), it.content, 0);
    for _ in 0..STEPS {
        match it.random(8) {
            0 | 1 => it.run += it.random(2_000_000),
            2 => it.run += it.random(60_000_000_000),
            // By an hour at most, and by as little as ticks.
            3 => it.ahead += it.random(7_200_000_000_000) - 3_600_000_000_000,
            4 => it.ahead += it.random(40_000_000) - 20_000_000,
            5 => it.write(false),
            6 => it.write(true),
            _ => {}
        }
        let now = it.stat();
        if now.trusts(&known) {
            assert_eq!(seen, it.content, "{now:?} is taken for {known:?}");
            believed += 1;
        } else {
            (known, seen) = (now, it.content);
        }
    }
    assert!(believed > STEPS / 20, "only {believed} were believed");
    // Stamped by a clock that was ahead: not believed before the clock is past that, and then again.
    it.ahead += 3_600_000_000_000;
    it.write(false);
    it.ahead -= 3_600_000_000_000;
    it.run += 1_000_000_000;
    let early = it.stat();
    assert!(!it.stat().trusts(&early));
    it.run += 3_600_000_000_000;
    let late = it.stat();
    assert!(!it.stat().trusts(&early) && it.stat().trusts(&late));
}
