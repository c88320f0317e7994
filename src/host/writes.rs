//! What is written for a caller: with no more than the caller's capabilities, since the kernel asks some of whoever writes, at that moment
//! (`capable`), whoever opened the file.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::backing::{RealHost, errno};
use super::file::BackingFile;
use super::process::{HeldProcess, Numbers, is_single};
use super::procfs;
use super::refuge::read_file;
use crate::agents::{Lent, PidNamespace};
use crate::fs::host::{Answer, Asked, Caller, Credentials, Host, Owner, Writer};
use crate::fs::inode::Node;
use crate::sys::credentials::{Rights, assume, become_for_good};
use crate::sys::process::is_first_thread;

/// `CAP_SYS_ADMIN` and `CAP_SYS_NICE`, linux/capability.h.
const CAP_SYS_ADMIN: u64 = 1 << 21;
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
        file.write_once(data)
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
        caller: &Caller,
        numbers: &Numbers,
        file: &BackingFile,
        number: i32,
        asked: Asked,
        process: &HeldProcess,
    ) -> Answer<bool> {
        let text = number.to_string();
        let by_agent = |namespace: &PidNamespace, admin: bool| {
            let agents = self.shared.processes.agents()?;
            let lent = Lent { nice: asked.nice == Some(true), admin };
            let seen = process.seen().ok_or(Errno::ESRCH)?;
            let last = (seen.memberships.as_fd(), seen.text.as_slice());
            match agents.migrate(namespace, file.fd.as_fd(), text.as_bytes(), lent, last) {
                Err(Errno::E2BIG) if !seen.is_true()? => Ok(false),
                Err(Errno::E2BIG) => agents.write_with(namespace, file.fd.as_fd(), text.as_bytes(), lent).map(|_| true),
                other => other,
            }
        };
        self.as_administrator_if_need_be(caller, asked, |admin| match numbers {
            // The server may, so the kernel has to see somebody who mayn't.
            Numbers::Own if asked.nice == Some(false) => by_agent(&PidNamespace::own().map_err(errno)?, admin),
            Numbers::Own => migrate_by(file, text.as_bytes(), process),
            Numbers::Of(namespace) => by_agent(namespace, admin),
        })
    }

    /// Has the kernel decide about somebody who isn't an administrator (CAP_SYS_ADMIN), where it may ask for that, and only if that's denied
    /// about the caller as he is. The closure is told which; what this thread itself does in there is done accordingly.
    fn as_administrator_if_need_be<T>(
        &self,
        caller: &Caller,
        asked: Asked,
        migrate: impl Fn(bool) -> Answer<T>,
    ) -> Answer<T> {
        if !asked.for_administrators {
            return migrate(false);
        }
        let capabilities = self.shared.capabilities & !CAP_SYS_ADMIN;
        let lesser = assume(&Rights { uid: 0, gid: 0, groups: &[], capabilities }).map_err(errno)?;
        let migrated = migrate(false);
        drop(lesser);
        let is_administrator = || Ok::<_, Errno>(self.writer(caller)?.capabilities & CAP_SYS_ADMIN != 0);
        if migrated.as_ref().err() == Some(&Errno::EPERM) && is_administrator()? { migrate(true) } else { migrated }
    }

    pub(super) fn migrate_caller_by(
        &self,
        caller: &Caller,
        file: &BackingFile,
        asked: Asked,
        process: &HeldProcess,
    ) -> Answer<bool> {
        let number = caller.tid.to_string();
        if asked.of_threads {
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
        // Of a whole process, the kernel asks about the first thread. Only that one is itself.
        let asked = Asked { for_administrators: asked.for_administrators && !is_first_thread(caller.tid), ..asked };
        self.as_administrator_if_need_be(caller, asked, |_| migrate_by(file, number.as_bytes(), process))
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
fn migrate_by(file: &BackingFile, number: &[u8], process: &HeldProcess) -> Answer<bool> {
    if !process.seen().ok_or(Errno::ESRCH)?.is_true()? {
        return Ok(false);
    }
    file.write_once(number).map(|_| true)
}

fn rights_of(writer: &Writer) -> Rights<'static> {
    let Owner { uid, gid } = writer.owner;
    Rights { uid, gid, groups: &[], capabilities: writer.capabilities }
}

/// Writes as a thread that has no more permitted capabilities than the writer: a new one, since they can't be had back.
fn write_as(writer: &Writer, file: &BackingFile, data: &[u8]) -> Answer<usize> {
    let write = || {
        become_for_good(&rights_of(writer), writer.permitted).map_err(errno)?;
        file.write_once(data)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("lesser writer".to_owned()).stack_size(LESSER_STACK);
        thread.spawn_scoped(scope, write).map_err(errno)?.join().unwrap_or(Err(Errno::EIO))
    })
}
