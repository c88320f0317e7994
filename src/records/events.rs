//! Events of watches that a server has read, and not dealt with yet.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use parking_lot::Mutex;

use crate::sys::shared::SharedMemory;

/// How many bytes there are room for.
const BYTES: usize = 256 * 1024;

/// How many of them are read at once. The longest event has a header and a name of a page.
const READ: usize = 16 * 1024;

const WORD: usize = size_of::<u64>();

/// The length when there was no room.
const LOST: u64 = u64::MAX;

/// Bytes in shared memory. The first word has their length, the second one how many of them are dealt with.
///
/// A position counts all bytes that were added since this server has started, and those that it has found.
#[derive(Debug)]
pub struct Events {
    memory: Option<Arc<SharedMemory>>,
    start: usize,
    /// Held while the words are changed. Leaf lock.
    positions: Mutex<Positions>,
}

#[derive(Debug, Default)]
struct Positions {
    /// The position of the first byte in memory, and that behind the last one.
    begin: u64,
    end: u64,
}

impl Events {
    /// The words that they take.
    pub(super) const WORDS: usize = BYTES / WORD + 2;

    pub(super) fn new(memory: Option<Arc<SharedMemory>>, start: usize) -> Self {
        Self { memory, start, positions: Mutex::default() }
    }

    fn words(&self) -> Option<([&AtomicU64; 2], &[AtomicU64])> {
        let ([length, dealt], words) =
            self.memory.as_ref()?.words().get(self.start..self.start + Self::WORDS)?.split_first_chunk()?;
        Some(([length, dealt], words))
    }

    /// Reads events. They are recorded before this process has them itself: what a killed process had read would be lost
    /// otherwise. Returns them, and the position behind them.
    ///
    /// # Errors
    /// `EAGAIN` if there are none; those of read(2).
    pub fn read_from(&self, file: BorrowedFd<'_>) -> Result<(Vec<u8>, u64), Errno> {
        let mut positions = self.positions.lock();
        let unrecorded = |positions: &mut Positions| {
            let mut bytes = vec![0; READ];
            let length = nix::unistd::read(file, &mut bytes)?;
            bytes.truncate(length);
            positions.end += bytes.len() as u64;
            Ok((bytes, positions.end))
        };
        let (Some(memory), Some(([length, _], words))) = (&self.memory, self.words()) else {
            return unrecorded(&mut positions);
        };
        let at = usize::try_from(length.load(Ordering::Acquire)).unwrap_or(usize::MAX);
        if at.saturating_add(READ + WORD) > BYTES || !at.is_multiple_of(WORD) {
            let read = unrecorded(&mut positions)?;
            length.store(LOST, Ordering::Release);
            return Ok(read);
        }
        // A word of 0 ends the events: an event begins with the number of its watch.
        let room = words.get(at / WORD..(at + READ) / WORD + 1).unwrap_or_default();
        room.iter().filter(|word| word.load(Ordering::Relaxed) != 0).for_each(|word| word.store(0, Ordering::Release));
        let first = self.start + 2 + at / WORD;
        let count = memory.read_from(file, first, READ / WORD)?;
        let bytes = bytes_of(room, count);
        length.store((at + count.next_multiple_of(WORD)) as u64, Ordering::Release);
        positions.end += count as u64;
        Ok((bytes, positions.end))
    }

    /// Adds bytes as if they were events. Returns the position behind them.
    #[cfg(test)]
    pub fn add(&self, bytes: &[u8]) -> u64 {
        use std::os::fd::AsFd;
        let (pipe, writer) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&writer, bytes).unwrap();
        self.read_from(pipe.as_fd()).unwrap().1
    }

    /// Notes that everything before this position is dealt with.
    pub fn dealt_with(&self, position: u64) {
        let mut positions = self.positions.lock();
        let Some(([length, dealt], words)) = self.words() else { return };
        if position >= positions.end {
            // In this order nothing is left, wherever this is interrupted. There's no event behind the new end.
            dealt.store(length.load(Ordering::Relaxed), Ordering::Release);
            words.iter().take(1).for_each(|word| word.store(0, Ordering::Release));
            length.store(0, Ordering::Release);
            dealt.store(0, Ordering::Release);
            positions.begin = positions.end;
        } else if length.load(Ordering::Relaxed) != LOST {
            dealt.store(position.saturating_sub(positions.begin), Ordering::Release);
        }
    }

    /// Where in memory a position is.
    pub fn place_of(&self, position: u64) -> u64 {
        position.saturating_sub(self.positions.lock().begin)
    }

    /// Whether what ends at this place in memory isn't dealt with yet.
    pub fn is_left(&self, place: u64) -> bool {
        self.words().is_some_and(|([length, dealt], _)| {
            place > dealt.load(Ordering::Acquire) && place <= length.load(Ordering::Acquire)
        })
    }

    /// Returns what an earlier server has left, and the position of its beginning; `None` if there was no room for some.
    /// To be called once, before anything is added.
    pub fn left(&self) -> Option<(Vec<u8>, u64)> {
        let Some(([length, dealt], words)) = self.words() else { return Some((Vec::new(), 0)) };
        let mut positions = self.positions.lock();
        let noted = length.load(Ordering::Acquire);
        positions.end = noted.min(BYTES as u64);
        let noted = usize::try_from(noted).ok().filter(|length| *length <= BYTES)?;
        // The server was killed before it had noted what it read last.
        let found = end_of_events(words, noted);
        length.store(found as u64, Ordering::Release);
        positions.end = found as u64;
        let length = found;
        let mut bytes = bytes_of(words, length);
        let before = dealt.load(Ordering::Acquire).min(length as u64);
        // It may be that of events which were forgotten meanwhile.
        dealt.store(before, Ordering::Release);
        let dealt = before;
        bytes.drain(..usize::try_from(dealt).unwrap_or(length));
        Some((bytes, dealt))
    }
}

