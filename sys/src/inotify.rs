//! Watches ([inotify(7)](https://man7.org/linux/man-pages/man7/inotify.7.html)), with names of any length: a cgroup's name has up to 4095 bytes, and
//! nix reads no event with such a name.

use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::inotify::{self, AddWatchFlags, InitFlags};

/// The size of one read in bytes: room for several events with the longest names. The kernel answers EINVAL if the
/// first event doesn't fit.
pub const BUFFER: usize = 64 * 1024;

/// The size of `struct inotify_event` without its name.
const HEADER: usize = 16;

/// An inotify instance. Reading from it doesn't block.
#[derive(Debug)]
pub struct Inotify(inotify::Inotify);

/// The number that the kernel gave a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchNumber(i32);

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The watch that reports it.
    pub watch: WatchNumber,
    /// What has happened.
    pub mask: AddWatchFlags,
    /// A number that the two halves of a rename share.
    pub cookie: u32,
    /// The name in the watched directory; `None` for the directory itself.
    pub name: Option<OsString>,
    /// Its length among the bytes that were read.
    pub length: usize,
}

impl Inotify {
    /// Makes a new instance.
    ///
    /// # Errors
    /// `EMFILE` beyond fs.inotify.max_user_instances.
    pub fn new() -> Result<Self, Errno> {
        inotify::Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map(Self)
    }

    /// Watches `path`.
    ///
    /// # Errors
    /// `ENOSPC` beyond fs.inotify.max_user_watches; other errors of inotify_add_watch(2).
    pub fn add(&self, path: &CStr, mask: AddWatchFlags) -> Result<WatchNumber, Errno> {
        self.0.add_watch(path, mask).map(|watch| WatchNumber(watch.as_raw()))
    }

    /// Removes a watch.
    ///
    /// # Errors
    /// `EINVAL` if it doesn't exist.
    pub fn remove(&self, watch: WatchNumber) -> Result<(), Errno> {
        // SAFETY: two numbers in.
        Errno::result(unsafe { libc::inotify_rm_watch(self.0.as_fd().as_raw_fd(), watch.0) }).map(drop)
    }

    /// Takes over an instance that another process has made.
    pub fn recovered(file: OwnedFd) -> Self {
        // SAFETY: the caller says that it's an inotify instance. Another file would only make the calls fail.
        Self(unsafe { inotify::Inotify::from_owned_fd(file) })
    }

    /// Reads the next events, as the kernel writes them ([`parse`]).
    ///
    /// # Errors
    /// `EAGAIN` if there are none.
    pub fn read(&self) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; BUFFER];
        let length = nix::unistd::read(self.0.as_fd(), &mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

impl WatchNumber {
    /// The number.
    pub fn get(self) -> i32 {
        self.0
    }

    /// The watch with this number.
    pub fn numbered(number: i32) -> Self {
        Self(number)
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Parses events. The kernel writes whole ones only.
#[must_use]
pub fn parse(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some((event, rest)) = parse_one(bytes) {
        events.push(event);
        bytes = rest;
    }
    events
}

fn parse_one(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let word = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let room = word(12)? as usize;
    let (name, rest) = rest.split_at_checked(room)?;
    // The name is padded with NULs.
    let name = name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty());
    let event = Event {
        watch: WatchNumber(word(0)?.cast_signed()),
        mask: AddWatchFlags::from_bits_retain(word(4)?),
        cookie: word(8)?,
        name: name.map(|name| OsStr::from_bytes(name).to_owned()),
        length: HEADER + room,
    };
    Some((event, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(watch: i32, mask: AddWatchFlags, name: &[u8], room: u32) -> Vec<u8> {
        let mut bytes =
            [watch.to_ne_bytes(), mask.bits().to_ne_bytes(), 7_u32.to_ne_bytes(), room.to_ne_bytes()].concat();
        bytes.extend(name);
        bytes.resize(HEADER + room as usize, 0);
        bytes
    }

    #[test]
    fn events_one_after_the_other() {
        let long = vec![b'n'; 4095];
        let text = [
            event(1, AddWatchFlags::IN_CREATE, b"abc", 16),
            event(2, AddWatchFlags::IN_ATTRIB, b"", 0),
            event(-1, AddWatchFlags::IN_Q_OVERFLOW, b"", 0),
            event(1, AddWatchFlags::IN_DELETE, &long, 4096),
        ];
        let events = parse(&text.concat());
        let names: Vec<_> = events.iter().map(|event| event.name.as_deref().map_or(0, OsStr::len)).collect();
        assert_eq!(names, [3, 0, 0, 4095]);
        assert_eq!((events[1].watch, events[2].mask), (WatchNumber(2), AddWatchFlags::IN_Q_OVERFLOW));
        assert_eq!(events[0].cookie, 7);
        for cut in 0..HEADER + 16 {
            assert!(parse(&text[0][..cut]).is_empty(), "{cut}");
        }
    }

    #[test]
    fn a_real_one() {
        let directory = tempfile::tempdir().unwrap();
        let inotify = Inotify::new().unwrap();
        assert_eq!(inotify.read(), Err(Errno::EAGAIN));
        let path = std::ffi::CString::new(directory.path().as_os_str().as_bytes()).unwrap();
        let watch = inotify.add(&path, AddWatchFlags::IN_CREATE).unwrap();
        std::fs::create_dir(directory.path().join("made")).unwrap();
        let events = parse(&inotify.read().unwrap());
        assert_eq!((events.len(), events[0].watch, events[0].name.as_deref()), (1, watch, Some(OsStr::new("made"))));
        assert_eq!((inotify.remove(watch), inotify.remove(watch)), (Ok(()), Err(Errno::EINVAL)));
    }
}
