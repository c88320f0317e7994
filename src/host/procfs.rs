//! `/proc`: what the kernel says of processes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// The lines of `/proc/TID/status` that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) process_id: i32,
    /// Real, effective, saved, filesystem.
    pub(super) users: [u32; 4],
    pub(super) groups: Vec<u32>,
    pub(super) effective: u64,
    pub(super) permitted: u64,
}

/// Reads the text of `/proc/TID/status`.
pub(super) fn parse_status(text: &str) -> Status {
    let mut status = Status::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key {
            "Tgid" => status.process_id = value.trim().parse().unwrap_or(0),
            "Uid" => {
                let users: Vec<u32> = value.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
                // Nobody's, should it be unreadable: the overflow user never owns a process.
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
pub(super) fn status(tid: i32) -> io::Result<Status> {
    Ok(parse_status(&text(tid, "status")?))
}

/// The text of a file of a thread; bytes that aren't UTF-8 (a command's name) are replaced.
pub(super) fn text(tid: i32, file: &str) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(format!("/proc/{tid}/{file}"))?).into_owned())
}

/// Which namespace a thread is in, as (device, inode) of its nsfs file.
pub(super) fn namespace(tid: i32, kind: &str) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(format!("/proc/{tid}/ns/{kind}"))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The server's own namespace of this kind (`user`, `pid`, `cgroup`).
///
/// # Errors
/// `ENOENT` where the kernel doesn't know the kind.
pub fn own_namespace(kind: &str) -> io::Result<(u64, u64)> {
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
    fn own() {
        assert!(same_namespace(std::process::id() as i32, "user").unwrap());
        assert!(same_namespace(i32::MAX, "user").is_err());
    }
}
