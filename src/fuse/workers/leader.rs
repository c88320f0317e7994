//! Workers that stand by.
//!
//! One of them is the sentry, and watches that somebody reads: should the one that does be kept by a request (it waits for a lock of the host),
//! the sentry takes its place, and the next one is the sentry. While nothing is asked for, all sleep.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// After how long somebody else reads at the latest is twice this.
const TICK: Duration = Duration::from_millis(1);

/// Who reads, and who stands by.
#[derive(Debug)]
pub(super) struct StandBy(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    tick: Duration,
    /// How many read, or are about to. Those that have had no turn yet aren't counted.
    reading: AtomicU32,
    /// Turns so far.
    turns: AtomicU64,
    /// The sentry sleeps until a turn begins.
    is_asleep: AtomicBool,
    post: Mutex<Post>,
    /// Where the sentry waits.
    watch: Condvar,
    /// Where the others wait.
    reserve: Condvar,
}

#[derive(Debug, Default)]
struct Post {
    standing: u32,
    has_sentry: bool,
    /// How many are to read again.
    called: u32,
    /// A worker has ended, and so will all.
    has_ended: bool,
}

impl Default for StandBy {
    fn default() -> Self {
        Self::with_tick(TICK)
    }
}

impl StandBy {
    fn with_tick(tick: Duration) -> Self {
        Self(Arc::new(Shared { tick, ..Shared::default() }))
    }

    /// The calling worker has a request, and doesn't read any more.
    pub(super) fn begins(&self) {
        ENDS.with_borrow_mut(|ends| match ends {
            Some(_) => {
                self.0.reading.fetch_sub(1, Ordering::SeqCst);
            }
            None => *ends = Some(Ends(Arc::clone(&self.0))),
        });
        self.0.turns.fetch_add(1, Ordering::SeqCst);
        if self.0.is_asleep.load(Ordering::SeqCst) && self.0.is_asleep.swap(false, Ordering::SeqCst) {
            // The sentry has either not looked yet, or waits.
            drop(self.0.post.lock());
            self.0.watch.notify_one();
        }
    }

    /// The calling worker's turn is over, and it reads.
    pub(super) fn goes_on(&self) {
        self.0.reading.fetch_add(1, Ordering::SeqCst);
    }

    /// The calling worker's turn is over. It reads if nobody else does, or else when it's needed. Whether it was needed at once.
    pub(super) fn goes_on_or_stands_by(&self) -> bool {
        if self.0.reading.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return true;
        }
        self.0.stand_by();
        false
    }

    /// All are to read.
    pub(super) fn call(&self) {
        let mut post = self.0.post.lock();
        post.called = post.standing;
        self.0.wake_all();
    }
}

impl Shared {
    fn stand_by(&self) {
        let mut post = self.post.lock();
        post.standing += 1;
        loop {
            if post.has_ended {
                break;
            }
            if post.called > 0 {
                post.called -= 1;
                break;
            }
            if post.has_sentry {
                self.reserve.wait(&mut post);
            } else {
                post.has_sentry = true;
                let is_needed = self.watch(&mut post);
                post.has_sentry = false;
                self.reserve.notify_one();
                if is_needed {
                    break;
                }
            }
        }
        post.standing -= 1;
        self.reading.fetch_add(1, Ordering::SeqCst);
    }

    fn wake_all(&self) {
        self.watch.notify_all();
        self.reserve.notify_all();
    }

    /// The sentry's watch. Whether it's needed, or else was called.
    fn watch(&self, post: &mut MutexGuard<'_, Post>) -> bool {
        let mut seen = self.turns.load(Ordering::SeqCst);
        while !post.has_ended && post.called == 0 {
            self.watch.wait_for(post, self.tick);
            let turns = self.turns.load(Ordering::SeqCst);
            if turns != seen {
                seen = turns;
            } else if self.reading.load(Ordering::SeqCst) == 0 {
                return true;
            } else {
                // A whole tick without a request.
                self.is_asleep.store(true, Ordering::SeqCst);
                if self.turns.load(Ordering::SeqCst) != seen {
                    self.is_asleep.store(false, Ordering::SeqCst);
                }
                while self.is_asleep.load(Ordering::SeqCst) && !post.has_ended && post.called == 0 {
                    self.watch.wait(post);
                }
                self.is_asleep.store(false, Ordering::SeqCst);
            }
        }
        false
    }
}

