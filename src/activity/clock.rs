//! Clocks, in nanoseconds.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The monotonic clock.
pub(super) fn monotonic() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// The monotonic clock as of the last tick, which takes a fraction of the time to read.
pub fn monotonic_coarse() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC_COARSE)
}
