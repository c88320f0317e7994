//! The side of a view's processes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::clock::{monotonic, monotonic_coarse};
use super::counters::Outcome;
use super::current::{self, Pending};
use super::event::Event;
use super::layout::{COUNTED, FORMAT, Number, REJECTED, RULES, WATCHED, WORDS};
use crate::policy::Rule;
use crate::sys::shared::SharedMemory;

/// What a view has done.
#[derive(Debug)]
pub struct Activity {
    /// `None` where nothing is noted.
    memory: Option<SharedMemory>,
}

impl Activity {
    /// Begins to note it.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> io::Result<Self> {
        let activity = Self { memory: Some(SharedMemory::new(WORDS)?) };
        activity.set(Number::Format, FORMAT);
        Ok(activity)
    }

    /// Goes on with what another program has noted, by its file, or begins anew if that has another format.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn open(file: Option<OwnedFd>) -> io::Result<Self> {
        let opened = file.and_then(|file| SharedMemory::open(WORDS, file).ok());
        let opened = Self { memory: opened };
        if opened.number(Number::Format) == FORMAT { Ok(opened) } else { Self::new() }
    }

    /// Notes nothing.
    pub const fn none() -> Self {
        Self { memory: None }
    }

    /// The file, for another program. `None` where the kernel has none (before Linux 3.17).
    pub fn as_file(&self) -> Option<&OwnedFd> {
        self.memory.as_ref()?.as_file()
    }

    fn words(&self) -> &[AtomicU64] {
        self.memory.as_ref().map(SharedMemory::words).unwrap_or_default()
    }

    fn word(&self, number: Number) -> Option<&AtomicU64> {
        self.words().get(number as usize)
    }

    fn number(&self, number: Number) -> u64 {
        self.word(number).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Sets a number.
    pub fn set(&self, number: Number, value: u64) {
        if let Some(word) = self.word(number) {
            word.store(value, Ordering::Release);
        }
    }

    /// Adds to a number; a negative one is taken away.
    pub fn add(&self, number: Number, more: i64) {
        if let Some(word) = self.word(number) {
            word.fetch_add(more.cast_unsigned(), Ordering::Relaxed);
        }
    }

    /// Begins the life of another server.
    pub fn start(&self) {
        [Number::OpenFiles, Number::Watches].into_iter().for_each(|number| self.set(number, 0));
        let words = self.words();
        [REJECTED, WATCHED].iter().for_each(|ring| ring.recover(words));
    }

    /// Lets the server note each request for this long.
    pub fn watch_for(&self, time: Duration) {
        let until = monotonic_coarse().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        if let Some(word) = self.word(Number::WatchedUntil) {
            word.fetch_max(until, Ordering::Relaxed);
        }
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        let Some(word) = self.word(Number::WatchedUntil) else { return false };
        let until = word.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        let is_watched = monotonic_coarse() <= until;
        if !is_watched {
            // Unless somebody has just begun to watch.
            let _ = word.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        is_watched
    }

    /// Begins a request in the calling thread. Returns the time, in nanoseconds of the monotonic clock.
    pub fn begin(&self) -> u64 {
        if self.memory.is_none() {
            return monotonic_coarse();
        }
        let now = monotonic();
        current::begin(now);
        now
    }

    /// Goes on in the calling thread with a request that another thread has begun.
    pub fn go_on(&self, pending: Option<Pending>) {
        if self.memory.is_some() {
            current::go_on(pending);
        }
    }

    /// Ends the calling thread's request, unless it was handed over.
    pub fn finish(&self) {
        let Some(current) = current::take() else { return };
        let Some(kind) = current.kind else { return };
        let (words, took) = (self.words(), monotonic().saturating_sub(current.begun));
        let outcome = match (current.rule, current.errno) {
            (Some(_), _) => Outcome::Rejected,
            (None, 0) => Outcome::Done,
            (None, _) => Outcome::Failed,
        };
        COUNTED.add(words, kind, outcome, took);
        let is_watched = self.is_watched();
        if current.rule.is_none() && !is_watched {
            return;
        }
        let subject = current::take_subject().unwrap_or_default();
        let event = Event {
            time: SystemTime::now(),
            took: Duration::from_nanos(took),
            kind: Some(kind),
            errno: current.errno,
            rule: current.rule,
            pid: if subject.pid == 0 { current.tid } else { subject.pid },
            uid: current.uid,
            command: subject.command,
            path: subject.path,
            is_cut: false,
        };
        if let Some(rule) = current.rule {
            if let Some(count) = count_of(words, rule) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            REJECTED.push(words, &event);
        }
        if is_watched {
            WATCHED.push(words, &event);
        }
    }
}

/// How often a rule has rejected a request.
pub(super) fn count_of(words: &[AtomicU64], rule: Rule) -> Option<&AtomicU64> {
    words.get(RULES + rule as usize)
}

#[cfg(test)]
mod tests {
    use super::super::{ActivityReader, Number, RequestKind, Subject, describe, hand_over, note, set_caller};
    use super::*;

    fn request(activity: &Activity, path: &str, rule: Option<Rule>) {
        activity.begin();
        set_caller(77, 1000);
        describe(Subject { pid: 70, command: b"sh".to_vec(), path: path.as_bytes().to_vec() });
        note(RequestKind::Mkdir, rule.map_or(0, |_| libc::EACCES), rule);
        activity.finish();
    }

    fn reader(activity: &Activity) -> ActivityReader {
        ActivityReader::open(activity.as_file().unwrap().try_clone().unwrap()).unwrap()
    }

    #[test]
    fn a_rejection_is_kept_and_all_are_counted() {
        let activity = Activity::new().unwrap();
        request(&activity, "/done", None);
        for number in 0..300 {
            request(&activity, &format!("/{number}"), Some(Rule::OutsideSubtree));
        }
        let reader = reader(&activity);
        let rejections = reader.rejections();
        assert_eq!(rejections.len(), 256);
        let first = &rejections[0];
        assert_eq!((first.path.as_slice(), first.pid, first.uid), (b"/44".as_slice(), 70, 1000));
        assert_eq!((first.command.as_slice(), first.rule), (b"sh".as_slice(), Some(Rule::OutsideSubtree)));
        assert_eq!(rejections.last().unwrap().path, b"/299");
        let counted = reader.counted(RequestKind::Mkdir);
        assert_eq!((counted.all, counted.rejected), (301, 300));
        assert_eq!(reader.rejected_by(Rule::OutsideSubtree), 300);
        assert_eq!(reader.rejected_by(Rule::Hidden), 0);
    }

    #[test]
    fn requests_are_noted_while_somebody_watches() {
        let activity = Activity::new().unwrap();
        let reader = reader(&activity);
        let mut follower = reader.follow();
        request(&activity, "/before", None);
        activity.watch_for(Duration::from_secs(60));
        request(&activity, "/watched", None);
        let events = follower.take(&reader);
        assert_eq!(events.iter().map(|event| event.path.as_slice()).collect::<Vec<_>>(), [b"/watched"]);
        // The watcher is gone.
        activity.set(Number::WatchedUntil, 1);
        request(&activity, "/after", None);
        assert!(follower.take(&reader).is_empty());
        assert_eq!((activity.number(Number::WatchedUntil), follower.missed()), (0, 0));
    }

    #[test]
    fn a_slow_watcher_misses_the_oldest() {
        let activity = Activity::new().unwrap();
        activity.watch_for(Duration::from_secs(60));
        let reader = reader(&activity);
        let mut follower = reader.follow();
        let count = WATCHED.capacity() + 100;
        for number in 0..count {
            request(&activity, &format!("/{number}"), None);
        }
        let events = follower.take(&reader);
        assert_eq!(events.len() as u64 + follower.missed(), count);
        assert_eq!(follower.missed(), 100);
        assert_eq!(events[0].path, b"/100");
    }

    #[test]
    fn another_thread_goes_on() {
        let activity = Activity::new().unwrap();
        activity.begin();
        set_caller(77, 1000);
        note(RequestKind::Write, 0, None);
        let pending = hand_over();
        activity.finish();
        assert_eq!(reader(&activity).counted(RequestKind::Write).all, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                activity.go_on(pending);
                note(RequestKind::Write, libc::EBUSY, None);
                activity.finish();
            });
        });
        let counted = reader(&activity).counted(RequestKind::Write);
        assert_eq!((counted.all, counted.failed), (1, 1));
    }

    #[test]
    fn another_program_goes_on_unless_the_format_differs() {
        let activity = Activity::new().unwrap();
        request(&activity, "/x", Some(Rule::Hidden));
        let file = || activity.as_file().unwrap().try_clone().unwrap();
        let other = Activity::open(Some(file())).unwrap();
        other.start();
        request(&other, "/y", Some(Rule::Hidden));
        assert_eq!(reader(&activity).rejections().len(), 2);
        activity.set(Number::Format, FORMAT + 1);
        assert!(ActivityReader::open(file()).is_err());
        let anew = Activity::open(Some(file())).unwrap();
        assert_eq!(reader(&anew).rejections().len(), 0);
        assert!(Activity::open(None).unwrap().as_file().is_some());
    }

    #[test]
    fn without_memory_nothing_is_noted() {
        let nothing = Activity::none();
        nothing.watch_for(Duration::from_secs(1));
        request(&nothing, "/x", Some(Rule::Hidden));
        assert!(!nothing.is_watched() && nothing.as_file().is_none());
    }
}
