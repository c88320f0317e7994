//! The slots in shared memory in which threads note how far their requests have come.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::sys::shared::SharedMemory;

/// The bit in the number of a request that the kernel sends again (`FUSE_UNIQUE_RESEND`).
pub(super) const SENT_AGAIN: u64 = 1 << 63;

/// How many requests can be noted at once. A thread that finds no slot notes nothing.
const SLOTS: usize = 512;

/// How many slots a new server needs at least. It forgets the oldest requests of earlier ones for that.
const FREE_MIN: usize = 256;

// The words of a slot.
const REQUEST: usize = 0;
pub(super) const STAGE: usize = 1;
pub(super) const RESULT: usize = 2;
/// The handle of a file that was opened.
pub(super) const HANDLE: usize = 3;
/// The node of which an open file was counted.
pub(super) const COUNTED: usize = 4;
/// Whether a file was closed; of an open, whether its caller had been sent back before.
pub(super) const CLOSED: usize = 5;
/// When the request in hand was begun, in nanoseconds of the monotonic clock; 0 if it may wait for others.
const BEGUN: usize = 6;
/// The request in hand, noted or not.
const IN_HAND: usize = 7;

/// The call may have been made.
pub(super) const TRIED: u64 = 1;
/// The call was made, and its result is noted.
pub(super) const DONE: u64 = 2;

/// The slots of requests in shared memory.
#[derive(Debug)]
pub(super) struct Slots {
    memory: Option<Arc<SharedMemory>>,
    start: usize,
    free: Arc<Mutex<Vec<usize>>>,
    /// The slots of requests to earlier servers.
    left: Mutex<HashMap<u64, Vec<usize>>>,
    /// How many there are, so that most requests needn't look.
    pub(super) left_count: AtomicU64,
}

/// The slot that a thread uses for one request after the other.
#[derive(Debug)]
pub(super) struct OwnSlot {
    number: usize,
    free: Arc<Mutex<Vec<usize>>>,
}

impl Drop for OwnSlot {
    fn drop(&mut self) {
        self.free.lock().push(self.number);
    }
}

thread_local! {
    /// The number of the request that this thread answers; 0 for none.
    pub(super) static CURRENT: Cell<u64> = const { Cell::new(0) };
    /// Whether its slot is in use.
    static IS_NOTED: Cell<bool> = const { Cell::new(false) };
    pub(super) static OWN: RefCell<Option<OwnSlot>> = const { RefCell::new(None) };
}

/// What is known of a request that was sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) stage: u64,
    pub(super) result: u64,
    pub(super) handle: u64,
    pub(super) counted: u64,
    pub(super) closed: u64,
}

impl Slots {
    const SLOT_WORDS: usize = 8;
    /// The words of all slots.
    pub(super) const WORDS: usize = SLOTS * Self::SLOT_WORDS;

    pub(super) fn new(memory: Option<Arc<SharedMemory>>, start: usize) -> Self {
        let free = if memory.is_some() { (0..SLOTS).rev().collect() } else { Vec::new() };
        Self {
            memory,
            start,
            free: Arc::new(Mutex::new(free)),
            left: Mutex::default(),
            left_count: AtomicU64::default(),
        }
    }

    fn word(&self, slot: usize, index: usize) -> Option<&AtomicU64> {
        self.memory.as_ref()?.words().get(self.start + slot * Self::SLOT_WORDS + index)
    }

