//! The two clocks. Decisions and deadlines use `boot_ms`; wall time is only shown.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of CLOCK_BOOTTIME: counts through suspend, steps for nobody.
pub fn boot_ms() -> u64 {
    millis(ClockId::Boottime)
}

/// Milliseconds since the Unix epoch, for people to read.
pub fn wall_ms() -> u64 {
    millis(ClockId::Realtime)
}

fn millis(id: ClockId) -> u64 {
    let t = clock_gettime(id);
    // Neither clock is ever negative on a running system.
    u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec / 1_000_000).unwrap_or(0)
}
