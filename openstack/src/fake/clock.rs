//! The fake's time: the machine's, or one that a test moves.

use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub(super) enum Clock {
    Real { began: Instant, at: Timestamp },
    Manual { millis: Arc<AtomicU64> },
}

impl Clock {
    pub fn real() -> Self {
        Clock::Real { began: Instant::now(), at: Timestamp::now() }
    }

    pub fn manual() -> Self {
        Clock::Manual { millis: Arc::default() }
    }

    /// Since the start of the fake.
    pub fn now(&self) -> Duration {
        match self {
            Clock::Real { began, .. } => began.elapsed(),
            Clock::Manual { millis } => Duration::from_millis(millis.load(Ordering::SeqCst)),
        }
    }

    /// Only a manual clock moves.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual { millis } = self {
            millis.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }

    pub fn wall(&self, at: Duration) -> Timestamp {
        let base = match self {
            Clock::Real { at, .. } => *at,
            // 2026-01-01: the same in every run.
            Clock::Manual { .. } => Timestamp::constant(1_767_225_600, 0),
        };
        base.saturating_add(SignedDuration::try_from(at).unwrap_or(SignedDuration::MAX)).unwrap_or(base)
    }
}
