//! The steps of attaching and detaching, which name what failed.

use nix::errno::Errno;

/// A step, by which a failure is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachStep {
    /// Closing what was inherited.
    Close = 1,
    /// Looking at the descriptors that were passed.
    Check,
    /// Setting up the leash by which the server can end the helper.
    Leash,
    /// Giving up privileges.
    Privileges,
    /// Finding `/sys/fs/cgroup` in the container.
    Find,
    /// Receiving the order. An honest server's never fails.
    Order,
    /// Joining the mount namespace.
    Enter,
    /// Moving the stack to its place.
    Move,
    /// Mounting the tmpfs.
    Tmpfs,
    /// Making directories and symlinks in it.
    Fill,
    /// Mounting the view.
    View,
    /// Mounting a real hierarchy.
    Underlay,
    /// Mounting a directory of the view over it.
    Overlay,
    /// Making the tmpfs read-only.
    Seal,
    /// Taking the stack away.
    Unmount,
}

impl AttachStep {
    pub(super) const ALL: [Self; 15] = [
        Self::Close,
        Self::Check,
        Self::Leash,
        Self::Privileges,
        Self::Find,
        Self::Order,
        Self::Enter,
        Self::Move,
        Self::Tmpfs,
        Self::Fill,
        Self::View,
        Self::Underlay,
        Self::Overlay,
        Self::Seal,
        Self::Unmount,
    ];
}

/// The step that failed, and its errno.
pub type StepError = (AttachStep, Errno);

pub(super) fn failed_at(step: AttachStep) -> impl Fn(Errno) -> StepError {
    move |errno| (step, errno)
}
