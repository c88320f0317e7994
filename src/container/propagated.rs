//! Mount namespaces that have a copy of a container's view: they were copied from the container's, or get its mounts
//! by propagation. An init system makes such a namespace for each service that sees other files than the rest.
//!
//! An unmount in the container propagates to them. But before Linux 6.17 it doesn't unmount locked mounts
//! ([`super::lock_mounts`]): the kernel removes the tmpfs of a stack and leaves the views in its place. So these
//! namespaces are cleared first. Mounts that systemd leaves beneath the new root of a service can't be reached: a
//! view stays there, unseen, until the service ends. Its server ends all the same ([`ContainerHandle::wait_for_end`]).

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;

use crate::container::handle::ContainerHandle;
use crate::container::view_mounts::AttachedView;

/// How long clearing all of them may take: a container can have any number, with filesystems that delay the helper.
const CLEAR_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to look for namespaces that were made while others were cleared.
const MAX_PASSES: usize = 3;

/// Unmounts a container's view in all other mount namespaces that have processes.
pub(crate) fn clear(container: &ContainerHandle, image: BorrowedFd<'_>, attached: AttachedView) {
    let start = Instant::now();
    // Namespaces that were cleared, can't be cleared, or needn't be.
    let mut seen = HashSet::from([container.number()]);
    for _ in 0..MAX_PASSES {
        let found = others(&mut seen, container, attached);
        if found.is_empty() {
            return;
        }
        for (other, copy) in found {
            if start.elapsed() > CLEAR_TIMEOUT {
                tracing::warn!("there are too many mount namespaces with copies of the view to clear all of them");
                return;
            }
            if let Err(error) = other.detach_here(image, copy) {
                tracing::warn!(%error, process = other.pid(), "can't take a copy of the view out of a mount namespace");
            }
        }
    }
}

/// Finds the namespaces with the view that aren't in `seen`, through one process of each.
fn others(
    seen: &mut HashSet<u64>,
    container: &ContainerHandle,
    attached: AttachedView,
) -> Vec<(ContainerHandle, AttachedView)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let number = File::open(entry.path().join("ns/mnt")).and_then(|file| Ok(fstat(&file)?.st_ino));
        if !number.is_ok_and(|number| seen.insert(number)) {
            continue;
        }
        // `open` refuses processes of the host and those that have ended.
        if let Ok(other) = ContainerHandle::open(pid)
            && let Some(copy) = other.copy_of(container, attached)
        {
            found.push((other, copy));
        }
    }
    found
}
