//! Threads beside the workers, for requests that can take seconds, shared fairly among tenants.
//!
//! A write can wait for memory reclaim or for a device, and a container can stop the agent in its pid namespace.
//! Neither may block the view.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::activity::hand_over;
use crate::fs::dispatch::Tenant;
use crate::fuse::reply::run_catching_panics;
use crate::records::Records;

/// How many requests of a pool may run at once for all tenants together. Each tenant may always run one.
const RUNNING_MAX: usize = 256;

/// How many requests of a pool may wait for a tenant. A container that sends more gets EAGAIN.
const WAITING_MAX: usize = 4096;

/// How many requests of a pool may wait for all tenants together. Each takes a page of memory.
const WAITING_MAX_IN_ALL: usize = 4 * WAITING_MAX;

/// How many requests may wait for a tenant, however many wait for others.
const WAITING_MIN: usize = 16;

/// How long a thread without work waits for more. Starting a thread takes several times as long as most writes.
const IDLE_TIMEOUT: Duration = Duration::from_millis(500);

type Work = Box<dyn FnOnce() + Send>;

/// A pool of threads for one kind of work. No tenant ever waits for another tenant's work.
#[derive(Debug)]
pub(in crate::fuse) struct FairPool {
    queues: Arc<Mutex<Queues>>,
    /// How many requests run at once for a tenant. The others wait.
    at_once: usize,
    records: Arc<Records>,
}

/// The work of all tenants.
#[derive(Debug, Default)]
struct Queues {
    /// The queues with waiting or running work.
    by_tenant: HashMap<Tenant, Queue>,
    running: usize,
    waiting: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    /// How many threads take work from it.
    running: usize,
    /// How many of these threads have nothing to do.
    idle: usize,
    /// Wakes a thread that has nothing to do.
    wakeup: Arc<Condvar>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting.len()).field("running", &self.running).finish()
    }
}

/// Returns a tenant's part of `limit`: half of what the others leave, and at least `least`.
fn share(limit: usize, others: usize, least: usize) -> usize {
    (limit.saturating_sub(others) / 2).max(least)
}

impl FairPool {
    /// Makes a pool that runs `at_once` requests of a tenant at once.
    pub(in crate::fuse) fn new(at_once: usize, records: &Arc<Records>) -> Self {
        Self { queues: Arc::default(), at_once, records: Arc::clone(records) }
    }

    /// Whether there's room for more work.
    pub(in crate::fuse) fn has_room(&self, tenant: Tenant) -> bool {
        self.has_room_for(tenant, 0)
    }

    /// Whether there's room for more work that holds this many bytes.
    pub(in crate::fuse) fn has_room_for(&self, tenant: Tenant, bytes: usize) -> bool {
        const PAGE: usize = 4096;
        let pages = (bytes / PAGE).max(1);
        let queues = self.queues.lock();
        let own = queues.by_tenant.get(&tenant).map_or(0, |queue| queue.waiting.len());
        let others = queues.waiting.saturating_sub(own);
        own < (WAITING_MAX / pages).min(share(WAITING_MAX_IN_ALL / pages, others, WAITING_MIN))
    }

    /// Runs `work` for the calling thread's request in another thread. If no thread can be started, or the work panics, it's dropped, and a reply that
    /// it holds then says EIO.
    pub(in crate::fuse) fn run(&self, tenant: Tenant, work: impl FnOnce() + Send + 'static) {
        let (records, request, pending) = (Arc::clone(&self.records), Records::current_request(), hand_over());
        let work = move || {
            let _request = records.continue_request(request, pending);
            work();
        };
        let mut queues = self.queues.lock();
        queues.waiting += 1;
        let all = queues.running;
        let queue = queues.by_tenant.entry(tenant).or_default();
        queue.waiting.push_back(Box::new(work));
        if queue.idle >= queue.waiting.len() {
            let wakeup = Arc::clone(&queue.wakeup);
            drop(queues);
            wakeup.notify_one();
            return;
        }
        if queue.running >= self.at_once.min(share(RUNNING_MAX, all.saturating_sub(queue.running), 1)) {
            return;
        }
        queue.running += 1;
        queues.running += 1;
        drop(queues);
        // Dropped with the thread, or if starting it fails.
        let mut this = PoolThread { queues: Arc::clone(&self.queues), tenant, held: true };
        let started = thread::Builder::new().name("slow request".to_owned()).stack_size(256 * 1024).spawn(move || {
            while let Some(work) = this.next() {
                // After a panic the caller gets EIO from the dropped reply, and the loop continues.
                run_catching_panics("slow request", work);
            }
        });
        if let Err(error) = started {
            tracing::debug!(%error, "no thread for a slow request");
        }
    }
}

/// A thread that runs work of a tenant. It gives its slot back after a while without work, or when this is dropped.
struct PoolThread {
    queues: Arc<Mutex<Queues>>,
    tenant: Tenant,
    held: bool,
}

