//! The records of a connection, and the numbers among them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cells::Cells;
use super::events::Events;
use super::slots::Slots;
use crate::activity::Activity;
use crate::sys::shared::SharedMemory;

/// The format of the records. A server continues only with records in its own format.
pub const FORMAT: u64 = 3;

/// How many words the numbers of a connection take, before the slots of requests and the cells.
const NUMBERS: usize = 256;

/// The most cells, of which a node takes three or more. If they run out, what has no record is unknown to the next
/// server.
const CELLS_MAX: usize = 4 * 1024 * 1024;

/// The longest answer to the kernel's first request, in bytes.
const NEGOTIATED_MAX: usize = 256;

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
    /// 1 if the view was told to end.
    Ending,
    /// The first of the latest servers' threads that used the view's own mount ([`SELF_MOUNT_THREADS`] words).
    SelfMountThreads,

    /// 1 if the kernel passes no file through, although it has announced that.
    PassthroughFails = 31,

    /// The length of the answer to the kernel's first request, and then the answer (256 bytes at most).
    Negotiated = 128,

    /// The first of the boundaries' inode numbers, a word for each hierarchy: 0 if it isn't known, 1 if there's no
    /// boundary, else two more than the number.
    Boundaries = 32,
}

/// Where the events and the cells begin.
const EVENTS: usize = NUMBERS + Slots::WORDS;
const CELLS: usize = EVENTS + Events::WORDS;

/// The records of a connection.
#[derive(Debug)]
pub struct Records {
    pub(super) cells: Cells,
    events: Events,
    pub(super) slots: Slots,
    activity: Activity,
}

impl Records {
    /// How many words they take.
    const WORDS: usize = CELLS + CELLS_MAX * Cells::WORDS;

    /// Makes records that are shared with all processes that this one forks.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> io::Result<Arc<Self>> {
        let records = Self::of(SharedMemory::new(Self::WORDS)?, Activity::new()?);
        records.set(Number::Format, FORMAT);
        Ok(Arc::new(records))
    }

    fn of(memory: SharedMemory, activity: Activity) -> Self {
        let memory = Arc::new(memory);
        Self {
            slots: Slots::new(Some(Arc::clone(&memory)), NUMBERS),
            events: Events::new(Some(Arc::clone(&memory)), EVENTS),
            cells: Cells::new(Some(memory), CELLS, CELLS_MAX),
            activity,
        }
    }

    /// Works with the records that another program has made, by their file, and with what it has noted in `activity`.
    ///
    /// # Errors
    /// `EINVAL` if they have another size; `ENOMEM`; an error that says so if they have another format.
    pub fn open(file: OwnedFd, activity: Option<OwnedFd>) -> io::Result<Arc<Self>> {
        let records = Self::of(SharedMemory::open(Self::WORDS, file)?, Activity::open(activity)?);
        match records.get(Number::Format) {
            FORMAT => Ok(Arc::new(records)),
            other => Err(io::Error::other(format!("the records have format {other}, and not {FORMAT}"))),
        }
    }

    /// Their file, for another program. `None` where the kernel has none (before Linux 3.17).
    pub fn as_file(&self) -> Option<&OwnedFd> {
        self.cells.shared_memory()?.as_file()
    }

    /// Records that keep nothing, for a filesystem that no server follows.
    pub fn none() -> Arc<Self> {
        let (events, slots) = (Events::new(None, 0), Slots::new(None, 0));
        Arc::new(Self { cells: Cells::new(None, 0, 0), events, slots, activity: Activity::none() })
    }

    /// Begins the life of another server in this process. Returns whether there was one before.
    pub fn start(&self) -> bool {
        self.cells.recover();
        self.slots.recover();
        self.activity.start();
        let starts = self.get(Number::Starts);
        self.set(Number::Starts, starts + 1);
        starts > 0
    }

    /// The events that were read and aren't dealt with yet.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What the view has done.
    pub fn activity(&self) -> &Activity {
        &self.activity
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

    /// What was negotiated with the kernel; empty if nothing was.
    pub fn negotiated(&self) -> Vec<u8> {
        let length = usize::try_from(self.get(Number::Negotiated)).unwrap_or(0).min(NEGOTIATED_MAX);
        let words = (1..=NEGOTIATED_MAX / size_of::<u64>()).map(|offset| self.get_nth(Number::Negotiated, offset));
        let mut answer: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
        answer.truncate(length);
        answer
    }

    /// Notes the answer to the kernel's first request, which later servers keep to.
    pub fn set_negotiated(&self, answer: &[u8]) {
        for (offset, bytes) in answer.chunks(size_of::<u64>()).take(NEGOTIATED_MAX / size_of::<u64>()).enumerate() {
            let mut word = [0; size_of::<u64>()];
            word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            self.set_nth(Number::Negotiated, offset + 1, u64::from_ne_bytes(word));
        }
        self.set(Number::Negotiated, answer.len().min(NEGOTIATED_MAX) as u64);
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
