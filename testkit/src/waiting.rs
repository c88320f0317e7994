//! Waiting for conditions, where a sleep would wait for a time.

use std::fs;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use crate::TIMEOUT;

/// How often a wait looks.
const INTERVAL: Duration = Duration::from_millis(5);

/// How long a kernel may take that perhaps doesn't tell where a process waits.
const KERNEL_PATIENCE: Duration = Duration::from_secs(5);

/// Waits until something is so.
///
/// # Panics
///
/// When it isn't within [`TIMEOUT`].
#[track_caller]
pub fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(comes_true(TIMEOUT, is_so), "in vain: {what}");
}

/// Whether something becomes so before patience ends.
pub fn comes_true(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    while !is_so() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(INTERVAL);
    }
    true
}

/// How a child ended, if it ends before patience does.
///
/// # Panics
///
/// When it's no child any more.
pub fn end_of(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let mut status = None;
    comes_true(patience, || {
        status = child.try_wait().expect("its state");
        status.is_some()
    });
    status
}

/// Waits until a thread of this process, or of one below it, sleeps in a function of the kernel whose name has one of these words
/// (`/proc/PID/task/TID/wchan`). A kernel that doesn't tell, or has other names, is given five seconds.
pub fn wait_in_kernel(process: u32, words: &[&str]) {
    comes_true(KERNEL_PATIENCE, || is_in_kernel(process, words));
}

fn is_in_kernel(process: u32, words: &[&str]) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    threads.map(|thread| thread.path()).any(|thread| {
        let place = fs::read_to_string(thread.join("wchan")).unwrap_or_default();
        let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
        let mut children = children.split_ascii_whitespace().filter_map(|child| child.parse().ok());
        words.iter().any(|word| place.contains(word)) || children.any(|child| is_in_kernel(child, words))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::process::Command;

    #[test]
    fn a_condition_is_asked_until_it_is_so_or_patience_ends() {
        let asked = Cell::new(0);
        let third = || {
            asked.set(asked.get() + 1);
            asked.get() >= 3
        };
        assert!(comes_true(TIMEOUT, third));
        assert_eq!(asked.get(), 3);
        assert!(!comes_true(Duration::ZERO, || false));
    }

    #[test]
    fn a_child_that_goes_on_has_no_end() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        assert_eq!(end_of(&mut child, Duration::ZERO), None);
        // By any name that the kernel has for it.
        wait_in_kernel(child.id(), &["sleep"]);
        assert!(child.try_wait().expect("its state").is_none());
        child.kill().expect("SIGKILL");
        assert!(end_of(&mut child, TIMEOUT).is_some_and(|status| !status.success()));
    }
}
