//! What can take seconds runs beside the workers: a write that waits for memory reclaim, and what an agent does in a container's pid
//! namespace, which the container can stop. So neither ever keeps the view waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use super::ask::survives;
use crate::fs::route::Tenant;

/// How much of a kind may wait for a tenant: a request each, whose caller waits too. A container that asks for more is told to try again.
const WAITING: usize = 4096;

type Work = Box<dyn FnOnce() + Send>;

/// Work of one kind. No tenant ever waits for another one's.
#[derive(Debug)]
pub(super) struct Offload {
    queues: Arc<Mutex<Queues>>,
    /// How much runs at once for a tenant. The rest waits for its turn.
    at_once: usize,
}

/// Those in which something waits or runs.
type Queues = HashMap<Tenant, Queue>;

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
    /// Of which so much runs at once for a tenant.
    pub(super) fn new(at_once: usize) -> Self {
        Self { queues: Arc::default(), at_once }
    }

    /// Whether there's room for more work.
    pub(super) fn has_room(&self, tenant: Tenant) -> bool {
        self.queues.lock().get(&tenant).is_none_or(|queue| queue.waiting.len() < WAITING)
    }

    /// Runs `work` in another thread, soon. If there can be none, the work is dropped; a reply that it holds then says EIO.
    pub(super) fn run(&self, tenant: Tenant, work: impl FnOnce() + Send + 'static) {
        let mut queues = self.queues.lock();
        let queue = queues.entry(tenant).or_default();
        queue.waiting.push_back(Box::new(work));
        if queue.running >= self.at_once {
            return;
        }
        queue.running += 1;
        drop(queues);
        let queues = Arc::clone(&self.queues);
        let started = thread::Builder::new().name("slow request".to_owned()).stack_size(256 * 1024).spawn(move || {
            while let Some(work) = next(&queues, tenant) {
                // Whoever waits gets EIO by the reply that is dropped, and the next one its turn.
                survives("slow request", work);
            }
        });
        if let Err(error) = started {
            tracing::debug!(%error, "no thread for a slow request");
            let mut queues = self.queues.lock();
            let is_last = queues.get_mut(&tenant).is_some_and(|queue| {
                queue.running -= 1;
                queue.running == 0
            });
            let orphans = if is_last { queues.remove(&tenant) } else { None };
            drop(queues);
            drop(orphans);
        }
    }
}

/// What a thread does next. `None`: nothing, it ends.
fn next(queues: &Mutex<Queues>, tenant: Tenant) -> Option<Work> {
    let mut queues = queues.lock();
    let queue = queues.get_mut(&tenant)?;
    let work = queue.waiting.pop_front();
    if work.is_none() {
        queue.running -= 1;
        if queue.running == 0 {
            queues.remove(&tenant);
        }
    }
    work
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};

    use super::*;

    const FIRST: Tenant = Tenant(0);
    const RUNNING: usize = 16;

    #[test]
    fn who_panics_keeps_nobody_waiting() {
        let offload = Offload::new(RUNNING);
        // Another thread's panic would be printed, as if it were the test's.
        let quiet = || std::panic::resume_unwind(Box::new("a handler's bug"));
        for _ in 0..4 * RUNNING {
            offload.run(FIRST, quiet);
        }
        let (told, tells) = mpsc::channel();
        offload.run(FIRST, move || told.send(()).unwrap());
        assert_eq!(tells.recv_timeout(std::time::Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn so_many_at_once_and_the_rest_in_turn() {
        let offload = Offload::new(RUNNING);
        let (go, done) = (Arc::new(Barrier::new(RUNNING + 1)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..RUNNING {
            let (go, done) = (Arc::clone(&go), Arc::clone(&done));
            offload.run(FIRST, move || {
                go.wait();
                done.fetch_add(1, Ordering::AcqRel);
            });
        }
        while !offload.queues.lock()[&FIRST].waiting.is_empty() {
            thread::yield_now();
        }
        let (told, tells) = mpsc::channel();
        for number in 0..WAITING {
            assert!(offload.has_room(FIRST));
            let told = told.clone();
            offload.run(FIRST, move || told.send(number).unwrap());
        }
        assert!(!offload.has_room(FIRST) && done.load(Ordering::Acquire) == 0);
        let (other_told, other_tells) = mpsc::channel();
        assert!(offload.has_room(Tenant(1)));
        offload.run(Tenant(1), move || other_told.send(()).unwrap());
        other_tells.recv().unwrap();
        go.wait();
        let mut numbers: Vec<usize> = tells.iter().take(WAITING).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..WAITING));
        while !offload.queues.lock().is_empty() {
            thread::yield_now();
        }
        assert_eq!(done.load(Ordering::Acquire), RUNNING);
        let (told, tells) = mpsc::channel();
        offload.run(FIRST, move || told.send(()).unwrap());
        tells.recv().unwrap();
    }
}
