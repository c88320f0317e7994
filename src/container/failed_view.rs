//! Views that are still mounted, but that nobody serves any more: their processes were killed, or gave up.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::{MountEntry, parse_mountinfo};
use crate::container::directory_view::{self, Answer};
use crate::container::handle::ContainerHandle;
use crate::container::view_mounts::has_attached_view;
use crate::fuse::FSTYPE;
use crate::server::registry;
use crate::server::registry::record::{ContainerRef, Record};
use crate::server::registry::status::{ServerState, start_time};

/// How long a keeper that has given up may take to end.
const KEEPER_END_TIMEOUT: Duration = Duration::from_secs(10);

/// All views that are known.
#[derive(Debug)]
pub(crate) struct Views {
    /// Those that a process takes care of.
    pub(crate) live: Vec<Record>,
    /// Those that are mounted, but that nobody serves any more.
    pub(crate) failed: Vec<Record>,
}

/// Finds all views. The records of those that aren't mounted any more are removed, where that's permitted.
///
/// # Errors
/// Those of reading the registry.
pub(crate) fn views() -> io::Result<Views> {
    let records = registry::all_records()?;
    let (failed, gone): (Vec<Record>, Vec<Record>) = records.dead.into_iter().partition(is_mounted);
    if !gone.is_empty() {
        // Whether it's mounted takes too long to find out under the registry's lock.
        registry::forget(|dead| gone.iter().any(|gone| (gone.pid, gone.since) == (dead.pid, dead.since)));
    }
    Ok(Views { live: records.live, failed: failed.into_iter().map(failure).collect() })
}

/// The record of the failed view in a container.
pub(crate) fn failed_view_of(container: &ContainerHandle) -> Option<Record> {
    let is_here = |record: &Record| {
        let inside = record.container.as_ref();
        // Without its start, the process could be another one, and the namespace another container's.
        inside.is_some_and(|inside| inside.namespace == container.number() && inside.start.is_some())
    };
    find(is_here)
}

/// The record of the failed view on a directory of this mount namespace.
pub(crate) fn failed_view_on(directory: &Path) -> Option<Record> {
    let own = own_namespace();
    find(|record| {
        record.container.is_none() && record.namespace == own && record.directory.as_ref() == directory && own.is_some()
    })
}

fn find(is_it: impl Fn(&Record) -> bool) -> Option<Record> {
    let records = registry::all_records().unwrap_or_default();
    let given_up = |record: &&Record| record.status.state == ServerState::Failed && is_it(record);
    let dead = records.dead.iter().rfind(|record| is_it(record) && is_mounted(record));
    dead.or_else(|| records.live.iter().rfind(given_up)).cloned().map(failure)
}

/// Says that a view without a server has failed, and why.
fn failure(mut record: Record) -> Record {
    if record.status.state != ServerState::Failed {
        let killed = if record.status.keeper.is_some() { "its server and keeper were" } else { "its server was" };
        record.status.state = ServerState::Failed;
        record.status.reason = Some(format!("{killed} killed"));
    }
    record
}

/// Ends the keeper of a failed view, if it lives on after it has given up.
pub(crate) fn end_keeper(record: &Record) {
    let is_it = |other: &Record| (other.pid, other.since) == (record.pid, record.since);
    // As long as the record is live, its number isn't another process'.
    if registry::live_records().unwrap_or_default().iter().any(is_it) {
        let _ = kill(Pid::from_raw(record.pid.cast_signed()), Signal::SIGTERM);
        registry::wait_for_end(record.pid, KEEPER_END_TIMEOUT);
    }
}

/// Removes the records of failed views that aren't mounted any more.
pub(crate) fn forget_unmounted() {
    if let Err(error) = views() {
        tracing::debug!(%error, "the records of failed views stay");
    }
}

/// The number of the calling process' mount namespace. `None` without `/proc`.
pub(crate) fn own_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/mnt").map(|found| found.ino()).ok()
}

/// Whether a view that nobody serves is still mounted.
fn is_mounted(record: &Record) -> bool {
    let directory = record.directory.as_ref();
    match (&record.container, record.namespace) {
        (Some(inside), _) => is_in_container(inside),
        (None, Some(namespace)) if Some(namespace) != own_namespace() => mounts_in(namespace)
            .iter()
            .any(|mount| mount.fstype == FSTYPE && Path::new(&mount.mount_point) == directory),
        // Another view that isn't registered may have been mounted there since.
        (None, _) => directory_view::is_view(directory) && directory_view::ask(directory) != Answer::Served,
    }
}

/// Whether a container has the mounts of a view. It ends with the process with which it was named, as its server would.
fn is_in_container(inside: &ContainerRef) -> bool {
    let Some(started) = start_time(inside.pid.cast_unsigned()) else { return false };
    if inside.start.is_some_and(|start| start != started) {
        return false;
    }
    match (fs::metadata(format!("/proc/{}/ns/mnt", inside.pid)), fs::read(format!("/proc/{}/mountinfo", inside.pid))) {
        (Ok(namespace), Ok(mounts)) => {
            namespace.ino() == inside.namespace && has_attached_view(&parse_mountinfo(&mounts), inside.namespace)
        }
        // Not everybody may look.
        _ => inside.start.is_some(),
    }
}

/// The mounts in a mount namespace, as one of its processes sees them. Empty if there's none that the caller may look
/// at. A process may end while it's asked: then the next one is.
fn mounts_in(namespace: u64) -> Vec<MountEntry> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_in = |path: &PathBuf| fs::metadata(path.join("ns/mnt")).is_ok_and(|found| found.ino() == namespace);
    let mut texts = processes.filter(is_in).filter_map(|path| fs::read(path.join("mountinfo")).ok());
    texts.find(|text| !text.is_empty()).map(|text| parse_mountinfo(&text)).unwrap_or_default()
}
