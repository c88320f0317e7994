//! The limits of a container.

use std::fs;
use std::path::Path;

use crate::containers::Scene;

/// Which cgroup has the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// The container's own.
    Container,
    /// The one above.
    Ancestor,
    Nowhere,
}

impl Where {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Ancestor => "ancestor",
            Self::Nowhere => "none",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Bytes, whole pages.
    memory: u64,
    /// Microseconds of 100,000.
    quota: u64,
    /// Processes.
    pids: u64,
}

/// Microseconds, as the kernel has it when nobody says another.
const PERIOD: u64 = 100_000;

impl Limits {
    /// One CPU, which is less than any machine that tests this has, and some memory.
    pub(crate) fn usual() -> Self {
        Self { memory: 300 << 20, quota: PERIOD, pids: 400 }
    }

    /// Sets what the host's controllers can limit.
    pub(crate) fn set(&self, scene: &Scene, place: Where) {
        if place == Where::Nowhere {
            return;
        }
        for own in scene.directories() {
            let directory = match place {
                Where::Ancestor => own.parent().expect("a cgroup above"),
                _ => own.as_path(),
            };
            for (file, value) in [
                ("memory.limit_in_bytes", self.memory.to_string()),
                ("memory.max", self.memory.to_string()),
                ("cpu.cfs_quota_us", self.quota.to_string()),
                ("cpu.max", format!("{} {PERIOD}", self.quota)),
                ("pids.max", self.pids.to_string()),
            ] {
                write(&directory.join(file), &value);
            }
        }
    }
}

fn write(file: &Path, value: &str) {
    if file.exists() {
        fs::write(file, value).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