/// The bytes of words, as the kernel has written them.
fn bytes_of(words: &[AtomicU64], length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        words.iter().take(length.div_ceil(WORD)).flat_map(|word| word.load(Ordering::Acquire).to_ne_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// Where the events end that begin at `start`. Each has a header of two words, whose last half is the length of its name
/// (inotify(7)).
fn end_of_events(words: &[AtomicU64], start: usize) -> usize {
    let mut end = start;
    while let Some([first, second]) = words.get(end / WORD..end / WORD + 2) {
        if first.load(Ordering::Acquire) == 0 {
            break;
        }
        let name = (second.load(Ordering::Acquire) >> 32) as usize;
        let next = end.saturating_add(2 * WORD).saturating_add(name).next_multiple_of(WORD);
        if next > BYTES {
            break;
        }
        end = next;
    }
    end
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// An event of a watch with a name of this length.
    fn event(watch: u32, name: usize) -> Vec<u8> {
        let mut bytes = [watch, 0x100, 0, u32::try_from(name).unwrap()].map(u32::to_ne_bytes).concat();
        bytes.resize(16 + name, b'x');
        bytes
    }

    /// Has events read from a pipe.
    fn read(events: &Events, bytes: &[u8]) -> (Vec<u8>, u64) {
        let (pipe, writer) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&writer, bytes).unwrap();
        events.read_from(pipe.as_fd()).unwrap()
    }

    #[test]
    fn events_come_back_until_they_are_dealt_with() {
        let memory = Arc::new(SharedMemory::new(Events::WORDS + 3).unwrap());
        let next = || Events::new(Some(Arc::clone(&memory)), 3);
        let [one, two, three] = [event(1, 16), event(2, 0), event(3, 32)];
        let both = [two.clone(), three.clone()].concat();
        let events = next();
        assert_eq!(read(&events, &one), (one.clone(), 32));
        assert_eq!(read(&events, &both), (both.clone(), 96));
        let events = next();
        assert_eq!(events.left(), Some(([one.clone(), both.clone()].concat(), 0)));
        assert!(events.is_left(20) && events.is_left(96) && !events.is_left(97));
        events.dealt_with(32);
        assert!(!events.is_left(32) && events.is_left(48));
        let events = next();
        assert_eq!(events.left(), Some((both.clone(), 32)));
        events.dealt_with(96);
        assert_eq!(next().left(), Some((Vec::new(), 0)));
        // Later ones begin anew in memory, where others were.
        assert_eq!(read(&events, &two), (two.clone(), 112));
        assert_eq!(events.place_of(112), 16);
        assert_eq!(next().left(), Some((two.clone(), 0)));
    }

    /// What a server has read and not noted is found by the next one.
    #[test]
    fn nothing_is_lost_between_reading_and_noting() {
        let memory = Arc::new(SharedMemory::new(Events::WORDS + 3).unwrap());
        let next = || Events::new(Some(Arc::clone(&memory)), 3);
        let events = next();
        let many: Vec<u8> = (1..50).flat_map(|watch| event(watch, 16)).collect();
        read(&events, &many);
        events.dealt_with(many.len() as u64);
        let (one, two) = (event(7, 16), [event(8, 32), event(9, 0)].concat());
        read(&events, &one);
        let length = &memory.words()[3];
        let noted = length.load(Ordering::Relaxed);
        read(&events, &two);
        length.store(noted, Ordering::Relaxed);
        let events = next();
        assert_eq!(events.left(), Some(([one, two].concat(), 0)));
        assert_eq!(read(&events, &event(1, 0)), (event(1, 0), 112));
    }

    #[test]
    fn without_room_some_are_lost() {
        let memory = Arc::new(SharedMemory::new(Events::WORDS + 3).unwrap());
        let events = Events::new(Some(Arc::clone(&memory)), 3);
        let full: Vec<u8> = (1..=u32::try_from(READ / 32).unwrap()).flat_map(|watch| event(watch, 16)).collect();
        for round in 1..=BYTES / READ {
            assert_eq!(read(&events, &full), (full.clone(), (round * READ) as u64));
        }
        let next = Events::new(Some(Arc::clone(&memory)), 3);
        assert_eq!(next.left(), None);
        events.dealt_with((BYTES / READ * READ) as u64);
        assert_eq!(next.left(), Some((Vec::new(), 0)));
    }
}
