//! What can take seconds runs beside the workers: a write that waits for memory reclaim, and what an agent does in a container's pid
//! namespace, which the container can stop. So neither ever keeps the view waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

/// How much of a kind runs at once. The rest waits for its turn.
const RUNNING: usize = 16;

/// How much of a kind may wait: a request each, whose caller waits too. A container that asks for more is told to try again.
const WAITING: usize = 4096;

type Work = Box<dyn FnOnce() + Send>;

/// Work of one kind.
#[derive(Debug, Default)]
pub(super) struct Offload(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    /// How many threads take from it; each ends when nothing waits.
    running: usize,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting.len()).field("running", &self.running).finish()
    }
}

impl Offload {
    /// Whether there's room for more work.
    pub(super) fn has_room(&self) -> bool {
        self.0.lock().waiting.len() < WAITING
    }

    /// Runs `work` in another thread, soon. If there can be none, the work is dropped; a reply that it holds then says EIO.
    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) {
        let mut queue = self.0.lock();
        queue.waiting.push_back(Box::new(work));
        if queue.running >= RUNNING {
            return;
        }
        queue.running += 1;
        drop(queue);
        let queue = Arc::clone(&self.0);
        let started = thread::Builder::new().name("slow request".to_owned()).stack_size(256 * 1024).spawn(move || {
            while let Some(work) = next(&queue) {
                work();
            }
        });
        if let Err(error) = started {
            tracing::debug!(%error, "no thread for a slow request");
            let mut queue = self.0.lock();
            queue.running -= 1;
            let orphans = if queue.running == 0 { std::mem::take(&mut queue.waiting) } else { VecDeque::new() };
            drop(queue);
            drop(orphans);
        }
    }
}

/// What a thread does next. `None`: nothing, it ends.
fn next(queue: &Mutex<Queue>) -> Option<Work> {
    let mut queue = queue.lock();
    let work = queue.waiting.pop_front();
    if work.is_none() {
        queue.running -= 1;
    }
    work
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};

    use super::*;

    #[test]
    fn so_many_at_once_and_the_rest_in_turn() {
        let offload = Offload::default();
        let (go, done) = (Arc::new(Barrier::new(RUNNING + 1)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..RUNNING {
            let (go, done) = (Arc::clone(&go), Arc::clone(&done));
            offload.run(move || {
                go.wait();
                done.fetch_add(1, Ordering::AcqRel);
            });
        }
        while !offload.0.lock().waiting.is_empty() {
            thread::yield_now();
        }
        let (told, tells) = mpsc::channel();
        for number in 0..WAITING {
            assert!(offload.has_room());
            let told = told.clone();
            offload.run(move || told.send(number).unwrap());
        }
        assert!(!offload.has_room() && done.load(Ordering::Acquire) == 0);
        go.wait();
        let mut numbers: Vec<usize> = tells.iter().take(WAITING).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..WAITING));
        while offload.0.lock().running > 0 {
            thread::yield_now();
        }
        assert_eq!(done.load(Ordering::Acquire), RUNNING);
        let (told, tells) = mpsc::channel();
        offload.run(move || told.send(()).unwrap());
        tells.recv().unwrap();
    }
}
