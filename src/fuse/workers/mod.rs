//! The workers of a session: which of them reads requests, and how each runs a request up to the reply and after it.
//!
//! The kernel hands requests to waiting readers in turn, and wakes them. The wake-up is the largest part of a
//! request's cost. So a single worker reads, and polls for the next request before it sleeps; the others wait.

mod affinity;
mod busy_poll;
mod fair_pool;
pub(super) mod lanes;
mod leader;
mod sched_hint;
mod slow_slot;
pub(super) mod throttle;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fuser::{Request, RequestId};

use self::affinity::CpuAffinity;
use self::busy_poll::BusyPoller;
use self::leader::LeaderFollowers;
use self::sched_hint::SchedHint;
use self::slow_slot::{SlowSlot, SlowSlotGuard};
use super::convert;
use crate::activity;
use crate::fs::Caller;
use crate::records::{self, Records};

/// The workers of a session.
#[derive(Debug)]
pub(super) struct Workers {
    roles: LeaderFollowers,
    poller: BusyPoller,
    /// `None` where callers of several tenants share the workers: none of them may choose the others' processor.
    affinity: Option<CpuAffinity>,
    slow_slot: SlowSlot,
    /// The last message that asked for a FORGET.
    forgetting: AtomicU64,
    /// What a worker does before it sleeps.
    on_idle: fn(),
    records: Arc<Records>,
}

impl Workers {
    /// The workers that read from this `/dev/fuse`. Each calls `on_idle` before it sleeps. With `may_pin`, they follow
    /// their callers to a processor.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn new(
        device: BorrowedFd<'_>,
        on_idle: fn(),
        may_pin: bool,
        records: &Arc<Records>,
    ) -> io::Result<Self> {
        Ok(Self {
            roles: LeaderFollowers::default(),
            poller: BusyPoller::new(device)?,
            affinity: may_pin.then(CpuAffinity::default),
            slow_slot: SlowSlot::default(),
            forgetting: AtomicU64::new(0),
            on_idle,
            records: Arc::clone(records),
        })
    }

    /// Begins a request of the calling worker's.
    pub(super) fn begin(&self, request: &Request) -> RequestContext<'_> {
        self.roles.begin();
        let caller = convert::caller(request);
        if let Some(affinity) = &self.affinity {
            affinity.note_request(|| SchedHint::of_caller(caller.tid));
        }
        let guard = self.guard(request.unique());
        activity::set_caller(caller.tid, caller.uid);
        RequestContext { caller, _guard: guard }
    }

    /// Begins a RELEASE, whose reply nobody waits for, and which doesn't name its caller.
    pub(super) fn begin_unattended(&self, request: &Request) -> RequestGuard<'_> {
        self.roles.begin();
        self.guard(request.unique())
    }

    fn guard(&self, request: RequestId) -> RequestGuard<'_> {
        RequestGuard { _noted: self.records.begin_request(request.0), _worker: WorkerGuard(self) }
    }

    /// Does one of the FORGETs of a single message. The calling worker has to do the others, so it doesn't hand over,
    /// and polls only the first time: mostly there's only one, and the next request is on its way.
    pub(super) fn forget(&self, message: RequestId, work: impl FnOnce()) {
        self.roles.begin();
        work();
        self.roles.go_on();
        if self.forgetting.swap(message.0, Ordering::Relaxed) != message.0 {
            self.poller.poll();
        }
    }

    /// Lets the calling worker do a slow write itself, while it has the guard. `None` if the write has to run in its
    /// lane: another worker does one, or no follower is there to read meanwhile.
    ///
    /// The workers exist from the session's start to its end. So the watchdog needs no new thread, and no limit of
    /// processes matters.
    pub(super) fn take_slow_slot(&self) -> Option<SlowSlotGuard<'_>> {
        let slot = if self.roles.has_watchdog() { self.slow_slot.take() } else { None };
        slot.inspect(|_| self.records.may_wait())
    }

    fn end(&self) {
        if self.roles.lead_or_follow(self.on_idle) && !self.poller.poll() {
            (self.on_idle)();
        }
    }
}

/// A worker's request. It ends when this is dropped, which has to be after the reply.
#[derive(Debug)]
pub(super) struct RequestGuard<'a> {
    // In this order: a request has ended before its worker reads another one.
    _noted: records::RequestGuard<'a>,
    _worker: WorkerGuard<'a>,
}

#[derive(Debug)]
struct WorkerGuard<'a>(&'a Workers);

/// A request that a caller waits for.
#[derive(Debug)]
pub(super) struct RequestContext<'a> {
    pub(super) caller: Caller,
    _guard: RequestGuard<'a>,
}

impl Drop for WorkerGuard<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// One worker does all of a message that forgets many, though another one reads meanwhile.
    #[test]
    fn nobody_stands_by_while_forgetting() {
        let (reader, _) = nix::unistd::pipe().unwrap();
        let workers = std::sync::Arc::new(Workers::new(reader.as_fd(), || {}, true, &Records::none()).unwrap());
        let (done, waits) = std::sync::mpsc::channel();
        let one = std::sync::Arc::clone(&workers);
        std::thread::spawn(move || {
            one.roles.go_on();
            let forgotten = (0..100).map(|_| one.forget(RequestId(7), || {})).count();
            let _ = done.send(forgotten);
        });
        assert_eq!(waits.recv_timeout(std::time::Duration::from_secs(20)), Ok(100));
    }

    #[test]
    fn a_worker_polls_once_for_each_message_that_forgets() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let workers = Workers::new(reader.as_fd(), || {}, true, &Records::none()).unwrap();
        // After one timeout two requests pass without polling, after the second four.
        let backoffs = [7, 7, 7, 8, 8, 9, 10, 10].map(|message| {
            workers.forget(RequestId(message), || {});
            workers.poller.backoff()
        });
        assert_eq!(backoffs, [2, 2, 2, 1, 1, 0, 4, 4]);
    }

    #[test]
    fn no_worker_does_a_slow_write_where_nobody_stands_by() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let workers = std::sync::Arc::new(Workers::new(reader.as_fd(), || {}, true, &Records::none()).unwrap());
        assert!(workers.take_slow_slot().is_none());
        // One worker reads, and another one waits.
        workers.roles.go_on();
        let follower = std::sync::Arc::clone(&workers);
        std::thread::spawn(move || follower.roles.lead_or_follow(|| {}));
        while !workers.roles.has_watchdog() {
            std::thread::yield_now();
        }
        assert!(workers.take_slow_slot().is_some());
    }
}
