//! A view on a directory of this mount namespace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::statfs;

use crate::cgroup::{mountinfo, parse_mountinfo};
use crate::fuse::FSTYPE;

/// How long a view may take to answer. A dead one answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How many dead views are unmounted from one directory.
const MAX_DEAD_VIEWS: usize = 16;

/// The answer of a view to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A server has answered, or there is no view.
    Served,
    /// The kernel has answered: the view's connection is closed.
    Dead,
    /// Nobody has answered within the limit.
    Silent,
}

/// Asks the view on a directory whether it's served.
pub(crate) fn ask(directory: &Path) -> Answer {
    let (sender, receiver) = std::sync::mpsc::channel();
    let asked = directory.to_owned();
    // A server that doesn't answer blocks its callers, so a thread asks. The kernel opens a directory, and knows its
    // attributes, even if nobody answers.
    std::thread::spawn(move || sender.send(statfs(&asked).map(drop)));
    match receiver.recv_timeout(ANSWER_TIMEOUT) {
        Ok(Err(Errno::ENOTCONN | Errno::ECONNABORTED)) => Answer::Dead,
        Ok(_) => Answer::Served,
        Err(_) => Answer::Silent,
    }
}

/// Unmounts the dead views on a directory. `is_failed` says whether the registry knows that nobody serves the view: a
/// killed process may leave a connection on which nobody answers. Returns whether no view is left there.
pub(crate) fn clear_dead_view(directory: &Path, is_failed: bool) -> bool {
    let name = absolute(directory);
    for attempt in 0..MAX_DEAD_VIEWS {
        let is_dead = match ask(&name) {
            Answer::Dead => true,
            Answer::Silent => is_failed && attempt == 0,
            Answer::Served => false,
        };
        // Processes that use it don't matter: they get nothing but errors.
        if !is_dead || umount2(&name, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_err() {
            return false;
        }
        if !is_view(&name) {
            return true;
        }
    }
    false
}

/// Whether the topmost mount on a directory is a view. It reads mountinfo, since a view whose server has died doesn't
/// answer.
pub(crate) fn is_view(directory: &Path) -> bool {
    has_view(&absolute(directory))
}

fn has_view(directory: &Path) -> bool {
    let mounts = parse_mountinfo(&std::fs::read("/proc/self/mountinfo").unwrap_or_default());
    let topmost = mounts.iter().rev().find(|mount| Path::new(&mount.mount_point) == directory);
    topmost.is_some_and(|mount| mount.fstype == FSTYPE && mountinfo::base_name(&mount.root).is_none())
}

/// Returns the absolute path of a directory, without asking a view that is mounted there: it may not answer.
pub(crate) fn absolute(directory: &Path) -> PathBuf {
    let full = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let place = match (full.parent().map(std::fs::canonicalize), full.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => full,
    };
    if has_view(&place) { place } else { std::fs::canonicalize(directory).unwrap_or(place) }
}
