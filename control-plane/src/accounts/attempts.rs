//! How often a stranger may try to sign in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Refused attempts that one address has before it must wait.
const FREE: u32 = 10;
/// The first wait; it doubles with each further refusal.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// An address without an attempt for this long starts afresh.
const FORGET: Duration = Duration::from_secs(900);
/// Addresses remembered at once; beyond, the oldest are forgotten.
const REMEMBERED: usize = 10_000;

/// Refused attempts by address. IPv6 counts by /64, which is what one household has.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<HashMap<IpAddr, Record>>);

#[derive(Clone, Copy, Debug)]
struct Record {
    refused: u32,
    last: Instant,
    until: Instant,
}

impl Attempts {
    /// Whether this address may try at `now`, or how long it must wait.
    pub fn may_try(&self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match records.get(&network(from)) {
            Some(record) if record.until > now => Err(record.until - now),
            _ => Ok(()),
        }
    }

    /// Notes a refused attempt.
    pub fn refused(&self, from: IpAddr, now: Instant) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= REMEMBERED {
            records.retain(|_, record| now.duration_since(record.last) < FORGET);
            if records.len() >= REMEMBERED
                && let Some(oldest) =
                    records.iter().min_by_key(|(_, record)| record.last).map(|(address, _)| *address)
            {
                records.remove(&oldest);
            }
        }
        let record = records.entry(network(from)).or_insert(Record { refused: 0, last: now, until: now });
        if now.duration_since(record.last) >= FORGET {
            record.refused = 0;
        }
        record.refused += 1;
        record.last = now;
        if record.refused >= FREE {
            let doubled = FIRST_WAIT.saturating_mul(1 << (record.refused - FREE).min(16));
            record.until = now + doubled.min(LONGEST_WAIT);
        }
    }

    /// Notes a good attempt: the address starts afresh.
    pub fn accepted(&self, from: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&network(from));
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_meets_a_wait_that_grows_and_a_good_attempt_ends_it() {
        let attempts = Attempts::default();
        let from: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let stranger: IpAddr = "2001:db8:1::1".parse().unwrap();
        let now = Instant::now();
        for _ in 0..FREE {
            assert_eq!(attempts.may_try(from, now), Ok(()));
            attempts.refused(from, now);
        }
        let first = attempts.may_try(neighbour, now).unwrap_err();
        assert_eq!(attempts.may_try(stranger, now), Ok(()));
        assert_eq!(attempts.may_try(from, now + first), Ok(()));
        attempts.refused(from, now + first);
        assert!(attempts.may_try(from, now + first).unwrap_err() > first);
        for _ in 0..100 {
            attempts.refused(from, now);
        }
        assert!(attempts.may_try(from, now).unwrap_err() <= LONGEST_WAIT);
        attempts.accepted(from);
        assert_eq!(attempts.may_try(from, now), Ok(()));
    }
}
