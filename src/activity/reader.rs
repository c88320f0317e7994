//! The side of those who look. They have the memory for reading only, and believe nothing of it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use super::counters::Counted;
use super::event::Event;
use super::kind::RequestKind;
use super::layout::{COUNTED, FORMAT, Number, REJECTED, WATCHED, WORDS};
use super::ring::Found;
use super::writer::count_of;
use crate::policy::Rule;
use crate::sys::shared::SharedMemory;

/// What a view has done, for reading.
#[derive(Debug)]
pub struct ActivityReader {
    memory: SharedMemory,
}

impl ActivityReader {
    /// Reads what is in this file.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` if it's of another version of the program.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let reader = Self { memory: SharedMemory::open_for_reading(WORDS, file)? };
        match reader.number(Number::Format) {
            FORMAT => Ok(reader),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// A number.
    pub fn number(&self, number: Number) -> u64 {
        self.words().get(number as usize).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// What was counted of a kind of requests.
    pub fn counted(&self, kind: RequestKind) -> Counted {
        COUNTED.of(self.words(), kind)
    }

    /// How often a rule has rejected a request.
    pub fn rejected_by(&self, rule: Rule) -> u64 {
        count_of(self.words(), rule).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// The last rejections, the oldest first.
    pub fn rejections(&self) -> Vec<Event> {
        let next = REJECTED.next(self.words());
        let all = next.saturating_sub(REJECTED.capacity())..next;
        let found = all.map(|number| REJECTED.read(self.words(), number));
        found.filter_map(|found| if let Found::Event(event) = found { Some(*event) } else { None }).collect()
    }

    /// How many requests were noted for those who watch, since the view began.
    pub fn noted(&self) -> u64 {
        WATCHED.next(self.words())
    }

    /// Follows the requests that come from now on, while the server notes them ([`super::Activity::watch_for`]).
    pub fn follow(&self) -> Follower {
        Follower { next: WATCHED.next(self.words()), missed: 0, waits_for: None }
    }
}

/// A position among the requests.
#[derive(Debug)]
pub struct Follower {
    next: u64,
    missed: u64,
    /// The event that wasn't finished at the last look.
    waits_for: Option<u64>,
}

impl Follower {
    /// Takes the requests that have come since the last call.
    pub fn take(&mut self, reader: &ActivityReader) -> Vec<Event> {
        let end = WATCHED.next(reader.words());
        let oldest = end.saturating_sub(WATCHED.capacity());
        let mut events = Vec::new();
        if self.next < oldest {
            self.missed += oldest - self.next;
            self.next = oldest;
        }
        while self.next < end {
            match WATCHED.read(reader.words(), self.next) {
                Found::Event(event) => events.push(*event),
                // Its writer needs a moment, or was killed, which the next look shows.
                Found::Unfinished if self.waits_for != Some(self.next) => {
                    self.waits_for = Some(self.next);
                    return events;
                }
                Found::Unfinished | Found::Gone => self.missed += 1,
            }
            self.next += 1;
        }
        events
    }

    /// How many requests came too fast, or weren't noted because their server was killed.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}
