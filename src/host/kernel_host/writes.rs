//! Writes for a caller, with no more than the caller's capabilities: the kernel checks some of the writer's
//! (`capable`), whoever opened the file.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::KernelHost;
use crate::fs::SysResult;
use crate::fs::host::{HostFiles, Owner, WriterCredentials};
use crate::fs::inode::Node;
use crate::host::backing_file::BackingFile;
use crate::host::errno::errno;
use crate::host::interface_file::read_file;
use crate::host::proc::procfs;
use crate::sys::capability::CAP_SYS_NICE;
use crate::sys::credentials::{Rights, assume, become_for_good};

/// The stack of a thread that makes a few system calls, in bytes.
const STACK_BYTES: usize = 64 * 1024;

impl KernelHost {
    pub(super) fn write_by(&self, writer: &WriterCredentials, file: &BackingFile, data: &[u8]) -> SysResult<usize> {
        let all = self.shared.capabilities;
        let is_as_server = writer.owner == (Owner { uid: 0, gid: 0 }) && writer.capabilities & all == all;
        let _assumed = match is_as_server {
            true => None,
            false => Some(assume(&rights_of(writer)).map_err(errno)?),
        };
        file.write_once(data)
    }

    /// `cap_safe_nice` checks CAP_SYS_NICE, or compares permitted capabilities. A thread that could still have more
    /// than the writer would do what the writer may not.
    pub(super) fn write_migrating_by(
        &self,
        writer: &WriterCredentials,
        file: &BackingFile,
        directory: &Node,
        data: &[u8],
    ) -> SysResult<usize> {
        if writer.capabilities & CAP_SYS_NICE != 0 {
            return self.write(file, data, writer);
        }
        match write_as(writer, file, data) {
            // A server that has dropped capabilities can't stand in for a writer who has them.
            Err(Errno::EPERM) if writer.permitted & !self.shared.capabilities != 0 => {
                if self.permitted_below(directory)? & !writer.permitted != 0 {
                    return Err(Errno::EPERM);
                }
                self.write(
                    file,
                    data,
                    &WriterCredentials { capabilities: writer.capabilities | CAP_SYS_NICE, ..*writer },
                )
            }
            written => written,
        }
    }

    /// Returns all permitted capabilities of the threads in and below a cgroup of cgroup2.
    fn permitted_below(&self, directory: &Node) -> SysResult<u64> {
        let top = self.object(directory)?;
        let (mut permitted, mut pending) = (0, vec![Vec::new()]);
        while let Some(names) = pending.pop() {
            // A cgroup that is gone has no threads.
            let Ok(at) = walk_from(&top, &names) else { continue };
            for tid in read_file(&at, "cgroup.threads").unwrap_or_default().split_ascii_whitespace() {
                let status = tid.parse().ok().and_then(|tid| procfs::status(tid).ok());
                permitted |= status.map_or(0, |status| status.permitted);
            }
            pending.extend(cgroups_in(at)?.into_iter().map(|name| [names.as_slice(), &[name]].concat()));
        }
        Ok(permitted)
    }
}

/// Opens the cgroup to which these names lead from another one.
fn walk_from(top: &OwnedFd, names: &[OsString]) -> SysResult<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = openat(top, ".", flags, Mode::empty())?;
    for name in names {
        at = openat(&at, name.as_os_str(), flags, Mode::empty())?;
    }
    Ok(at)
}

/// Returns the names of the child cgroups of an open one.
fn cgroups_in(at: OwnedFd) -> SysResult<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in nix::dir::Dir::from_fd(at)?.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if entry.file_type() == Some(nix::dir::Type::Directory) && name != "." && name != ".." {
            names.push(name.to_os_string());
        }
    }
    Ok(names)
}

fn rights_of(writer: &WriterCredentials) -> Rights<'static> {
    let Owner { uid, gid } = writer.owner;
    Rights { uid, gid, groups: &[], capabilities: writer.capabilities }
}

/// Writes in a new thread with no more permitted capabilities than the writer: a thread can't regain dropped ones.
pub(super) fn write_as(writer: &WriterCredentials, file: &BackingFile, data: &[u8]) -> SysResult<usize> {
    let write = || {
        become_for_good(&rights_of(writer), writer.permitted).map_err(errno)?;
        file.write_once(data)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("lesser writer".to_owned()).stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, write).map_err(errno)?.join().unwrap_or(Err(Errno::EIO))
    })
}
