//! A view on a directory of this mount namespace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};

use crate::cgroup::{mountinfo, parse_mountinfo};
use crate::fuse::FSTYPE;

/// How long a dead view may take to answer ENOTCONN, which the kernel does at once.
const DEAD_VIEW_TIMEOUT: Duration = Duration::from_secs(2);

/// Unmounts the dead views on a directory. Returns whether no view is left there.
pub(crate) fn clear_dead_view(directory: &Path) -> bool {
    let name = absolute(directory);
    for _ in 0..MAX_DEAD_VIEWS {
        let (sender, receiver) = std::sync::mpsc::channel();
        let asked = name.clone();
        // A live server that doesn't answer blocks its callers, so a thread asks.
        let thread = std::thread::spawn(move || sender.send(std::fs::read_dir(asked).map(drop)));
        let Ok(answer) = receiver.recv_timeout(DEAD_VIEW_TIMEOUT) else { return false };
        let _ = thread.join();
        let is_dead = answer.is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN));
        if !is_dead || umount2(&name, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_err() {
            return false;
        }
        if !is_view(&name) {
            return true;
        }
    }
    false
}

/// How many dead views are unmounted from one directory.
const MAX_DEAD_VIEWS: usize = 16;

/// Whether the topmost mount on a directory is a view. It reads mountinfo, since a view whose server has died doesn't
/// answer.
pub(crate) fn is_view(directory: &Path) -> bool {
    let name = absolute(directory);
    let mounts = parse_mountinfo(&std::fs::read("/proc/self/mountinfo").unwrap_or_default());
    let topmost = mounts.iter().rev().find(|mount| Path::new(&mount.mount_point) == name);
    topmost.is_some_and(|mount| mount.fstype == FSTYPE && mountinfo::base_name(&mount.root).is_none())
}

/// Returns the absolute path of a directory. Its last component is resolved only if it answers.
pub(crate) fn absolute(directory: &Path) -> PathBuf {
    std::fs::canonicalize(directory).unwrap_or_else(|_| {
        let full = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        match (full.parent().map(std::fs::canonicalize), full.file_name()) {
            (Some(Ok(parent)), Some(name)) => parent.join(name),
            _ => full,
        }
    })
}
