//! The queue of the log. Threads that log never wait; one thread writes, and may wait.
//!
//! A record that doesn't fit, or can't be written, is lost. The log reports the number of lost records as soon as
//! there's room again. Nothing here panics, and logging takes no system call but the one that wakes the thread.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::activity::Number;
use crate::records::Records;
use crate::server::logging::sink::Sink;
use crate::server::logging::style::{Style, loss_record};

/// The maximum size of the queue, in bytes and in records.
const MAX_BYTES: usize = 256 * 1024;
const MAX_RECORDS: usize = 1024;

/// The longest record, in bytes; the rest is cut off. Log services accept about 200 KiB at once.
const MAX_RECORD: usize = 16 * 1024;

/// How long a process that exits waits for the last records to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A log with its queue.
#[derive(Debug)]
pub(crate) struct Log {
    style: Mutex<Style>,
    /// Whether records are queued, or written by the thread that logs them.
    is_queued: AtomicBool,
    queue: Mutex<Queue>,
    /// Signalled when the thread has work.
    has_work: Condvar,
    /// Signalled when the thread has written everything.
    is_written: Condvar,
    /// The sink, and whether it ends in an unfinished record. Locked while writing, which may block for ever.
    sink: Mutex<(Sink, bool)>,
    /// How many records were lost since the start.
    lost: AtomicU64,
    /// Where these are counted as well, for those who watch the view.
    counted_in: OnceLock<Arc<Records>>,
}

#[derive(Debug)]
struct Queue {
    records: VecDeque<Record>,
    /// Their length in bytes.
    bytes: usize,
    /// How many lost records the log hasn't reported yet.
    untold: u64,
    /// Whether the last record couldn't be written.
    is_failing: bool,
    reopen: bool,
    /// Whether there's a thread, and whether it's writing.
    has_thread: bool,
    is_busy: bool,
}

#[derive(Debug)]
struct Record {
    level: Level,
    text: String,
}

/// The next work of the thread.
#[derive(Debug, Default)]
struct Work {
    reopen: bool,
    untold: u64,
    record: Option<Record>,
}

impl Log {
    /// Makes a log to stderr that isn't queued.
    pub(crate) const fn new() -> Self {
        Self {
            style: Mutex::new(Style::Text),
            is_queued: AtomicBool::new(false),
            queue: Mutex::new(Queue {
                records: VecDeque::new(),
                bytes: 0,
                untold: 0,
                is_failing: false,
                reopen: false,
                has_thread: false,
                is_busy: false,
            }),
            has_work: Condvar::new(),
            is_written: Condvar::new(),
            sink: Mutex::new((Sink::Stderr, false)),
            lost: AtomicU64::new(0),
            counted_in: OnceLock::new(),
        }
    }

    pub(crate) fn style(&self) -> Style {
        *self.style.lock()
    }

    pub(crate) fn set_style(&self, style: Style) {
        *self.style.lock() = style;
    }

    /// Replaces the sink. Only without a thread, which may hold the sink for ever.
    pub(crate) fn set_sink(&self, sink: Sink) {
        *self.sink.lock() = (sink, false);
    }

    /// Queues records from here on.
    pub(crate) fn queue(&self) {
        self.is_queued.store(true, Ordering::Relaxed);
    }

    /// Counts lost records in a view's activity, too.
    pub(crate) fn count_in(&self, records: Arc<Records>) {
        let _ = self.counted_in.set(records);
    }

    /// How many records were lost since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Starts the thread that writes the queue, once. Without it records are lost when the queue is full.
    pub(crate) fn start_thread(&'static self) {
        if std::mem::replace(&mut self.queue.lock().has_thread, true) {
            return;
        }
        let started = thread::Builder::new().name("log".to_owned()).stack_size(128 * 1024).spawn(|| {
            loop {
                self.perform(self.wait_for_work());
            }
        });
        if started.is_err() {
            self.queue.lock().has_thread = false;
        }
    }

    /// Drops the records that wait.
    pub(crate) fn forget_queued(&self) {
        let mut queue = self.queue.lock();
        queue.records.clear();
        (queue.bytes, queue.untold) = (0, 0);
    }

