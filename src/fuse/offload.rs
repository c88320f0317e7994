//! What can take seconds runs beside the workers: a write that waits for memory reclaim, and what an agent does in a container's pid
//! namespace, which the container can stop. So neither ever keeps the view waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How much of a kind runs at once; a container that asks for more is told to try again.
const LIMIT: usize = 16;

/// Work of one kind.
#[derive(Debug, Default)]
pub(super) struct Offload {
    running: Arc<AtomicUsize>,
}

/// A place among the running; free again when dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Offload {
    /// A place, unless too much is running.
    pub(super) fn slot(&self) -> Option<Slot> {
        let slot = Slot(Arc::clone(&self.running));
        (self.running.fetch_add(1, Ordering::AcqRel) < LIMIT).then_some(slot)
    }
}

impl Slot {
    /// Runs `work` in a thread of its own. If there can be none, the work is dropped; a reply that it holds then says EIO.
    pub(super) fn run(self, work: impl FnOnce() + Send + 'static) {
        let started = thread::Builder::new().name("slow request".to_owned()).stack_size(256 * 1024).spawn(move || {
            work();
            drop(self);
        });
        if let Err(error) = started {
            tracing::debug!(%error, "no thread for a slow request");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_at_once() {
        let offload = Offload::default();
        let slots: Vec<_> = (0..LIMIT).map_while(|_| offload.slot()).collect();
        assert_eq!(slots.len(), LIMIT);
        assert!(offload.slot().is_none() && offload.slot().is_none());
        drop(slots);
        let (done, told) = std::sync::mpsc::channel();
        offload.slot().unwrap().run(move || done.send(()).unwrap());
        told.recv().unwrap();
        while offload.running.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        assert!(offload.slot().is_some());
    }
}
