//! Interface files of open cgroups.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// Writes an interface file of an open cgroup.
///
/// # Errors
/// Those of open(2) and write(2).
pub fn write_file(directory: &impl AsFd, name: &str, data: &[u8]) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = openat(directory, name, flags, Mode::empty())?;
    nix::unistd::write(&file, data).map(drop)
}

/// Reads an interface file of an open cgroup.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn read_file(directory: &impl AsFd, name: &str) -> Result<String, io::Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = openat(directory, name, flags, Mode::empty())?;
    io::read_to_string(std::fs::File::from(file))
}
