//! The steps of attaching and detaching, which name what failed.

use nix::errno::Errno;

/// A step, which a failure report names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachStep {
    /// Closing inherited descriptors.
    Close = 1,
    /// Checking the descriptors that were passed.
    Check,
    /// Setting up the lifeline by which the server can end the helper.
    Lifeline,
    /// Dropping privileges.
    Privileges,
    /// Finding `/sys/fs/cgroup` in the container.
    Find,
    /// Receiving the request, which can only fail if the server misbehaves.
    MountRequest,
    /// Joining the mount namespace.
    Enter,
    /// Moving the stack to its mount point.
    Move,
    /// Mounting the tmpfs.
    Tmpfs,
    /// Making directories and symlinks in the tmpfs.
    Fill,
    /// Mounting the view.
    View,
    /// Mounting a real hierarchy.
    Underlay,
    /// Mounting a directory of the view over the hierarchy.
    Overlay,
    /// Making the tmpfs read-only.
    Seal,
    /// Unmounting the stack.
    Unmount,
}

impl AttachStep {
    pub(super) const ALL: [Self; 15] = [
        Self::Close,
        Self::Check,
        Self::Lifeline,
        Self::Privileges,
        Self::Find,
        Self::MountRequest,
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
