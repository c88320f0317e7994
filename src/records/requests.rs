//! How far requests have come that aren't answered yet.
//!
//! If a server is killed, the kernel sends such requests to the next one again. What was done already isn't done twice:
//! the next server answers with the noted result.

use nix::errno::Errno;

use super::slots::{CLOSED, COUNTED, CURRENT, DONE, HANDLE, RESULT, SENT_AGAIN, STAGE, TRIED};
use super::store::{Number, Records};
use crate::activity::Pending;

/// Whether a call may have been made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It wasn't.
    First,
    /// An earlier server was killed while it made the call.
    Again,
}

/// The request that the calling thread answers. It ends when this is dropped, which has to be after the reply.
#[derive(Debug)]
pub struct RequestGuard<'a>(&'a Records);

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        self.0.slots.end();
        self.0.activity().finish();
    }
}

impl Records {
    /// Begins a request with this number of the kernel's in the calling thread. It waits for nothing that a container
    /// controls, so it can't take long.
    pub fn begin_request(&self, number: u64) -> RequestGuard<'_> {
        self.add(Number::Requests, 1);
        self.slots.begin(number, self.activity().begin());
        RequestGuard(self)
    }

    /// Goes on in the calling thread with a request that may wait for others. `pending` is what is known of it.
    pub fn continue_request(&self, number: u64, pending: Option<Pending>) -> RequestGuard<'_> {
        self.activity().go_on(pending);
        self.slots.begin(number, 0);
        RequestGuard(self)
    }

    /// Notes that the calling thread's request may wait for others.
    pub fn may_wait(&self) {
        self.slots.may_wait();
    }

    /// The requests in hand, and when each was begun, in nanoseconds of the monotonic clock; 0 if it may wait for
    /// others. For the keeper.
    pub fn requests_in_hand(&self) -> Vec<(u64, u64)> {
        self.slots.in_hand()
    }

    /// The number of the calling thread's request; 0 for none.
    pub fn current_request() -> u64 {
        CURRENT.get()
    }

    /// The number that the kernel has given the calling thread's request, the same if it's sent again; 0 for none.
    pub fn current_request_number() -> u64 {
        CURRENT.get() & !SENT_AGAIN
    }

    /// Whether the kernel has sent the calling thread's request before, to an earlier server.
    pub fn is_sent_again() -> bool {
        CURRENT.get() & SENT_AGAIN != 0
    }

    /// Makes a call that mustn't succeed twice for the same request, and notes its success, a number other than 0. If an
    /// earlier server has made it, returns that number.
    ///
    /// # Errors
    /// Those of the call.
    pub fn once(&self, call: impl FnOnce(Attempt) -> Result<usize, Errno>) -> Result<usize, Errno> {
        if let Some(done) = self.done_before() {
            return Ok(done);
        }
        let attempt = if self.was_tried_before() { Attempt::Again } else { Attempt::First };
        let Some(slot) = self.slots.own() else { return call(attempt) };
        self.slots.store(slot, STAGE, TRIED);
        let result = call(attempt);
        match result {
            Ok(done) if done > 0 => {
                self.slots.store(slot, RESULT, done as u64);
                self.slots.store(slot, STAGE, DONE);
            }
            // Nothing has happened, so it may be done again.
            Ok(_) | Err(_) => self.slots.store(slot, STAGE, 0),
        }
        result
    }

    /// The result of the current request's call, if an earlier server has made it.
    pub fn done_before(&self) -> Option<usize> {
        let left = self.slots.left().filter(|left| left.stage == DONE)?;
        usize::try_from(left.result).ok()
    }

    /// Whether an earlier server has made the current request's call, or may have.
    pub fn was_tried_before(&self) -> bool {
        self.slots.left().is_some_and(|left| left.stage >= TRIED)
    }

    /// Notes that a file was opened for the current request.
    pub fn note_opened(&self, handle: u64) {
        self.slots.note(HANDLE, handle);
    }

    /// The file that an earlier server has opened for the current request. The kernel doesn't know it.
    pub fn opened_before(&self) -> Option<u64> {
        self.slots.left().map(|left| left.handle).filter(|handle| *handle != 0)
    }

    /// Notes that an open file of this node was counted for the current request.
    pub fn note_counted(&self, node: u64) {
        self.slots.note(COUNTED, node);
    }

    /// The node of which an earlier server has counted an open file for the current request.
    pub fn counted_before(&self) -> Option<u64> {
        self.slots.left().map(|left| left.counted).filter(|node| *node != 0)
    }

    /// Notes that the caller of the current request, an open, was sent back before and has come again.
    pub fn note_back(&self) {
        self.slots.note(CLOSED, 1);
    }

    /// Whether an earlier server has noted that of the current request.
    pub fn was_back(&self) -> bool {
        self.slots.left().is_some_and(|left| left.closed != 0)
    }

    /// Notes that the current request has closed a file.
    pub fn note_closed(&self) {
        self.slots.note(CLOSED, 1);
    }

    /// Leaves the calling thread's slot as it is, as the death of its server does.
    #[cfg(test)]
    pub(crate) fn forget_own_slot(&self) {
        super::slots::OWN.with_borrow_mut(|own| std::mem::forget(own.take()));
    }

    /// Whether an earlier server has closed a file for the current request.
    pub fn is_closed_before(&self) -> bool {
        self.slots.left().is_some_and(|left| left.closed != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::slots::OWN;
    use super::*;

    #[test]
    fn what_was_done_is_not_done_again() {
        let records = Records::new().unwrap();
        records.start();
        // Requests whose server is killed before it answers.
        for (number, result) in [(6, Err(Errno::EEXIST)), (8, Ok(3))] {
            let records = &records;
            let killed = move || {
                std::mem::forget(records.begin_request(number));
                assert_eq!(records.once(|_| result), result);
                records.note_opened(number * 10);
                OWN.with_borrow_mut(|own| std::mem::forget(own.take()));
            };
            std::thread::scope(|scope| scope.spawn(killed).join().unwrap());
        }
        assert!(records.start(), "there was one before");
        for (number, result, opened) in [
            (6 | SENT_AGAIN, 9, Some(60)),
            (8 | SENT_AGAIN, 3, Some(80)),
            // Another request, and one with the same number that wasn't sent again.
            (10 | SENT_AGAIN, 9, None),
            (8, 9, None),
        ] {
            let request = records.begin_request(number);
            assert_eq!(records.opened_before(), opened, "{number:x}");
            assert_eq!(records.once(|_| Ok(9)), Ok(result), "{number:x}");
            drop(request);
        }
        assert_eq!(records.slots.left_count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_call_that_was_interrupted_is_made_again_and_told_so() {
        let records = Records::new().unwrap();
        records.start();
        let killed = std::thread::scope(|scope| {
            let records = &records;
            scope
                .spawn(move || {
                    std::mem::forget(records.begin_request(4));
                    let _ = records.once(|_| std::panic::resume_unwind(Box::new(())));
                })
                .join()
        });
        assert!(killed.is_err());
        records.start();
        let request = records.begin_request(4 | SENT_AGAIN);
        assert_eq!(
            records.once(|attempt| {
                assert_eq!(attempt, Attempt::Again);
                Ok(1)
            }),
            Ok(1)
        );
        drop(request);
    }

    #[test]
    fn without_memory_nothing_is_noted() {
        let records = Records::none();
        assert!(!records.start());
        let request = records.begin_request(4);
        assert_eq!(records.once(|_| Err(Errno::EIO)), Err(Errno::EIO));
        records.note_opened(1);
        drop(request);
    }
}
