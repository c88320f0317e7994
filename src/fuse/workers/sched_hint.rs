//! What the kernel's scheduler says of a caller and of the worker that serves it.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use crate::cgroup::{parse_processor, parse_running};

/// Where a caller runs, and how the worker that serves it does beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SchedHint {
    /// The processor on which the caller last ran.
    pub(super) processor: usize,
    /// How long the calling thread has waited for a processor so far.
    pub(super) waited: Duration,
    /// How many threads run or wait for a processor on the whole machine, the calling one among them.
    pub(super) running: usize,
}

impl SchedHint {
    /// Looks at a caller, by its thread id, and at the calling thread. `None` where that can't be seen.
    pub(super) fn of_caller(tid: i32) -> Option<Self> {
        let processor = parse_processor(&first_text(&format!("/proc/{tid}/stat"))?)?;
        let waited = waited()?;
        // The last of them: the caller sleeps by now.
        Some(Self { processor, waited, running: parse_running(&first_text("/proc/loadavg")?)? })
    }
}

/// How long the calling thread has waited for a processor so far, by `run_delay` of its schedstat (Linux 3.17).
fn waited() -> Option<Duration> {
    let text = first_text("/proc/thread-self/schedstat")?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// The text of a file of procfs that is less than a page: one read gives all of it. Bytes that aren't UTF-8 (a command's name) are replaced.
fn first_text(path: &str) -> Option<String> {
    let mut page = [0; 4096];
    let length = File::open(path).ok()?.read(&mut page).ok()?;
    Some(String::from_utf8_lossy(page.get(..length)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_thread() {
        let tid = nix::unistd::gettid().as_raw();
        let before = SchedHint::of_caller(tid).unwrap();
        assert!(before.running >= 1);
        assert!(SchedHint::of_caller(tid).unwrap().waited >= before.waited);
        assert_eq!(SchedHint::of_caller(i32::MAX), None);
    }
}
