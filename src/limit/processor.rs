//! Limits the processor time of a server that one tenant uses.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// The part of each piece of work that isn't charged. It's several times the caller's cost of a request, so a limited
/// tenant can't make the server use much more time than the tenant itself. Requests that programs repeat all the time
/// take less.
const FREE_PER_TASK: Duration = Duration::from_micros(250);

/// The part of another process' work that isn't charged. The duration of that work depends on the machine's load.
const FREE_ELSEWHERE: Duration = Duration::from_millis(2);

/// The most that is charged for another process' work. A stopped process takes long, but uses no processor time.
const MAX_ELSEWHERE: Duration = Duration::from_millis(20);

/// How long a tenant pays for a piece of work, in multiples of its processor time: it has an eighth of a processor.
const PRICE_FACTOR: u32 = 8;

/// The processor time that a tenant can use at once after a pause.
const BURST_TIME: Duration = Duration::from_secs(2);

/// The processor time of a tenant. A tenant that has used too much waits before costly work until that is paid for.
#[derive(Debug)]
pub struct ProcessorTime {
    since: Instant,
    /// When everything is paid for, in nanoseconds after `since`. It lies in the past if nothing is owed.
    paid_at: AtomicU64,
}

impl Default for ProcessorTime {
    fn default() -> Self {
        Self { since: Instant::now(), paid_at: AtomicU64::new(0) }
    }
}

impl ProcessorTime {
    /// Does a piece of work, and charges its processor time.
    pub fn pay_for<T>(&self, work: impl FnOnce() -> T) -> T {
        let meter = Meter::start();
        let done = work();
        self.charge(meter.used().saturating_sub(FREE_PER_TASK), self.since.elapsed());
        done
    }

    /// Does a piece of work during which this thread waits for another process, and charges the elapsed time.
    pub fn pay_for_another<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let done = self.pay_for(work);
        let took = before.elapsed().saturating_sub(FREE_ELSEWHERE).min(MAX_ELSEWHERE);
        self.charge(took, self.since.elapsed());
        done
    }

    /// How long the tenant's costly work has to wait.
    pub fn wait(&self) -> Duration {
        self.wait_at(self.since.elapsed())
    }

    fn wait_at(&self, now: Duration) -> Duration {
        let window = BURST_TIME * PRICE_FACTOR;
        Duration::from_nanos(self.paid_at.load(Ordering::Acquire)).saturating_sub(now + window)
    }

    fn charge(&self, used: Duration, now: Duration) {
        if used.is_zero() {
            return;
        }
        let price = nanoseconds(used.saturating_mul(PRICE_FACTOR));
        let pay = |paid_at: u64| Some(paid_at.max(nanoseconds(now)).saturating_add(price));
        let _ = self.paid_at.fetch_update(Ordering::AcqRel, Ordering::Acquire, pay);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

thread_local! {
    /// The time of the calling thread's last reading of its used processor time, and the result.
    static LAST_READING: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// Measures the processor time of a piece of work of the calling thread.
///
/// Asking the kernel takes ten times as long as reading the clock. Most work ends in less than [`FREE_PER_TASK`], and
/// then the clock alone shows that it's free.
struct Meter {
    start: Instant,
    /// The thread's processor time when the work began, at most [`FREE_PER_TASK`] too large: the error is in the
    /// tenant's favour.
    used_before: Duration,
}

impl Meter {
    fn start() -> Self {
        let start = Instant::now();
        let last = LAST_READING.get().map(|(read_at, used)| (start.duration_since(read_at), used));
        let used_before = match last {
            Some((since, used)) if since < FREE_PER_TASK => used + since,
            _ => {
                let used = used_by_thread();
                LAST_READING.set(Some((start, used)));
                used
            }
        };
        Self { start, used_before }
    }

    /// The time used, up to [`FREE_PER_TASK`] less than it was. Of work that is free anyway it's at most that much.
    fn used(&self) -> Duration {
        let elapsed = self.start.elapsed();
        if elapsed <= FREE_PER_TASK {
            return elapsed;
        }
        used_by_thread().saturating_sub(self.used_before)
    }
}

/// The processor time that the calling thread has used; zero if the kernel doesn't tell.
fn used_by_thread() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_then_an_eighth_of_a_processor() {
        let time = ProcessorTime::default();
        time.charge(BURST_TIME, SECOND);
        assert_eq!(time.wait_at(SECOND), Duration::ZERO);
        time.charge(SECOND / 8, SECOND);
        assert_eq!(time.wait_at(SECOND), SECOND);
        assert_eq!(time.wait_at(SECOND * 2), Duration::ZERO);
        // After a long time a tenant still has no more than a burst.
        let later = SECOND * 1000;
        time.charge(BURST_TIME + SECOND, later);
        assert_eq!(time.wait_at(later), SECOND * 8);
    }

    #[test]
    fn cheap_work_is_free() {
        let time = ProcessorTime::default();
        for _ in 0..1000 {
            time.pay_for(|| ());
        }
        assert_eq!(time.paid_at.load(Ordering::Acquire), 0);
        let busy = || {
            let before = used_by_thread();
            while used_by_thread() - before < FREE_PER_TASK * 8 {}
        };
        time.pay_for(busy);
        assert!(time.paid_at.load(Ordering::Acquire) > nanoseconds(FREE_PER_TASK * 7 * PRICE_FACTOR));
    }

    #[test]
    fn a_stopped_process_costs_little() {
        let time = ProcessorTime::default();
        time.pay_for_another(|| std::thread::sleep(MAX_ELSEWHERE * 3));
        let paid_at = Duration::from_nanos(time.paid_at.load(Ordering::Acquire));
        assert!(
            paid_at > MAX_ELSEWHERE * PRICE_FACTOR && paid_at < MAX_ELSEWHERE * PRICE_FACTOR + SECOND,
            "{paid_at:?}"
        );
    }
}
