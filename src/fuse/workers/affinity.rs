//! Where workers run.
//!
//! A caller sleeps while it's served, so its processor is free; but the scheduler wakes a worker on an idle one, and to wake that takes
//! several times as long as everything that the worker has to do (on a virtual machine the hypervisor has to be asked). So now and then a
//! worker looks where its caller last ran, and how many threads run at all. Where there's a processor to spare, workers run anywhere, and whoever
//! reads looks out for the next request (`lookout`): then neither needs to be woken. (To tie them to the caller's processor doesn't help
//! there: the scheduler takes the caller to the idle one.) Where there's none, they tie themselves to the caller's processor: what
//! follows is mostly the same caller's. They untie themselves where they have to wait for their turn.
//!
//! Where the server may run is for whoever started it to say, and for whoever says it later (taskset(1), a cpuset): the process' first thread,
//! which ties itself to nothing, has that mask. It's looked at with every look and every move, and no worker leaves it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::sched_hint::SchedHint;

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
    /// How many processors this server may use.
    processors: AtomicUsize,
    /// Changes whenever what the server may use does.
    allowance: AtomicU32,
    /// The processor that they tie themselves to, or [`ANYWHERE`].
    place: AtomicUsize,
    /// Requests until the next look.
    countdown: AtomicU32,
    plan: Mutex<Plan>,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get).into(),
            allowance: AtomicU32::new(0),
            place: AtomicUsize::new(ANYWHERE),
            countdown: AtomicU32::new(*INTERVALS.start()),
            plan: Mutex::default(),
        }
    }
}

impl Placement {
    /// A request has come to the calling worker. If it was time to look: whether there's a processor to spare, so that it needn't share its caller's.
    pub(super) fn request_came(&self, look: impl FnOnce() -> Option<SchedHint>) -> Option<bool> {
        WORKER.with_borrow_mut(|worker| {
            worker.requests = worker.requests.saturating_add(1);
            if worker.moved.is_none() {
                worker.moved = sched_getaffinity(THIS_THREAD).ok();
            }
            let has_room = (self.countdown.fetch_sub(1, Ordering::Relaxed) == 1).then(|| self.look(worker, look()));
            let (place, allowance) = (self.place.load(Ordering::Relaxed), self.allowance.load(Ordering::Relaxed));
            if place != worker.tied_to || allowance != worker.allowance {
                worker.allowance = allowance;
                worker.move_to(place);
            }
            has_room
        })
    }

    fn look(&self, worker: &mut Worker, seen: Option<SchedHint>) -> bool {
        let mut plan = self.plan.lock();
        let allowed = allowed();
        if allowed != plan.allowed {
            if let (Some(allowed), true) = (&allowed, plan.allowed.is_some()) {
                self.processors.store(count(allowed), Ordering::Relaxed);
                self.allowance.fetch_add(1, Ordering::Relaxed);
            }
            plan.allowed = allowed;
        }
        // Where the caller can't be seen, or the kernel doesn't tell, it stays as it is.
        let has_room = seen.is_some_and(|seen| {
            // The caller, which sleeps, needs one as well.
            let has_room = seen.running < self.processors.load(Ordering::Relaxed);
            plan.look(seen.processor, worker.waits(seen.waited), has_room);
            has_room
        });
        self.place.store(plan.place, Ordering::Relaxed);
        self.countdown.store(if seen.is_some() { plan.interval } else { *INTERVALS.end() }, Ordering::Relaxed);
        has_room
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
    /// There was a processor to spare at the last look.
    had_room: bool,
    /// Where the server was allowed to run at the last look.
    allowed: Option<CpuSet>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { interval: *INTERVALS.start(), caller: None, place: ANYWHERE, rest: 0, had_room: false, allowed: None }
    }
}

impl Plan {
    /// The caller last ran on this processor, the worker `waits` too long for its turn, or there's a processor to spare.
    fn look(&mut self, caller: usize, waits: bool, has_room: bool) {
        let before = self.caller.replace(caller);
        let was_steady = self.interval == *INTERVALS.end();
        let has_moved = before.is_some_and(|before| before != caller);
        // Callers that take turns aren't a reason to look more often. What fills the last processor is often gone at once.
        let is_full = std::mem::replace(&mut self.had_room, has_room) && !has_room;
        let is_news = is_full || has_moved && was_steady;
        self.interval = if is_news { *INTERVALS.start() } else { (self.interval * 2).min(*INTERVALS.end()) };
        if has_room {
            self.place = ANYWHERE;
        } else if waits && self.place != ANYWHERE {
            self.rest = REST;
            self.place = ANYWHERE;
        } else if self.rest > 0 {
            self.rest -= 1;
        } else if before == Some(caller) {
            self.place = caller;
        }
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
    /// As [`Placement`] had it at the last move.
    allowance: u32,
    /// Where its last move has let it run, or whoever started it; `None` before its first request.
    moved: Option<CpuSet>,
    /// Where somebody else has let this thread alone run since.
    own: Option<CpuSet>,
}

impl Worker {
    const fn new() -> Self {
        Self { requests: 0, waited: Duration::ZERO, tied_to: ANYWHERE, allowance: 0, moved: None, own: None }
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
        let Some(mut common) = allowed() else { return };
        loop {
            self.notice(&common);
            let allowed = self.own.as_ref().unwrap_or(&common);
            let mut only = CpuSet::new();
            let may_be_there = allowed.is_set(place).unwrap_or(false) && only.set(place).is_ok();
            let _ = sched_setaffinity(THIS_THREAD, if may_be_there { &only } else { allowed });
            // As the kernel has made it: a cpuset takes some away.
            self.moved = sched_getaffinity(THIS_THREAD).ok();
            // Somebody may have changed it for all threads in between, and this one has just undone that.
            match self::allowed() {
                Some(now) if now != common => common = now,
                _ => return,
            }
        }
    }

