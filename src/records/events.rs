//! Events of watches that a server has read, and not dealt with yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::sys::shared::SharedMemory;

/// How many bytes there are room for.
const BYTES: usize = 256 * 1024;

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
    pub(super) const WORDS: usize = BYTES / size_of::<u64>() + 2;

    pub(super) fn new(memory: Option<Arc<SharedMemory>>, start: usize) -> Self {
        Self { memory, start, positions: Mutex::default() }
    }

    fn words(&self) -> Option<([&AtomicU64; 2], &[AtomicU64])> {
        let ([length, dealt], words) =
            self.memory.as_ref()?.words().get(self.start..self.start + Self::WORDS)?.split_first_chunk()?;
        Some(([length, dealt], words))
    }

    /// Adds what was read, in whole words: events are padded to them, or not at all. Returns the position behind it.
    pub fn add(&self, bytes: &[u8]) -> u64 {
        let mut positions = self.positions.lock();
        positions.end += bytes.len() as u64;
        let Some(([length, _], words)) = self.words() else { return positions.end };
        let before = length.load(Ordering::Acquire);
        let at = usize::try_from(before).unwrap_or(usize::MAX);
        if at.saturating_add(bytes.len()) > BYTES {
            length.store(LOST, Ordering::Release);
            return positions.end;
        }
        // Events have any length that is a multiple of 4.
        let mut position = at;
        for piece in bytes.chunks(4) {
            let mut half = [0; 4];
            half.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
            let half = u64::from(u32::from_ne_bytes(half));
            if let Some(word) = words.get(position / 8) {
                let shift = position % 8 * 8;
                let kept = word.load(Ordering::Relaxed) & !(u64::from(u32::MAX) << shift);
                word.store(kept | half << shift, Ordering::Release);
            }
            position += 4;
        }
        length.store((at + bytes.len()) as u64, Ordering::Release);
        positions.end
    }

    /// Notes that everything before this position is dealt with.
    pub fn dealt_with(&self, position: u64) {
        let mut positions = self.positions.lock();
        let Some(([length, dealt], _)) = self.words() else { return };
        if position >= positions.end {
            // The length first: nothing is left, whatever the other word says.
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
        let length = length.load(Ordering::Acquire);
        positions.end = length.min(BYTES as u64);
        let length = usize::try_from(length).ok().filter(|length| *length <= BYTES)?;
        let mut bytes = Vec::with_capacity(length);
        for word in words.iter().take(length.div_ceil(8)) {
            let word = word.load(Ordering::Acquire);
            bytes.extend_from_slice(&(word as u32).to_ne_bytes());
            bytes.extend_from_slice(&((word >> 32) as u32).to_ne_bytes());
        }
        bytes.truncate(length);
        let dealt = dealt.load(Ordering::Acquire).min(length as u64);
        bytes.drain(..usize::try_from(dealt).unwrap_or(length));
        Some((bytes, dealt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_until_they_are_dealt_with() {
        let memory = Arc::new(SharedMemory::new(Events::WORDS + 3).unwrap());
        let next = || Events::new(Some(Arc::clone(&memory)), 3);
        let text: Vec<u8> = (0..=255).collect();
        let events = next();
        assert_eq!(events.add(&text[..20]), 20);
        assert_eq!(events.add(&text[20..]), 256);
        let events = next();
        assert_eq!(events.left(), Some((text.clone(), 0)));
        assert!(events.is_left(20) && events.is_left(256) && !events.is_left(257));
        events.dealt_with(20);
        assert!(!events.is_left(20) && events.is_left(24));
        let events = next();
        assert_eq!(events.left(), Some((text[20..].to_vec(), 20)));
        events.dealt_with(256);
        assert_eq!(next().left(), Some((Vec::new(), 0)));
        // Later ones begin anew in memory.
        assert_eq!(events.add(&text[100..104]), 260);
        assert_eq!(events.place_of(260), 4);
        assert_eq!(next().left(), Some((text[100..104].to_vec(), 0)));
        assert_eq!(events.add(&vec![0; BYTES]), 260 + BYTES as u64);
        assert_eq!(next().left(), None);
        events.dealt_with(260);
        assert_eq!(next().left(), None, "some are lost");
        events.dealt_with(260 + BYTES as u64);
        assert_eq!(next().left(), Some((Vec::new(), 0)));
    }
}
