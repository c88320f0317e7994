//! Containers whose mount namespace belongs to a user namespace. Before Linux 4.18 the kernel mounts FUSE only in
//! mount namespaces of the initial one, and a view can't get in there any other way:
//!
//! * mount(2) checks the owner of the mount namespace (`do_new_mount`, FS_USERNS_MOUNT).
//! * Bind and move need both ends in one namespace (`check_mnt`).
//! * A mount namespace that root of the host makes inside the container's belongs to the host, but is a slave of the container's:
//!   mounts propagate from there, and not to there (`CL_SHARED_TO_SLAVE`).
//! * Propagation from the host needs a mount in the container that is a slave of one of the host's. Everybody who shares that mount
//!   would see the view, too.
//! * Hooks of OCI runtimes come too late: the mount namespace is made together with the user namespace.
//!
//! But a view that is mounted on the host before the container starts is in the container's copy of the mounts, and
//! can be bound there.

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::{fstat, stat};

use crate::agents::attach::{AttachHelperError, AttachStep};
use crate::container::DIRECTORY;
use crate::container::handle::ContainerHandle;
use crate::error::Error;
use crate::sys::namespace::owner;

/// Turns an error of building the view in a container into one with cause and remedy, if the kernel refused to mount FUSE there.
pub(crate) fn explain_refusal(error: AttachHelperError, container: &ContainerHandle) -> Error {
    let is_refused = matches!(error, AttachHelperError::Failed { step: AttachStep::View, errno: Errno::EPERM });
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

/// Whether the container's mount namespace belongs to another user namespace than that of this process.
fn belongs_to_other_user_namespace(container: &ContainerHandle) -> bool {
    let theirs = match owner(container.namespace()) {
        Ok(owner) => fstat(owner.as_fd()),
        // Before Linux 4.9 the kernel doesn't tell the owner. Processes hardly ever leave the user namespace that
        // owns their mounts.
        Err(_) => stat(format!("/proc/{}/ns/user", container.pid()).as_str()),
    };
    let own = File::open("/proc/self/ns/user").map_err(|_| Errno::ENOENT).and_then(fstat);
    matches!((theirs, own), (Ok(theirs), Ok(own)) if theirs.st_ino != own.st_ino)
}
