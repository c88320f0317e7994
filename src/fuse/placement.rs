//! Workers run where their callers run.
//!
//! A caller sleeps while it's served, so its processor is free; but the scheduler wakes a worker on an idle one, and to wake that takes
//! several times as long as everything that the worker has to do (on a virtual machine the hypervisor has to be asked). So now and then a
//! worker looks where its caller last ran, and ties itself to that processor: what follows is mostly the same caller's. It unties itself
//! where it has to wait for its turn.

use std::cell::RefCell;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// How many requests pass between two looks, each of which takes about as long as a short request.
const INTERVAL: u32 = 32;

/// How long a worker may have waited for its processor between two looks: half of what is gained by being tied to it.
const PATIENCE: Duration = Duration::from_micros(20 * INTERVAL as u64);

/// After how many looks a worker that had to wait is tied again.
const REST: u32 = 64;

thread_local! {
    static PLACEMENT: RefCell<Placement> = RefCell::default();
}

/// A request has come to the calling worker. `look` says on which processor its caller last ran, and how long this thread has waited for a
/// processor so far.
pub(super) fn request_came(look: impl FnOnce() -> Option<(usize, Duration)>) {
    PLACEMENT.with_borrow_mut(|placement| {
        placement.requests = placement.requests.wrapping_add(1);
        if !placement.requests.is_multiple_of(INTERVAL) {
            return;
        }
        match look().map(|(caller, waited)| placement.next(caller, waited)) {
            Some(Step::Tie(processor)) => placement.tie(processor),
            Some(Step::Untie) => placement.untie(),
            Some(Step::Stay) | None => {}
        }
    });
}

/// Where a worker is, and why.
#[derive(Debug, Default)]
struct Placement {
    requests: u32,
    tied_to: Option<usize>,
    /// Where the caller was at the last look.
    caller: Option<usize>,
    waited: Duration,
    /// Looks until it's tied again.
    rest: u32,
    /// Where it may run; what whoever started the server has determined.
    allowed: Option<CpuSet>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Stay,
    Tie(usize),
    Untie,
}

impl Placement {
    /// What to do, when the caller last ran on this processor and this thread has waited so long in all.
    fn next(&mut self, caller: usize, waited: Duration) -> Step {
        let before = self.caller.replace(caller);
        let since = waited.saturating_sub(std::mem::replace(&mut self.waited, waited));
        if self.tied_to.is_some() && since > PATIENCE {
            self.rest = REST;
            return Step::Untie;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return Step::Stay;
        }
        // Callers that take turns aren't followed.
        if self.tied_to != Some(caller) && before == Some(caller) { Step::Tie(caller) } else { Step::Stay }
    }

    /// Where that can't be (a processor that isn't this server's to use), the scheduler goes on to decide.
    fn tie(&mut self, processor: usize) {
        if self.allowed.is_none() {
            self.allowed = sched_getaffinity(THIS_THREAD).ok();
        }
        let mut only = CpuSet::new();
        let allowed = self.allowed.is_some_and(|allowed| allowed.is_set(processor).unwrap_or(false));
        let tied = allowed && only.set(processor).is_ok() && sched_setaffinity(THIS_THREAD, &only).is_ok();
        if tied {
            self.tied_to = Some(processor);
        }
    }

    fn untie(&mut self) {
        self.tied_to = None;
        if let Some(allowed) = &self.allowed {
            let _ = sched_setaffinity(THIS_THREAD, allowed);
        }
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(placement: &mut Placement, caller: usize, waited_us: u64) -> Step {
        let step = placement.next(caller, Duration::from_micros(waited_us));
        match step {
            Step::Tie(processor) => placement.tied_to = Some(processor),
            Step::Untie => placement.tied_to = None,
            Step::Stay => {}
        }
        step
    }

    #[test]
    fn a_caller_that_stays_is_followed() {
        let mut placement = Placement::default();
        let steps: Vec<_> = [1, 1, 1, 0, 1, 0, 0, 0].map(|caller| follow(&mut placement, caller, 0)).into();
        use Step::{Stay, Tie};
        assert_eq!(steps, [Stay, Tie(1), Stay, Stay, Stay, Stay, Tie(0), Stay]);
    }

    #[test]
    fn who_has_to_wait_is_let_go_for_a_while() {
        let mut placement = Placement::default();
        // Waiting before it was tied says nothing of the place.
        follow(&mut placement, 1, 900_000);
        assert_eq!(follow(&mut placement, 1, 1_000_000), Step::Tie(1));
        assert_eq!(follow(&mut placement, 1, 1_000_100), Step::Stay);
        assert_eq!(follow(&mut placement, 1, 1_010_000), Step::Untie);
        for _ in 0..REST {
            assert_eq!(follow(&mut placement, 1, 1_010_000), Step::Stay);
        }
        assert_eq!(follow(&mut placement, 1, 1_010_000), Step::Tie(1));
    }

    #[test]
    fn a_look_every_so_many_requests() {
        let mut looks = 0;
        for _ in 0..10 * INTERVAL {
            request_came(|| {
                looks += 1;
                None
            });
        }
        assert_eq!(looks, 10);
    }

    #[test]
    fn a_thread_is_tied_and_untied() {
        let before = sched_getaffinity(THIS_THREAD).unwrap();
        let processor = nix::sched::sched_getcpu().unwrap();
        let mut placement = Placement::default();
        placement.tie(processor);
        assert_eq!(placement.tied_to, Some(processor));
        let tied = sched_getaffinity(THIS_THREAD).unwrap();
        assert_eq!(
            (0..CpuSet::count()).filter(|number| tied.is_set(*number).unwrap()).collect::<Vec<_>>(),
            [processor]
        );
        placement.untie();
        assert_eq!(sched_getaffinity(THIS_THREAD).unwrap(), before);
        placement.tie(CpuSet::count() + 1);
        assert_eq!(placement.tied_to, None, "there is no such processor");
    }
}
