//! Watches on backing directories (inotify(7)).

use std::collections::HashMap;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::AddWatchFlags;
use parking_lot::Mutex;

use crate::activity;
use crate::cgroup::file::{is_notified, lets_files_come};
use crate::fs::host::{EntryChange, HostEvent, Report};
use crate::fs::inode::Watch;
use crate::records::{Number, Records};
use crate::sys::descriptors::recovered;
use crate::sys::inotify::{Event, Inotify, WatchNumber, parse};

/// The most watches of a view, if the host allows that many.
const WATCHES_MAX: usize = 32 * 1024;

/// All watches of a view.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Inotify,
    /// What the next server needs to know.
    records: Arc<Records>,
    stop: EventFd,
    /// How many watches this view may have. The kernel charges them to root, whose own programs need some.
    limit: usize,
    /// The length of the kernel's event queue.
    most_queued: usize,
    /// Held across the two system calls that add and remove a watch. Neither blocks. A directory that is known by two
    /// entry paths, or is forgotten and found again at once, still has a single watch.
    known: Mutex<WatchTable>,
}

#[derive(Debug, Default)]
struct WatchTable {
    by_directory: HashMap<(usize, u64), (WatchNumber, usize)>,
    by_watch: HashMap<WatchNumber, (usize, u64)>,
    /// The first half of a rename. The second half is the next event, but may come with the next batch.
    renamed_from: Option<(u32, Option<OsString>)>,
    /// Whether a directory couldn't be watched because no watch was left.
    lacked: bool,
}

impl WatchTable {
    /// Logs that no watch is left, but only once: a container can cause that as often as it likes.
    fn lacks_a_watch(&mut self) {
        if !std::mem::replace(&mut self.lacked, true) {
            tracing::warn!(
                "no more watches (fs.inotify.max_user_watches): what isn't watched is slow, since it isn't cached, and inotify reports only what is done through the view there"
            );
        }
    }
}

/// One user of a watch; the last one removes it.
#[derive(Debug)]
struct User {
    watches: Arc<Watches>,
    directory: (usize, u64),
    number: WatchNumber,
}

impl Watch for User {
    fn number(&self) -> Option<i32> {
        Some(self.number.get())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.watches.remove(self.directory);
    }
}

