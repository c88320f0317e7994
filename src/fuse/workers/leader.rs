//! One worker reads requests: the leader. The others are its followers, and wait.
//!
//! One of the followers is the watchdog, which checks that somebody reads. If a request blocks the leader (it waits
//! for a lock of the host, or does a slow write), the watchdog takes its place, and another follower becomes the
//! watchdog. Without requests, all sleep.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// How often the watchdog checks. A blocked leader is replaced within twice this time.
pub(super) const WATCHDOG_INTERVAL: Duration = Duration::from_millis(1);

/// The workers of a session, as leader and followers.
#[derive(Debug)]
pub(super) struct LeaderFollowers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    interval: Duration,
    /// How many workers read, or are about to. Workers that have had no request yet aren't counted.
    readers: AtomicU32,
    /// How many requests have begun.
    requests: AtomicU64,
    /// Whether the watchdog sleeps until a request begins.
    watchdog_sleeps: AtomicBool,
    waiters: Mutex<Waiters>,
    watchdog_wakeup: Condvar,
    follower_wakeup: Condvar,
}

/// The waiting workers.
#[derive(Debug, Default)]
struct Waiters {
    followers: u32,
    has_watchdog: bool,
    /// Whether a worker has ended: all will end then.
    has_ended: bool,
}

impl Default for LeaderFollowers {
    fn default() -> Self {
        Self::with_interval(WATCHDOG_INTERVAL)
    }
}

impl LeaderFollowers {
    fn with_interval(interval: Duration) -> Self {
        Self(Arc::new(Shared { interval, ..Shared::default() }))
    }

    /// Notes that the calling worker has a request, and no longer reads.
    pub(super) fn begin(&self) {
        ENDS.with_borrow_mut(|ends| match ends {
            Some(_) => {
                self.0.readers.fetch_sub(1, Ordering::SeqCst);
            }
            None => *ends = Some(EndsWithThread(Arc::clone(&self.0))),
        });
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        if self.0.watchdog_sleeps.load(Ordering::SeqCst) && self.0.watchdog_sleeps.swap(false, Ordering::SeqCst) {
            // Taking the lock makes sure that the watchdog either hasn't checked yet or waits.
            drop(self.0.waiters.lock());
            self.0.watchdog_wakeup.notify_one();
        }
    }

    /// Notes that the calling worker continues with other work of the message that it has read.
    pub(super) fn go_on(&self) {
        self.0.readers.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends the calling worker's request. If nobody reads, the worker becomes the leader, and this returns true.
    /// Otherwise it calls `before_waiting`, and waits until it's needed.
    pub(super) fn lead_or_follow(&self, before_waiting: fn()) -> bool {
        if self.0.readers.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return true;
        }
        before_waiting();
        self.0.follow();
        false
    }

    /// Whether a watchdog would replace the calling worker if that is busy for long.
    pub(super) fn has_watchdog(&self) -> bool {
        self.0.waiters.lock().has_watchdog
    }
}

impl Shared {
    fn follow(&self) {
        let mut waiters = self.waiters.lock();
        waiters.followers += 1;
        while !waiters.has_ended {
            if waiters.has_watchdog {
                self.follower_wakeup.wait(&mut waiters);
            } else {
                waiters.has_watchdog = true;
                let is_needed = self.watch(&mut waiters);
                waiters.has_watchdog = false;
                self.follower_wakeup.notify_one();
                if is_needed {
                    break;
                }
            }
        }
        waiters.followers -= 1;
        self.readers.fetch_add(1, Ordering::SeqCst);
    }

    /// Runs the watchdog. Returns whether it has to become the leader.
    fn watch(&self, waiters: &mut MutexGuard<'_, Waiters>) -> bool {
        let mut seen = self.requests.load(Ordering::SeqCst);
        while !waiters.has_ended {
            self.watchdog_wakeup.wait_for(waiters, self.interval);
            let requests = self.requests.load(Ordering::SeqCst);
            if requests != seen {
                seen = requests;
            } else if self.readers.load(Ordering::SeqCst) == 0 {
                return true;
            } else {
                // A whole interval without a request.
                self.watchdog_sleeps.store(true, Ordering::SeqCst);
                if self.requests.load(Ordering::SeqCst) != seen {
                    self.watchdog_sleeps.store(false, Ordering::SeqCst);
                }
                while self.watchdog_sleeps.load(Ordering::SeqCst) && !waiters.has_ended {
                    self.watchdog_wakeup.wait(waiters);
                }
                self.watchdog_sleeps.store(false, Ordering::SeqCst);
            }
        }
        false
    }
}