    /// Whether records wait.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.queue.lock().records.is_empty()
    }

    /// Makes the thread reopen the log's file by its name.
    pub(crate) fn reopen(&self) {
        self.queue.lock().reopen = true;
        self.has_work.notify_one();
    }

    /// Waits, with a limit, until the queue is written.
    pub(crate) fn finish(&'static self) {
        if !self.is_queued.load(Ordering::Relaxed) {
            return;
        }
        self.start_thread();
        let end = Instant::now() + FLUSH_TIMEOUT;
        let mut queue = self.queue.lock();
        while (queue.is_busy || !queue.records.is_empty())
            && queue.has_thread
            && !self.is_written.wait_until(&mut queue, end).timed_out()
        {}
    }

    /// Queues a record.
    fn log(&self, level: Level, text: &str) {
        let text = cut(text);
        if !self.is_queued.load(Ordering::Relaxed) {
            let mut sink = self.sink.lock();
            let (sink, begun) = &mut *sink;
            if sink.write(level, &text, begun).is_err() {
                self.count_lost(1);
            }
            return;
        }
        let mut queue = self.queue.lock();
        if queue.records.len() >= MAX_RECORDS || queue.bytes + text.len() > MAX_BYTES {
            self.lose(&mut queue, 1);
            return;
        }
        queue.bytes += text.len();
        queue.records.push_back(Record { level, text });
        drop(queue);
        self.has_work.notify_one();
    }

    fn lose(&self, queue: &mut MutexGuard<'_, Queue>, count: u64) {
        queue.untold += count;
        self.count_lost(count);
    }

    fn count_lost(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        if let Some(records) = self.counted_in.get() {
            records.activity().add(Number::LostLogLines, i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn wait_for_work(&self) -> Work {
        let mut queue = self.queue.lock();
        loop {
            let mut work =
                Work { reopen: std::mem::take(&mut queue.reopen), record: queue.records.pop_front(), untold: 0 };
            queue.bytes -= work.record.as_ref().map_or(0, |record| record.text.len());
            // While writing fails, losses are reported with the next record.
            if work.record.is_some() || work.reopen || !queue.is_failing {
                work.untold = std::mem::take(&mut queue.untold);
            }
            queue.is_busy = work.record.is_some() || work.reopen || work.untold > 0;
            if queue.is_busy {
                return work;
            }
            self.is_written.notify_all();
            self.has_work.wait(&mut queue);
        }
    }

    /// Writes without the queue's lock, since writing may block.
    fn perform(&self, work: Work) {
        let style = self.style();
        let mut sink = self.sink.lock();
        let (sink, begun) = &mut *sink;
        let mut write = |sink: &Sink, level, text: &str| sink.write(level, text, begun);
        let mut outcome = Ok(());
        if work.reopen {
            // The old file stays open, so the user finds the reason in it.
            if let Err(error) = sink.reopen() {
                outcome = write(sink, Level::WARN, &format!("can't open the log's file once more: {error}\n"));
            }
        }
        let mut told: io::Result<()> = Ok(());
        if work.untold > 0 {
            told = write(sink, Level::WARN, &loss_record(style, work.untold, self.lost()));
        }
        let untold = if told.is_err() { work.untold } else { 0 };
        let mut lost = 0;
        if let Some(record) = &work.record {
            outcome = write(sink, record.level, &record.text);
            lost = u64::from(outcome.is_err());
        }
        let mut queue = self.queue.lock();
        queue.untold += untold;
        queue.is_failing = outcome.is_err() || told.is_err();
        self.lose(&mut queue, lost);
    }
}

/// Cuts a record to the maximum length.
fn cut(text: &str) -> String {
    if text.len() <= MAX_RECORD {
        return text.to_owned();
    }
    let mut end = MAX_RECORD;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...\n", text.get(..end).unwrap_or_default())
}

impl<'a> MakeWriter<'a> for &'static Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { log: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { log: self, level: *metadata.level() }
    }
}

/// A writer that takes one whole record.
#[derive(Debug)]
pub(crate) struct Line {
    log: &'static Log,
    level: Level,
}

impl io::Write for Line {
    /// Never fails: a thread that logs couldn't handle an error.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.log.log(self.level, &String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A log whose file is a pipe, which a test reads or doesn't read.
    fn piped() -> (&'static Log, std::fs::File) {
        let (read, write) = nix::unistd::pipe().unwrap();
        let log: &Log = Box::leak(Box::new(Log::new()));
        log.set_style(Style::Bare);
        log.set_sink(Sink::File { file: write.into(), path: "/nonexistent/log".into() });
        log.queue();
        (log, read.into())
    }

    #[test]
    fn logging_never_waits_and_losses_are_reported() {
        let (log, mut reader) = piped();
        log.start_thread();
        let record = format!("{}\n", "x".repeat(1023));
        // More than a pipe (64 KiB) and the queue hold.
        let written = 2 * MAX_RECORDS as u64;
        for _ in 0..written {
            log.log(Level::INFO, &record);
        }
        let lost = log.lost();
        assert!(lost > 0);
        let mut text = String::new();
        let mut byte = vec![0; 64 * 1024];
        // There can be several reports, if the thread found room before all was logged. A line that was read in part
        // doesn't count yet.
        let told = |text: &str| {
            let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            lines.filter_map(|line| line.split_once("lost=")?.1.parse::<u64>().ok()).sum::<u64>()
        };
        while told(&text) < lost {
            let count = reader.read(&mut byte).unwrap();
            assert!(count > 0, "{} of {lost} are told", told(&text));
            text.push_str(std::str::from_utf8(&byte[..count]).unwrap());
        }
        let told = told(&text);
        let whole = text.lines().filter(|line| line.len() == 1023).count() as u64;
        assert!(told == lost && whole <= written - lost, "{told} {lost} {whole}");
    }

    #[test]
    fn finish_returns_without_a_reader() {
        let (log, _reader) = piped();
        for _ in 0..100 {
            log.log(Level::INFO, &format!("{}\n", "x".repeat(4000)));
        }
        log.finish();
        log.finish();
        assert!(!log.queue.lock().records.is_empty());
    }

    #[test]
    fn records_before_the_thread_are_written() {
        let (log, mut reader) = piped();
        log.log(Level::INFO, "early\n");
        log.finish();
        let mut text = [0; 6];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"early\n");
    }

    #[test]
    fn a_closed_pipe_loses_records_and_nothing_else() {
        let (log, reader) = piped();
        drop(reader);
        log.start_thread();
        for _ in 0..10 {
            log.log(Level::INFO, "lost\n");
        }
        log.finish();
        assert_eq!(log.lost(), 10);
        assert_eq!(log.queue.lock().untold, 10);
    }

    #[test]
    fn long_records_are_cut() {
        assert_eq!(cut("a\n"), "a\n");
        let long = cut(&"\u{e4}".repeat(MAX_RECORD));
        assert!(long.len() <= MAX_RECORD + 4 && long.ends_with("\u{e4}...\n"));
    }
}
