//! Waiting longer after each failure, never exactly as long as anybody else.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Doubles from a floor to a ceiling; each wait is drawn from the upper half of it, so that a
/// hundred agents that lost one aggregator do not come back in one instant.
#[derive(Clone, Debug)]
pub struct Backoff {
    floor: Duration,
    ceiling: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(floor: Duration, ceiling: Duration) -> Backoff {
        Backoff { floor, ceiling, next: floor }
    }

    /// How long to wait now.
    pub fn wait(&mut self) -> Duration {
        let span = self.next;
        self.next = (self.next * 2).min(self.ceiling);
        // Never below the floor, which the first wait equals at most twice.
        (span / 2 + span.mul_f64(fraction() / 2.0)).max(self.floor)
    }

    /// It worked: the next failure starts from the floor.
    pub fn reset(&mut self) {
        self.next = self.floor;
    }
}

/// A random number from 0 to 1: std's hash keys are random, which is all the randomness needed.
fn fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_and_start_again() {
        let (floor, ceiling) = (Duration::from_millis(200), Duration::from_secs(5));
        let mut b = Backoff::new(floor, ceiling);
        for _ in 0..20 {
            let wait = b.wait();
            assert!(wait >= floor && wait <= ceiling, "{wait:?}");
        }
        assert!(b.wait() >= ceiling / 2);
        b.reset();
        assert!(b.wait() <= floor);
    }
}
