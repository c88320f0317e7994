//! Set-group-ID bits, which the kernel takes away from what is changed by somebody who is neither in its group nor has CAP_FSETID.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use crate::fs::host::{Answer, Changes};
use crate::sys::credentials::{Assumed, Rights, assume};

/// Takes on the group of an object that has such a bit, or gets one, for a change of its mode or owner: the bit stays then. Whether it does,
/// the kernel has decided for the caller before the request came.
pub(super) fn assume_that_of(object: &OwnedFd, changes: &Changes) -> Answer<Option<Assumed>> {
    if changes.mode.is_none() && changes.uid.is_none() && changes.gid.is_none() {
        return Ok(None);
    }
    let stat = fstat(object)?;
    if (stat.st_mode | changes.mode.unwrap_or(0)) & libc::S_ISGID == 0 {
        return Ok(None);
    }
    let rights = Rights { uid: 0, gid: stat.st_gid, groups: &[], capabilities: u64::MAX };
    let assumed = assume(&rights).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    Ok(Some(assumed))
}
