//! Memory that a process shares with those that it forks.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Memory of atomic words, all 0 at first. It's shared with forked processes, and takes room only where it was
/// written.
#[derive(Debug)]
pub struct SharedMemory {
    start: NonNull<AtomicU64>,
    words: usize,
    /// `None` where the kernel has no memfd (before Linux 3.17).
    file: Option<OwnedFd>,
}

// SAFETY: the words are atomics, which any thread may use.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes memory of this many words ([mmap(2)](https://man7.org/linux/man-pages/man2/mmap.2.html),
    /// [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html)).
    ///
    /// # Errors
    /// `ENOMEM` without room for it, `EINVAL` for no words or too many.
    pub fn new(words: usize) -> io::Result<Self> {
        let file = Self::file(words).ok();
        Self::map(words, file, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// Maps memory that another process has made with [`Self::new`], by its file.
    ///
    /// # Errors
    /// `EINVAL` if it hasn't this many words; `ENOMEM`.
    pub fn open(words: usize, file: OwnedFd) -> io::Result<Self> {
        Self::map_file(words, file, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    fn map_file(words: usize, file: OwnedFd, access: ProtFlags) -> io::Result<Self> {
        let file = File::from(file);
        if file.metadata()?.len() != (words * size_of::<AtomicU64>()) as u64 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Self::map(words, Some(file.into()), access)
    }

    /// Maps memory that another process writes, for reading only, by its file. Its words may only be loaded, in the order
    /// `Relaxed`: there's no write access that another kind of load could need.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for_reading(words: usize, file: OwnedFd) -> io::Result<Self> {
        Self::map_file(words, file, ProtFlags::PROT_READ)
    }

    fn file(words: usize) -> io::Result<OwnedFd> {
        let file = File::from(memfd_create(c"vcgroupfs state", MFdFlags::MFD_CLOEXEC)?);
        file.set_len((words * size_of::<AtomicU64>()) as u64)?;
        Ok(file.into())
    }

    fn map(words: usize, file: Option<OwnedFd>, access: ProtFlags) -> io::Result<Self> {
        let length = words.checked_mul(size_of::<AtomicU64>()).and_then(NonZeroUsize::new);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        let start = match &file {
            // SAFETY: a new mapping that replaces none; the file is never made shorter.
            Some(file) => unsafe { mmap(None, length, access, flags, file, 0) },
            // SAFETY: a new mapping that replaces none.
            None => unsafe { mmap_anonymous(None, length, access, flags) },
        };
        Ok(Self { start: start?.cast(), words, file })
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, is aligned to a page, lives as long as this, and is used only
        // through atomics, in every process that has it. All bits are valid.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// Reads from a file into the words from `first` on, `count` at most. Whoever has the memory has at once what was read,
    /// even if this process is killed then. Returns the bytes.
    ///
    /// # Errors
    /// Those of read(2); `EINVAL` if there aren't that many words.
    pub fn read_from(&self, file: BorrowedFd<'_>, first: usize, count: usize) -> Result<usize, Errno> {
        let words = first.checked_add(count).and_then(|end| self.words().get(first..end)).ok_or(Errno::EINVAL)?;
        let start = words.as_ptr().cast_mut().cast::<libc::c_void>();
        // SAFETY: the kernel writes to these words alone, which are shared and may be written at any time. Nobody but
        // atomics looks at them.
        let read = unsafe { libc::read(file.as_raw_fd(), start, size_of_val(words)) };
        Errno::result(read).map(|length| usize::try_from(length).unwrap_or(0))
    }

    /// The file that it is, if it's one.
    pub fn as_file(&self) -> Option<&OwnedFd> {
        self.file.as_ref()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: this made the mapping, and nothing borrows from it any more.
        let _ = unsafe { munmap(self.start.cast(), self.words * size_of::<AtomicU64>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn all_mappings_have_the_same_words() {
        let memory = SharedMemory::new(1 << 20).unwrap();
        assert!(memory.words().iter().take(4096).all(|word| word.load(Ordering::Relaxed) == 0));
        // Another mapping of the same file, as another process has it.
        let Some(file) = memory.as_file() else { return };
        let other = SharedMemory::open(1 << 20, file.try_clone().unwrap()).unwrap();
        assert!(SharedMemory::open(1 << 19, file.try_clone().unwrap()).is_err());
        other.words()[(1 << 20) - 1].store(7, Ordering::Release);
        assert_eq!(memory.words()[(1 << 20) - 1].load(Ordering::Acquire), 7);
    }

    #[test]
    fn a_reader_sees_what_is_written() {
        let memory = SharedMemory::new(512).unwrap();
        let Some(file) = memory.as_file() else { return };
        // As a process has it that may only read.
        let number = file.as_raw_fd();
        let file = File::open(format!("/proc/self/fd/{number}")).unwrap();
        let reader = SharedMemory::open_for_reading(512, file.try_clone().unwrap().into()).unwrap();
        memory.words()[7].store(9, Ordering::Release);
        assert_eq!(reader.words()[7].load(Ordering::Relaxed), 9);
        assert!(SharedMemory::open(512, file.into()).is_err(), "it can be mapped for writing");
    }

    #[test]
    fn what_is_read_is_there() {
        let memory = SharedMemory::new(4).unwrap();
        let (pipe, writer) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&writer, &[1; 12]).unwrap();
        assert_eq!(memory.read_from(pipe.as_fd(), 1, 2), Ok(12));
        let words: Vec<u64> = memory.words().iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let half = u64::from(u32::from_ne_bytes([1; 4]));
        assert_eq!(words, [0, u64::from_ne_bytes([1; 8]), half, 0]);
        assert_eq!(memory.read_from(pipe.as_fd(), 3, 2), Err(Errno::EINVAL));
    }

    #[test]
    fn no_words_are_an_error() {
        assert!(SharedMemory::new(0).is_err());
    }
}
