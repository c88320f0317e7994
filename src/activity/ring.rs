//! A ring of events in shared memory. Writers never wait, and overwrite the oldest event; a reader notices which it has
//! missed.
//!
//! Each entry begins with its sequence: twice the event's number, plus 1 while it's written and plus 2 afterwards.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::event::Event;

/// The words before the entries: the number of the next event, and unused ones that keep it apart.
const HEAD_WORDS: usize = 8;

/// Where a ring is, and its size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    start: usize,
    entries: usize,
    /// The words of a path.
    path: usize,
}

/// What is found at the place of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Event(Box<Event>),
    /// It's being written, or its writer was killed.
    Unfinished,
    /// Another one has taken its place, or it was never written.
    Gone,
}

impl Ring {
    pub(super) const fn new(start: usize, entries: usize, path: usize) -> Self {
        Self { start, entries, path }
    }

    /// The words of a ring.
    pub(super) const fn words(entries: usize, path: usize) -> usize {
        HEAD_WORDS + entries * Self::entry(path)
    }

    const fn entry(path: usize) -> usize {
        1 + Event::WORDS + path
    }

    /// How many events it has at most.
    pub(super) const fn capacity(&self) -> u64 {
        self.entries as u64
    }

    /// The number of the next event.
    pub(super) fn next(&self, memory: &[AtomicU64]) -> u64 {
        memory.get(self.start).map_or(0, |next| next.load(Ordering::Relaxed))
    }

    /// The words of the entry of an event, the sequence first.
    fn at<'a>(&self, memory: &'a [AtomicU64], number: u64) -> Option<(&'a AtomicU64, &'a [AtomicU64])> {
        let size = Self::entry(self.path);
        let begin = self.start + HEAD_WORDS + usize::try_from(number % self.capacity()).ok()? * size;
        memory.get(begin..begin.checked_add(size)?)?.split_first()
    }

    /// Adds an event. If a thread that was delayed still writes to the same place, this event is lost instead.
    pub(super) fn push(&self, memory: &[AtomicU64], event: &Event) {
        let Some(number) = memory.get(self.start).map(|next| next.fetch_add(1, Ordering::Relaxed)) else { return };
        let Some((sequence, words)) = self.at(memory, number) else { return };
        let (begun, finished) = (number.wrapping_mul(2) | 1, number.wrapping_mul(2).wrapping_add(2));
        let before = sequence.load(Ordering::Relaxed);
        let is_free = before & 1 == 0 && before < begun;
        if !is_free || sequence.compare_exchange(before, begun, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        fence(Ordering::Release);
        let (header, path) = event.encode(self.path * size_of::<u64>());
        words.iter().zip(header).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        let path_words = words.get(Event::WORDS..).unwrap_or_default();
        for (word, bytes) in path_words.iter().zip(path.chunks(size_of::<u64>())) {
            let mut value = [0; size_of::<u64>()];
            value.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
        }
        sequence.store(finished, Ordering::Release);
    }

    /// Reads an event.
    pub(super) fn read(&self, memory: &[AtomicU64], number: u64) -> Found {
        let Some((sequence, words)) = self.at(memory, number) else { return Found::Gone };
        let (begun, finished) = (number.wrapping_mul(2) | 1, number.wrapping_mul(2).wrapping_add(2));
        let before = sequence.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if before != finished {
            return if before <= begun { Found::Unfinished } else { Found::Gone };
        }
        let mut values = words.iter().map(|word| word.load(Ordering::Relaxed));
        let header = std::array::from_fn(|_| values.next().unwrap_or_default());
        let path: Vec<u8> = values.flat_map(u64::to_ne_bytes).collect();
        fence(Ordering::Acquire);
        if sequence.load(Ordering::Relaxed) != finished {
            return Found::Gone;
        }
        Found::Event(Box::new(Event::decode(header, &path)))
    }

    /// Frees the entries whose writers were killed.
    pub(super) fn recover(&self, memory: &[AtomicU64]) {
        let next = self.next(memory);
        for number in next.saturating_sub(self.capacity())..next {
            if let Some((sequence, _)) = self.at(memory, number)
                && sequence.load(Ordering::Relaxed) & 1 == 1
            {
                sequence.store(0, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: Ring = Ring::new(3, 4, 2);

    fn memory() -> Vec<AtomicU64> {
        (0..3 + Ring::words(4, 2)).map(|_| AtomicU64::new(0)).collect()
    }

    fn path(found: Found) -> Option<String> {
        match found {
            Found::Event(event) => String::from_utf8(event.path).ok(),
            _ => None,
        }
    }

    #[test]
    fn the_last_events_are_there() {
        let memory = memory();
        assert_eq!(RING.read(&memory, 0), Found::Unfinished);
        for number in 0..6 {
            RING.push(&memory, &Event::example(&format!("/{number}")));
        }
        assert_eq!(RING.next(&memory), 6);
        assert_eq!([RING.read(&memory, 0), RING.read(&memory, 1)], [Found::Gone, Found::Gone]);
        let paths: Vec<_> = (2..6).map(|number| path(RING.read(&memory, number)).unwrap()).collect();
        assert_eq!(paths, ["/2", "/3", "/4", "/5"]);
        assert_eq!(RING.read(&memory, 6), Found::Unfinished);
    }

    #[test]
    fn a_writer_that_was_killed_blocks_its_place_until_the_next_server() {
        let memory = memory();
        RING.push(&memory, &Event::example("/0"));
        let (sequence, _) = RING.at(&memory, 0).unwrap();
        sequence.store(1, Ordering::Relaxed);
        assert_eq!(RING.read(&memory, 0), Found::Unfinished);
        for number in 1..5 {
            RING.push(&memory, &Event::example(&format!("/{number}")));
        }
        assert_eq!(RING.read(&memory, 4), Found::Unfinished);
        RING.recover(&memory);
        (5..9).for_each(|number| RING.push(&memory, &Event::example(&format!("/{number}"))));
        assert_eq!(path(RING.read(&memory, 8)).as_deref(), Some("/8"));
    }

    #[test]
    fn many_writers_never_show_half_an_event() {
        let memory = memory();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..3_u32 {
                let (memory, stop) = (&memory, &stop);
                scope.spawn(move || {
                    let mut own = Event::example(&format!("/{}", writer.to_string().repeat(15)));
                    own.uid = writer;
                    while !stop.load(Ordering::Relaxed) {
                        RING.push(memory, &own);
                    }
                });
            }
            let mut seen = 0;
            while seen < 2000 {
                let next = RING.next(&memory);
                for number in next.saturating_sub(4)..next {
                    if let Found::Event(event) = RING.read(&memory, number) {
                        assert_eq!(event.path, format!("/{}", event.uid.to_string().repeat(15)).as_bytes());
                        seen += 1;
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
