//! Takes a view out of a container.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::agents::attach::EntryError;
use crate::container::handle::Container;
use crate::container::propagated;

/// How many mounts a helper that is killed can leave, and one that somebody has bound elsewhere.
const MAX_LEFTOVER_MOUNTS: usize = 3;

/// How long to try to start a helper where the kernel has no room for its process, and how often.
const FORK_RETRY_TIMEOUT: Duration = Duration::from_secs(5);
const FORK_RETRY_INTERVAL: Duration = Duration::from_millis(20);

impl Container {
    /// Takes away all that is there of a view: a helper that was killed in the midst of its work may have left two mounts. And, first, its
    /// copies: a server that does this may end with the last mount of its view.
    pub(crate) fn clear(&self, image: BorrowedFd<'_>) -> Result<(), EntryError> {
        if let Some(attached) = self.attached().or_else(|| self.attached_as_others_see()) {
            propagated::clear(self, image, attached);
        }
        for _ in 0..MAX_LEFTOVER_MOUNTS {
            let Some(attached) = self.attached().or_else(|| self.attached_as_others_see()) else { break };
            match self.detach_here(image, attached) {
                // It went by itself, or others have taken it away; the kernel does where a cgroup that it's mounted on is removed.
                Err(EntryError::Failed { errno: Errno::ESTALE, .. }) if self.attached() != Some(attached) => {}
                detached => detached?,
            }
        }
        Ok(())
    }

    /// [`Container::clear`], if something is there; whether it did. Where the kernel has no room for a helper's process it tries for a while:
    /// a limit counts killed processes, too, until somebody waits for them.
    pub(crate) fn detach_if_attached(&self, image: BorrowedFd<'_>) -> bool {
        if self.attached().or_else(|| self.attached_as_others_see()).is_none() {
            return false;
        }
        let deadline = Instant::now() + FORK_RETRY_TIMEOUT;
        let mut cleared = self.clear(image);
        while matches!(cleared, Err(EntryError::System(Errno::EAGAIN | Errno::ENOMEM))) && Instant::now() < deadline {
            std::thread::sleep(FORK_RETRY_INTERVAL);
            cleared = self.clear(image);
        }
        if let Err(error) = &cleared {
            tracing::warn!(%error, process = self.pid(), "can't take the view out of the container");
        }
        cleared.is_ok()
    }
}