    /// What somebody else has set for this thread holds, unless that's what is common to all.
    fn notice(&mut self, common: &CpuSet) {
        let Ok(now) = sched_getaffinity(THIS_THREAD) else { return };
        if self.moved.is_some_and(|moved| moved != now) {
            self.own = Some(now).filter(|now| now != common);
        }
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);

/// Where the server may run: the mask of the process' first thread. It only waits for the others.
fn allowed() -> Option<CpuSet> {
    sched_getaffinity(Pid::this()).ok()
}

fn count(set: &CpuSet) -> usize {
    (0..CpuSet::count()).filter(|number| set.is_set(*number).unwrap_or(false)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(plan: &mut Plan, caller: usize, waits: bool) -> usize {
        plan.look(caller, waits, false);
        plan.place
    }

    #[test]
    fn nobody_is_tied_where_there_is_room() {
        let mut plan = Plan::default();
        assert_eq!([next(&mut plan, 1, false), next(&mut plan, 1, false)], [ANYWHERE, 1]);
        plan.look(1, false, true);
        assert_eq!(plan.place, ANYWHERE);
        plan.look(1, false, true);
        assert_eq!(plan.place, ANYWHERE);
        assert_eq!(next(&mut plan, 1, false), 1);

        let placement = Placement { processors: 4.into(), ..Placement::default() };
        let look = |running| {
            placement.countdown.store(1, Ordering::Relaxed);
            placement.request_came(|| Some(SchedHint { processor: 0, waited: Duration::ZERO, running }))
        };
        assert_eq!([look(1), look(3), look(4), look(5)], [Some(true), Some(true), Some(false), Some(false)]);
        assert_eq!(placement.request_came(|| None), None, "no time for a look");
    }

    #[test]
    fn a_caller_that_stays_is_followed() {
        let mut plan = Plan::default();
        let places: Vec<_> = [1, 1, 1, 0, 1, 0, 0, 0].map(|caller| next(&mut plan, caller, false)).into();
        assert_eq!(places, [ANYWHERE, 1, 1, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn looks_become_rare_until_the_caller_moves() {
        let mut plan = Plan::default();
        let mut intervals = |callers: &[usize]| -> Vec<u32> {
            let look = |caller: &usize| {
                next(&mut plan, *caller, false);
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
        assert_eq!(
            [next(&mut plan, 1, true), next(&mut plan, 1, true)],
            [ANYWHERE, 1],
            "untied, it says nothing of the place"
        );
        assert_eq!([next(&mut plan, 1, false), next(&mut plan, 1, true)], [1, ANYWHERE]);
        for _ in 0..REST {
            assert_eq!(next(&mut plan, 1, false), ANYWHERE);
        }
        assert_eq!(next(&mut plan, 1, false), 1);

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
                    Some(SchedHint { processor, waited: Duration::ZERO, running: usize::MAX })
                });
            }
            assert_eq!(looks, 4, "at 4, 12, 28 and 60");
            let tied = sched_getaffinity(THIS_THREAD).unwrap();
            let places: Vec<_> = (0..CpuSet::count()).filter(|number| tied.is_set(*number).unwrap()).collect();
            assert_eq!(places, [processor]);
            WORKER.with_borrow_mut(|worker| worker.move_to(CpuSet::count() + 1));
            assert_eq!(sched_getaffinity(THIS_THREAD).unwrap(), before, "there is no such processor");
            // Somebody else says where this thread runs.
            let mut elsewhere = CpuSet::new();
            elsewhere.set((0..CpuSet::count()).find(|number| before.is_set(*number).unwrap()).unwrap()).unwrap();
            sched_setaffinity(THIS_THREAD, &elsewhere).unwrap();
            for place in (0..CpuSet::count()).filter(|number| before.is_set(*number).unwrap()).chain([ANYWHERE]) {
                WORKER.with_borrow_mut(|worker| worker.move_to(place));
                assert_eq!(sched_getaffinity(THIS_THREAD).unwrap(), elsewhere, "{place}");
            }
            // And then that it's as all others.
            sched_setaffinity(THIS_THREAD, &before).unwrap();
            WORKER.with_borrow_mut(|worker| worker.move_to(processor));
            assert_eq!(count(&sched_getaffinity(THIS_THREAD).unwrap()), 1);
            WORKER.with_borrow_mut(|worker| worker.move_to(ANYWHERE));
            assert_eq!(sched_getaffinity(THIS_THREAD).unwrap(), before);
        };
        std::thread::spawn(test).join().unwrap();
    }
}
