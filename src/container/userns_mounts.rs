//! Containers whose mounts belong to a user namespace, on kernels that mount FUSE only where they belong to the initial one (before Linux 4.18).
//!
//! There's no way in, then. `mount(2)` asks whom the mount namespace belongs to (`do_new_mount`, FS_USERNS_MOUNT), and so do bind and move, which take
//! both ends in one namespace (`check_mnt`). A mount namespace that is made inside of the container's by root of the host belongs to the host, but is a
//! slave of the container's: mounts come from there, and don't go there (`CL_SHARED_TO_SLAVE`). The other way round it takes a mount in the container
//! that is a slave of one of the host's, with a directory in both to mount on, where everybody who shares that mount would see the view, too. An OCI
//! runtime's hooks are too late, since the container's mount namespace is made together with its user namespace. What is mounted on the host before
//! the container starts is there in its copy of the mounts, though, and can be bound.

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::{fstat, stat};

use crate::agents::attach::{EntryError, Step};
use crate::container::DIRECTORY;
use crate::container::handle::Container;
use crate::error::Error;
use crate::sys::namespace::owner;

/// Why the view couldn't be made in a container, and what else can be done.
pub(crate) fn explain_refusal(error: EntryError, container: &Container) -> Error {
    let is_refused = matches!(error, EntryError::Failed { step: Step::View, errno: Errno::EPERM });
    if !is_refused || !belongs_to_other_user_namespace(container) {
        return error.into();
    }
    let why = "the container's mounts belong to a user namespace, where FUSE can be mounted since Linux 4.18";
    let how = format!(
        "mount a view on the host ('vcgroupfs mount --per-caller DIR' or, before Linux 4.1, \
         'vcgroupfs mount --cgroup PATH DIR'), and bind it to {DIRECTORY} when the container starts"
    );
    Error::unsupported(error.to_string()).because(why).advise(how)
}

/// Whether the container's mount namespace belongs to another user namespace than this process'.
fn belongs_to_other_user_namespace(container: &Container) -> bool {
    let theirs = match owner(container.namespace()) {
        Ok(owner) => fstat(owner.as_fd()),
        // Before Linux 4.9. The process may have left the user namespace that its mounts belong to, but hardly.
        Err(_) => stat(format!("/proc/{}/ns/user", container.pid()).as_str()),
    };
    let own = File::open("/proc/self/ns/user").map_err(|_| Errno::ENOENT).and_then(fstat);
    matches!((theirs, own), (Ok(theirs), Ok(own)) if theirs.st_ino != own.st_ino)
}