impl PoolThread {
    /// Waits for the next work. `None` if none has come and the thread ends.
    fn next(&mut self) -> Option<Work> {
        let until = Instant::now() + IDLE_TIMEOUT;
        let mut queues = self.queues.lock();
        loop {
            let queue = queues.by_tenant.get_mut(&self.tenant)?;
            if let Some(work) = queue.waiting.pop_front() {
                queues.waiting = queues.waiting.saturating_sub(1);
                return Some(work);
            }
            queue.idle += 1;
            let wakeup = Arc::clone(&queue.wakeup);
            let late = wakeup.wait_until(&mut queues, until).timed_out();
            if let Some(queue) = queues.by_tenant.get_mut(&self.tenant) {
                queue.idle = queue.idle.saturating_sub(1);
                if late && queue.waiting.is_empty() {
                    // Under the same lock: new work must see that this thread won't take it.
                    self.held = false;
                    queues.give_back(self.tenant);
                    return None;
                }
            }
        }
    }
}

impl Drop for PoolThread {
    fn drop(&mut self) {
        if self.held {
            let mut queues = self.queues.lock();
            let orphans = queues.give_back(self.tenant);
            drop(queues);
            drop(orphans);
        }
    }
}

impl Queues {
    /// Gives a thread's slot back. Returns the queue if no thread is left to run its work.
    fn give_back(&mut self, tenant: Tenant) -> Option<Queue> {
        self.running = self.running.saturating_sub(1);
        let queue = self.by_tenant.get_mut(&tenant)?;
        queue.running = queue.running.saturating_sub(1);
        if queue.running > 0 {
            return None;
        }
        let orphans = self.by_tenant.remove(&tenant)?;
        self.waiting = self.waiting.saturating_sub(orphans.waiting.len());
        Some(orphans)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};

    use super::*;

    const FIRST: Tenant = Tenant::Container(1);
    const RUNNING_MAX: usize = 16;

    #[test]
    fn who_panics_keeps_nobody_waiting() {
        let pool = FairPool::new(RUNNING_MAX, &Records::none());
        // Without resume_unwind, the panic message would be printed as if it were the test's.
        let quiet = || std::panic::resume_unwind(Box::new("a handler's bug"));
        for _ in 0..4 * RUNNING_MAX {
            pool.run(FIRST, quiet);
        }
        let (told, tells) = mpsc::channel();
        pool.run(FIRST, move || told.send(()).unwrap());
        assert_eq!(tells.recv_timeout(std::time::Duration::from_secs(60)), Ok(()));
        while !pool.queues.lock().by_tenant.is_empty() {
            thread::yield_now();
        }
        let queues = pool.queues.lock();
        assert_eq!((queues.running, queues.waiting), (0, 0));
    }

    #[test]
    fn so_many_at_once_and_the_rest_in_turn() {
        let pool = FairPool::new(RUNNING_MAX, &Records::none());
        let (go, done) = (Arc::new(Barrier::new(RUNNING_MAX + 1)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..RUNNING_MAX {
            let (go, done) = (Arc::clone(&go), Arc::clone(&done));
            pool.run(FIRST, move || {
                go.wait();
                done.fetch_add(1, Ordering::AcqRel);
            });
        }
        while !pool.queues.lock().by_tenant[&FIRST].waiting.is_empty() {
            thread::yield_now();
        }
        let (told, tells) = mpsc::channel();
        for number in 0..WAITING_MAX {
            assert!(pool.has_room(FIRST));
            let told = told.clone();
            pool.run(FIRST, move || told.send(number).unwrap());
        }
        assert!(!pool.has_room(FIRST) && done.load(Ordering::Acquire) == 0);
        let (other_told, other_tells) = mpsc::channel();
        assert!(pool.has_room(Tenant::Container(2)));
        pool.run(Tenant::Container(2), move || other_told.send(()).unwrap());
        other_tells.recv().unwrap();
        go.wait();
        let mut numbers: Vec<usize> = tells.iter().take(WAITING_MAX).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..WAITING_MAX));
        while !pool.queues.lock().by_tenant.is_empty() {
            thread::yield_now();
        }
        assert_eq!(done.load(Ordering::Acquire), RUNNING_MAX);
        let (told, tells) = mpsc::channel();
        pool.run(FIRST, move || told.send(()).unwrap());
        tells.recv().unwrap();
    }

    #[test]
    fn nobody_gets_all_and_everybody_gets_one() {
        let pool = FairPool::new(RUNNING_MAX, &Records::none());
        let (go, tenants) = (Arc::new((Mutex::new(false), parking_lot::Condvar::new())), 100);
        for tenant in 0..tenants {
            for _ in 0..RUNNING_MAX {
                let go = Arc::clone(&go);
                pool.run(Tenant::User(tenant), move || {
                    let (may, told) = &*go;
                    told.wait_while(&mut may.lock(), |may| !*may);
                });
            }
        }
        let running = |tenant| pool.queues.lock().by_tenant[&Tenant::User(tenant)].running;
        assert_eq!([running(0), running(tenants - 1)], [RUNNING_MAX, 1]);
        assert!(pool.queues.lock().running < super::RUNNING_MAX + tenants as usize);
        *go.0.lock() = true;
        go.1.notify_all();
        while !pool.queues.lock().by_tenant.is_empty() {
            thread::yield_now();
        }
        assert_eq!(pool.queues.lock().waiting, 0);
    }
}
