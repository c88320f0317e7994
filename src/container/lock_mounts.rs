//! Makes mounts that a container can only unmount as a whole.
//!
//! Mounts that are copied into the mount namespace of a new user namespace are locked there (mount_namespaces(7)).
//! None can be unmounted without the mounts beneath it, and a read-only one can't be made writable. A copy of the
//! copy stays locked, wherever it's moved. So root in a container can unmount the stack, but not the view alone, and
//! can't write to the hierarchies beneath.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::ForkResult;

use crate::sys;
use crate::sys::seqpacket;

/// Copies the mounts on and below a directory. The copy is detached, and locked if user namespaces can be made here.
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
    let (ours, theirs) = seqpacket::seqpacket_pair()?;
    match sys::process::fork()? {
        ForkResult::Child => {
            let copied = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
                .map_err(io::Error::from)
                .and_then(|()| plain_copy(directory))
                .and_then(|tree| Ok(seqpacket::send(theirs.as_fd(), [&[0]], &[tree.as_fd()])?));
            std::process::exit(i32::from(copied.is_err()))
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            nix::sys::wait::waitpid(child, None)?;
            Ok(seqpacket::receive_file(ours.as_fd())?)
        }
    }
}
