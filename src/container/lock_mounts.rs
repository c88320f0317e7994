//! Mounts that a container can take away only as a whole.
//!
//! What is copied into the mount namespace of a new user namespace is locked there (mount_namespaces(7)): no mount of it can be unmounted
//! without those that it's mounted on, and none that is read-only can be made writable. A copy of the copy stays so, wherever it's moved.
//! So root in a container, who can unmount the stack, can't lift the view from the hierarchies beneath, or write to these.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::ForkResult;

use crate::sys;
use crate::sys::fdpass;

/// A copy, attached nowhere, of what is mounted on and below a directory. Locked, if user namespaces can be made here.
pub(crate) fn copy_tree(directory: &Path) -> io::Result<OwnedFd> {
    locked_copy(directory).or_else(|error| {
        tracing::debug!(%error, "the mounts aren't locked");
        plain_copy(directory)
    })
}

fn plain_copy(directory: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let top = File::options().read(true).custom_flags(flags).open(directory)?;
    sys::mount::detached_tree(top.as_fd())
}

fn locked_copy(directory: &Path) -> io::Result<OwnedFd> {
    let (ours, theirs) = fdpass::seqpacket_pair()?;
    match sys::process::fork()? {
        ForkResult::Child => {
            let copied = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
                .map_err(io::Error::from)
                .and_then(|()| plain_copy(directory))
                .and_then(|tree| Ok(fdpass::send_with_file(theirs.as_fd(), &[0], &[], tree.as_fd())?));
            std::process::exit(i32::from(copied.is_err()))
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            nix::sys::wait::waitpid(child, None)?;
            Ok(fdpass::receive_file(ours.as_fd())?)
        }
    }
}
