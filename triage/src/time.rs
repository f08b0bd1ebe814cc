//! Time is only ever an argument.
//!
//! [`Moment`] is CLOCK_BOOTTIME of the deciding process, in milliseconds. It is
//! never stored: a restart would give it another meaning. What must outlast a
//! restart is stored as a duration and re-armed in full.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A point on the deciding process's CLOCK_BOOTTIME, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// Time passed since `earlier`; zero when `earlier` lies ahead.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment `after` this one.
    pub fn plus(self, after: Duration) -> Moment {
        Moment(self.0.saturating_add(millis(after)))
    }
}

/// Wall time in milliseconds since the Unix epoch. Shown, never compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wall(pub u64);

/// What an observation arrives with: the clock that decides and the one that is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    pub at: Moment,
    pub wall: Wall,
}

/// Whole milliseconds of a duration, saturating.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A duration for people: "1.5 s", "20 s", "10 min".
pub fn shown(duration: Duration) -> impl fmt::Display {
    let ms = millis(duration);
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..120_000 if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        1000..120_000 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => format!("{} min", ms / 60_000),
    }
}
