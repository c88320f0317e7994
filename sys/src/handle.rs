//! File handles ([open_by_handle_at(2)](https://man7.org/linux/man-pages/man2/open_by_handle_at.2.html)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `FILEID_KERNFS` (linux/exportfs.h): the handle is the 64-bit kernfs id, which is `st_ino`. Linux 5.5.
const FILEID_KERNFS: i32 = 0xfe;
/// `FILEID_INO64_GEN` (linux/exportfs.h): the handle of a file of FUSE is its node id, the upper half first, and a generation.
const FILEID_INO64_GEN: i32 = 0x81;

/// `struct file_handle` with room for `N` bytes.
#[repr(C)]
struct Handle<const N: usize> {
    bytes: u32,
    kind: i32,
    content: [u8; N],
}

/// Returns the kernfs id of an open file or directory, or `None` if its filesystem has no such handles.
#[must_use]
pub fn kernfs_id(file: BorrowedFd<'_>) -> Option<u64> {
    of_kind(file, FILEID_KERNFS).map(u64::from_ne_bytes)
}

/// Returns the node id of an open file of a FUSE, or `None` if its filesystem has other handles. The FUSE server isn't asked.
#[must_use]
pub fn fuse_node_id(file: BorrowedFd<'_>) -> Option<u64> {
    let [a, b, c, d, e, f, g, h, ..] = of_kind::<12>(file, FILEID_INO64_GEN)?;
    let [high, low] = [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes);
    Some(u64::from(high) << 32 | u64::from(low))
}

/// Returns the handle of an open file, if it has this kind and length (name_to_handle_at(2)).
fn of_kind<const N: usize>(file: BorrowedFd<'_>, kind: i32) -> Option<[u8; N]> {
    let bytes = u32::try_from(N).ok()?;
    let mut handle = Handle { bytes, kind: 0, content: [0; N] };
    let mut mount = 0i32;
    let (number, empty, flags) = (file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the name is an empty C string, and `handle` has room for the `N` bytes that it says; both outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_name_to_handle_at, number, empty, &raw mut handle, &raw mut mount, flags) };
    (result == 0 && handle.kind == kind && handle.bytes == bytes).then_some(handle.content)
}

/// Opens the file or directory that has this kernfs id on the filesystem of `mount`.
///
/// # Errors
/// `ESTALE` if the object no longer exists; `EPERM` without CAP_DAC_READ_SEARCH in the initial user namespace; those
/// of open(2).
pub fn open_kernfs_id(mount: BorrowedFd<'_>, id: u64, flags: i32) -> io::Result<OwnedFd> {
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, content: id.to_ne_bytes() };
    // SAFETY: `handle` is a whole file handle with its 8 bytes and outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut handle, flags | libc::O_CLOEXEC)
    };
    let file = Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(file as i32) })
}
