//! The process's clocks.

use crate::ports::Clock;
use medevac_triage::{Moment, Now, Wall};
use std::time::{SystemTime, UNIX_EPOCH};

/// CLOCK_BOOTTIME decides, the wall clock is only shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Now {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(boot.tv_sec).unwrap_or_default();
        let part = u64::try_from(boot.tv_nsec).unwrap_or_default() / 1_000_000;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { at: Moment(seconds * 1000 + part), wall: Wall(medevac_triage::millis(wall)) }
    }
}
