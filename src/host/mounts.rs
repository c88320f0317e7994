//! The mounts of this process' mount namespace.

use std::io;
use std::os::fd::AsRawFd;

/// Returns the id of a descriptor's mount (Linux 3.15).
pub fn mount_id(file: &impl AsRawFd) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}
