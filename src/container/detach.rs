//! Detaching: unmounts a view in a container and in the namespaces that have copies of it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::agents::attach::AttachHelperError;
use crate::container::handle::ContainerHandle;
use crate::container::propagated;

/// How many mounts a killed helper can leave, plus one that somebody has bound elsewhere.
const MAX_LEFTOVER_MOUNTS: usize = 3;

/// How long, and how often, to try to start a helper while a process limit prevents it.
const FORK_RETRY_TIMEOUT: Duration = Duration::from_secs(5);
const FORK_RETRY_INTERVAL: Duration = Duration::from_millis(20);

impl ContainerHandle {
    /// Unmounts all mounts of a view. Its copies in other namespaces go first, since a server that does this may end
    /// with the last mount of its view. A killed helper may have left two mounts.
    pub(crate) fn clear(&self, image: BorrowedFd<'_>) -> Result<(), AttachHelperError> {
        if let Some(attached) = self.attached().or_else(|| self.attached_as_others_see()) {
            propagated::clear(self, image, attached);
        }
        for _ in 0..MAX_LEFTOVER_MOUNTS {
            let Some(attached) = self.attached().or_else(|| self.attached_as_others_see()) else { break };
            match self.detach_here(image, attached) {
                // It's gone: others have unmounted it, or the kernel has, because the cgroup beneath it was removed.
                Err(AttachHelperError::Failed { errno: Errno::ESTALE, .. }) if self.attached() != Some(attached) => {}
                detached => detached?,
            }
        }
        Ok(())
    }

    /// Unmounts a view if there is one, and returns whether it did. It tries again while a process limit prevents a
    /// helper: killed processes count until they are reaped.
    pub(crate) fn detach_if_attached(&self, image: BorrowedFd<'_>) -> bool {
        if self.attached().or_else(|| self.attached_as_others_see()).is_none() {
            return false;
        }
        let deadline = Instant::now() + FORK_RETRY_TIMEOUT;
        let mut cleared = self.clear(image);
        while matches!(cleared, Err(AttachHelperError::Start(Errno::EAGAIN | Errno::ENOMEM)))
            && Instant::now() < deadline
        {
            std::thread::sleep(FORK_RETRY_INTERVAL);
            cleared = self.clear(image);
        }
        if let Err(error) = &cleared {
            tracing::warn!(%error, process = self.pid(), "can't take the view out of the container");
        }
        cleared.is_ok()
    }
}
