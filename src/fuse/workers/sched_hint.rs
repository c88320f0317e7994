//! The scheduler's information about a caller and the machine.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use crate::cgroup::{parse_processor, parse_running};

/// The processor of a caller, and the load of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SchedHint {
    /// The processor on which the caller last ran.
    pub(super) processor: usize,
    /// How many threads run or wait for a processor on the whole machine, including the calling one.
    pub(super) running: usize,
}

impl SchedHint {
    /// Inspects a caller, by its thread id. `None` if it isn't visible.
    pub(super) fn of_caller(tid: i32) -> Option<Self> {
        let processor = parse_processor(&first_text(&format!("/proc/{tid}/stat"))?)?;
        // The caller sleeps by now, so /proc/loadavg is read last.
        Some(Self { processor, running: parse_running(&first_text("/proc/loadavg")?)? })
    }
}

/// How long the calling thread has waited for a processor in all. `None` where the kernel doesn't tell
/// (`CONFIG_SCHED_INFO`).
pub(super) fn run_delay() -> Option<Duration> {
    // `time on a processor, time that it waited for one, how many times it got one`: the times in nanoseconds.
    let text = first_text(&format!("/proc/self/task/{}/schedstat", nix::unistd::gettid()))?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Reads a procfs file shorter than a page: one read returns all of it. Bytes that aren't UTF-8 (a command's name)
/// are replaced.
fn first_text(path: &str) -> Option<String> {
    let mut page = [0; 4096];
    let length = File::open(path).ok()?.read(&mut page).ok()?;
    Some(String::from_utf8_lossy(page.get(..length)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_thread_can_be_seen() {
        let tid = nix::unistd::gettid().as_raw();
        assert!(SchedHint::of_caller(tid).unwrap().running >= 1);
        assert_eq!(SchedHint::of_caller(i32::MAX), None);
        let before = run_delay().unwrap();
        assert!(run_delay().unwrap() >= before);
    }
}
