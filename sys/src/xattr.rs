//! Extended attributes by path ([xattr(7)](https://man7.org/linux/man-pages/man7/xattr.7.html)).

use std::ffi::CStr;
use std::io;

use nix::errno::Errno;

/// The size limit of a value and of a list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const LARGEST: usize = 65536;

/// Returns the value of an xattr of `path` (getxattr(2)).
///
/// # Errors
/// `ENODATA` if there's none, `EOPNOTSUPP` if the filesystem doesn't support that kind.
pub fn get(path: &CStr, name: &CStr) -> io::Result<Vec<u8>> {
    let mut value = vec![0u8; LARGEST];
    // SAFETY: both strings end with a NUL; the buffer's pointer and length belong together and outlive the call.
    let result = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(Errno::result(result)? as usize);
    Ok(value)
}

/// Returns the names of the xattrs of `path`, each ended by a NUL (listxattr(2)).
///
/// # Errors
/// Those of listxattr(2).
pub fn list(path: &CStr) -> io::Result<Vec<u8>> {
    let mut names = vec![0u8; LARGEST];
    // SAFETY: the path ends with a NUL; the buffer's pointer and length belong together and outlive the call.
    let result = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(Errno::result(result)? as usize);
    Ok(names)
}

/// Sets an xattr of `path` (setxattr(2)).
///
/// # Errors
/// Those of setxattr(2).
pub fn set(path: &CStr, name: &CStr, value: &[u8], flags: i32) -> io::Result<()> {
    // SAFETY: both strings end with a NUL; the value's pointer and length belong together and outlive the call.
    let result = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    Ok(Errno::result(result).map(drop)?)
}

/// Removes an xattr of `path` (removexattr(2)). For an xattr that doesn't exist it returns `ENODATA`, even to a
/// thread without the permission to remove it: the kernel has checked the caller's permission before the request
/// came.
///
/// # Errors
/// Those of removexattr(2).
pub fn remove(path: &CStr, name: &CStr) -> io::Result<()> {
    // SAFETY: both strings end with a NUL.
    let result = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        Err(Errno::EPERM) => match get(path, name) {
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Err(error),
            _ => Err(Errno::EPERM.into()),
        },
        Err(errno) => Err(errno.into()),
    }
}
