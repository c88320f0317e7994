//! `/proc`: the kernel's information about processes.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::cgroup::stat_field;

/// The relevant lines of `/proc/TID/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The name of the command, in which the kernel has escaped newlines and backslashes.
    pub command: String,
    /// The process that the thread belongs to.
    pub process_id: i32,
    /// The real, effective, saved and filesystem user id.
    pub users: [u32; 4],
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// Effective capabilities.
    pub effective: u64,
    /// Permitted capabilities.
    pub permitted: u64,
}

/// Reads the text of `/proc/TID/status`.
pub fn parse_status(text: &str) -> Status {
    let mut status = Status::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key {
            "Name" => status.command = value.strip_prefix('\t').unwrap_or(value).to_owned(),
            "Tgid" => status.process_id = value.trim().parse().unwrap_or(0),
            "Uid" => {
                let users: Vec<u32> = value.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
                // If the ids can't be parsed, use the overflow user, which never owns a process.
                status.users = users.try_into().unwrap_or([u32::MAX; 4]);
            }
            "Groups" => status.groups = value.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect(),
            "CapEff" => status.effective = u64::from_str_radix(value.trim(), 16).unwrap_or(0),
            "CapPrm" => status.permitted = u64::from_str_radix(value.trim(), 16).unwrap_or(u64::MAX),
            _ => {}
        }
    }
    status
}

/// The status of a thread.
pub(in crate::host) fn status(tid: i32) -> io::Result<Status> {
    Ok(parse_status(&text(tid, "status")?))
}

/// Reads a file of a thread as text; bytes that aren't UTF-8 (a command's name) are replaced.
pub(in crate::host) fn text(tid: i32, file: &str) -> io::Result<String> {
    let file = fs::File::open(format!("/proc/{tid}/{file}"))?;
    Ok(String::from_utf8_lossy(&read_all(&file)?).into_owned())
}

/// Reads a file of procfs in as few calls as possible: it has no size, and the kernel makes its text anew for each
/// small read.
pub(in crate::host) fn read_all(file: impl AsFd) -> nix::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        match nix::unistd::read(&file, &mut part) {
            Ok(0) => return Ok(text),
            Ok(count) => text.extend_from_slice(part.get(..count).unwrap_or_default()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The kind of a thread (`include/linux/sched.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::host) enum ThreadKind {
    /// A thread of a program.
    Plain,
    /// A thread that the kernel makes in a process for its io_uring (Linux 5.12).
    IoWorker,
    /// A thread of the kernel.
    Kernel,
}

/// Returns the kind of a thread.
///
/// # Errors
/// Those of opening and reading its `stat`; `EIO` if that can't be parsed.
pub(in crate::host) fn kind(tid: i32) -> io::Result<ThreadKind> {
    parse_kind(&text(tid, "stat")?).ok_or_else(|| Errno::EIO.into())
}

/// Parses `flags`, field 9.
fn parse_kind(stat: &str) -> Option<ThreadKind> {
    const PF_IO_WORKER: u32 = 0x10;
    const PF_KTHREAD: u32 = 0x0020_0000;
    let flags: u32 = stat_field(stat, 9)?.parse().ok()?;
    Some(match flags {
        _ if flags & PF_KTHREAD != 0 => ThreadKind::Kernel,
        _ if flags & PF_IO_WORKER != 0 => ThreadKind::IoWorker,
        _ => ThreadKind::Plain,
    })
}

/// Whether kernel threads may do what a process asks of its io_uring: before Linux 5.12.
pub(in crate::host) fn kernel_threads_act_for_processes() -> bool {
    release().is_none_or(|release| release < (5, 12))
}

/// Returns the version of Linux, if it can be parsed.
pub(in crate::host) fn release() -> Option<(u32, u32)> {
    parse_release(&fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A namespace, by a number that no other existing one of its kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Namespace(u64);

impl Namespace {
    /// The number: the inode number of its file.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The namespace with this number.
    pub(in crate::host) fn numbered(number: u64) -> Self {
        Self(number)
    }
}

/// Returns a thread's namespace of this kind.
pub(in crate::host) fn namespace(tid: i32, kind: &str) -> io::Result<Namespace> {
    // The link's text is `kind:[number]`. stat(2) returns the same number, but takes twice as long.
    let link = fs::read_link(format!("/proc/{tid}/ns/{kind}"))?;
    parse_namespace(link.as_os_str()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Parses a link in `/proc/TID/ns`.
pub(in crate::host) fn parse_namespace(link: &std::ffi::OsStr) -> Option<Namespace> {
    link.to_str()?.split_once(":[")?.1.strip_suffix(']')?.parse().ok().map(Namespace)
}

/// The server's own namespace of this kind (`user`, `pid`, `cgroup`).
///
/// # Errors
/// `ENOENT` where the kernel doesn't know the kind.
pub fn own_namespace(kind: &str) -> io::Result<Namespace> {
    namespace(std::process::id() as i32, kind)
}

/// Whether a thread is in the server's namespace of this kind; true where the kernel has no such namespaces.
///
/// # Errors
/// `ENOENT` or `ESRCH` if there is no such thread.
pub fn same_namespace(tid: i32, kind: &str) -> io::Result<bool> {
    match own_namespace(kind) {
        Ok(own) => Ok(namespace(tid, kind)? == own),
        Err(_) => fs::metadata(format!("/proc/{tid}")).map(|_| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let text = "Name:\tx\nTgid:\t17\nPid:\t18\nUid:\t1\t2\t3\t4\nGroups:\t4 24 1000 \nCapPrm:\t8\nCapEff:\t000001ffffffffff\nNSpid:\t17\t3\n";
        let expected = Status {
            command: "x".to_owned(),
            process_id: 17,
            users: [1, 2, 3, 4],
            groups: vec![4, 24, 1000],
            effective: 0x1ff_ffff_ffff,
            permitted: 8,
        };
        assert_eq!(parse_status(text), expected);
        assert_eq!(parse_status("nonsense\nTgid: x\nCapEff: y\n"), Status::default());
    }

    #[test]
    fn releases() {
        for (text, release) in [("6.18.44-fc\n", (6, 18)), ("5.10.0-32-amd64", (5, 10)), ("6.1+", (6, 1))] {
            assert_eq!(parse_release(text), Some(release));
        }
        assert_eq!(parse_release("x"), None);
    }

    #[test]
    fn kinds_of_threads() {
        for (flags, kind) in
            [(4_194_384, ThreadKind::IoWorker), (4_194_368, ThreadKind::Plain), (0x0020_8050, ThreadKind::Kernel)]
        {
            assert_eq!(parse_kind(&format!("7 (a) 9) S 1 6 1 0 -1 {flags} 16 16")), Some(kind));
        }
        assert_eq!(parse_kind("7 (a) S 1"), None);
    }

    #[test]
    fn own() {
        assert!(same_namespace(std::process::id() as i32, "user").unwrap());
        assert!(same_namespace(i32::MAX, "user").is_err());
    }
}
