//! A worker's turn: from a request to the reply, and what it does then.
//!
//! The kernel hands requests to those who wait for one, in turn, and wakes them for it. A wake-up is what a request costs most of (`placement`), so
//! for a caller that sends one request after another a single worker reads, and looks out for the next one before it sleeps; the others stand by.
//! Where callers have to wait for each other, all of them read for a while.

pub(super) mod fair_pool;

mod affinity;
mod busy_poll;
mod leader;
mod sched_hint;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use fuser::{Request, RequestId};

use self::affinity::Placement;
use self::busy_poll::{Lookout, Sight};
use self::leader::StandBy;
use self::sched_hint::SchedHint;
use super::convert;
use crate::fs::Caller;

/// Of how many requests a mean is taken.
const MEMORY: u32 = 16;

/// What the mean is when every one of them had to wait for another caller's.
const ALWAYS: u32 = 256 * MEMORY;

/// For how many requests all read.
const CROWD: u32 = 1024;

/// The workers of a session.
#[derive(Debug)]
pub(super) struct Workers {
    standby: StandBy,
    lookout: Lookout,
    placement: Placement,
    /// Who made the last request that somebody waits for.
    last: AtomicI32,
    /// A request was there already when the last turn ended.
    one_waited: AtomicBool,
    /// How often callers have waited for each other, up to [`ALWAYS`].
    waits: AtomicU32,
    /// For how many requests more all read.
    crowd: AtomicU32,
    /// The last message that asked for something to be forgotten.
    forgetting: AtomicU64,
}

impl Workers {
    /// The workers that read from this `/dev/fuse`.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn of(device: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            standby: StandBy::default(),
            lookout: Lookout::of(device)?,
            placement: Placement::default(),
            last: AtomicI32::new(0),
            one_waited: AtomicBool::new(false),
            waits: AtomicU32::new(0),
            crowd: AtomicU32::new(0),
            forgetting: AtomicU64::new(0),
        })
    }

    /// A request has come to the calling worker.
    pub(super) fn turn(&self, request: &Request) -> Asked<'_> {
        self.standby.begins();
        let caller = convert::caller(request);
        self.note(caller.tid);
        if let Some(has_room) = self.placement.request_came(|| SchedHint::of_caller(caller.tid)) {
            self.lookout.allow(has_room);
        }
        Asked { caller, _turn: Turn(self) }
    }

    /// A request has come for whose reply nobody waits, and which doesn't say whose it is: RELEASE.
    pub(super) fn turn_for_nobody(&self) -> Turn<'_> {
        self.standby.begins();
        Turn(self)
    }

    /// Does what may be one of many things that a single message asks for: FORGET. The calling worker, which has to do the others, doesn't
    /// stand by then, and looks out only the first time: mostly there's only one, and the next request is on its way.
    pub(super) fn in_between(&self, message: RequestId, work: impl FnOnce()) {
        self.standby.begins();
        work();
        self.standby.goes_on();
        let is_first = self.forgetting.swap(message.0, Ordering::Relaxed) != message.0;
        if is_first && self.crowd.load(Ordering::Relaxed) == 0 {
            self.lookout.look_out();
        }
    }

    /// Takes note of whether callers wait for each other.
    fn note(&self, tid: i32) {
        let is_another = self.last.swap(tid, Ordering::Relaxed) != tid;
        let crowd = self.crowd.load(Ordering::Relaxed);
        if crowd > 0 {
            self.crowd.store(crowd - 1, Ordering::Relaxed);
            return;
        }
        let waited = self.one_waited.swap(false, Ordering::Relaxed) && is_another;
        let waits = mean(self.waits.load(Ordering::Relaxed), waited);
        if waits > ALWAYS / 4 {
            self.waits.store(0, Ordering::Relaxed);
            self.crowd.store(CROWD, Ordering::Relaxed);
            self.standby.call();
        } else {
            self.waits.store(waits, Ordering::Relaxed);
        }
    }

    fn ends(&self) {
        if self.crowd.load(Ordering::Relaxed) > 0 {
            self.standby.goes_on();
        } else if self.standby.goes_on_or_stands_by() && self.lookout.look_out() == Sight::WasThere {
            self.one_waited.store(true, Ordering::Relaxed);
        }
    }
}

/// The mean with one more.
fn mean(before: u32, waited: bool) -> u32 {
    before - before / MEMORY + if waited { ALWAYS / MEMORY } else { 0 }
}

/// A worker's turn. It ends when it's dropped, which has to be after the reply.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Workers);

/// A turn at a request that somebody waits for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) caller: Caller,
    _turn: Turn<'a>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.ends();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn workers() -> Workers {
        let (reader, _) = nix::unistd::pipe().unwrap();
        Workers::of(reader.as_fd()).unwrap()
    }

    /// How many of these requests all read, if each was there already when the one before had its reply.
    fn crowded(workers: &Workers, callers: impl IntoIterator<Item = i32>) -> usize {
        let each = |tid: &i32| {
            workers.note(*tid);
            workers.one_waited.store(true, Ordering::Relaxed);
            workers.crowd.load(Ordering::Relaxed) > 0
        };
        callers.into_iter().filter(each).count()
    }

    #[test]
    fn all_read_where_callers_wait_for_each_other() {
        let workers = workers();
        assert_eq!(crowded(&workers, [7; 10_000]), 0, "a caller's own close, and the next open");
        assert_eq!(crowded(&workers, [7, 8].into_iter().cycle().take(10)), 5);
        assert_eq!(crowded(&workers, [7; 1020]), 1019);
        assert_eq!(crowded(&workers, [7; 10_000]), 0);
    }

    /// A message that forgets many is done by one worker at one go, though another one reads meanwhile.
    #[test]
    fn nobody_stands_by_in_between() {
        let workers = std::sync::Arc::new(workers());
        let (done, waits) = std::sync::mpsc::channel();
        let one = std::sync::Arc::clone(&workers);
        std::thread::spawn(move || {
            one.standby.goes_on();
            let forgotten = (0..100).map(|_| one.in_between(RequestId(7), || {})).count();
            let _ = done.send(forgotten);
        });
        assert_eq!(waits.recv_timeout(std::time::Duration::from_secs(20)), Ok(100));
    }

    #[test]
    fn one_looks_out_once_for_each_message_that_forgets() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let workers = Workers::of(reader.as_fd()).unwrap();
        workers.lookout.allow(true);
        // After one miss it waits for two others, after the second for four.
        let rests = [7, 7, 7, 8, 8, 9, 10, 10].map(|message| {
            workers.in_between(RequestId(message), || {});
            workers.lookout.rest()
        });
        assert_eq!(rests, [2, 2, 2, 1, 1, 0, 4, 4]);
    }

    #[test]
    fn callers_one_after_the_other_are_no_crowd() {
        let workers = workers();
        for tid in (7..10).cycle().take(10_000) {
            workers.note(tid);
            assert_eq!(workers.crowd.load(Ordering::Relaxed), 0);
        }
    }
}
