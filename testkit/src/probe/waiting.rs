//! Waiting for files: epoll, and poll for a while.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::files::keep;
use super::op::Op;
use super::state::{Answer, State};

/// Performs an operation that waits; `None` if it isn't one.
pub(super) fn execute(state: &Arc<State>, op: &Op) -> Option<Answer> {
    let work = || -> Answer {
        match op {
            Op::Epoll { fd } => Ok(keep(state, fd, epoll::create(CreateFlags::CLOEXEC)?)),
            Op::EpollAdd { epoll, fd, edge } => {
                let mut flags = EventFlags::IN | EventFlags::OUT | EventFlags::PRI;
                flags.set(EventFlags::ET, *edge);
                epoll::add(&*state.fd(epoll)?, &*state.fd(fd)?, EventData::new_u64(0), flags)?;
                Ok(Value::Null)
            }
            Op::EpollAddPri { epoll, fd } => {
                epoll::add(&*state.fd(epoll)?, &*state.fd(fd)?, EventData::new_u64(0), EventFlags::PRI)?;
                Ok(Value::Null)
            }
            Op::EpollWait { epoll, ms } => wait(&*state.fd(epoll)?, *ms),
            Op::PollPri { fd, ms } => poll_pri(&*state.fd(fd)?, *ms),
            _ => Ok(Value::Null),
        }
    };
    let mine = matches!(
        op,
        Op::Epoll { .. } | Op::EpollAdd { .. } | Op::EpollAddPri { .. } | Op::EpollWait { .. } | Op::PollPri { .. }
    );
    mine.then(work)
}

pub(super) fn at_most(ms: u32) -> Timespec {
    Timespec { tv_sec: i64::from(ms / 1000), tv_nsec: i64::from(ms % 1000) * 1_000_000 }
}

fn wait(epoll: &OwnedFd, ms: u32) -> Answer {
    let mut events = Vec::with_capacity(1);
    epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_most(ms)))?;
    let names = [
        ("IN", EventFlags::IN),
        ("OUT", EventFlags::OUT),
        ("PRI", EventFlags::PRI),
        ("ERR", EventFlags::ERR),
        ("HUP", EventFlags::HUP),
    ];
    let is_set = |flag: EventFlags| events.iter().any(|event| { event.flags }.contains(flag));
    Ok(json!(names.iter().filter(|(_, flag)| is_set(*flag)).map(|(name, _)| *name).collect::<Vec<_>>()))
}

pub(super) fn poll_pri(fd: &OwnedFd, ms: u32) -> Answer {
    let mut fds = [PollFd::new(fd, PollFlags::PRI)];
    poll(&mut fds, Some(&at_most(ms)))?;
    let set = fds[0].revents();
    let names = [("IN", PollFlags::IN), ("PRI", PollFlags::PRI), ("ERR", PollFlags::ERR), ("HUP", PollFlags::HUP)];
    Ok(json!(names.iter().filter(|(_, flag)| set.contains(*flag)).map(|(name, _)| *name).collect::<Vec<_>>()))
}
