//! Waits for the end of a view in a container: its process ends, or somebody unmounts the view.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use crate::container::handle::ContainerHandle;

/// How often to check a process if the kernel doesn't report its end, in ms.
const POLL_INTERVAL_MS: u16 = 500;

/// After it has read a container's mounts, the server waits this many times as long as that took, up to a limit: a
/// container can mount all the time, and have very many mounts.
const BACKOFF_FACTOR: u32 = 20;
const MAX_BACKOFF: Duration = Duration::from_secs(1);

impl ContainerHandle {
    /// Waits until the process has ended, or the container's mount namespace has no view any more.
    pub(crate) fn wait_for_end(&self) {
        // poll(2) reports POLLPRI when a mount was added or removed.
        let mounts = openat(&self.process, "mountinfo", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok();
        // Remains of other views, and mounts that look like one, can be anywhere, so the device decides.
        let view = self.view_device();
        let has_view = || match view {
            Some(device) => self.mountinfo().iter().any(|mount| mount.device == device),
            None => self.has_any_view_mount(),
        };
        loop {
            let start = Instant::now();
            // The process may have left the namespace while others are still in it.
            if mounts.is_some() && !has_view() && self.attached_as_others_see().is_none() {
                return;
            }
            std::thread::sleep((start.elapsed() * BACKOFF_FACTOR).min(MAX_BACKOFF));
            let mut waited = Vec::new();
            waited.extend(self.end.as_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
            waited.extend(mounts.as_ref().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLPRI)));
            let timeout = if self.end.is_some() { PollTimeout::NONE } else { PollTimeout::from(POLL_INTERVAL_MS) };
            if poll(&mut waited, timeout).is_err_and(|errno| errno != Errno::EINTR) {
                std::thread::sleep(Duration::from_millis(POLL_INTERVAL_MS.into()));
            }
            if self.end.is_none() {
                if self.has_ended() {
                    return;
                }
            } else if waited.first().is_some_and(|end| end.any().unwrap_or(false)) {
                return;
            }
        }
    }

    fn has_ended(&self) -> bool {
        let Ok(stat) = self.read("stat") else { return true };
        // The state is the word after the command's closing parenthesis. A thread group leader that has exited is a
        // zombie until all of its threads have exited.
        let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
        matches!(state, Some(b'Z' | b'X' | b'x')) && self.is_alone()
    }

    fn is_alone(&self) -> bool {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let threads = openat(&self.process, "task", flags, Mode::empty()).and_then(nix::dir::Dir::from_fd);
        // ".", ".." and the leader.
        threads.is_ok_and(|mut threads| threads.iter().count() <= 3)
    }
}
