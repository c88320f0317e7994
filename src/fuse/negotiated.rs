//! What an earlier server has negotiated with the kernel, which later ones, perhaps of another program, have to keep to.

use std::io;

/// Where a `fuse_init_in` has its fields, behind the header of a request (linux/fuse.h).
mod request {
    pub(super) const MINOR: usize = 44;
    pub(super) const MAX_READAHEAD: usize = 48;
    pub(super) const FLAGS: usize = 52;
    pub(super) const FLAGS2: usize = 56;
}

/// Where a `fuse_init_out` has its fields, behind the header of an answer.
mod answer {
    pub(super) const MINOR: usize = 20;
    pub(super) const MAX_READAHEAD: usize = 24;
    pub(super) const FLAGS: usize = 28;
    pub(super) const MAX_WRITE: usize = 36;
    pub(super) const FLAGS2: usize = 48;
}

/// `FUSE_INIT_EXT`: there's a second word of flags. The kernel offers it, and nobody has to take it.
const INIT_EXT: u32 = 1 << 30;

/// The answer to the kernel's first request; empty if there was none.
pub(super) struct Negotiated(pub(super) Vec<u8>);

impl Negotiated {
    /// Limits the kernel's first request to what was negotiated.
    pub(super) fn bound(&self, mut init: Vec<u8>) -> Vec<u8> {
        if self.0.is_empty() {
            return init;
        }
        let mut limit = |place: usize, limit: &dyn Fn(u32) -> u32| {
            if let (Some(offered), Some(bytes)) = (word(&init, place), init.get_mut(place..place + 4)) {
                bytes.copy_from_slice(&limit(offered).to_ne_bytes());
            }
        };
        let agreed = |place| word(&self.0, place).unwrap_or_default();
        limit(request::MINOR, &|offered| offered.min(agreed(answer::MINOR)));
        limit(request::MAX_READAHEAD, &|offered| offered.min(agreed(answer::MAX_READAHEAD)));
        limit(request::FLAGS, &|offered| offered & (agreed(answer::FLAGS) | INIT_EXT));
        limit(request::FLAGS2, &|offered| offered & agreed(answer::FLAGS2));
        init
    }

    /// Checks that a later answer says the same.
    ///
    /// # Errors
    /// If the kernel would do something that this server doesn't expect.
    pub(super) fn check(&self, later: &[u8]) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let has = |place| (word(&self.0, place), word(later, place));
        let differs = [answer::MINOR, answer::FLAGS, answer::FLAGS2].into_iter().any(|place| {
            let (before, now) = has(place);
            before != now
        });
        let (before, now) = has(answer::MAX_WRITE);
        if differs || now < before {
            return Err(io::Error::other(
                "this program would speak to the kernel in another way than the one before it",
            ));
        }
        Ok(())
    }
}

fn word(message: &[u8], place: usize) -> Option<u32> {
    message.get(place..place + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(words: &[(usize, u32)]) -> Vec<u8> {
        let mut message = vec![0; 104];
        words.iter().for_each(|(place, word)| message[*place..place + 4].copy_from_slice(&word.to_ne_bytes()));
        message
    }

    #[test]
    fn no_more_is_offered_than_was_agreed() {
        let agreed =
            message(&[(answer::MINOR, 40), (answer::FLAGS, 0b1010), (answer::FLAGS2, 0b1), (answer::MAX_WRITE, 65536)]);
        let before = Negotiated(agreed.clone());
        let kernel = [(request::MINOR, 45), (request::FLAGS, INIT_EXT | 0b1111), (request::FLAGS2, 0b11)];
        let bound = before.bound(message(&kernel));
        assert_eq!(word(&bound, request::MINOR), Some(40));
        assert_eq!(word(&bound, request::FLAGS), Some(INIT_EXT | 0b1010));
        assert_eq!(word(&bound, request::FLAGS2), Some(1));
        assert!(before.check(&agreed).is_ok());
        for (place, word) in
            [(answer::FLAGS, 0b1000_u32), (answer::FLAGS2, 0), (answer::MAX_WRITE, 4096), (answer::MINOR, 39)]
        {
            let mut later = agreed.clone();
            later[place..place + 4].copy_from_slice(&word.to_ne_bytes());
            assert!(before.check(&later).is_err(), "{place}");
        }
        let first = Negotiated(Vec::new());
        assert_eq!(first.bound(message(&kernel)), message(&kernel));
        assert!(first.check(&[]).is_ok());
    }
}
