//! Checks that a descriptor has the type that the protocol demands.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat, major, minor};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs};

/// The filesystem type of /proc/PID/ns/* since Linux 3.19. Before, it was procfs itself.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Returns ENOTSOCK or EINVAL unless `file` is a SOCK_SEQPACKET socket.
pub(crate) fn seqpacket(file: BorrowedFd<'_>) -> Result<(), Errno> {
    match getsockopt(&file, sockopt::SockType)? {
        SockType::SeqPacket => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// Returns EINVAL unless `file` is a pipe.
pub(crate) fn pipe(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let kind = SFlag::from_bits_truncate(fstat(file)?.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFIFO { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Returns EINVAL unless `file` is on the filesystem of namespaces. setns itself checks
/// which kind of namespace it is.
pub(crate) fn namespace(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let kind = fstatfs(file)?.filesystem_type();
    #[allow(clippy::useless_conversion, clippy::cast_lossless)] // the type's width varies
    let nsfs = kind.0 as i64 == NSFS_MAGIC;
    if nsfs || kind == FsType(PROC_SUPER_MAGIC.0) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Returns ENOTDIR unless `file` is a directory.
pub(crate) fn directory(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let kind = SFlag::from_bits_truncate(fstat(file)?.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFDIR { Ok(()) } else { Err(Errno::ENOTDIR) }
}

/// Returns EINVAL unless `file` is on a procfs.
pub(crate) fn procfs(file: BorrowedFd<'_>) -> Result<(), Errno> {
    if fstatfs(file)?.filesystem_type() == PROC_SUPER_MAGIC { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Returns EINVAL unless `file` is `/dev/fuse`: misc's major number, and the minor that linux/miscdevice.h gives it.
pub(crate) fn fuse_device(file: BorrowedFd<'_>) -> Result<(), Errno> {
    const FUSE: (u64, u64) = (10, 229);
    let stat = fstat(file)?;
    let is_device = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFCHR;
    if is_device && (major(stat.st_rdev), minor(stat.st_rdev)) == FUSE { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Returns EINVAL unless `file` is on cgroup2 (`CGROUP2_SUPER_MAGIC`, linux/magic.h).
pub(crate) fn cgroup2(file: BorrowedFd<'_>) -> Result<(), Errno> {
    const CGROUP2_MAGIC: i64 = 0x6367_7270;
    let kind = fstatfs(file)?.filesystem_type();
    #[allow(clippy::useless_conversion, clippy::cast_lossless)] // the type's width varies
    let is_cgroup2 = kind.0 as i64 == CGROUP2_MAGIC;
    if is_cgroup2 { Ok(()) } else { Err(Errno::EINVAL) }
}
