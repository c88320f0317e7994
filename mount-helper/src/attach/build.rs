//! Builds a layout's mounts.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::layout::Layout;
use super::mounts::MountSite;
use super::step::StepError;
use super::{sentinel, stack};

impl Layout {
    /// Builds it from a connection to FUSE. Calls `mounted` with the view's root once the connection is mounted; from
    /// then on the connection has to be served.
    ///
    /// Returns the root of the topmost mount. The working directory and the umask are changed.
    ///
    /// # Errors
    /// The step that failed; everything is unmounted then.
    pub fn build(
        &self,
        site: MountSite<'_>,
        device: BorrowedFd<'_>,
        mounted: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<OwnedFd, StepError> {
        match self {
            Self::Stack(spec) => stack::build(site, spec, device, mounted),
            Self::Sentinel(sentinel) => sentinel::build(site, sentinel, device, mounted),
        }
    }
}