thread_local! {
    static ENDS: RefCell<Option<Ends>> = const { RefCell::new(None) };
}

/// Dropped when a worker ends.
#[derive(Debug)]
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.post.lock().has_ended = true;
        self.0.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::JoinHandle;

    use super::*;

    /// So long nothing takes that happens at all.
    const LONG: Duration = Duration::from_secs(20);

    /// Nobody is kept for so long: where it's the tick, nobody is replaced, however busy the machine is.
    const NEVER: Duration = Duration::from_secs(600);

    /// Workers who read from a queue, as they would from the kernel's.
    struct Session {
        workers: Vec<JoinHandle<()>>,
        standby: Arc<StandBy>,
        requests: Sender<Request>,
        served: Receiver<std::thread::ThreadId>,
    }

    /// What the handler waits for, if for anything.
    type Request = Option<Receiver<()>>;

    impl Session {
        fn of(workers: usize, tick: Duration) -> Self {
            let (requests, queue) = channel::<Request>();
            let (reply, served) = channel();
            let (queue, standby) = (Arc::new(Mutex::new(queue)), Arc::new(StandBy::with_tick(tick)));
            let worker = |_| {
                let (queue, standby, reply) = (Arc::clone(&queue), Arc::clone(&standby), reply.clone());
                std::thread::spawn(move || {
                    loop {
                        let request = queue.lock().recv();
                        let Ok(request) = request else { return };
                        standby.begins();
                        if let Some(lock) = request {
                            let _ = lock.recv();
                        }
                        reply.send(std::thread::current().id()).unwrap();
                        standby.goes_on_or_stands_by();
                    }
                })
            };
            Self { workers: (0..workers).map(worker).collect(), standby, requests, served }
        }

        fn ask(&self) -> std::thread::ThreadId {
            self.requests.send(None).unwrap();
            self.served.recv_timeout(LONG).unwrap()
        }

        fn all_but_one_stand_by(&self) {
            while self.standby.0.post.lock().standing + 1 < u32::try_from(self.workers.len()).unwrap() {
                self.ask();
            }
        }

        /// The one that doesn't stand by may have replied only, and not read yet.
        fn until(&self, holds: impl Fn(&Shared) -> bool) {
            let start = std::time::Instant::now();
            while !holds(&self.standby.0) {
                assert!(start.elapsed() < LONG);
                std::thread::yield_now();
            }
        }

        /// All of them end when one does.
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
        session.all_but_one_stand_by();
        let reader = session.ask();
        for _ in 0..1000 {
            assert_eq!(session.ask(), reader);
        }
        session.end();
    }

    #[test]
    fn who_is_kept_is_replaced() {
        let session = Session::of(4, TICK);
        session.all_but_one_stand_by();
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
        session.all_but_one_stand_by();
        session.end();
    }

    #[test]
    fn the_sentry_sleeps_where_nothing_is_asked_for() {
        let session = Session::of(4, TICK);
        for _ in 0..3 {
            session.all_but_one_stand_by();
            session.until(|shared| shared.is_asleep.load(Ordering::SeqCst));
            let (release, lock) = channel();
            session.requests.send(Some(lock)).unwrap();
            session.ask();
            drop(release);
            session.served.recv_timeout(LONG).unwrap();
        }
        session.end();
    }

    #[test]
    fn those_who_are_called_read() {
        let session = Session::of(4, NEVER);
        session.all_but_one_stand_by();
        session.until(|shared| shared.reading.load(Ordering::SeqCst) == 1);
        session.standby.call();
        session.until(|shared| shared.reading.load(Ordering::SeqCst) == 4);
        session.end();
    }
}
