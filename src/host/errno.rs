//! Converts errors of the standard library to errnos.

use nix::errno::Errno;

/// The errno of an error; `EIO` if it isn't a system call's.
pub(super) fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
