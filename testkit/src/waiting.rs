//! Functions that wait for a condition, instead of sleeping for a time.

use std::fs;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

/// How long a child process, or an answer of a probe, may take.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// How often a wait checks its condition.
const CHECK_INTERVAL: Duration = Duration::from_millis(2);

/// How long [`wait_in_kernel`] waits on a kernel that perhaps doesn't tell where a process sleeps.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until a condition is true.
///
/// # Panics
///
/// When it isn't true within [`TIMEOUT`]; `what` names the condition.
#[track_caller]
pub fn wait_until(what: &str, is_true: impl FnMut() -> bool) {
    assert!(comes_true(TIMEOUT, is_true), "not within {TIMEOUT:?}: {what}");
}

/// Waits until something can be found, and returns it.
///
/// # Panics
///
/// When it can't be found within [`TIMEOUT`]; `what` names it.
#[track_caller]
pub fn wait_for<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    found_within(TIMEOUT, find).unwrap_or_else(|| panic!("not within {TIMEOUT:?}: {what}"))
}

/// Whether a condition becomes true before `patience` ends. The condition is checked at least once.
pub fn comes_true(patience: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    found_within(patience, || is_true().then_some(())).is_some()
}

/// What can be found before `patience` ends. It's looked for at least once.
pub fn found_within<T>(patience: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        let found = find();
        if found.is_some() || Instant::now() >= end {
            return found;
        }
        thread::sleep(CHECK_INTERVAL);
    }
}

/// How a child ended, if it ends before `patience` does.
///
/// # Panics
///
/// When its state can't be read, because somebody else has waited for it.
pub fn end_of(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    found_within(patience, || child.try_wait().expect("the state of a child"))
}

/// Waits until a thread of this process, or of one below it, sleeps in a function of the kernel whose name has one of these words
/// (`/proc/PID/task/TID/wchan`). On a kernel that doesn't tell, or has other names, it
/// waits two seconds.
pub fn wait_in_kernel(process: u32, words: &[&str]) {
    comes_true(KERNEL_TIMEOUT, || is_in_kernel(process, words));
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
    fn a_condition_is_checked_until_it_is_true_or_patience_ends() {
        let asked = Cell::new(0);
        let third = || {
            asked.set(asked.get() + 1);
            asked.get() >= 3
        };
        assert!(comes_true(TIMEOUT, third));
        assert_eq!(asked.get(), 3);
        assert!(!comes_true(Duration::ZERO, || false));
        assert_eq!(wait_for("a number", || Some(7)), 7);
    }

    #[test]
    fn a_running_child_has_no_end() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        assert_eq!(end_of(&mut child, Duration::ZERO), None);
        // By any name that the kernel has for it.
        wait_in_kernel(child.id(), &["sleep"]);
        assert!(child.try_wait().expect("its state").is_none());
        child.kill().expect("SIGKILL");
        assert!(end_of(&mut child, TIMEOUT).is_some_and(|status| !status.success()));
    }
}
