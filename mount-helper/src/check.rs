//! Whether a descriptor is what the server says it is.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs};

/// Filesystem type of /proc/PID/ns/* since Linux 3.19; before, it was procfs itself.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// ENOTSOCK or EINVAL unless `file` is a SOCK_SEQPACKET socket.
pub(crate) fn seqpacket(file: BorrowedFd<'_>) -> Result<(), Errno> {
    match getsockopt(&file, sockopt::SockType)? {
        SockType::SeqPacket => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// EINVAL unless `file` is a pipe.
pub(crate) fn pipe(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let kind = SFlag::from_bits_truncate(fstat(file)?.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFIFO { Ok(()) } else { Err(Errno::EINVAL) }
}

/// EINVAL unless `file` is on the filesystem of namespaces. Which kind of namespace it is, setns
/// itself checks.
pub(crate) fn namespace(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let kind = fstatfs(file)?.filesystem_type();
    #[allow(clippy::useless_conversion, clippy::cast_lossless)] // the type's width varies
    let nsfs = kind.0 as i64 == NSFS_MAGIC;
    if nsfs || kind == FsType(PROC_SUPER_MAGIC.0) { Ok(()) } else { Err(Errno::EINVAL) }
}
