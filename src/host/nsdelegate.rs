//! Whether cgroup2 is mounted with the option `nsdelegate`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::agents::monotonic_ns;
use crate::cgroup::{HierarchyKind, parse_mountinfo};

/// How long an answer about `nsdelegate` is valid: the host can change the option at any time, by a remount.
const NSDELEGATE_TTL: Duration = Duration::from_secs(5);

/// Whether the mount of cgroup2 has the option `nsdelegate`.
#[derive(Debug, Default)]
pub(super) struct Nsdelegate {
    is_on: AtomicBool,
    /// The time of the last check, in monotonic ns; 0: never.
    looked: AtomicU64,
}

impl Nsdelegate {
    /// Whether the option is set, as of a few seconds ago.
    pub(super) fn is_on(&self) -> bool {
        let (now, looked) = (monotonic_ns(), self.looked.load(Ordering::Acquire));
        if looked != 0 && now.saturating_sub(looked) < nanoseconds(NSDELEGATE_TTL) {
            return self.is_on.load(Ordering::Acquire);
        }
        let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let is_on = parse_mountinfo(&text).iter().any(|mount| {
            mount.hierarchy() == Some(HierarchyKind::Unified)
                && mount.super_options.split(',').any(|option| option == "nsdelegate")
        });
        self.is_on.store(is_on, Ordering::Release);
        self.looked.store(now, Ordering::Release);
        is_on
    }
}

/// A duration in nanoseconds.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
