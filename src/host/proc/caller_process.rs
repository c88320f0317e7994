//! The processes of callers, for people: in the log, and for those who watch.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::procfs;
use crate::fs::host::CallerProcess;

/// How long a thread's process isn't looked up again. Looking costs more than most requests, and a container decides how
/// many are rejected. A thread that executes another program meanwhile still has the name of the one before.
const KEPT: Duration = Duration::from_millis(20);

thread_local! {
    /// The thread that the calling worker looked up last.
    static LAST: RefCell<Option<(i32, Instant, CallerProcess)>> = const { RefCell::new(None) };
}

/// The process of a thread. If it can't be read, it has the thread's number and no name.
pub(in crate::host) fn of(tid: i32) -> CallerProcess {
    LAST.with_borrow_mut(|last| {
        if let Some((_, _, process)) = last.as_ref().filter(|(of, since, _)| *of == tid && since.elapsed() < KEPT) {
            return process.clone();
        }
        let status = procfs::status(tid).ok();
        let process = status.map(|status| CallerProcess { pid: status.process_id, command: status.command });
        let process = process.unwrap_or_else(|| CallerProcess { pid: tid, command: String::new() });
        *last = Some((tid, Instant::now(), process.clone()));
        process
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_thread() {
        let found = std::thread::Builder::new().name("a\nname".to_owned()).spawn(|| of(nix::unistd::gettid().as_raw()));
        let found = found.unwrap().join().unwrap();
        assert_eq!((found.pid.unsigned_abs(), found.command.as_str()), (std::process::id(), "a\\nname"));
        assert_eq!(of(i32::MAX), CallerProcess { pid: i32::MAX, command: String::new() });
    }
}
