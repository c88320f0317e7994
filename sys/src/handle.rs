//! File handles of kernfs ([open_by_handle_at(2)](https://man7.org/linux/man-pages/man2/open_by_handle_at.2.html)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `FILEID_KERNFS` (linux/exportfs.h): the handle is the 64-bit kernfs id, which is `st_ino`. Linux 5.5.
const FILEID_KERNFS: i32 = 0xfe;

#[repr(C)]
struct KernfsHandle {
    bytes: u32,
    kind: i32,
    id: [u8; 8],
}

/// The kernfs id of an open file or directory; `None` if its filesystem has no such handles.
pub fn kernfs_id(file: BorrowedFd<'_>) -> Option<u64> {
    let mut handle = KernfsHandle { bytes: 8, kind: 0, id: [0; 8] };
    let mut mount = 0i32;
    // SAFETY: the name is an empty C string, and `handle` has room for the 8 bytes that it says; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    (result == 0 && handle.kind == FILEID_KERNFS && handle.bytes == 8).then(|| u64::from_ne_bytes(handle.id))
}

/// Opens what has this kernfs id on the filesystem of `mount`.
///
/// # Errors
/// `ESTALE` if there's no such object any more; `EPERM` without CAP_DAC_READ_SEARCH in the initial user namespace; what open(2) says.
pub fn open_kernfs_id(mount: BorrowedFd<'_>, id: u64, flags: i32) -> io::Result<OwnedFd> {
    let mut handle = KernfsHandle { bytes: 8, kind: FILEID_KERNFS, id: id.to_ne_bytes() };
    // SAFETY: `handle` is a whole file handle with its 8 bytes and outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut handle, flags | libc::O_CLOEXEC)
    };
    let fd = Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
