//! Waiting for backing files to become ready (epoll(7)).

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::fs::HandleId;
use crate::fs::host::Ready;

/// The token of [`ReadyFiles::stop`]; handles count from 1.
const STOP_TOKEN: u64 = 0;

/// How many events are taken at once.
const EVENTS_MAX: usize = 64;

/// The backing files that have waiters.
#[derive(Debug)]
pub(super) struct ReadyFiles {
    epoll: Epoll,
    stop: EventFd,
}

impl ReadyFiles {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP_TOKEN))?;
        Ok(Self { epoll, stop })
    }

    /// Reports each event of `file` from now on, and first an event that is already pending. Closing the file ends
    /// that.
    pub(super) fn arm(&self, file: impl AsFd, handle: HandleId) -> Result<(), Errno> {
        let flags = EpollFlags::EPOLLPRI | EpollFlags::EPOLLERR | EpollFlags::EPOLLET;
        match self.epoll.add(&file, EpollEvent::new(flags, handle.0)) {
            Err(Errno::EEXIST) => Ok(()),
            armed => armed,
        }
    }

    /// Stops reporting events of `file`.
    pub(super) fn disarm(&self, file: impl AsFd) {
        // ENOENT: it wasn't armed.
        let _ = self.epoll.delete(file);
    }

    /// Waits; `None` after [`ReadyFiles::stop`].
    pub(super) fn wait(&self) -> Option<Vec<Ready>> {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(_) => return None,
        };
        let events = events.get(..count).unwrap_or_default();
        if events.iter().any(|event| event.data() == STOP_TOKEN) {
            return None;
        }
        // epoll's and poll's bits are the same.
        let ready = |event: &EpollEvent| Ready { handle: HandleId(event.data()), events: event.events().bits() as u16 };
        Some(events.iter().map(ready).collect())
    }

    pub(super) fn stop(&self) {
        let _ = self.stop.write(1);
    }
}

/// Returns the current poll(2) bits of a file.
pub(super) fn state(file: impl AsFd) -> Result<u16, Errno> {
    let asked = PollFlags::POLLIN
        | PollFlags::POLLPRI
        | PollFlags::POLLOUT
        | PollFlags::POLLRDNORM
        | PollFlags::POLLRDBAND
        | PollFlags::POLLWRNORM
        | PollFlags::POLLWRBAND;
    let mut files = [PollFd::new(file.as_fd(), asked)];
    poll(&mut files, PollTimeout::ZERO)?;
    let [file] = files;
    Ok(file.revents().map_or(0, |events| events.bits() as u16))
}
