//! Reading records, and removing those of processes that have ended.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;
use parking_lot::Mutex;

use crate::cgroup::parse_mountinfo;
use crate::fuse::FSTYPE;
use crate::server::registry::directory::{self, DIRECTORY, Directory};
use crate::server::registry::record::{self, ParsedRecord, Record};
use crate::server::registry::status::is_running;

/// The maximum size of a record that is read, in bytes. It has a path for each hierarchy, of 4096 bytes at most, and
/// four times that when escaped.
const MAX_RECORD_BYTES: u64 = 1024 * 1024;

/// How many dead records of processes with the same number are kept.
const MAX_SET_ASIDE: u32 = 16;

/// The ending of control sockets' names.
pub(super) const CONTROL: &str = "control";

/// Fails if others could forge or redirect a record. Other errors don't keep a view from being served.
pub(crate) fn check() -> Result<(), crate::error::Error> {
    match Directory::find() {
        Err(error) if error.raw_os_error().is_none() => {
            Err(crate::error::Error::system("can't register the view", error))
        }
        _ => Ok(()),
    }
}

/// The state of a record's file.
#[derive(Debug)]
enum RecordState {
    Live(Box<Record>),
    /// Nobody serves the view any more. `None` if the record doesn't say which view it was.
    Dead(Option<Box<Record>>),
    /// The file isn't root's, or can't be understood.
    Unusable,
}

/// All records that are in the directory.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Those of live views, the oldest first.
    pub(crate) live: Vec<Record>,
    /// Those of views that nobody serves any more, the oldest first. They may still be mounted.
    pub(crate) dead: Vec<Record>,
}

/// Reads all records. What killed processes have left, other than the record of a view, is removed where that's
/// permitted.
pub(crate) fn all_records() -> io::Result<Records> {
    Directory::find()?.map_or_else(|| Ok(Records::default()), |directory| records_in(&directory))
}

/// The records of all live views, the oldest first.
pub(crate) fn live_records() -> io::Result<Vec<Record>> {
    all_records().map(|records| records.live)
}

pub(crate) fn records_in(directory: &Directory) -> io::Result<Records> {
    let mut records = Records::default();
    let (mut left, mut sockets) = (Vec::new(), Vec::new());
    for name in directory.names()? {
        match pid_in_name(&name, "json").map(|pid| read(directory, &name, pid)) {
            Some(Ok(RecordState::Live(record))) => records.live.push(*record),
            Some(Ok(RecordState::Dead(Some(record)))) => records.dead.push(*record),
            Some(Ok(RecordState::Dead(None))) => left.push(name),
            None if pid_in_name(&name, "new").is_some() => left.push(name),
            None => sockets.extend(pid_in_name(&name, CONTROL).map(|pid| (pid, name))),
            _ => {}
        }
    }
    sockets.retain(|(pid, _)| !records.live.iter().any(|record| record.pid == *pid));
    left.extend(sockets.into_iter().map(|(_, name)| name));
    if !left.is_empty() {
        clean(directory, &left);
    }
    for records in [&mut records.live, &mut records.dead] {
        records.sort_by_key(|record| (record.since, record.pid));
    }
    Ok(records)
}

/// Removes the files of killed processes. It does nothing while another process holds the lock; the next caller does it
/// then.
fn clean(directory: &Directory, left: &[OsString]) {
    let Ok(_lock) = directory.lock_records(false) else { return };
    for name in left {
        // Under the lock nobody publishes a new record by that name.
        let is_left = match (pid_in_name(name, "json"), pid_in_name(name, CONTROL)) {
            (Some(pid), _) => matches!(read(directory, name, pid), Ok(RecordState::Dead(None))),
            // It's made after the record, which another version may have made.
            (None, Some(pid)) => !is_locked(directory, pid),
            // The draft of an update, which takes no lock of the directory, is locked itself.
            (None, None) => {
                !directory.file(name, OFlag::O_RDONLY).is_ok_and(|(file, _)| directory::is_write_locked(&file))
            }
        };
        if is_left {
            let _ = directory.remove(name);
        }
    }
}

/// Whether a process has a record, in whatever format, and lives.
fn is_locked(directory: &Directory, pid: u32) -> bool {
    let name = OsString::from(format!("{pid}.json"));
    is_live(directory, pid)
        || directory.file(&name, OFlag::O_RDONLY).is_ok_and(|(file, _)| directory::is_write_locked(&file))
}

fn is_live(directory: &Directory, pid: u32) -> bool {
    matches!(read(directory, &OsString::from(format!("{pid}.json")), pid), Ok(RecordState::Live(_)))
}

/// Removes the dead records for which `is_over` is true, where that's permitted: their views aren't mounted any more.
pub(crate) fn forget(is_over: impl Fn(&Record) -> bool) {
    let Ok(Some(directory)) = Directory::find() else { return };
    if let Ok(_lock) = directory.lock_records(true) {
        forget_in(&directory, is_over);
    }
}

/// The same, for the holder of the directory's lock.
pub(crate) fn forget_in(directory: &Directory, is_over: impl Fn(&Record) -> bool) {
    for name in directory.names().unwrap_or_default() {
        if let Some(pid) = pid_in_name(&name, "json")
            && let Ok(RecordState::Dead(Some(record))) = read(directory, &name, pid)
            && is_over(&record)
        {
            let _ = directory.remove(&name);
        }
    }
}

