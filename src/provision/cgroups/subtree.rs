//! The cgroups below an open one. The container decides how many there are and how deep.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

pub(super) fn open_directory(parent: &impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Removes the cgroups below, deepest first. It continues if one can't be removed.
///
/// The container decides how many there are and how deep. So one directory is open at a time, and each level keeps
/// the names of its children. Going up by `..` is safe, since a cgroup's parent never changes.
pub(super) fn remove_below(top: &OwnedFd) -> Result<(), Errno> {
    let mut outcome = Ok(());
    let mut at = open_directory(top, OsStr::new("."))?;
    // The names left to remove on each level. The last name of all levels but the deepest is the directory that was
    // entered.
    let mut levels = vec![children(&at)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.last() {
            match open_directory(&at, name).and_then(|below| Ok((children(&below)?, below))) {
                Ok((names, below)) => {
                    levels.push(names);
                    at = below;
                }
                Err(errno) => {
                    level.pop();
                    outcome = outcome.and(ignore_gone(errno));
                }
            }
        } else {
            levels.pop();
            let Some(name) = levels.last_mut().and_then(Vec::pop) else { break };
            at = open_directory(&at, OsStr::new(".."))?;
            if let Err(errno) = unlinkat(&at, name.as_os_str(), UnlinkatFlags::RemoveDir) {
                outcome = outcome.and(ignore_gone(errno));
            }
        }
    }
    outcome
}

fn ignore_gone(errno: Errno) -> Result<(), Errno> {
    // The kernel answers ENODEV to a read of a removed directory.
    if matches!(errno, Errno::ENOENT | Errno::ENODEV) { Ok(()) } else { Err(errno) }
}

/// The names of the cgroups in an open directory.
pub(crate) fn children(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in nix::dir::Dir::from_fd(open_directory(directory, OsStr::new("."))?)?.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if entry.file_type() == Some(nix::dir::Type::Directory) && name != "." && name != ".." {
            names.push(name.to_os_string());
        }
    }
    Ok(names)
}
