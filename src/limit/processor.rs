//! How much processor time of a server one tenant may use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// What each piece of work takes for nothing. It's some times of what it costs to ask for it, so that who is limited himself can't have the server
/// take much more; and nothing that programs ask for again and again takes as long.
const FREE_PER_TASK: Duration = Duration::from_micros(250);

/// The same for what another process does meanwhile: how long it takes depends on how busy the machine is.
const FREE_ELSEWHERE: Duration = Duration::from_millis(2);

/// The most that counts of what another process does: one that is stopped takes as long as one likes, but no processor time.
const MAX_ELSEWHERE: Duration = Duration::from_millis(20);

/// How many times as long as a piece of work takes it's paid for: a tenant has an eighth of a processor.
const PRICE_FACTOR: u32 = 8;

/// How much processor time a tenant has at once, if it hasn't used any for long.
const BURST: Duration = Duration::from_secs(2);

/// The processor time of a tenant. Whoever has used more than he has waits before costly work, until it's paid for.
#[derive(Debug)]
pub struct ProcessorTime {
    since: Instant,
    /// When all will be paid for, in nanoseconds after `since`; a burst ago if nothing is to be paid.
    paid_at: AtomicU64,
}

impl Default for ProcessorTime {
    fn default() -> Self {
        Self { since: Instant::now(), paid_at: AtomicU64::new(0) }
    }
}

impl ProcessorTime {
    /// Does a piece of work, which is paid for afterwards.
    pub fn pay_for<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = used_by_thread();
        let done = work();
        self.charge(used_by_thread().saturating_sub(before).saturating_sub(FREE_PER_TASK), self.since.elapsed());
        done
    }

    /// The same for work that another process does.
    pub fn pay_for_another<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let done = self.pay_for(work);
        let took = before.elapsed().saturating_sub(FREE_ELSEWHERE).min(MAX_ELSEWHERE);
        self.charge(took, self.since.elapsed());
        done
    }

    /// How long costly work has to wait.
    pub fn wait(&self) -> Duration {
        self.wait_at(self.since.elapsed())
    }

    fn wait_at(&self, now: Duration) -> Duration {
        let window = BURST * PRICE_FACTOR;
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

/// How much processor time the calling thread has used so far; none where that can't be told.
fn used_by_thread() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_and_then_an_eighth() {
        let time = ProcessorTime::default();
        time.charge(BURST, SECOND);
        assert_eq!(time.wait_at(SECOND), Duration::ZERO);
        time.charge(SECOND / 8, SECOND);
        assert_eq!(time.wait_at(SECOND), SECOND);
        assert_eq!(time.wait_at(SECOND * 2), Duration::ZERO);
        // Long afterwards there's no more than a burst.
        let later = SECOND * 1000;
        time.charge(BURST + SECOND, later);
        assert_eq!(time.wait_at(later), SECOND * 8);
    }

    #[test]
    fn what_takes_little_costs_nothing() {
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
    fn who_is_stopped_costs_little() {
        let time = ProcessorTime::default();
        time.pay_for_another(|| std::thread::sleep(MAX_ELSEWHERE * 3));
        let paid_at = Duration::from_nanos(time.paid_at.load(Ordering::Acquire));
        assert!(
            paid_at > MAX_ELSEWHERE * PRICE_FACTOR && paid_at < MAX_ELSEWHERE * PRICE_FACTOR + SECOND,
            "{paid_at:?}"
        );
    }
}
