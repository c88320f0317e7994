//! Extended attributes of the backing cgroupfs, with the rights of who asks.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::backing::errno;
use super::opening::path_of;
use crate::fs::host::{Answer, Credentials, Owner};
use crate::sys::credentials::{Assumed, Rights, assume};
use crate::sys::xattr;

/// What counts towards an inode whose owner is mapped (`capable_wrt_inode_uidgid`): CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER,
/// CAP_FSETID, CAP_SETFCAP.
const CAPABILITIES_OVER_INODES: u64 = 0b1_1111 | 1 << 31;

/// An xattr's value.
pub(super) fn get(object: &OwnedFd, name: &OsStr) -> Answer<Vec<u8>> {
    xattr::get(&path(object)?, &c_name(name)?).map_err(errno)
}

/// The names that `reader` may see.
pub(super) fn list(object: &OwnedFd, reader: &Credentials) -> Answer<Vec<u8>> {
    let path = path(object)?;
    // Names of `trusted.*` show only to who has CAP_SYS_ADMIN towards the host (simple_xattr_list).
    let _assumed = assume_with(reader, if reader.id_maps.is_none() { reader.capabilities } else { 0 })?;
    xattr::list(&path).map_err(errno)
}

/// Sets one with the rights of `writer`.
pub(super) fn set(object: &OwnedFd, name: &OsStr, value: &[u8], flags: i32, writer: &Credentials) -> Answer<()> {
    let (path, name) = (path(object)?, c_name(name)?);
    let _assumed = assume_over(object, writer)?;
    xattr::set(&path, &name, value, flags).map_err(errno)
}

/// Removes one with the rights of `writer`.
pub(super) fn remove(object: &OwnedFd, name: &OsStr, writer: &Credentials) -> Answer<()> {
    let (path, name) = (path(object)?, c_name(name)?);
    let _assumed = assume_over(object, writer)?;
    xattr::remove(&path, &name).map_err(errno)
}

/// Removes one with the server's rights.
pub(super) fn clear(object: &OwnedFd, name: &OsStr) -> Answer<()> {
    xattr::remove(&path(object)?, &c_name(name)?).map_err(errno)
}

/// Acts with the rights that `writer` has over an object. What the kernel asks of him towards the host's user namespace (`trusted.*`, most of
/// `security.*`: CAP_SYS_ADMIN) counts only if his is that one.
fn assume_over(object: &OwnedFd, writer: &Credentials) -> Answer<Assumed> {
    if writer.id_maps.is_none() {
        return assume_with(writer, writer.capabilities);
    }
    let stat = fstat(object)?;
    let over = writer.capabilities_over(Owner { uid: stat.st_uid, gid: stat.st_gid });
    assume_with(writer, over & CAPABILITIES_OVER_INODES)
}

fn assume_with(who: &Credentials, capabilities: u64) -> Answer<Assumed> {
    let Owner { uid, gid } = who.owner;
    assume(&Rights { uid, gid, groups: &who.groups, capabilities }).map_err(errno)
}

fn path(fd: &OwnedFd) -> Answer<CString> {
    CString::new(path_of(fd)).map_err(|_| Errno::EINVAL)
}

fn c_name(name: &OsStr) -> Answer<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)
}
