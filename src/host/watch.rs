//! Watches on backing directories (inotify(7)).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use parking_lot::Mutex;

use crate::fs::cache::{Change, EntryChange};

/// The most watches of a view, should the host allow so many.
const LIMIT: usize = 32 * 1024;

/// All watches of a view.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Inotify,
    stop: EventFd,
    /// How many watches this view may have: they count as the host root's, whom a container mustn't leave without.
    limit: usize,
    /// Held across the two system calls that add and remove a watch, neither of which waits for anything: one directory may be known by
    /// two doors, or be forgotten and found again at once, and has a single watch all the same.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_directory: HashMap<(usize, u64), (WatchDescriptor, usize)>,
    by_watch: HashMap<WatchDescriptor, (usize, u64)>,
}

impl Watches {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { inotify, stop, known: Mutex::default(), limit: limit() })
    }

    /// Watches a directory; false if the limits of inotify, or the view's share of them, don't allow it.
    pub(super) fn add(&self, hierarchy: usize, inode: u64, object: &OwnedFd, is_unified: bool) -> bool {
        let mut flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        if is_unified {
            // Writes to cgroup.subtree_control and cgroup.pressure: files that come and go by them make no other event.
            flags |= AddWatchFlags::IN_MODIFY;
        }
        let mut known = self.known.lock();
        if let Some((_, users)) = known.by_directory.get_mut(&(hierarchy, inode)) {
            *users += 1;
            return true;
        }
        if known.by_directory.len() >= self.limit {
            return false;
        }
        let path = format!("/proc/self/fd/{}", object.as_raw_fd());
        match self.inotify.add_watch(path.as_str(), flags) {
            Ok(watch) => {
                known.by_directory.insert((hierarchy, inode), (watch, 1));
                known.by_watch.insert(watch, (hierarchy, inode));
                true
            }
            Err(errno) => {
                tracing::debug!(%errno, "a directory can't be watched, so it isn't cached");
                false
            }
        }
    }

    /// One user of a watch has gone.
    pub(super) fn remove(&self, hierarchy: usize, inode: u64) {
        let mut known = self.known.lock();
        let Some((watch, users)) = known.by_directory.get_mut(&(hierarchy, inode)) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        let watch = *watch;
        known.by_directory.remove(&(hierarchy, inode));
        known.by_watch.remove(&watch);
        // It's gone already if the cgroup is.
        let _ = self.inotify.rm_watch(watch);
    }

    /// Waits for changes; `None` after [`Watches::stop`].
    pub(super) fn wait(&self) -> Option<Vec<Change>> {
        loop {
            let mut ready = [
                PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
            if self.stop.read().is_ok() {
                return None;
            }
            match self.inotify.read_events() {
                Ok(events) => {
                    let known = self.known.lock();
                    return Some(events.iter().filter_map(|event| change(event, &known)).collect());
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    pub(super) fn stop(&self) {
        let _ = self.stop.write(1);
    }
}

/// How many directories one view may watch. The kernel counts watches per user, and how many cgroups there are is up to the container: it
/// mustn't take all that root's own programs may have.
fn limit() -> usize {
    const SHARE: usize = 8;
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok();
    // 8192 is what kernels before Linux 5.11 allow.
    (most.and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(8192) / SHARE).min(LIMIT)
}

fn change(event: &InotifyEvent, known: &Known) -> Option<Change> {
    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        return Some(Change::Anything);
    }
    let (hierarchy, directory) = *known.by_watch.get(&event.wd)?;
    if event.mask.contains(AddWatchFlags::IN_MODIFY) {
        let name = event.name.as_deref()?;
        let of_children = name == OsStr::new("cgroup.subtree_control");
        let matters = of_children || name == OsStr::new("cgroup.pressure");
        return matters.then_some(Change::Files { hierarchy, directory, of_children });
    }
    let entry = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_ATTRIB;
    let kind = match event.mask {
        mask if mask.contains(AddWatchFlags::IN_CREATE) => EntryChange::Made,
        mask if mask.contains(AddWatchFlags::IN_DELETE) => EntryChange::Removed,
        _ => EntryChange::Other,
    };
    event.mask.intersects(entry).then(|| Change::Entry { hierarchy, directory, name: event.name.clone(), kind })
}
