//! Extended attributes of the backing cgroupfs, with the caller's rights.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};

use super::KernelHost;
use crate::fs::SysResult;
use crate::fs::host::{Credentials, HostXattrs, Owner};
use crate::fs::inode::Node;
use crate::host::backing_file::BackingFile;
use crate::host::cgroup_namespace::OpenedIn;
use crate::host::errno::errno;
use crate::host::opening::{path_of, single_component};
use crate::sys::credentials::{Assumed, Rights, assume};
use crate::sys::xattr;

/// The capabilities over an inode whose owner is mapped (`capable_wrt_inode_uidgid`): CAP_CHOWN, CAP_DAC_OVERRIDE,
/// CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, CAP_SETFCAP.
const CAPABILITIES_OVER_INODES: u64 = 0b1_1111 | 1 << 31;

impl HostXattrs for KernelHost {
    fn xattr(&self, node: &Node, name: &OsStr) -> SysResult<Vec<u8>> {
        get(&*self.object(node)?, name)
    }

    fn xattrs(&self, node: &Node, reader: &Credentials) -> SysResult<Vec<u8>> {
        list(&*self.object(node)?, reader)
    }

    fn set_xattr(&self, node: &Node, name: &OsStr, value: &[u8], flags: i32, writer: &Credentials) -> SysResult<()> {
        set(&*self.object(node)?, name, value, flags, writer)
    }

    fn remove_xattr(&self, node: &Node, name: &OsStr, writer: &Credentials) -> SysResult<()> {
        remove(&*self.object(node)?, name, writer)
    }

    fn hold_directory(&self, directory: &Node, name: &OsStr) -> SysResult<BackingFile> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&*self.object(directory)?, single_component(name)?, flags, Mode::empty())?;
        Ok(BackingFile::new(fd, OpenedIn::Around, None))
    }

    fn clear_xattr(&self, removed: &BackingFile, name: &OsStr) {
        // Others may have removed it.
        let _ = clear(&removed.fd, name);
    }
}

/// Returns an xattr's value.
fn get(object: &OwnedFd, name: &OsStr) -> SysResult<Vec<u8>> {
    xattr::get(&path(object)?, &c_name(name)?).map_err(errno)
}

/// Returns the names that `reader` may see.
fn list(object: &OwnedFd, reader: &Credentials) -> SysResult<Vec<u8>> {
    let path = path(object)?;
    // The kernel shows names of `trusted.*` only to a reader with CAP_SYS_ADMIN over the host (simple_xattr_list).
    let _assumed = assume_with(reader, if reader.id_maps.is_none() { reader.capabilities } else { 0 })?;
    xattr::list(&path).map_err(errno)
}

/// Sets an xattr with the rights of `writer`.
fn set(object: &OwnedFd, name: &OsStr, value: &[u8], flags: i32, writer: &Credentials) -> SysResult<()> {
    let (path, name) = (path(object)?, c_name(name)?);
    let _assumed = assume_over(object, writer)?;
    xattr::set(&path, &name, value, flags).map_err(errno)
}

/// Removes an xattr with the rights of `writer`.
fn remove(object: &OwnedFd, name: &OsStr, writer: &Credentials) -> SysResult<()> {
    let (path, name) = (path(object)?, c_name(name)?);
    let _assumed = assume_over(object, writer)?;
    xattr::remove(&path, &name).map_err(errno)
}

/// Removes an xattr with the server's rights.
fn clear(object: &OwnedFd, name: &OsStr) -> SysResult<()> {
    xattr::remove(&path(object)?, &c_name(name)?).map_err(errno)
}

/// Assumes the rights that `writer` has over an object. Capabilities towards the host's user namespace (`trusted.*`,
/// most of `security.*`: CAP_SYS_ADMIN) count only if the writer is in it.
fn assume_over(object: &OwnedFd, writer: &Credentials) -> SysResult<Assumed> {
    if writer.id_maps.is_none() {
        return assume_with(writer, writer.capabilities);
    }
    let stat = fstat(object)?;
    let over = writer.capabilities_over(Owner { uid: stat.st_uid, gid: stat.st_gid });
    assume_with(writer, over & CAPABILITIES_OVER_INODES)
}

fn assume_with(who: &Credentials, capabilities: u64) -> SysResult<Assumed> {
    let Owner { uid, gid } = who.owner;
    assume(&Rights { uid, gid, groups: &who.groups, capabilities }).map_err(errno)
}

fn path(fd: &OwnedFd) -> SysResult<CString> {
    CString::new(path_of(fd)).map_err(|_| Errno::EINVAL)
}

fn c_name(name: &OsStr) -> SysResult<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)
}