    fn load(&self, slot: usize, index: usize) -> u64 {
        self.word(slot, index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    pub(super) fn store(&self, slot: usize, index: usize, value: u64) {
        if let Some(word) = self.word(slot, index) {
            word.store(value, Ordering::Release);
        }
    }

    /// Finds the requests that an earlier server left.
    pub(super) fn recover(&self) {
        if self.memory.is_none() {
            return;
        }
        let mut left: Vec<(u64, usize)> = Vec::new();
        let mut free = Vec::new();
        for slot in (0..SLOTS).rev() {
            self.store(slot, IN_HAND, 0);
            match self.load(slot, REQUEST) {
                0 => free.push(slot),
                request => left.push((request, slot)),
            }
        }
        // The kernel numbers requests in their order.
        left.sort_unstable();
        let surplus = FREE_MIN.saturating_sub(free.len()).min(left.len());
        for (_, slot) in left.drain(..surplus) {
            self.store(slot, REQUEST, 0);
            free.push(slot);
        }
        let mut by_request: HashMap<u64, Vec<usize>> = HashMap::new();
        for (request, slot) in left {
            by_request.entry(request).or_default().push(slot);
        }
        self.left_count.store(by_request.len() as u64, Ordering::Release);
        *self.left.lock() = by_request;
        *self.free.lock() = free;
    }

    /// What is known of the current request, if it was sent again.
    pub(super) fn left(&self) -> Option<Left> {
        let request = CURRENT.get();
        if request & SENT_AGAIN == 0 || self.left_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let left = self.left.lock();
        let slots = left.get(&(request & !SENT_AGAIN))?;
        let known = slots.iter().map(|slot| Left {
            stage: self.load(*slot, STAGE),
            result: self.load(*slot, RESULT),
            handle: self.load(*slot, HANDLE),
            counted: self.load(*slot, COUNTED),
            closed: self.load(*slot, CLOSED),
        });
        // Several servers may have been killed during the same request.
        known.reduce(|one, other| {
            let done = if one.stage >= other.stage { one } else { other };
            Left {
                handle: one.handle.max(other.handle),
                counted: one.counted.max(other.counted),
                closed: one.closed.max(other.closed),
                ..done
            }
        })
    }

    /// The calling thread's slot, if there's one for it.
    fn of_thread(&self) -> Option<usize> {
        self.memory.as_ref()?;
        OWN.with_borrow_mut(|own| {
            if own.is_none() {
                let number = self.free.lock().pop()?;
                *own = Some(OwnSlot { number, free: Arc::clone(&self.free) });
            }
            own.as_ref().map(|own| own.number)
        })
    }

    /// Begins a request. `begun` is 0 if it may wait for others.
    pub(super) fn begin(&self, request: u64, begun: u64) {
        CURRENT.set(request);
        if let Some(slot) = self.of_thread() {
            self.store(slot, BEGUN, begun);
            self.store(slot, IN_HAND, request & !SENT_AGAIN);
        }
    }

    /// Notes that the current request may wait for others.
    pub(super) fn may_wait(&self) {
        if let Some(slot) = self.of_thread() {
            self.store(slot, BEGUN, 0);
        }
    }

    /// The requests in hand, and when each was begun; 0 if it may wait for others.
    pub(super) fn in_hand(&self) -> Vec<(u64, u64)> {
        if self.memory.is_none() {
            return Vec::new();
        }
        let requests = (0..SLOTS).map(|slot| (self.load(slot, IN_HAND), self.load(slot, BEGUN)));
        requests.filter(|(request, _)| *request != 0).collect()
    }

    /// Returns the current request's slot, if there's one.
    pub(super) fn own(&self) -> Option<usize> {
        let request = CURRENT.get();
        if request == 0 || self.memory.is_none() {
            return None;
        }
        let slot = self.of_thread()?;
        if !IS_NOTED.replace(true) {
            [STAGE, RESULT, HANDLE, COUNTED, CLOSED].into_iter().for_each(|index| self.store(slot, index, 0));
            self.store(slot, REQUEST, request & !SENT_AGAIN);
        }
        Some(slot)
    }

    pub(super) fn note(&self, index: usize, value: u64) {
        if let Some(slot) = self.own() {
            self.store(slot, index, value);
        }
    }

    /// Ends the current request.
    pub(super) fn end(&self) {
        let request = CURRENT.replace(0);
        if let Some(slot) = OWN.with_borrow(|own| own.as_ref().map(|own| own.number)) {
            self.store(slot, IN_HAND, 0);
            self.store(slot, BEGUN, 0);
        }
        if request & SENT_AGAIN != 0 && self.left_count.load(Ordering::Acquire) > 0 {
            let mut left = self.left.lock();
            let slots = left.remove(&(request & !SENT_AGAIN));
            self.left_count.store(left.len() as u64, Ordering::Release);
            drop(left);
            for slot in slots.into_iter().flatten() {
                self.store(slot, REQUEST, 0);
                self.free.lock().push(slot);
            }
        }
        if IS_NOTED.replace(false)
            && let Some(slot) = OWN.with_borrow(|own| own.as_ref().map(|own| own.number))
        {
            self.store(slot, REQUEST, 0);
        }
    }
}
