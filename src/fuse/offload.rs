//! Writes that the kernel may take seconds for run beside the workers, so that reclaim in one cgroup never keeps the view waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How many such writes run at once; a container that starts more is told to try again.
const LIMIT: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Offload {
    running: Arc<AtomicUsize>,
}

/// A place among the running; free again when dropped.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Offload {
    /// Runs `work` in a thread of its own; gives it back if there are too many.
    pub(super) fn run<W: FnOnce() + Send + 'static>(&self, work: W) -> Result<(), W> {
        if self.running.fetch_add(1, Ordering::AcqRel) >= LIMIT {
            self.running.fetch_sub(1, Ordering::AcqRel);
            return Err(work);
        }
        let slot = Slot(Arc::clone(&self.running));
        // The work waits in a place of its own, so that it isn't lost with a thread that can't be made.
        let waiting = Arc::new(parking_lot::Mutex::new(Some(work)));
        let handed = Arc::clone(&waiting);
        let started = thread::Builder::new().name("slow write".to_owned()).stack_size(256 * 1024).spawn(move || {
            let _slot = slot;
            let work = handed.lock().take();
            if let Some(work) = work {
                work();
            }
        });
        match started {
            Ok(_) => Ok(()),
            Err(_) => waiting.lock().take().map_or(Ok(()), Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn no_more_than_the_limit_at_once() {
        let offload = Offload::default();
        let (release, held) = channel::<()>();
        let held = Arc::new(parking_lot::Mutex::new(held));
        for _ in 0..LIMIT {
            let held = Arc::clone(&held);
            let waits = move || {
                let _ = held.lock().recv();
            };
            assert!(offload.run(waits).is_ok());
        }
        assert!(offload.run(|| ()).is_err());
        drop(release);
        while offload.running.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        assert!(offload.run(|| ()).is_ok());
    }
}
