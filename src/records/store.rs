//! The records of a connection, and the numbers among them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cells::Cells;
use super::events::Events;
use super::slots::Slots;
use crate::sys::shared::SharedMemory;

/// The format of the records. A server continues only with records in its own format.
const FORMAT: u64 = 2;

/// How many words the numbers of a connection take, before the slots of requests and the cells.
const NUMBERS: usize = 256;

/// The most cells, of which a node takes three or more. If they run out, what has no record is unknown to the next
/// server.
const CELLS_MAX: usize = 4 * 1024 * 1024;

/// How many threads that used the view's own mount are remembered.
pub const SELF_MOUNT_THREADS: usize = 8;

/// A number that outlives a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Number {
    /// The format of the records.
    Format,
    /// How many servers have started.
    Starts,
    /// When the view was made: seconds and nanoseconds since 1970.
    BornSeconds,
    /// The nanoseconds.
    BornNanoseconds,
    /// How many requests were begun.
    Requests,
    /// The backing file that was registered last.
    LastBackingFile,
    /// One more than the descriptor of the watches.
    Watches,
    /// One more than the descriptor of the cgroup namespace that begins at the boundary.
    BoundaryNamespace,
    /// One more than the inode number of the view's root.
    Root,
    /// The first of the latest servers' threads that used the view's own mount ([`SELF_MOUNT_THREADS`] words).
    SelfMountThreads,

    /// The first of the boundaries' inode numbers, a word for each hierarchy: 0 if it isn't known, 1 if there's no
    /// boundary, else two more than the number.
    Boundaries = 32,
}

/// The records of a connection.
#[derive(Debug)]
pub struct Records {
    pub(super) cells: Cells,
    events: Events,
    pub(super) slots: Slots,
}

impl Records {
    /// Makes records that are shared with all processes that this one forks.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> io::Result<Arc<Self>> {
        let [events, cells] = [NUMBERS + Slots::WORDS, NUMBERS + Slots::WORDS + Events::WORDS];
        let memory = Arc::new(SharedMemory::new(cells + CELLS_MAX * Cells::WORDS)?);
        let records = Self {
            slots: Slots::new(Some(Arc::clone(&memory)), NUMBERS),
            events: Events::new(Some(Arc::clone(&memory)), events),
            cells: Cells::new(Some(memory), cells, CELLS_MAX),
        };
        records.set(Number::Format, FORMAT);
        Ok(Arc::new(records))
    }

    /// Records that keep nothing, for a filesystem that no server follows.
    pub fn none() -> Arc<Self> {
        Arc::new(Self { cells: Cells::new(None, 0, 0), events: Events::new(None, 0), slots: Slots::new(None, 0) })
    }

    /// Begins the life of another server in this process. Returns whether there was one before.
    pub fn start(&self) -> bool {
        self.cells.recover();
        self.slots.recover();
        let starts = self.get(Number::Starts);
        self.set(Number::Starts, starts + 1);
        starts > 0
    }

    /// The events that were read and aren't dealt with yet.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// A number; 0 if it was never set.
    pub fn get(&self, number: Number) -> u64 {
        self.get_nth(number, 0)
    }

    /// Sets a number.
    pub fn set(&self, number: Number, value: u64) {
        self.set_nth(number, 0, value);
    }

    /// The word this many words behind a number.
    pub fn get_nth(&self, number: Number, offset: usize) -> u64 {
        self.word(number, offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Adds to a number.
    pub(super) fn add(&self, number: Number, more: u64) {
        if let Some(word) = self.word(number, 0) {
            word.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Sets the word this many words behind a number.
    pub fn set_nth(&self, number: Number, offset: usize, value: u64) {
        if let Some(word) = self.word(number, offset) {
            word.store(value, Ordering::Release);
        }
    }

    fn word(&self, number: Number, offset: usize) -> Option<&AtomicU64> {
        let at = number as usize + offset;
        self.cells.memory().filter(|_| at < NUMBERS)?.get(at)
    }

    /// The descriptor that a number stands for.
    pub fn descriptor(&self, number: Number) -> Option<i32> {
        self.get(number).checked_sub(1).and_then(|found| i32::try_from(found).ok())
    }

    /// Makes a number stand for a descriptor.
    pub fn set_descriptor(&self, number: Number, descriptor: i32) {
        self.set(number, u64::try_from(descriptor).map_or(0, |found| found + 1));
    }
}
