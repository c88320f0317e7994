//! A system call of the probe that has no safe wrapper.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Maps the first page of a file for reading, and unmaps it untouched.
#[allow(unsafe_code, reason = "mmap and munmap are unsafe")]
pub(super) fn map_a_page(fd: &OwnedFd, shared: bool) -> nix::Result<()> {
    let length = NonZeroUsize::MIN.saturating_add(4095);
    let flags = if shared { MapFlags::MAP_SHARED } else { MapFlags::MAP_PRIVATE };
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
    let page = unsafe { mmap(None, length, ProtFlags::PROT_READ, flags, fd, 0)? };
    // SAFETY: this is the mapping that was just made, and nobody else has its address.
    unsafe { munmap(page, length.get()) }
}
