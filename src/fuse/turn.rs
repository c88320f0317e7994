//! A worker's turn: from a request to the reply, and what it does then.
//!
//! The kernel hands requests to those who wait for one, in turn, and wakes them for it. A wake-up is what a request costs most of (`placement`), so
//! for a caller that sends one request after another a single worker reads, and looks out for the next one before it sleeps; the others stand by. As
//! soon as several callers wait at the same time, all of them read.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use fuser::Request;

use super::convert;
use super::lookout::{Lookout, Sight};
use super::placement::Placement;
use super::standby::StandBy;
use crate::fs::{Caller, Whereabouts};

/// Of how many requests a mean is taken.
const MEMORY: u32 = 16;

/// What the mean is when every one of them had to wait for another caller's.
const ALWAYS: u32 = 256 * MEMORY;

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
    /// How many turns somebody waits for.
    serving: AtomicU32,
    /// How often callers have waited for each other, up to [`ALWAYS`].
    crowd: AtomicU32,
    is_crowded: AtomicBool,
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
            serving: AtomicU32::new(0),
            crowd: AtomicU32::new(0),
            is_crowded: AtomicBool::new(false),
        })
    }

    /// A request has come to the calling worker.
    pub(super) fn turn(&self, request: &Request, look: impl FnOnce(&Caller) -> Option<Whereabouts>) -> Asked<'_> {
        self.standby.begins();
        let caller = convert::caller(request);
        self.note(caller.tid);
        if let Some(has_room) = self.placement.request_came(|| look(&caller)) {
            self.lookout.allow(has_room);
        }
        Asked { caller, _turn: Turn { workers: self, has_caller: true } }
    }

    /// A request has come for whose reply nobody waits, and which doesn't say whose it is: RELEASE, FORGET.
    pub(super) fn turn_for_nobody(&self) -> Turn<'_> {
        self.standby.begins();
        Turn { workers: self, has_caller: false }
    }

    /// Whether callers wait for each other.
    fn note(&self, tid: i32) {
        let is_another = self.last.swap(tid, Ordering::Relaxed) != tid;
        let waited = self.one_waited.swap(false, Ordering::Relaxed) && is_another;
        let is_beside = self.serving.fetch_add(1, Ordering::Relaxed) > 0;
        let crowd = mean(self.crowd.load(Ordering::Relaxed), waited || is_beside);
        self.crowd.store(crowd, Ordering::Relaxed);
        let is_crowded = self.is_crowded.load(Ordering::Relaxed);
        if !is_crowded && crowd > ALWAYS / 4 {
            self.is_crowded.store(true, Ordering::Relaxed);
            self.standby.call();
        } else if is_crowded && crowd < ALWAYS / 16 {
            self.is_crowded.store(false, Ordering::Relaxed);
        }
    }

    fn ends(&self, has_caller: bool) {
        if has_caller {
            self.serving.fetch_sub(1, Ordering::Relaxed);
        }
        if self.is_crowded.load(Ordering::Relaxed) {
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
pub(super) struct Turn<'a> {
    workers: &'a Workers,
    has_caller: bool,
}

/// A turn at a request that somebody waits for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) caller: Caller,
    _turn: Turn<'a>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.workers.ends(self.has_caller);
    }
}