/// Gives the dead record of a process another name, since another process with its number needs that. The caller
/// holds the directory's lock.
pub(crate) fn set_aside(directory: &Directory, pid: u32) {
    let name = OsString::from(format!("{pid}.json"));
    if !matches!(read(directory, &name, pid), Ok(RecordState::Dead(Some(_)))) {
        return;
    }
    let other = |number: u32| OsString::from(format!("{pid}-{number}.json"));
    let free = (1..=MAX_SET_ASIDE).map(other).find(|name| directory.stat(name).is_err());
    if let Some(free) = free {
        let _ = directory.rename(&name, &free);
    }
}

/// The process id in the name of a file with this ending: `PID.ENDING`, or `PID-NUMBER.ENDING` for a record that was
/// set aside.
fn pid_in_name(name: &OsStr, ending: &str) -> Option<u32> {
    let (stem, found) = name.to_str()?.split_once('.')?;
    let (pid, number) = stem.split_once('-').unwrap_or((stem, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if found == ending && is_number(pid) && is_number(number) { pid.parse().ok() } else { None }
}

/// The device number of a view that is mounted in its server's mount namespace. It's the same in each mount namespace.
pub(crate) fn device(record: &Record) -> Option<(u32, u32)> {
    let mounts = parse_mountinfo(&fs::read(format!("/proc/{}/mountinfo", record.pid)).ok()?);
    let mount = mounts.iter().rfind(|mount| record.directory.as_ref() == Path::new(&mount.mount_point))?;
    (mount.fstype == FSTYPE).then_some(mount.device)
}

/// The device numbers of the live `mount --per-caller`s.
pub(crate) fn per_caller_devices() -> Vec<(u32, u32)> {
    live_records().unwrap_or_default().iter().filter(|record| record.per_caller).filter_map(device).collect()
}

/// Reads the record of a process. An update replaces the file; the old one isn't locked any more then.
fn read(directory: &Directory, name: &OsStr, pid: u32) -> io::Result<RecordState> {
    loop {
        let (mut file, stat) = match directory.file(name, OFlag::O_RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(unusable(name, "isn't root's")),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(unusable(name, "is a symlink")),
            file => file?,
        };
        let state = read_file(&mut file, &stat, name, pid)?;
        if matches!(state, RecordState::Dead(_)) && directory.stat(name).is_ok_and(|now| now.st_ino != stat.st_ino) {
            continue;
        }
        return Ok(state);
    }
}

fn read_file(file: &mut File, stat: &FileStat, name: &OsStr, pid: u32) -> io::Result<RecordState> {
    let is_locked = directory::is_write_locked(file);
    let mut text =
        Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or_default().clamp(1024, MAX_RECORD_BYTES as usize));
    Read::by_ref(file).take(MAX_RECORD_BYTES).read_to_end(&mut text)?;
    Ok(match record::parse(&text) {
        ParsedRecord::Record(record) if record.pid == pid && (is_locked || has_server_alone(&record)) => {
            RecordState::Live(Box::new(record))
        }
        ParsedRecord::Format1(record) if record.pid == pid && is_flocked_by(pid, stat) => {
            RecordState::Live(Box::new(record))
        }
        ParsedRecord::Record(record) if record.pid == pid && !is_locked => RecordState::Dead(Some(Box::new(record))),
        // A dead process' record needn't be readable.
        _ if !is_locked => RecordState::Dead(None),
        ParsedRecord::Newer => unusable(name, "was written by a newer version of vcgroupfs"),
        _ => unusable(name, "isn't a record"),
    })
}

/// Whether the keeper, which held the lock, has ended before its server.
fn has_server_alone(record: &Record) -> bool {
    record.status.keeper.is_some() && record.server_start.is_some_and(|start| is_running(record.status.server, start))
}

/// The names of files that this process has said are unusable. A command reads the directory several times.
static REPORTED: Mutex<BTreeSet<OsString>> = Mutex::new(BTreeSet::new());

fn unusable(name: &OsStr, why: &str) -> RecordState {
    if REPORTED.lock().insert(name.to_owned()) {
        tracing::warn!(file = ?Path::new(DIRECTORY).join(name), "left out: it {why}");
    }
    RecordState::Unusable
}

/// Whether this process holds an flock(2) lock on the file, as servers of the former version do.
fn is_flocked_by(pid: u32, stat: &FileStat) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let (major, minor) = (libc::major(stat.st_dev), libc::minor(stat.st_dev));
    let file = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    locks.lines().any(|line| {
        // `1: FLOCK  ADVISORY  WRITE 4711 00:1a:42 0 EOF`
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        matches!(words.as_slice(), [_, "FLOCK", _, "WRITE", holder, held, ..]
            if holder.parse() == Ok(pid) && *held == file)
    })
}

/// Waits until the server with this process id has ended. Returns false if it hasn't within the limit.
pub(crate) fn wait_for_end(pid: u32, limit: Duration) -> bool {
    let lives = || Directory::find().ok().flatten().is_some_and(|directory| is_live(&directory, pid));
    let start = Instant::now();
    while lives() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_records() {
        for (name, number) in [
            ("17.json", Some(17)),
            ("17.new", None),
            ("+17.json", None),
            (".json", None),
            ("17.json.new", None),
            ("17-1.json", Some(17)),
            ("17-.json", None),
            ("-1.json", None),
            ("x.json", None),
        ] {
            assert_eq!(pid_in_name(OsStr::new(name), "json"), number, "{name}");
        }
    }
}
