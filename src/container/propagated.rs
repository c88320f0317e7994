//! Mount namespaces that were copied from a container's, or get what is mounted there: an init system makes one for each service that
//! is to see other files than the rest.
//!
//! What is unmounted in the container is unmounted in them too, but, before Linux 6.17, for mounts that are locked
//! ([`super::lock_mounts`]): of a stack the kernel takes away the tmpfs alone there, and the views stay, on the place where it was. So
//! they're cleared first. What systemd leaves beneath the new root of a service can't be reached: there a view stays, unseen, until the
//! service ends. Its server ends all the same ([`Container::wait_for_end`]).

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;

use crate::container::handle::Container;
use crate::container::view_mounts::AttachedView;

/// A container can have as many as it likes, and filesystems in them that keep the helper waiting.
const CLEAR_TIMEOUT: Duration = Duration::from_secs(10);

/// Those that are made while others are cleared are found the next time.
const MAX_PASSES: usize = 3;

/// Takes a container's view away in all other mount namespaces that processes are in.
pub(crate) fn clear(container: &Container, image: BorrowedFd<'_>, attached: AttachedView) {
    let start = Instant::now();
    // Of what can't be cleared, and of what needn't be.
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

/// One process of each namespace with the view that isn't among those seen so far.
fn others(seen: &mut HashSet<u64>, container: &Container, attached: AttachedView) -> Vec<(Container, AttachedView)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let number = File::open(entry.path().join("ns/mnt")).and_then(|file| Ok(fstat(&file)?.st_ino));
        if !number.is_ok_and(|number| seen.insert(number)) {
            continue;
        }
        // None is the host's, nor one that has ended.
        if let Ok(other) = Container::open(pid)
            && let Some(copy) = other.copy_of(container, attached)
        {
            found.push((other, copy));
        }
    }
    found
}
