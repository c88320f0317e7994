//! What is written for a caller: with no more than the caller's capabilities, since the kernel asks some of whoever writes, at that moment
//! (`capable`), whoever opened the file.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::backing::{BackingFile, RealHost, errno};
use super::process::{HeldProcess, Numbers, is_single};
use super::procfs;
use super::refuge::read_file;
use crate::fs::host::{Answer, Caller, Credentials, Host, Owner, Writer};
use crate::helper::PidNamespace;
use crate::sys::credentials::{Rights, assume, become_for_good};
use crate::view::Node;

/// `CAP_SYS_NICE`, linux/capability.h.
const CAP_SYS_NICE: u64 = 1 << 23;

/// The stack of a thread that makes a few system calls, in bytes.
const LESSER_STACK: usize = 64 * 1024;

impl RealHost {
    pub(super) fn write_by(&self, writer: &Writer, file: &BackingFile, data: &[u8]) -> Answer<usize> {
        let all = self.shared.capabilities;
        let is_as_server = writer.owner == (Owner { uid: 0, gid: 0 }) && writer.capabilities & all == all;
        let _assumed = match is_as_server {
            true => None,
            false => Some(assume(&rights_of(writer)).map_err(errno)?),
        };
        nix::sys::uio::pwrite(&file.fd, data, 0)
    }

    /// `cap_safe_nice` asks for CAP_SYS_NICE, or compares permitted capabilities: a thread that still could have more than the writer would do
    /// for him what he may not.
    pub(super) fn write_migrating_by(
        &self,
        writer: &Writer,
        file: &BackingFile,
        directory: &Node,
        data: &[u8],
    ) -> Answer<usize> {
        if writer.capabilities & CAP_SYS_NICE != 0 {
            return self.write(file, data, writer);
        }
        match write_as(writer, file, data) {
            // A server that has given up capabilities can't be compared in place of a writer who has them.
            Err(Errno::EPERM) if writer.permitted & !self.shared.capabilities != 0 => {
                if self.permitted_below(directory)? & !writer.permitted != 0 {
                    return Err(Errno::EPERM);
                }
                self.write(file, data, &Writer { capabilities: writer.capabilities | CAP_SYS_NICE, ..*writer })
            }
            written => written,
        }
    }

    pub(super) fn migrate_number(
        &self,
        numbers: &Numbers,
        file: &BackingFile,
        number: i32,
        nice: Option<bool>,
        process: &HeldProcess,
    ) -> Answer<bool> {
        let text = number.to_string();
        let by_agent = |namespace: &PidNamespace| {
            let (agents, nice) = (self.shared.processes.agents()?, nice == Some(true));
            let seen = process.seen().ok_or(Errno::ESRCH)?;
            let last = (seen.memberships.as_fd(), seen.text.as_slice());
            match agents.migrate(namespace, file.fd.as_fd(), text.as_bytes(), nice, last) {
                Err(Errno::E2BIG) if !seen.is_true()? => Ok(false),
                Err(Errno::E2BIG) => agents.write(namespace, file.fd.as_fd(), text.as_bytes(), nice).map(|_| true),
                other => other,
            }
        };
        match numbers {
            // The server may, so the kernel has to see somebody who mayn't.
            Numbers::Own if nice == Some(false) => by_agent(&PidNamespace::own().map_err(errno)?),
            Numbers::Own => migrate_by(&file.fd, text.as_bytes(), process),
            Numbers::Of(namespace) => by_agent(namespace),
        }
    }

    pub(super) fn migrate_caller_by(
        &self,
        caller: &Caller,
        file: &BackingFile,
        asks_of_threads: bool,
        process: &HeldProcess,
    ) -> Answer<bool> {
        let number = caller.tid.to_string();
        if asks_of_threads {
            let held = process.directory();
            let writer = self.credentials(caller)?;
            let may = is_single(held)?
                || writer.capabilities & CAP_SYS_NICE != 0
                || self.shared.processes.permitted(held)? & !writer.permitted == 0;
            if !may {
                // The server may, so the kernel has to see somebody who mayn't.
                let Credentials { owner, permitted, .. } = writer;
                if !process.seen().ok_or(Errno::ESRCH)?.is_true()? {
                    return Ok(false);
                }
                return write_as(&Writer { owner, capabilities: 0, permitted }, file, number.as_bytes()).map(|_| true);
            }
        }
        migrate_by(&file.fd, number.as_bytes(), process)
    }

    /// All capabilities that threads in and below a cgroup of cgroup2 may put in force.
    fn permitted_below(&self, directory: &Node) -> Answer<u64> {
        let top = self.object(directory)?;
        let (mut permitted, mut pending) = (0, vec![Vec::new()]);
        while let Some(names) = pending.pop() {
            // What is gone has nobody in it.
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

/// Opens what these names lead to below a cgroup.
fn walk_from(top: &OwnedFd, names: &[OsString]) -> Answer<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = openat(top, ".", flags, Mode::empty())?;
    for name in names {
        at = openat(&at, name.as_os_str(), flags, Mode::empty())?;
    }
    Ok(at)
}

/// The names of the cgroups in an open one.
fn cgroups_in(at: OwnedFd) -> Answer<Vec<OsString>> {
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

/// Writes the number of a process that is still where it was seen last.
fn migrate_by(file: &OwnedFd, number: &[u8], process: &HeldProcess) -> Answer<bool> {
    if !process.seen().ok_or(Errno::ESRCH)?.is_true()? {
        return Ok(false);
    }
    nix::sys::uio::pwrite(file, number, 0).map(|_| true)
}

fn rights_of(writer: &Writer) -> Rights<'static> {
    let Owner { uid, gid } = writer.owner;
    Rights { uid, gid, groups: &[], capabilities: writer.capabilities }
}

/// Writes as a thread that has no more permitted capabilities than the writer: a new one, since they can't be had back.
fn write_as(writer: &Writer, file: &BackingFile, data: &[u8]) -> Answer<usize> {
    let write = || {
        become_for_good(&rights_of(writer), writer.permitted).map_err(errno)?;
        nix::sys::uio::pwrite(&file.fd, data, 0)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("lesser writer".to_owned()).stack_size(LESSER_STACK);
        thread.spawn_scoped(scope, write).map_err(errno)?.join().unwrap_or(Err(Errno::EIO))
    })
}
