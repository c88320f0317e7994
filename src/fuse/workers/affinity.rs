//! The processors on which workers run.
//!
//! A caller sleeps while it's served, so its processor is free. But the scheduler wakes a worker on an idle
//! processor, and waking that takes several times as long as the worker's whole task (on a virtual machine it takes
//! the hypervisor). If a processor is idle, busy polling helps ([`super::busy_poll`]), and workers run anywhere:
//! pinning wouldn't help, since the scheduler moves the caller to the idle processor. If none is idle, the workers
//! pin themselves to their caller's processor: the next requests mostly come from the same caller.
//!
//! A caller that fills its processor with programs of its own could so keep everybody else waiting. So a worker that has
//! to wait for the processor that it's pinned to frees all workers, the next time for twice as long.
//!
//! Whoever starts the server chooses its processors, and others may change them later (taskset(1), a cpuset). The
//! process' first thread, which never pins itself, has that mask, and no worker leaves it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::sched_hint::{SchedHint, run_delay};

/// How many requests pass between two inspections of a caller, each of which takes about as long as a short request.
const LOOK_INTERVAL_REQUESTS: u32 = 64;

/// How long a pinned worker may wait for its processor between two inspections: 250 us for each request, which is five
/// times as long as one takes that has to wake the worker on an idle processor.
const RUN_DELAY_MAX: Duration = Duration::from_micros(250 * LOOK_INTERVAL_REQUESTS as u64);

/// For how many inspections workers aren't pinned after one had to wait, as a power of 2: the first time.
const UNPINNED_EXPONENT_MIN: u32 = 8;

/// The same, for the last of many times.
const UNPINNED_EXPONENT_MAX: u32 = 16;

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
    /// Inspections until workers may be pinned again.
    unpinned_for: AtomicU32,
    /// For how many inspections, as a power of 2, workers aren't pinned should one have to wait again.
    unpinned_exponent: AtomicU32,
}

impl Default for CpuAffinity {
    fn default() -> Self {
        Self {
            pinned_to: AtomicUsize::new(ANYWHERE),
            caller: AtomicUsize::new(ANYWHERE),
            countdown: AtomicU32::new(LOOK_INTERVAL_REQUESTS),
            unpinned_for: AtomicU32::new(0),
            unpinned_exponent: AtomicU32::new(UNPINNED_EXPONENT_MIN),
        }
    }
}

thread_local! {
    /// The processor that the calling worker is pinned to, or [`ANYWHERE`].
    static PINNED_TO: Cell<usize> = const { Cell::new(ANYWHERE) };
    /// How long the calling worker had waited for a processor in all, when it was pinned or at its last inspection.
    static RUN_DELAY: Cell<Option<Duration>> = const { Cell::new(None) };
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
                let waited = (PINNED_TO.get() != ANYWHERE).then(waited_since_last_call).flatten();
                self.plan(&hint, processors, waited);
            }
            // Somebody may have set another mask meanwhile, for all threads or for this one.
            pin(self.pinned_to.load(Ordering::Relaxed), allowed.as_ref());
        }
        let pinned_to = self.pinned_to.load(Ordering::Relaxed);
        if pinned_to != PINNED_TO.get() {
            pin(pinned_to, allowed().as_ref());
        }
    }

    /// Decides where workers run, by the caller's processor at this inspection and at the one before, and by how long
    /// the calling worker has waited for the processor that it's pinned to.
    fn plan(&self, hint: &SchedHint, processors: usize, waited: Option<Duration>) {
        let before = self.caller.swap(hint.processor, Ordering::Relaxed);
        let exponent = self.unpinned_exponent.load(Ordering::Relaxed);
        match waited {
            Some(waited) if waited > RUN_DELAY_MAX => {
                self.unpinned_for.store(1 << exponent, Ordering::Relaxed);
                self.unpinned_exponent.store((exponent + 1).min(UNPINNED_EXPONENT_MAX), Ordering::Relaxed);
            }
            Some(_) => {
                self.unpinned_exponent.store((exponent - 1).max(UNPINNED_EXPONENT_MIN), Ordering::Relaxed);
            }
            None => {}
        }
        let unpinned_for = self.unpinned_for.load(Ordering::Relaxed);
        self.unpinned_for.store(unpinned_for.saturating_sub(1), Ordering::Relaxed);
        // The caller, which sleeps, needs a processor as well.
        if hint.running < processors || unpinned_for > 0 {
            self.pinned_to.store(ANYWHERE, Ordering::Relaxed);
        } else if before == hint.processor {
            self.pinned_to.store(hint.processor, Ordering::Relaxed);
        }
    }
}

/// Pins the calling thread to a processor, if it may run there. Otherwise the scheduler decides, within the mask.
fn pin(processor: usize, allowed: Option<&CpuSet>) {
    // Set even on failure, so that the next attempt waits until the processor changes.
    if PINNED_TO.replace(processor) == ANYWHERE {
        waited_since_last_call();
    }
    let Some(allowed) = allowed else { return };
    let mut only = CpuSet::new();
    let may_be_there = allowed.is_set(processor).unwrap_or(false) && only.set(processor).is_ok();
    let wanted = if may_be_there { &only } else { allowed };
    if sched_getaffinity(THIS_THREAD).is_ok_and(|now| now != *wanted) {
        let _ = sched_setaffinity(THIS_THREAD, wanted);
    }
}

/// How long the calling thread has waited for a processor since it last called this. `None` the first time, and where
/// the kernel doesn't tell.
fn waited_since_last_call() -> Option<Duration> {
    let now = run_delay();
    Some(now?.saturating_sub(RUN_DELAY.replace(now)?))
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
        affinity.plan(&SchedHint { processor, running }, 4, None);
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
    fn a_worker_that_has_to_wait_frees_all_for_a_while_and_then_for_longer() {
        let affinity = CpuAffinity::default();
        let inspect = |waited| {
            affinity.plan(&SchedHint { processor: 1, running: 4 }, 4, waited);
            affinity.pinned_to.load(Ordering::Relaxed)
        };
        let long = Some(RUN_DELAY_MAX + Duration::from_nanos(1));
        let unpinned_after_waiting = || {
            assert_eq!(inspect(long), ANYWHERE);
            1 + std::iter::from_fn(|| (inspect(None) == ANYWHERE).then_some(())).count()
        };
        assert_eq!([inspect(None), inspect(None)], [ANYWHERE, 1]);
        assert_eq!([(); 3].map(|()| unpinned_after_waiting()), [256, 512, 1024]);
        assert_eq!([inspect(Some(RUN_DELAY_MAX)), inspect(None)], [1, 1]);
        assert_eq!(unpinned_after_waiting(), 1024);
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
