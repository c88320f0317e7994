//! Opening files: with whose rights, and in which cgroup namespace.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::gettid;

use super::errno::errno;
use crate::fs::SysResult;
use crate::fs::host::{Credentials, OpenMode, Owner};
use crate::sys::capability::{CAP_DAC_OVERRIDE, CAP_SYS_RESOURCE};
use crate::sys::credentials::{Rights, assume};
use crate::sys::handle;

pub(super) fn by_id(root: BorrowedFd<'_>, inode: u64, flags: i32) -> SysResult<OwnedFd> {
    handle::open_kernfs_id(root, inode, flags).map_err(|error| {
        match Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)) {
            // The VFS returns ENOENT for a name whose object is gone.
            Errno::ESTALE => Errno::ENOENT,
            errno => errno,
        }
    })
}

/// Returns a name if it can only be an entry of the directory in which it's looked up.
pub(super) fn single_component(name: &OsStr) -> SysResult<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(Errno::ENOENT);
    }
    Ok(name)
}

/// Returns a descriptor's path for the calling thread. It leads to the object itself, whatever has become of its
/// names.
///
/// The path uses the thread's own directory. On old kernels (3.10) only the first thread may use `/proc/self/fd`
/// after it has dropped its capabilities (`proc_fd_permission`, `__ptrace_may_access`). `/proc/thread-self` exists
/// since Linux 3.17.
pub(super) fn path_of(fd: &OwnedFd) -> String {
    static HAS_THREAD_SELF: LazyLock<bool> = LazyLock::new(|| Path::new("/proc/thread-self").exists());
    match *HAS_THREAD_SELF {
        true => format!("/proc/thread-self/fd/{}", fd.as_raw_fd()),
        false => format!("/proc/self/task/{}/fd/{}", gettid(), fd.as_raw_fd()),
    }
}

pub(super) fn open_flags(mode: OpenMode) -> OFlag {
    let access = match (mode.read, mode.write) {
        (true, true) => OFlag::O_RDWR,
        (false, true) => OFlag::O_WRONLY,
        (_, false) => OFlag::O_RDONLY,
    };
    let truncate = if mode.truncate && mode.write { OFlag::O_TRUNC } else { OFlag::empty() };
    access | truncate | OFlag::O_CLOEXEC | OFlag::O_NOCTTY
}

/// Opens a file with the opener's own rights, by which the kernel judges writes to it (`of->file->f_cred`).
pub(super) fn open_as(object: &OwnedFd, flags: OFlag, opener: &Credentials) -> SysResult<OwnedFd> {
    let path = path_of(object);
    let open = |capabilities| {
        let Owner { uid, gid } = opener.owner;
        let _assumed = assume(&Rights { uid, gid, groups: &opener.groups, capabilities }).map_err(errno)?;
        nix::fcntl::open(path.as_str(), flags, Mode::empty())
    };
    if opener.id_maps.is_none() {
        return open(opener.capabilities);
    }
    // The opener's capabilities don't apply to the host's objects, except this one: psi_write accepts it in any user
    // namespace.
    let own = opener.capabilities & CAP_SYS_RESOURCE;
    match open(own) {
        Ok(file) => Ok(file),
        // A capability over a mapped owner opens the file. The kernel has allowed the request for that, but with
        // cached attributes that may have been out of date.
        Err(Errno::EACCES) => {
            let stat = fstat(object)?;
            let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
            if opener.capabilities_over(owner) & CAP_DAC_OVERRIDE == 0 {
                return Err(Errno::EACCES);
            }
            open(own | CAP_DAC_OVERRIDE)
        }
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another thread can't use the path.
    #[test]
    fn the_path_of_a_descriptor_is_the_threads_own() {
        let opened_in_a_table_of_its_own = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            let object = nix::fcntl::open(folder.path(), flags, Mode::empty()).unwrap();
            assert_eq!(std::fs::read_link(path_of(&object)).unwrap(), folder.path());
        };
        std::thread::spawn(opened_in_a_table_of_its_own).join().unwrap();
    }
}
