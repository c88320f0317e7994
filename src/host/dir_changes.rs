//! The changes in directories since they were listed, up to the moment of the question.
//!
//! The kernel queues an event before the system call that makes the change returns. Each question takes all queued
//! events, so the answer includes every change that anybody could already know of. Only files come without an event
//! of their own. The write to `cgroup.subtree_control` above announces the files of a controller; nothing announces
//! files that the kernel adds itself (a module).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use nix::sys::stat::Mode;
use parking_lot::Mutex;

use crate::cgroup::file::lets_files_come;
use crate::fs::host::{DirChanges, FollowChanges};

/// How many directories are watched at once: the host's root has a limited number of watches. A listing takes at most
/// two, and the cached listings are shared out among tenants (`fs::cache::listings::PARTS_MAX`), so no tenant takes all watches.
const WATCHES_MAX: usize = 2048;

/// How many events are taken at once: as many as the kernel queues by default.
const EVENTS_MAX: usize = 16_384;

/// How many changed names are reported at once. With more, listing the directory again takes hardly longer.
const NAMES_MAX: usize = 64;

/// The directories whose listings are followed.
#[derive(Debug)]
pub(super) struct Followers {
    inotify: Inotify,
    /// Held across the system calls that add and remove watches and take events. None of them blocks.
    by_watch: Mutex<HashMap<WatchDescriptor, Vec<Follower>>>,
}

/// A follower of a directory.
#[derive(Debug)]
struct Follower {
    /// Whether it follows the parent directory.
    above: bool,
    pending: PendingChanges,
}

/// The changes that a follower of a directory hasn't taken yet.
type PendingChanges = Arc<Mutex<DirChanges>>;

/// A directory whose listing is followed, until this is dropped.
#[derive(Debug)]
struct FollowedDir {
    followers: Arc<Followers>,
    watches: Vec<WatchDescriptor>,
    pending: PendingChanges,
}

impl Followers {
    /// Makes an instance without followers. `None` if no inotify instance is left.
    pub(super) fn new() -> Option<Arc<Self>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        Some(Arc::new(Self { inotify, by_watch: Mutex::default() }))
    }

    /// Follows a directory from now on. `files` says whether files come and go in it. `None` if no watch is left.
    pub(super) fn follow(self: &Arc<Self>, directory: BorrowedFd<'_>, files: bool) -> Option<Box<dyn FollowChanges>> {
        let mut followed = FollowedDir {
            followers: Arc::clone(self),
            watches: Vec::new(),
            pending: Arc::new(Mutex::new(DirChanges::Nothing)),
        };
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

    fn add(&self, followed: &mut FollowedDir, at: BorrowedFd<'_>, events: AddWatchFlags, above: bool) -> Option<()> {
        let path = format!("/proc/self/fd/{}", at.as_raw_fd());
        // A directory may be listed itself and be the parent of another listed one.
        let flags = events | AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD) | AddWatchFlags::IN_ONLYDIR;
        let mut by_watch = self.by_watch.lock();
        if by_watch.len() >= WATCHES_MAX {
            return None;
        }
        let watch = self.inotify.add_watch(path.as_str(), flags).ok()?;
        by_watch.entry(watch).or_default().push(Follower { above, pending: Arc::clone(&followed.pending) });
        followed.watches.push(watch);
        Some(())
    }

    fn take_events(&self) {
        let by_watch = self.by_watch.lock();
        let mut taken = 0;
        while taken < EVENTS_MAX {
            match self.inotify.read_events() {
                Ok(events) => {
                    taken += events.len();
                    events.iter().for_each(|event| note_event(&by_watch, event));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => break,
            }
        }
        // More events may be queued.
        by_watch.values().flatten().for_each(Follower::note_anything);
    }
}

impl Follower {
    fn note_anything(&self) {
        *self.pending.lock() = DirChanges::Anything;
    }

