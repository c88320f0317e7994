//! The registry of live views: a record per server in a runtime directory, locked as long as the server lives.
//!
//! It's a write lock (fcntl(2)), which only root can take, and which everybody who can read the record can see. So
//! every user in every pid namespace knows which servers live, and locks that others take on a record have no effect.

pub(crate) mod directory;
pub(crate) mod record;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, fstatat};

use crate::cgroup::{CgroupPath, HierarchyKind, parse_mountinfo};
use crate::fuse::FSTYPE;
use crate::host::{HostCgroups, HostHierarchy};
use crate::policy::Rules;
use crate::view::{AncestorLimits, Shape, View};

use crate::server::registry::directory::{DIRECTORY, Directory};
use crate::server::registry::record::{ContainerRef, EscapedName, ParsedRecord, Record, aliases, delegated};

/// The maximum size of a record that is read, in bytes. It has a path for each hierarchy, of 4096 bytes at most, and
/// four times that when escaped.
const MAX_RECORD_BYTES: u64 = 1024 * 1024;

/// A record that isn't published yet.
#[derive(Debug)]
pub(crate) struct Registration(Record);

/// A published record, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    directory: Directory,
    name: OsString,
    /// The record's file, whose lock shows that the server lives.
    _file: File,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // A second attempt may succeed. Otherwise the next `list` removes the record.
        let remove = || self.directory.remove(&self.name);
        let _ = remove().or_else(|_| remove());
    }
}

impl Registration {
    /// The record of one view.
    pub(crate) fn new(host: &HostCgroups, view: &View, directory: &Path, target: String) -> Self {
        let delegated = delegated(view).filter_map(|(kind, path)| Some((kind.to_string(), path?.into())));
        let mut registration = Self::of(directory, target, view.shape, &view.rules, delegated.collect());
        registration.0.aliases = aliases(view);
        registration.0.boundaries = boundaries(host, view);
        registration.0.hides_ancestor_limits = view.ancestor_limits == AncestorLimits::Hidden;
        registration
    }

    /// The record of a `mount --per-caller`.
    pub(crate) fn per_caller(rules: &Rules, limits: AncestorLimits, directory: &Path) -> Self {
        let mut registration =
            Self::of(directory, "each caller's container".to_owned(), Shape::HostPath, rules, Vec::new());
        registration.0.per_caller = true;
        registration.0.hides_ancestor_limits = limits == AncestorLimits::Hidden;
        registration
    }

    fn of(
        directory: &Path,
        target: String,
        shape: Shape,
        rules: &Rules,
        delegated: Vec<(String, EscapedName)>,
    ) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Record::new(directory, target, shape, rules, delegated, since.as_secs()))
    }

    /// Adds the container in which the directory is.
    pub(crate) fn in_container(mut self, container: ContainerRef) -> Self {
        self.0.container = Some(container);
        self
    }

    /// Adds the process for which it's mounted on a directory.
    pub(crate) fn for_process(mut self, pid: Option<i32>) -> Self {
        self.0.process = pid;
        self
    }

    /// Adds the number of the mount namespace in which `run` has made a stack.
    pub(crate) fn with_run_stack(mut self, namespace: u64) -> Self {
        self.0.run = Some(namespace);
        self
    }

    /// Publishes the record for the calling process. If that fails, the view works, but `list` doesn't show it.
    pub(crate) fn publish(mut self) -> Option<Registered> {
        self.0.pid = std::process::id();
        match self.write() {
            Ok(registered) => Some(registered),
            Err(error) => {
                tracing::warn!(%error, directory = DIRECTORY, "'list' won't show this view");
                None
            }
        }
    }

    fn write(&self) -> io::Result<Registered> {
        let text = serde_json::to_vec(&self.0)?;
        let directory = Directory::make()?;
        let [draft, name] = ["new", "json"].map(|ending| OsString::from(format!("{}.{ending}", self.0.pid)));
        // Under the lock nobody takes the draft for a killed server's, or removes this record for the dead one that
        // it replaces.
        let lock = directory.lock_records(true)?;
        // It's written under another name and locked before it gets its own, so that nobody reads half of it, or
        // takes it for a dead server's. Until it's locked only root can open it.
        let mut file = directory.new_file(&draft)?;
        directory::write_lock(file.as_fd(), false)?;
        file.write_all(&text)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        directory.rename(&draft, &name)?;
        drop(lock);
        Ok(Registered { directory, name, _file: file })
    }
}

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
    /// The server has ended.
    Dead,
    /// The file isn't root's, or can't be understood.
    Unusable,
}

/// The records of all live views, the oldest first. Records of dead servers are removed where that's permitted.
pub(crate) fn live_records() -> io::Result<Vec<Record>> {
    let Some(directory) = Directory::find()? else { return Ok(Vec::new()) };
    let mut records = Vec::new();
    let mut left = Vec::new();
    for name in directory.names()? {
        match pid_in_name(&name, "json").map(|pid| read(&directory, &name, pid)) {
            Some(Ok(RecordState::Live(record))) => records.push(*record),
            Some(Ok(RecordState::Dead)) => left.push(name),
            None if pid_in_name(&name, "new").is_some() => left.push(name),
            _ => {}
        }
    }
    if !left.is_empty() {
        clean(&directory, &left);
    }
    records.sort_by_key(|record| (record.since, record.pid));
    Ok(records)
}

