//! The clock that both ends of a connection read.

use nix::time::{ClockId, clock_gettime};

/// Returns CLOCK_MONOTONIC in nanoseconds, or 0 if the clock can't be read, which never happens on Linux. All
/// processes in one time namespace, such as the server and its agents, read the same clock.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let rest = u64::try_from(time.tv_nsec()).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(rest)
    })
}
