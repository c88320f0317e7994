//! Events of watches that a server has read, and not dealt with yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::shared::SharedMemory;

/// How many bytes there are room for.
const BYTES: usize = 256 * 1024;

/// The length when there was no room.
const LOST: u64 = u64::MAX;

/// Bytes in shared memory. The first word has their length.
#[derive(Debug)]
pub struct Events {
    memory: Option<Arc<SharedMemory>>,
    start: usize,
}

impl Events {
    /// The words that they take.
    pub(super) const WORDS: usize = BYTES / size_of::<u64>() + 1;

    pub(super) fn new(memory: Option<Arc<SharedMemory>>, start: usize) -> Self {
        Self { memory, start }
    }

    fn words(&self) -> Option<(&AtomicU64, &[AtomicU64])> {
        self.memory.as_ref()?.words().get(self.start..self.start + Self::WORDS)?.split_first()
    }

    /// Adds what was read, in whole words: events are padded to them, or not at all.
    pub fn add(&self, bytes: &[u8]) {
        let Some((length, words)) = self.words() else { return };
        let before = length.load(Ordering::Acquire);
        let at = usize::try_from(before).unwrap_or(usize::MAX);
        if at.saturating_add(bytes.len()) > BYTES {
            return length.store(LOST, Ordering::Release);
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
    }

    /// Forgets them: they are dealt with.
    pub fn clear(&self) {
        if let Some((length, _)) = self.words()
            && length.load(Ordering::Relaxed) != 0
        {
            length.store(0, Ordering::Release);
        }
    }

    /// Returns all bytes; `None` if there was no room for some.
    pub fn all(&self) -> Option<Vec<u8>> {
        let Some((length, words)) = self.words() else { return Some(Vec::new()) };
        let length = usize::try_from(length.load(Ordering::Acquire)).ok().filter(|length| *length <= BYTES)?;
        let mut bytes = Vec::with_capacity(length);
        for word in words.iter().take(length.div_ceil(8)) {
            let word = word.load(Ordering::Acquire);
            bytes.extend_from_slice(&(word as u32).to_ne_bytes());
            bytes.extend_from_slice(&((word >> 32) as u32).to_ne_bytes());
        }
        bytes.truncate(length);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_until_they_are_dealt_with() {
        let events = Events::new(Some(Arc::new(SharedMemory::new(Events::WORDS + 3).unwrap())), 3);
        let text: Vec<u8> = (0..=255).collect();
        events.add(&text[..20]);
        events.add(&text[20..]);
        assert_eq!(events.all(), Some(text.clone()));
        events.clear();
        assert_eq!(events.all(), Some(Vec::new()));
        events.add(&text[100..104]);
        assert_eq!(events.all(), Some(text[100..104].to_vec()));
        events.add(&vec![0; BYTES]);
        assert_eq!(events.all(), None);
        events.clear();
        assert_eq!(events.all(), Some(Vec::new()));
    }
}