/// Removes the files of killed servers. It does nothing while another process holds the lock; the next caller does it
/// then.
fn clean(directory: &Directory, left: &[OsString]) {
    let Ok(_lock) = directory.lock_records(false) else { return };
    for name in left {
        // Under the lock nobody publishes a new record by that name, and no draft is in use.
        let is_left = match pid_in_name(name, "json") {
            Some(pid) => matches!(read(directory, name, pid), Ok(RecordState::Dead)),
            None => true,
        };
        if is_left {
            let _ = directory.remove(name);
        }
    }
}

/// The process id in the name of a file with this ending.
fn pid_in_name(name: &OsStr, ending: &str) -> Option<u32> {
    let (number, found) = name.to_str()?.split_once('.')?;
    let is_number = found == ending && number.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { number.parse().ok() } else { None }
}

/// The device number of a view that is mounted in its server's mount namespace. It's the same in each mount namespace.
pub(crate) fn device(record: &Record) -> Option<(u32, u32)> {
    let mounts = parse_mountinfo(&fs::read(format!("/proc/{}/mountinfo", record.pid)).ok()?);
    let mount = mounts.iter().rfind(|mount| record.directory.as_ref() == Path::new(&mount.mount_point))?;
    (mount.fstype == FSTYPE).then_some(mount.device)
}

/// The inode number of each delegated subtree, by hierarchy.
pub(crate) fn boundaries(host: &HostCgroups, view: &View) -> Vec<(String, u64)> {
    let number = |(kind, path): (&HierarchyKind, Option<&CgroupPath>)| {
        let hierarchy = host.hierarchies.iter().find(|hierarchy| hierarchy.kind == *kind)?;
        Some((kind.to_string(), inode(hierarchy, path?)?))
    };
    delegated(view).filter_map(number).collect()
}

/// The inode number of a cgroup, if it exists.
fn inode(hierarchy: &HostHierarchy, path: &CgroupPath) -> Option<u64> {
    let below = path.components().join(OsStr::new("/"));
    let below = if below.is_empty() { OsString::from(".") } else { below };
    fstatat(hierarchy.root(), below.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok().map(|found| found.st_ino)
}

/// A delegated subtree that isn't the one for which the view was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostBoundary {
    pub(crate) kind: HierarchyKind,
    /// Whether there is a new cgroup of the same name.
    pub(crate) is_made_again: bool,
}

/// Returns the delegated subtrees that were removed since a view was made, in the hierarchies that this host has.
pub(crate) fn lost_boundaries(host: &HostCgroups, record: &Record) -> Vec<LostBoundary> {
    let lost = |(word, number): &(String, u64)| {
        let kind = HierarchyKind::parse(word);
        let hierarchy = host.hierarchies.iter().find(|hierarchy| hierarchy.kind == kind)?;
        let (_, path) = record.delegated.iter().find(|(own, _)| HierarchyKind::parse(own) == kind)?;
        let now = inode(hierarchy, &CgroupPath::parse(path.as_ref().as_os_str()).ok()?);
        (now != Some(*number)).then_some(LostBoundary { kind, is_made_again: now.is_some() })
    };
    record.boundaries.iter().filter_map(lost).collect()
}

/// The device numbers of the live `mount --per-caller`s.
pub(crate) fn per_caller_devices() -> Vec<(u32, u32)> {
    live_records().unwrap_or_default().iter().filter(|record| record.per_caller).filter_map(device).collect()
}

fn read(directory: &Directory, name: &OsStr, pid: u32) -> io::Result<RecordState> {
    let (mut file, stat) = match directory.file(name, OFlag::O_RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(unusable(name, "isn't root's")),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(unusable(name, "is a symlink")),
        file => file?,
    };
    let is_live = directory::is_write_locked(&file);
    let mut text =
        Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or_default().clamp(1024, MAX_RECORD_BYTES as usize));
    Read::by_ref(&mut file).take(MAX_RECORD_BYTES).read_to_end(&mut text)?;
    Ok(match record::parse(&text) {
        ParsedRecord::Record(record) if is_live && record.pid == pid => RecordState::Live(Box::new(record)),
        ParsedRecord::Format1(record) if record.pid == pid && is_flocked_by(pid, &stat) => {
            RecordState::Live(Box::new(record))
        }
        // A dead server's record needn't be readable.
        _ if !is_live => RecordState::Dead,
        ParsedRecord::Newer => unusable(name, "was written by a newer version of vcgroupfs"),
        _ => unusable(name, "isn't a record"),
    })
}

fn unusable(name: &OsStr, why: &str) -> RecordState {
    tracing::warn!(file = ?Path::new(DIRECTORY).join(name), "left out: it {why}");
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
    let name = OsString::from(format!("{pid}.json"));
    let is_live = || {
        let directory = Directory::find().ok().flatten();
        directory.is_some_and(|directory| matches!(read(&directory, &name, pid), Ok(RecordState::Live(_))))
    };
    let start = Instant::now();
    while is_live() {
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
            ("x.json", None),
        ] {
            assert_eq!(pid_in_name(OsStr::new(name), "json"), number, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_not_text_comes_back() {
        let name = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/a\xff \\040\n\xc3\xa4");
        let name = EscapedName::from(name);
        let json = serde_json::to_string(&name).unwrap();
        assert_eq!(json, r#""/a\\377 \\134040\\012ä""#);
        assert_eq!(serde_json::from_str::<EscapedName>(&json).unwrap(), name);
    }
}