    fn note_name(&self, name: &OsStr) {
        let mut pending = self.pending.lock();
        match &mut *pending {
            DirChanges::Nothing => *pending = DirChanges::Names(vec![name.to_os_string()]),
            DirChanges::Names(names) if names.iter().any(|known| known == name) => {}
            DirChanges::Names(names) if names.len() < NAMES_MAX => names.push(name.to_os_string()),
            DirChanges::Names(_) | DirChanges::Anything => *pending = DirChanges::Anything,
        }
    }
}

/// Notes an event for the followers that it concerns.
fn note_event(by_watch: &HashMap<WatchDescriptor, Vec<Follower>>, event: &InotifyEvent) {
    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        by_watch.values().flatten().for_each(Follower::note_anything);
        return;
    }
    // After the kernel has ended a watch, changes go unseen.
    let is_end = event.mask.contains(AddWatchFlags::IN_IGNORED);
    let is_write = event.mask.contains(AddWatchFlags::IN_MODIFY);
    let of_children = event.name.as_deref().and_then(lets_files_come);
    for follower in by_watch.get(&event.wd).into_iter().flatten() {
        match &event.name {
            _ if is_end || is_write && of_children == Some(follower.above) => follower.note_anything(),
            Some(name) if !is_write && !follower.above => follower.note_name(name),
            None if !is_write && !follower.above => follower.note_anything(),
            _ => {}
        }
    }
}

impl FollowChanges for FollowedDir {
    fn take_changes(&self) -> DirChanges {
        self.followers.take_events();
        let mut pending = self.pending.lock();
        match &mut *pending {
            DirChanges::Names(_) => std::mem::replace(&mut *pending, DirChanges::Nothing),
            // This state lasts.
            DirChanges::Nothing | DirChanges::Anything => pending.clone(),
        }
    }
}

impl Drop for FollowedDir {
    fn drop(&mut self) {
        let mut by_watch = self.followers.by_watch.lock();
        for watch in &self.watches {
            let Some(followers) = by_watch.get_mut(watch) else { continue };
            followers.retain(|follower| !Arc::ptr_eq(&follower.pending, &self.pending));
            if followers.is_empty() {
                by_watch.remove(watch);
                // The kernel has removed the watch already if the directory is gone.
                let _ = self.followers.inotify.rm_watch(*watch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
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
        let names = |names: &[&str]| DirChanges::Names(names.iter().map(OsString::from).collect());
        for (change, told) in [
            (&(|| fs::create_dir(inner.join("a"))) as &dyn Fn() -> std::io::Result<()>, names(&["a"])),
            (&|| fs::rename(inner.join("a"), inner.join("b")), names(&["a", "b"])),
            (&|| fs::remove_dir(inner.join("b")), names(&["b"])),
            (&|| fs::create_dir(inner.join("c")).and_then(|()| fs::remove_dir(inner.join("c"))), names(&["c"])),
            (&|| fs::write(inner.join("cgroup.procs"), "1"), DirChanges::Nothing),
            (&|| fs::write(inner.join("cgroup.subtree_control"), "1"), DirChanges::Nothing),
            (&|| fs::write(inner.join("cgroup.type"), "1"), DirChanges::Anything),
            (&|| fs::write(folder.path().join("cgroup.subtree_control"), "1"), DirChanges::Anything),
            (&|| fs::create_dir(folder.path().join("beside")), DirChanges::Nothing),
            (
                &|| (0..=NAMES_MAX).try_for_each(|number| fs::create_dir(inner.join(number.to_string()))),
                DirChanges::Anything,
            ),
        ] {
            let (followed, other) = (follow(), follow());
            assert_eq!(followed.take_changes(), DirChanges::Nothing);
            change().unwrap();
            assert_eq!((followed.take_changes(), other.take_changes()), (told.clone(), told.clone()));
            let later = if told == DirChanges::Anything { told } else { DirChanges::Nothing };
            assert_eq!(
                followed.take_changes(),
                later,
                "each change is reported once, but an unknown state stays unknown"
            );
        }
        assert!(followers.by_watch.lock().is_empty());
    }
}
