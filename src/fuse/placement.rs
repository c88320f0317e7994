//! Workers run where their callers run.
//!
//! A caller sleeps while it's served, so its processor is free; but the scheduler wakes a worker on an idle one, and to wake that takes
//! several times as long as everything that the worker has to do (on a virtual machine the hypervisor has to be asked). So now and then a
//! worker looks where its caller last ran, and the workers tie themselves to that processor: what follows is mostly the same caller's. They
//! untie themselves where they have to wait for their turn.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use parking_lot::Mutex;

/// How many requests pass between two looks, each of which takes about as long as a short request: few when a caller has moved, more and
/// more while nothing new is seen.
const INTERVALS: std::ops::RangeInclusive<u32> = 4..=64;

/// How long a worker may have waited for its processor per request. It waits for a caller that goes on to run, after a RELEASE, as a matter of
/// course; for somebody else, who uses up his time, it would be milliseconds.
const PATIENCE: Duration = Duration::from_micros(250);

/// For how many looks workers stay untied that had to wait.
const REST: u32 = 16;

/// The number of no processor.
const ANYWHERE: usize = usize::MAX;

/// Where the workers of a session run.
#[derive(Debug)]
pub(super) struct Placement {
    /// The processor that they tie themselves to, or [`ANYWHERE`].
    place: AtomicUsize,
    /// Requests until the next look.
    countdown: AtomicU32,
    plan: Mutex<Plan>,
}

/// What a look says: on which processor the caller last ran, and how long the calling thread has waited for a processor so far.
pub(super) type Look = (usize, Duration);

impl Default for Placement {
    fn default() -> Self {
        let countdown = AtomicU32::new(*INTERVALS.start());
        Self { place: AtomicUsize::new(ANYWHERE), countdown, plan: Mutex::default() }
    }
}

impl Placement {
    /// A request has come to the calling worker.
    pub(super) fn request_came(&self, look: impl FnOnce() -> Option<Look>) {
        WORKER.with_borrow_mut(|worker| {
            worker.requests = worker.requests.saturating_add(1);
            if self.countdown.fetch_sub(1, Ordering::Relaxed) == 1 {
                let (place, interval) = match look() {
                    Some((caller, waited)) => {
                        let waits = worker.waits(waited);
                        let mut plan = self.plan.lock();
                        (plan.next(caller, waits), plan.interval)
                    }
                    // The caller can't be seen, or the kernel doesn't tell.
                    None => (self.place.load(Ordering::Relaxed), *INTERVALS.end()),
                };
                self.place.store(place, Ordering::Relaxed);
                self.countdown.store(interval, Ordering::Relaxed);
            }
            let place = self.place.load(Ordering::Relaxed);
            if place != worker.tied_to {
                worker.move_to(place);
            }
        });
    }
}

/// Where the workers should run, and why.
#[derive(Debug)]
struct Plan {
    interval: u32,
    /// Where the caller was at the last look.
    caller: Option<usize>,
    place: usize,
    /// Looks until they are tied again.
    rest: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self { interval: *INTERVALS.start(), caller: None, place: ANYWHERE, rest: 0 }
    }
}

impl Plan {
    /// The place from now on, when the caller last ran on this processor and the worker `waits` too long for its turn.
    fn next(&mut self, caller: usize, waits: bool) -> usize {
        let before = self.caller.replace(caller);
        let was_steady = self.interval == *INTERVALS.end();
        let has_moved = before.is_some_and(|before| before != caller);
        // Callers that take turns aren't a reason to look more often.
        self.interval =
            if has_moved && was_steady { *INTERVALS.start() } else { (self.interval * 2).min(*INTERVALS.end()) };
        if waits && self.place != ANYWHERE {
            self.rest = REST;
            self.place = ANYWHERE;
        } else if self.rest > 0 {
            self.rest -= 1;
        } else if before == Some(caller) {
            self.place = caller;
        }
        self.place
    }
}

thread_local! {
    static WORKER: RefCell<Worker> = const { RefCell::new(Worker::new()) };
}

