//! The processors on which workers run.
//!
//! A caller sleeps while it's served, so its processor is free. But the scheduler wakes a worker on an idle
//! processor, and waking that takes several times as long as the worker's whole task (on a virtual machine it takes
//! the hypervisor). If a processor is idle, busy polling helps ([`super::busy_poll`]), and workers run anywhere:
//! pinning wouldn't help, since the scheduler moves the caller to the idle processor. If none is idle, the workers
//! pin themselves to their caller's processor: the next requests mostly come from the same caller.
//!
//! Whoever starts the server chooses its processors, and others may change them later (taskset(1), a cpuset). The
//! process' first thread, which never pins itself, has that mask, and no worker leaves it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::sched_hint::SchedHint;

/// How many requests pass between two inspections of a caller, each of which takes about as long as a short request.
const LOOK_INTERVAL_REQUESTS: u32 = 64;

/// Stands for no processor: workers run anywhere.
const ANYWHERE: usize = usize::MAX;

/// The processors on which the workers of a session run.
#[derive(Debug)]
pub(super) struct CpuAffinity {
    /// The processor that workers pin themselves to, or [`ANYWHERE`].
    pinned_to: AtomicUsize,
    /// The processor of the caller at the last inspection, or [`ANYWHERE`].
    caller: AtomicUsize,
    /// Requests until the next inspection.
    countdown: AtomicU32,
}

impl Default for CpuAffinity {
    fn default() -> Self {
        Self {
            pinned_to: AtomicUsize::new(ANYWHERE),
            caller: AtomicUsize::new(ANYWHERE),
            countdown: AtomicU32::new(LOOK_INTERVAL_REQUESTS),
        }
    }
}

thread_local! {
    /// The processor that the calling worker is pinned to, or [`ANYWHERE`].
    static PINNED_TO: Cell<usize> = const { Cell::new(ANYWHERE) };
}

impl CpuAffinity {
    /// Notes a request of the calling worker's. Now and then it calls `look` to inspect the caller.
    pub(super) fn note_request(&self, look: impl FnOnce() -> Option<SchedHint>) {
        if self.countdown.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.countdown.store(LOOK_INTERVAL_REQUESTS, Ordering::Relaxed);
            let allowed = allowed();
            let processors = allowed.as_ref().map_or(1, count);
            // If the caller isn't visible, or the kernel doesn't tell, the plan stays.
            if let Some(hint) = look() {
                self.plan(&hint, processors);
            }
            // Somebody may have set another mask meanwhile, for all threads or for this one.
            pin(self.pinned_to.load(Ordering::Relaxed), allowed.as_ref());
        }
        let pinned_to = self.pinned_to.load(Ordering::Relaxed);
        if pinned_to != PINNED_TO.get() {
            pin(pinned_to, allowed().as_ref());
        }
    }

    /// Decides where workers run, by the caller's processor at this inspection and at the one before.
    fn plan(&self, hint: &SchedHint, processors: usize) {
        let before = self.caller.swap(hint.processor, Ordering::Relaxed);
        // The caller, which sleeps, needs a processor as well.
        if hint.running < processors {
            self.pinned_to.store(ANYWHERE, Ordering::Relaxed);
        } else if before == hint.processor {
            self.pinned_to.store(hint.processor, Ordering::Relaxed);
        }
    }
}

/// Pins the calling thread to a processor, if it may run there. Otherwise the scheduler decides, within the mask.
fn pin(processor: usize, allowed: Option<&CpuSet>) {
    // Set even on failure, so that the next attempt waits until the processor changes.
    PINNED_TO.set(processor);
    let Some(allowed) = allowed else { return };
    let mut only = CpuSet::new();
    let may_be_there = allowed.is_set(processor).unwrap_or(false) && only.set(processor).is_ok();
    let wanted = if may_be_there { &only } else { allowed };
    if sched_getaffinity(THIS_THREAD).is_ok_and(|now| now != *wanted) {
        let _ = sched_setaffinity(THIS_THREAD, wanted);
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);

/// The processors on which the server may run: the mask of the process' first thread.
fn allowed() -> Option<CpuSet> {
    sched_getaffinity(Pid::this()).ok()
}

fn count(set: &CpuSet) -> usize {
    (0..CpuSet::count()).filter(|number| set.is_set(*number).unwrap_or(false)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(affinity: &CpuAffinity, processor: usize, running: usize) -> usize {
        affinity.plan(&SchedHint { processor, running }, 4);
        affinity.pinned_to.load(Ordering::Relaxed)
    }

    #[test]
    fn nobody_is_pinned_where_a_processor_is_idle() {
        let affinity = CpuAffinity::default();
        assert_eq!([planned(&affinity, 1, 4), planned(&affinity, 1, 4)], [ANYWHERE, 1]);
        assert_eq!([planned(&affinity, 1, 3), planned(&affinity, 1, 5)], [ANYWHERE, 1]);
    }

    #[test]
    fn a_caller_that_stays_is_followed() {
        let affinity = CpuAffinity::default();
        let places = [1, 1, 1, 0, 1, 0, 0, 0].map(|caller| planned(&affinity, caller, 4));
        assert_eq!(places, [ANYWHERE, 1, 1, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn a_worker_is_pinned_and_let_go() {
        // A thread of its own, so that later tests don't run pinned.
        let test = || {
            let before = sched_getaffinity(THIS_THREAD).unwrap();
            let processor = nix::sched::sched_getcpu().unwrap();
            let affinity = CpuAffinity::default();
            let mut looks = 0;
            for _ in 0..3 * LOOK_INTERVAL_REQUESTS {
                affinity.note_request(|| {
                    looks += 1;
                    Some(SchedHint { processor, running: usize::MAX })
                });
            }
            assert_eq!(looks, 3);
            let pinned = sched_getaffinity(THIS_THREAD).unwrap();
            assert!(count(&pinned) == 1 && pinned.is_set(processor).unwrap());
            pin(CpuSet::count() + 1, Some(&before));
            assert_eq!(sched_getaffinity(THIS_THREAD).unwrap(), before, "there is no such processor");
            pin(processor, Some(&before));
            pin(ANYWHERE, Some(&before));
            assert_eq!(sched_getaffinity(THIS_THREAD).unwrap(), before);
        };
        std::thread::spawn(test).join().unwrap();
    }
}