thread_local! {
    static ENDS: RefCell<Option<EndsWithThread>> = const { RefCell::new(None) };
}

/// Ends the followers when a worker ends.
#[derive(Debug)]
struct EndsWithThread(Arc<Shared>);

impl Drop for EndsWithThread {
    fn drop(&mut self) {
        self.0.waiters.lock().has_ended = true;
        self.0.watchdog_wakeup.notify_all();
        self.0.follower_wakeup.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::JoinHandle;

    use super::*;

    /// Longer than anything in these tests takes.
    const LONG: Duration = Duration::from_secs(20);

    /// With this interval the watchdog replaces nobody, however busy the machine is.
    const NEVER: Duration = Duration::from_secs(600);

    /// Workers that read from a queue, as they would from the kernel's.
    struct Session {
        workers: Vec<JoinHandle<()>>,
        roles: Arc<LeaderFollowers>,
        requests: Sender<Request>,
        served: Receiver<std::thread::ThreadId>,
    }

    /// The channel that the handler waits for, if any.
    type Request = Option<Receiver<()>>;

    impl Session {
        fn of(workers: usize, interval: Duration) -> Self {
            let (requests, queue) = channel::<Request>();
            let (reply, served) = channel();
            let (queue, roles) = (Arc::new(Mutex::new(queue)), Arc::new(LeaderFollowers::with_interval(interval)));
            let worker = |_| {
                let (queue, roles, reply) = (Arc::clone(&queue), Arc::clone(&roles), reply.clone());
                std::thread::spawn(move || {
                    loop {
                        let request = queue.lock().recv();
                        let Ok(request) = request else { return };
                        roles.begin();
                        if let Some(lock) = request {
                            let _ = lock.recv();
                        }
                        reply.send(std::thread::current().id()).unwrap();
                        roles.lead_or_follow(|| {});
                    }
                })
            };
            Self { workers: (0..workers).map(worker).collect(), roles, requests, served }
        }

        fn ask(&self) -> std::thread::ThreadId {
            self.requests.send(None).unwrap();
            self.served.recv_timeout(LONG).unwrap()
        }

        fn all_but_one_follow(&self) {
            while self.roles.0.waiters.lock().followers + 1 < u32::try_from(self.workers.len()).unwrap() {
                self.ask();
            }
        }

        /// Waits for a state. A worker that isn't waiting may only have replied, and not be reading yet.
        fn until(&self, holds: impl Fn(&Shared) -> bool) {
            let start = std::time::Instant::now();
            while !holds(&self.roles.0) {
                assert!(start.elapsed() < LONG);
                std::thread::yield_now();
            }
        }

        /// Ends the session: all workers end when one does.
        fn end(self) {
            drop(self.requests);
            for worker in self.workers {
                worker.join().unwrap();
            }
        }
    }

    #[test]
    fn one_reads() {
        let session = Session::of(4, NEVER);
        session.all_but_one_follow();
        let reader = session.ask();
        for _ in 0..1000 {
            assert_eq!(session.ask(), reader);
        }
        session.end();
    }

    #[test]
    fn who_is_kept_is_replaced() {
        let session = Session::of(4, WATCHDOG_INTERVAL);
        session.all_but_one_follow();
        let mut locks = Vec::new();
        for _ in 0..3 {
            let (release, lock) = channel();
            locks.push(release);
            session.requests.send(Some(lock)).unwrap();
            session.ask();
        }
        drop(locks);
        for _ in 0..3 {
            session.served.recv_timeout(LONG).unwrap();
        }
        session.all_but_one_follow();
        session.end();
    }

    #[test]
    fn the_watchdog_sleeps_where_nothing_is_asked_for() {
        let session = Session::of(4, WATCHDOG_INTERVAL);
        for _ in 0..3 {
            session.all_but_one_follow();
            session.until(|shared| shared.watchdog_sleeps.load(Ordering::SeqCst));
            let (release, lock) = channel();
            session.requests.send(Some(lock)).unwrap();
            session.ask();
            drop(release);
            session.served.recv_timeout(LONG).unwrap();
        }
        session.end();
    }
}