/// A worker.
#[derive(Debug)]
struct Worker {
    /// Requests since the last look of its own.
    requests: u32,
    /// How long it had waited then.
    waited: Duration,
    tied_to: usize,
    /// Where it may run; what whoever started the server has determined.
    allowed: Option<CpuSet>,
}

impl Worker {
    const fn new() -> Self {
        Self { requests: 0, waited: Duration::ZERO, tied_to: ANYWHERE, allowed: None }
    }

    /// Whether it has waited too long for each request since its last look, if it has waited so long in all.
    fn waits(&mut self, waited: Duration) -> bool {
        let since = waited.saturating_sub(std::mem::replace(&mut self.waited, waited));
        since > PATIENCE * std::mem::take(&mut self.requests)
    }

    /// Where that can't be (a processor that isn't this server's to use), the scheduler goes on to decide.
    fn move_to(&mut self, place: usize) {
        // It isn't tried again until the place changes.
        self.tied_to = place;
        if self.allowed.is_none() {
            self.allowed = sched_getaffinity(THIS_THREAD).ok();
        }
        let Some(allowed) = &self.allowed else { return };
        let mut only = CpuSet::new();
        let may_be_there = allowed.is_set(place).unwrap_or(false) && only.set(place).is_ok();
        let _ = sched_setaffinity(THIS_THREAD, if may_be_there { &only } else { allowed });
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_that_stays_is_followed() {
        let mut plan = Plan::default();
        let places: Vec<_> = [1, 1, 1, 0, 1, 0, 0, 0].map(|caller| plan.next(caller, false)).into();
        assert_eq!(places, [ANYWHERE, 1, 1, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn looks_become_rare_until_the_caller_moves() {
        let mut plan = Plan::default();
        let mut intervals = |callers: &[usize]| -> Vec<u32> {
            let look = |caller: &usize| {
                plan.next(*caller, false);
                plan.interval
            };
            callers.iter().map(look).collect()
        };
        assert_eq!(intervals(&[1, 1, 1, 1, 1, 1]), [8, 16, 32, 64, 64, 64]);
        assert_eq!(intervals(&[0, 1, 0, 1, 0]), [4, 8, 16, 32, 64], "taking turns");
        assert_eq!(intervals(&[1]), [4]);
    }

    #[test]
    fn who_has_to_wait_is_let_go_for_a_while() {
        let mut plan = Plan::default();
        assert_eq!([plan.next(1, true), plan.next(1, true)], [ANYWHERE, 1], "untied, it says nothing of the place");
        assert_eq!([plan.next(1, false), plan.next(1, true)], [1, ANYWHERE]);
        for _ in 0..REST {
            assert_eq!(plan.next(1, false), ANYWHERE);
        }
        assert_eq!(plan.next(1, false), 1);

        let mut worker = Worker::new();
        worker.requests = 10;
        assert!(worker.waits(Duration::from_micros(2501)));
        worker.requests = 10;
        assert!(!worker.waits(Duration::from_micros(5001)));
    }

    #[test]
    fn a_worker_is_tied_and_untied() {
        // In a thread of its own, which tests that come later don't run in.
        let test = || {
            let before = sched_getaffinity(THIS_THREAD).unwrap();
            let processor = nix::sched::sched_getcpu().unwrap();
            let placement = Placement::default();
            let mut looks = 0;
            for _ in 0..100 {
                placement.request_came(|| {
                    looks += 1;
                    Some((processor, Duration::ZERO))
                });
            }
            assert_eq!(looks, 4, "at 4, 12, 28 and 60");
            let tied = sched_getaffinity(THIS_THREAD).unwrap();
            let places: Vec<_> = (0..CpuSet::count()).filter(|number| tied.is_set(*number).unwrap()).collect();
            assert_eq!(places, [processor]);
            WORKER.with_borrow_mut(|worker| worker.move_to(CpuSet::count() + 1));
            assert_eq!(sched_getaffinity(THIS_THREAD).unwrap(), before, "there is no such processor");
        };
        std::thread::spawn(test).join().unwrap();
    }
}