impl Watches {
    /// Takes over the watches of an earlier server, or makes new ones.
    pub(super) fn new(records: &Arc<Records>) -> io::Result<Self> {
        let inotify = match records.descriptor(Number::Watches).and_then(recovered) {
            Some(file) => Inotify::recovered(file),
            None => Inotify::new()?,
        };
        records.set_descriptor(Number::Watches, inotify.as_fd().as_raw_fd());
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            inotify,
            records: Arc::clone(records),
            stop,
            known: Mutex::default(),
            limit: limit(),
            most_queued: setting("max_queued_events", 16_384),
        })
    }

    /// Watches a directory. With `files`, also reports writes to its files. `None` if the limits of inotify, or the view's share
    /// of them, don't allow it.
    pub(super) fn add(
        self: &Arc<Self>,
        directory: (usize, u64),
        object: BorrowedFd<'_>,
        files: bool,
    ) -> Option<Box<dyn Watch>> {
        let number = self.add_user(directory, object, files)?;
        Some(Box::new(User { watches: Arc::clone(self), directory, number }))
    }

    /// Takes over a watch that an earlier server has added.
    pub(super) fn add_again(self: &Arc<Self>, directory: (usize, u64), number: i32) -> Box<dyn Watch> {
        let mut known = self.known.lock();
        let number = WatchNumber::numbered(number);
        known.by_directory.entry(directory).or_insert((number, 0)).1 += 1;
        known.by_watch.insert(number, directory);
        self.count(&known);
        Box::new(User { watches: Arc::clone(self), directory, number })
    }

    fn add_user(&self, directory: (usize, u64), object: BorrowedFd<'_>, files: bool) -> Option<WatchNumber> {
        let mut flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        if files {
            // Notifications by the kernel, and writes that make files come or go, have no other event.
            flags |= AddWatchFlags::IN_MODIFY;
        }
        let mut known = self.known.lock();
        if let Some((number, users)) = known.by_directory.get_mut(&directory) {
            *users += 1;
            return Some(*number);
        }
        if known.by_directory.len() >= self.limit {
            known.lacks_a_watch();
            return None;
        }
        let path = CString::new(format!("/proc/self/fd/{}", object.as_raw_fd())).ok()?;
        match self.inotify.add(&path, flags) {
            Ok(watch) => {
                known.by_directory.insert(directory, (watch, 1));
                known.by_watch.insert(watch, directory);
                self.count(&known);
                Some(watch)
            }
            Err(errno) => {
                tracing::debug!(%errno, "a directory can't be watched, so it isn't cached");
                if errno == Errno::ENOSPC {
                    known.lacks_a_watch();
                }
                None
            }
        }
    }

    fn count(&self, known: &WatchTable) {
        self.records.activity().set(activity::Number::Watches, known.by_directory.len() as u64);
    }

    /// Removes one user of a watch.
    fn remove(&self, directory: (usize, u64)) {
        let mut known = self.known.lock();
        let Some((watch, users)) = known.by_directory.get_mut(&directory) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        let watch = *watch;
        known.by_directory.remove(&directory);
        known.by_watch.remove(&watch);
        self.count(&known);
        // The kernel has removed the watch already if the cgroup is gone.
        let _ = self.inotify.remove(watch);
    }

    /// Waits for changes; `None` after [`Watches::stop`].
    pub(super) fn wait(&self) -> Option<Report> {
        loop {
            let mut ready = [
                PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
            let [_, stopped] = ready;
            if stopped.any().unwrap_or(true) && self.stop.read().is_ok() {
                return None;
            }
            match self.records.events().read_from(self.inotify.as_fd()) {
                Ok((bytes, end)) => return Some(self.report(&bytes, end)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Returns the changes that an earlier server may not have dealt with, and those that are queued now.
    pub(super) fn left(&self) -> Report {
        let events = self.records.events();
        let mut left = events.left();
        let mut end = left.as_ref().map_or(0, |(bytes, begin)| begin + bytes.len() as u64);
        for _ in 0..self.most_queued {
            match events.read_from(self.inotify.as_fd()) {
                Ok((more, position)) => {
                    end = position;
                    left.iter_mut().for_each(|(bytes, _)| bytes.extend(&more));
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        match left {
            Some((bytes, _)) => self.report(&bytes, end),
            None => Report { changes: vec![(HostEvent::Anything, end)], end },
        }
    }

    /// Notes that all changes up to this position are dealt with.
    pub(super) fn dealt_with(&self, position: u64) {
        self.records.events().dealt_with(position);
    }

    /// The changes among events that were read, which end at this position.
    fn report(&self, bytes: &[u8], end: u64) -> Report {
        let events = parse(bytes);
        let mut known = self.known.lock();
        let mut position = end.saturating_sub(bytes.len() as u64);
        let mut changes = Vec::new();
        for event in &events {
            position += event.length as u64;
            match event_unless_lost(event, &mut known) {
                Some(change) => changes.extend(change.map(|change| (change, position))),
                None => break,
            }
        }
        if events.iter().any(is_overflow) {
            known.renamed_from = None;
            drop(known);
            self.skip();
            changes.push((HostEvent::Anything, end));
        }
        Report { changes, end }
    }

    /// Skips the events that were queued when events were found to be lost. Others are missing between them, and not
    /// only before the kernel's mark: the kernel marks the loss once, and goes on to drop events while the queue is
    /// full.
    fn skip(&self) {
        let mut skipped = 0;
        while skipped < self.most_queued {
            match self.inotify.read() {
                Ok(bytes) => skipped += parse(&bytes).len(),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    pub(super) fn stop(&self) {
        let _ = self.stop.write(1);
    }
}

/// Returns how many directories one view may watch. The kernel counts watches per user, and the container decides how
/// many cgroups it has: it mustn't take all watches from root's own programs.
fn limit() -> usize {
    const SHARE: usize = 8;
    // Kernels before Linux 5.11 allow 8192.
    (setting("max_user_watches", 8192) / SHARE).min(WATCHES_MAX)
}

fn setting(name: &str, otherwise: usize) -> usize {
    let text = std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(otherwise)
}

fn is_overflow(event: &Event) -> bool {
    event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
}

/// Converts an event, if it's of interest; the outer `None` means that events were lost.
fn event_unless_lost(event: &Event, known: &mut WatchTable) -> Option<Option<HostEvent>> {
    (!is_overflow(event)).then(|| host_event_of(event, known))
}

fn host_event_of(event: &Event, known: &mut WatchTable) -> Option<HostEvent> {
    let (hierarchy, directory) = *known.by_watch.get(&event.watch)?;
    if event.mask.contains(AddWatchFlags::IN_MODIFY) {
        let name = event.name.as_deref()?;
        if name.to_str().is_some_and(is_notified) {
            return Some(HostEvent::Modified { hierarchy, directory, name: name.to_os_string() });
        }
        return lets_files_come(name).map(|of_children| HostEvent::Files { hierarchy, directory, of_children });
    }
    if event.mask.contains(AddWatchFlags::IN_MOVED_FROM) {
        known.renamed_from = Some((event.cookie, event.name.clone()));
        return None;
    }
    if event.mask.contains(AddWatchFlags::IN_MOVED_TO) {
        // A renamed cgroup stays in its directory (cgroup1_rename), so both halves come from one watch.
        let from = known.renamed_from.take_if(|(cookie, _)| *cookie == event.cookie).and_then(|(_, name)| name);
        if let (Some(from), Some(to)) = (from, event.name.clone()) {
            return Some(HostEvent::Renamed { hierarchy, directory, from, to });
        }
    }
    let entry = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_ATTRIB;
    let kind = match event.mask {
        mask if mask.contains(AddWatchFlags::IN_CREATE) => EntryChange::Made,
        mask if mask.contains(AddWatchFlags::IN_DELETE) => EntryChange::Removed,
        _ => EntryChange::Other,
    };
    event.mask.intersects(entry).then(|| HostEvent::Entry { hierarchy, directory, name: event.name.clone(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_directory_that_finds_no_watch_is_told_of() {
        let watches = Arc::new(Watches { limit: 1, ..Watches::new(&Records::none()).unwrap() });
        let root = std::fs::File::open("/").unwrap();
        let first = watches.add((0, 1), root.as_fd(), false);
        assert!(first.is_some() && !watches.known.lock().lacked);
        assert!(watches.add((0, 2), root.as_fd(), false).is_none() && watches.known.lock().lacked);
    }
}
