//! Counters of requests by kind and result, with how long they took.
//!
//! They're there several times, and each thread adds to one of them, so that workers don't share cache lines.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::kind::RequestKind;

/// The upper bounds of the times that are told apart, in nanoseconds. What took longer is counted behind the last one.
pub const BOUNDS: [u64; 12] = [
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
];

/// How many sets of counters there are.
const SETS: usize = 8;

// The words of a kind.
const REJECTED: usize = BOUNDS.len() + 1;
const FAILED: usize = REJECTED + 1;
const NANOSECONDS: usize = FAILED + 1;
const DONE: usize = NANOSECONDS + 1;
const KIND_WORDS: usize = 17;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The caller got what it asked for.
    Done,
    /// A rule of the view rejected it.
    Rejected,
    /// The kernel refused it, or what it asked for isn't there.
    Failed,
}

/// What was counted of a kind of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// All requests.
    pub all: u64,
    /// Those whose callers got what they asked for. The numbers aren't read at one moment, so this isn't the rest of the others.
    pub done: u64,
    /// Those that a rule rejected.
    pub rejected: u64,
    /// Those that failed otherwise.
    pub failed: u64,
    /// How many took up to each of [`BOUNDS`], but longer than the one before, and how many took longer.
    pub by_time: [u64; BOUNDS.len() + 1],
    /// How long all of them took together.
    pub time: Duration,
}

impl Counted {
    /// Those that ended with this outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Done => self.done,
            Outcome::Rejected => self.rejected,
            Outcome::Failed => self.failed,
        }
    }

    /// What has come since an earlier look.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            all: self.all.saturating_sub(earlier.all),
            done: self.done.saturating_sub(earlier.done),
            rejected: self.rejected.saturating_sub(earlier.rejected),
            failed: self.failed.saturating_sub(earlier.failed),
            by_time: std::array::from_fn(|at| {
                let count = |of: &Self| of.by_time.get(at).copied().unwrap_or_default();
                count(self).saturating_sub(count(earlier))
            }),
            time: self.time.saturating_sub(earlier.time),
        }
    }
}

/// Where the counters are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    start: usize,
}

thread_local! {
    /// The set of the calling thread; [`SETS`] if it has none yet.
    static SET: Cell<usize> = const { Cell::new(SETS) };
}

static NEXT_SET: AtomicUsize = AtomicUsize::new(0);

fn own_set() -> usize {
    let set = SET.get();
    if set < SETS {
        return set;
    }
    let set = NEXT_SET.fetch_add(1, Ordering::Relaxed) % SETS;
    SET.set(set);
    set
}

impl Counters {
    const SET_WORDS: usize = RequestKind::ALL.len() * KIND_WORDS;
    pub(super) const WORDS: usize = SETS * Self::SET_WORDS;

    pub(super) const fn at(start: usize) -> Self {
        Self { start }
    }

    fn words<'a>(&self, memory: &'a [AtomicU64], set: usize, kind: RequestKind) -> &'a [AtomicU64] {
        let begin = self.start + set * Self::SET_WORDS + kind as usize * KIND_WORDS;
        memory.get(begin..begin + KIND_WORDS).unwrap_or_default()
    }

    /// Counts a request.
    pub(super) fn add(&self, memory: &[AtomicU64], kind: RequestKind, outcome: Outcome, nanoseconds: u64) {
        let words = self.words(memory, own_set(), kind);
        let add = |at: usize, more| words.get(at).map(|word| word.fetch_add(more, Ordering::Relaxed));
        add(BOUNDS.iter().take_while(|bound| nanoseconds > **bound).count(), 1);
        add(NANOSECONDS, nanoseconds);
        match outcome {
            Outcome::Done => drop(add(DONE, 1)),
            Outcome::Rejected => drop(add(REJECTED, 1)),
            Outcome::Failed => drop(add(FAILED, 1)),
        }
    }

    /// What was counted of a kind.
    pub(super) fn of(&self, memory: &[AtomicU64], kind: RequestKind) -> Counted {
        let mut sum = [0_u64; KIND_WORDS];
        for set in 0..SETS {
            let words = self.words(memory, set, kind);
            sum.iter_mut().zip(words).for_each(|(to, word)| *to = to.wrapping_add(word.load(Ordering::Relaxed)));
        }
        let word = |at: usize| sum.get(at).copied().unwrap_or_default();
        let by_time = std::array::from_fn(word);
        Counted {
            all: by_time.iter().fold(0, |all, more| u64::wrapping_add(all, *more)),
            done: word(DONE),
            rejected: word(REJECTED),
            failed: word(FAILED),
            by_time,
            time: Duration::from_nanos(word(NANOSECONDS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_room() {
        assert_eq!(DONE + 1, KIND_WORDS);
    }

    #[test]
    fn all_threads_are_counted() {
        let memory: Vec<AtomicU64> = (0..5 + Counters::WORDS).map(|_| AtomicU64::new(0)).collect();
        let counters = Counters::at(5);
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    counters.add(&memory, RequestKind::Mkdir, Outcome::Done, 5_000);
                    counters.add(&memory, RequestKind::Mkdir, Outcome::Rejected, 5_001);
                    counters.add(&memory, RequestKind::Mkdir, Outcome::Failed, 2_000_000_000);
                });
            }
        });
        let counted = counters.of(&memory, RequestKind::Mkdir);
        assert_eq!((counted.all, counted.rejected, counted.failed), (30, 10, 10));
        assert_eq!(counted.of(Outcome::Done), 10);
        assert_eq!(counted.by_time, [10, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]);
        assert_eq!(counted.time, Duration::from_nanos(10 * 2_000_010_001));
        let earlier = Counted { all: 29, ..counted };
        assert_eq!((counted.since(&earlier).all, counted.since(&earlier).rejected), (1, 0));
        assert_eq!(counters.of(&memory, RequestKind::Rmdir), Counted::default());
    }
}
