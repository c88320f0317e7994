//! Waiting for events while something is done, and inotify.

use std::fs;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde_json::{Value, json};

use super::files::keep;
use super::op::Op;
use super::state::{Answer, Failure, State};
use super::waiting::{at_most, poll_pri};

/// How long a poller may take to fall asleep.
const ASLEEP_TIMEOUT: Duration = Duration::from_secs(2);

/// The events of inotify by their names.
const EVENTS: [(&str, u32); 12] = [
    ("MODIFY", 0x2),
    ("ATTRIB", 0x4),
    ("MOVED_FROM", 0x40),
    ("MOVED_TO", 0x80),
    ("CREATE", 0x100),
    ("DELETE", 0x200),
    ("DELETE_SELF", 0x400),
    ("MOVE_SELF", 0x800),
    ("UNMOUNT", 0x2000),
    ("Q_OVERFLOW", 0x4000),
    ("IGNORED", 0x8000),
    ("ISDIR", 0x4000_0000),
];

/// Performs an operation that waits beside others; `None` if it isn't one.
pub(super) fn execute(state: &Arc<State>, op: &Op) -> Option<Answer> {
    let work = || -> Answer {
        match op {
            Op::PollDuring { fd, ms, then } => poll_during(state, fd, *ms, then),
            Op::Inotify { fd } => Ok(keep(state, fd, inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)),
            Op::InotifyAdd { inotify, path, events } => {
                let path = state.expand(path)?;
                let flags = events.iter().try_fold(0, |all, name| {
                    let bit = EVENTS.iter().find(|(event, _)| event == name).map(|(_, bit)| *bit);
                    bit.map(|bit| all | bit).ok_or_else(|| Failure::Script(format!("no event {name}")))
                })?;
                let flags = WatchFlags::from_bits_retain(flags);
                Ok(json!(inotify::add_watch(&*state.fd(inotify)?, path, flags)?))
            }
            Op::InotifyRead { inotify, count, ms } => read_events(state, inotify, *count, *ms),
            _ => Ok(Value::Null),
        }
    };
    let mine =
        matches!(op, Op::PollDuring { .. } | Op::Inotify { .. } | Op::InotifyAdd { .. } | Op::InotifyRead { .. });
    mine.then(work)
}

fn poll_during(state: &Arc<State>, fd: &str, ms: u32, then: &Op) -> Answer {
    let file = state.fd(fd)?;
    let (born, birth) = sync_channel(1);
    let poller = thread::Builder::new().name("poller".into()).spawn(move || {
        // The receiver waits for it.
        let _ = born.send(nix::unistd::gettid());
        poll_pri(&file, ms)
    })?;
    let thread = birth.recv().map_err(|error| Failure::Script(error.to_string()))?;
    // If it sleeps for another reason than poll, or not yet, the event is there when it polls.
    crate::comes_true(ASLEEP_TIMEOUT, || {
        let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, fields)| !fields.starts_with('R'))
    });
    let done = state.perform(then);
    let seen = poller.join().map_err(|_| Failure::Script("the poller panicked".into()))??;
    Ok(json!([seen, done]))
}

fn read_events(state: &Arc<State>, name: &str, count: usize, ms: u32) -> Answer {
    let file = state.fd(name)?;
    let end = Instant::now() + Duration::from_millis(u64::from(ms));
    let mut space = [MaybeUninit::<u8>::uninit(); 4096];
    let mut found = Vec::new();
    loop {
        let mut reader = inotify::Reader::new(&*file, &mut space);
        loop {
            match reader.next() {
                Ok(event) => {
                    let bits: ReadFlags = event.events();
                    let words = EVENTS.iter().filter(|(_, bit)| bits.bits() & bit != 0).map(|(name, _)| *name);
                    let path = event.file_name().map(|name| name.to_string_lossy().into_owned());
                    let words: Vec<&str> = words.collect();
                    found.push(format!("{} {} {}", event.wd(), words.join("|"), path.unwrap_or_default()));
                    if reader.is_buffer_empty() {
                        break;
                    }
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        if found.len() >= count || left.is_zero() {
            return Ok(json!(found));
        }
        let mut fds = [PollFd::new(&*file, PollFlags::IN)];
        poll(&mut fds, Some(&at_most(u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1))))?;
    }
}
