//! Conversions between FUSE's and the filesystem's types.

use std::time::UNIX_EPOCH;

use fuser::{FileAttr, FileType, INodeNo, InitFlags, KernelConfig, OpenFlags, Request, TimeOrNow, Version};
use nix::errno::Errno;

use crate::fs::NodeId;
use crate::fs::{Attributes, Caller, OpenMode, SetTime};

pub(super) fn caller(request: &Request) -> Caller {
    // A number that doesn't fit can't be a thread's.
    Caller { tid: i32::try_from(request.pid()).unwrap_or(0), uid: request.uid(), gid: request.gid() }
}

pub(super) fn node(number: INodeNo) -> NodeId {
    NodeId::from_u64(number.0)
}

pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno as i32)
}

pub(super) fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        _ => FileType::RegularFile,
    }
}

/// Converts attributes, with this inode number.
pub(super) fn attributes(from: &Attributes, inode: u64) -> FileAttr {
    let [atime, mtime, ctime] = from.times;
    FileAttr {
        ino: INodeNo(inode),
        size: from.size,
        blocks: 0,
        atime,
        mtime,
        ctime,
        crtime: ctime,
        kind: file_type(from.mode),
        perm: (from.mode & 0o7777) as u16,
        nlink: from.links,
        uid: from.uid,
        gid: from.gid,
        rdev: 0,
        blksize: from.block_size,
        flags: 0,
    }
}

/// The attributes in a reply about an absent name.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn open_mode(flags: OpenFlags) -> OpenMode {
    let access = flags.0 & libc::O_ACCMODE;
    OpenMode {
        // 3, which is neither, asks for the right to both.
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        truncate: flags.0 & libc::O_TRUNC != 0,
    }
}

pub(super) fn time(from: TimeOrNow) -> SetTime {
    match from {
        TimeOrNow::SpecificTime(time) => SetTime::At(time),
        TimeOrNow::Now => SetTime::Now,
    }
}

/// The longest name that the kernel accepts in a listing, in bytes. It's limited by FUSE (Linux 6.15 or so raised
/// that limit), and by the page in which the kernel stores a listing, with the name's `fuse_dirent`. A longer name
/// isn't listed, but a lookup finds it as far as FUSE accepts it.
pub(super) fn listed_name_max(config: &KernelConfig) -> usize {
    /// FUSE_NAME_LOW_MAX.
    const BEFORE: usize = 1024;
    const PAGE: usize = 4096;
    const HEADER: usize = 24;
    let Version(_, minor) = config.kernel_abi();
    // 7.44 is Linux 6.16. A path has two pages, which takes FUSE_MAX_PAGES.
    if minor >= 44 && config.capabilities().contains(InitFlags::FUSE_MAX_PAGES) { PAGE - HEADER } else { BEFORE }
}

/// Whether splice(2) and sendfile(2) of a file that the server reads end at its size: since Linux 6.5 they use the
/// page cache (`filemap_splice_read`). Testing that takes a FUSE mount, so the kernel's version decides.
pub(super) fn splice_ends_at_size() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|one: char| !one.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(5))
}
