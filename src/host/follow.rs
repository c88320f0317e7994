//! Whether directories have changed since they were listed, as of the moment at which it's asked.
//!
//! The kernel queues an event before the system call that makes the change returns. Whoever asks takes all events that there are: so there's no
//! change that somebody could know of before, and that isn't known here. What comes without an event of its own are files: with a controller,
//! which is told by the write to `cgroup.subtree_control` above, and with what the kernel itself brings along (a module).

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use nix::sys::stat::Mode;
use parking_lot::Mutex;

use crate::cgroup::file::lets_files_come;
use crate::fs::host::Follow;

/// How many directories are watched at once: the host's root has a limited number of watches. A listing takes at most two, and those that are kept are
/// shared out among tenants (`fs::directory::PARTS`), so nobody takes all.
const LIMIT: usize = 2048;

/// How many events are taken at once, at most: as many as the kernel keeps by default.
const MOST_EVENTS: usize = 16_384;

/// The directories whose listings are followed.
#[derive(Debug)]
pub(super) struct Followers {
    inotify: Inotify,
    /// Held across the system calls that add and remove watches and take events, none of which waits for anything.
    by_watch: Mutex<HashMap<WatchDescriptor, Vec<Follower>>>,
}

/// Who follows a directory.
#[derive(Debug)]
struct Follower {
    /// Whether it's the directory above that it follows.
    above: bool,
    changed: Arc<AtomicBool>,
}

/// A directory whose listing is followed, until this is dropped.
#[derive(Debug)]
struct Followed {
    followers: Arc<Followers>,
    watches: Vec<WatchDescriptor>,
    changed: Arc<AtomicBool>,
}

impl Followers {
    /// `None` where there's no inotify instance left.
    pub(super) fn new() -> Option<Arc<Self>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        Some(Arc::new(Self { inotify, by_watch: Mutex::default() }))
    }

    /// Follows a directory from now on. `files`: whether files come and go in it. `None` for want of watches.
    pub(super) fn follow(self: &Arc<Self>, directory: BorrowedFd<'_>, files: bool) -> Option<Box<dyn Follow>> {
        let mut followed =
            Followed { followers: Arc::clone(self), watches: Vec::new(), changed: Arc::new(AtomicBool::new(false)) };
        let entries = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
        let itself = if files { entries | AddWatchFlags::IN_MODIFY } else { entries };
        self.add(&mut followed, directory, itself, false)?;
        if files {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let above = openat(directory, "..", flags, Mode::empty()).ok()?;
            self.add(&mut followed, std::os::fd::AsFd::as_fd(&above), AddWatchFlags::IN_MODIFY, true)?;
        }
        Some(Box::new(followed))
    }

    fn add(&self, followed: &mut Followed, at: BorrowedFd<'_>, events: AddWatchFlags, above: bool) -> Option<()> {
        let path = format!("/proc/self/fd/{}", at.as_raw_fd());
        // One directory may be what one listing is of, and above that of another.
        let flags = events | AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD) | AddWatchFlags::IN_ONLYDIR;
        let mut by_watch = self.by_watch.lock();
        if by_watch.len() >= LIMIT {
            return None;
        }
        let watch = self.inotify.add_watch(path.as_str(), flags).ok()?;
        by_watch.entry(watch).or_default().push(Follower { above, changed: Arc::clone(&followed.changed) });
        followed.watches.push(watch);
        Some(())
    }

    fn take_events(&self) {
        let mut by_watch = self.by_watch.lock();
        let mut taken = 0;
        while taken < MOST_EVENTS {
            match self.inotify.read_events() {
                Ok(events) => {
                    taken += events.len();
                    events.iter().for_each(|event| tell(&by_watch, event));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => break,
            }
        }
        // There may be more.
        by_watch.values_mut().flatten().for_each(Follower::tell);
    }
}

impl Follower {
    fn tell(&mut self) {
        self.changed.store(true, Ordering::Release);
    }
}

/// Tells those whom an event concerns.
fn tell(by_watch: &HashMap<WatchDescriptor, Vec<Follower>>, event: &InotifyEvent) {
    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        by_watch.values().flatten().for_each(|follower| follower.changed.store(true, Ordering::Release));
        return;
    }
    let is_write = event.mask.contains(AddWatchFlags::IN_MODIFY);
    let of_children = event.name.as_deref().and_then(lets_files_come);
    for follower in by_watch.get(&event.wd).into_iter().flatten() {
        let concerns = if is_write { of_children == Some(follower.above) } else { !follower.above };
        // A watch that the kernel has ended (IN_IGNORED) sees nothing any more.
        if concerns || event.mask.contains(AddWatchFlags::IN_IGNORED) {
            follower.changed.store(true, Ordering::Release);
        }
    }
}

impl Follow for Followed {
    fn is_unchanged(&self) -> bool {
        if !self.changed.load(Ordering::Acquire) {
            self.followers.take_events();
        }
        !self.changed.load(Ordering::Acquire)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut by_watch = self.followers.by_watch.lock();
        for watch in &self.watches {
            let Some(followers) = by_watch.get_mut(watch) else { continue };
            followers.retain(|follower| !Arc::ptr_eq(&follower.changed, &self.changed));
            if followers.is_empty() {
                by_watch.remove(watch);
                // It's gone already if the directory is.
                let _ = self.followers.inotify.rm_watch(*watch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_change_is_known_as_soon_as_it_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(folder.path().join("cgroup.subtree_control"), "").unwrap();
        for name in ["cgroup.subtree_control", "cgroup.procs", "cgroup.type"] {
            fs::write(inner.join(name), "").unwrap();
        }
        let directory = fs::File::open(&inner).unwrap();
        let followers = Followers::new().unwrap();
        let follow = || followers.follow(directory.as_fd(), true).unwrap();
        for (change, is_one) in [
            (&(|| fs::create_dir(inner.join("a"))) as &dyn Fn() -> std::io::Result<()>, true),
            (&|| fs::rename(inner.join("a"), inner.join("b")), true),
            (&|| fs::remove_dir(inner.join("b")), true),
            (&|| fs::write(inner.join("cgroup.procs"), "1"), false),
            (&|| fs::write(inner.join("cgroup.subtree_control"), "1"), false),
            (&|| fs::write(inner.join("cgroup.type"), "1"), true),
            (&|| fs::write(folder.path().join("cgroup.subtree_control"), "1"), true),
            (&|| fs::create_dir(folder.path().join("beside")), false),
        ] {
            let (followed, other) = (follow(), follow());
            assert!(followed.is_unchanged());
            change().unwrap();
            assert_eq!((followed.is_unchanged(), other.is_unchanged()), (!is_one, !is_one));
            assert_eq!(followed.is_unchanged(), !is_one, "and so it stays");
        }
        assert!(followers.by_watch.lock().is_empty());
    }
}
