//! Reads fanotify(7)'s events, and compares them with the migrations.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::fanotify::{EventFFlags, Fanotify, FanotifyEvent, InitFlags, MarkFlags, MaskFlags};
use nix::sys::stat::{Mode, fstat};

use super::state::{ForeignWrite, Migration, MonitorState};
use crate::cgroup::{CgroupPath, FileClass};
use crate::host::hierarchies::HostHierarchy;
use crate::host::opening::by_id;
use crate::host::proc::held_process::HeldProcess;
use crate::host::proc::procfs;
use crate::host::shared::SharedHost;
use crate::view::View;

/// How long after a migration a reported write may have been made before it: the kernel reports a write after it has
/// returned.
const EVENT_GRACE: Duration = Duration::from_millis(5);

/// How long there have to be no migrations until the thread checks less often.
const LULL_AFTER: Duration = Duration::from_millis(50);

/// How often the thread checks then.
const LULL_INTERVAL: Duration = Duration::from_millis(100);

/// How long there have to be no migrations until the thread ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// With this many migrations, those that are older than [`EVENT_GRACE`] are forgotten.
const MIGRATIONS_MAX: usize = 64;

/// A migration that has begun. Dropping it forgets it.
#[derive(Debug)]
pub struct MonitoredMigration {
    shared: Arc<SharedHost>,
    id: u64,
}

/// Records from now on which others migrate processes in a hierarchy. `None` if that can't be seen.
pub(in crate::host) fn begin(
    shared: &Arc<SharedHost>,
    view: &Arc<View>,
    hierarchy: usize,
) -> Option<MonitoredMigration> {
    let monitor = &shared.migration_monitor;
    read_events(shared);
    let mut state = monitor.state.lock();
    state.used = Some(Instant::now());
    if !state.marked.contains(&hierarchy)
        && let Err(errno) = watch(&mut state, shared, hierarchy)
    {
        drop(state);
        if !monitor.is_blind.swap(true, Ordering::Relaxed) {
            tracing::warn!(%errno, "no fanotify here: a process that the host takes out and that comes back won't be told of");
        }
        return None;
    }
    let id = state.next;
    state.next += 1;
    let migration = Migration { id, hierarchy, view: Arc::clone(view), foreign_write: None, done: None };
    state.migrations.push_back(migration);
    monitor.wake(state.is_lull);
    drop(state);
    Some(MonitoredMigration { shared: Arc::clone(shared), id })
}

fn watch(state: &mut MonitorState, shared: &Arc<SharedHost>, hierarchy: usize) -> Result<(), Errno> {
    let hierarchy_there = shared.cgroups.hierarchies.get(hierarchy).ok_or(Errno::ENOENT)?;
    let group = match &state.group {
        Some(group) => Arc::clone(group),
        None => {
            let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
            let group = Arc::new(Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC)?);
            let shared = Arc::clone(shared);
            let thread = thread::Builder::new().name("migration-watch".to_owned()).stack_size(256 * 1024);
            thread.spawn(move || run(&shared)).map_err(|_| Errno::EAGAIN)?;
            state.group = Some(Arc::clone(&group));
            group
        }
    };
    mark(&group, hierarchy_there)?;
    state.marked.insert(hierarchy);
    Ok(())
}

fn mark(group: &Fanotify, hierarchy: &HostHierarchy) -> Result<(), Errno> {
    let add = |flags, mask| group.mark(MarkFlags::FAN_MARK_ADD | flags, mask, hierarchy.root(), Some("."));
    match add(MarkFlags::FAN_MARK_FILESYSTEM, MaskFlags::FAN_MODIFY) {
        // Before Linux 4.20.
        Err(Errno::EINVAL) => return mark_host(group, hierarchy),
        other => other?,
    }
    if hierarchy.is_detached() {
        // The kernel doesn't even queue the server's own writes: only the server has this mount.
        let ignored = MarkFlags::FAN_MARK_IGNORED_MASK | MarkFlags::FAN_MARK_IGNORED_SURV_MODIFY;
        add(MarkFlags::FAN_MARK_MOUNT | ignored, MaskFlags::FAN_MODIFY)?;
    }
    Ok(())
}

/// Marks the host's own mount, through which the server writes nothing. It isn't held open: the host may unmount it.
fn mark_host(group: &Fanotify, hierarchy: &HostHierarchy) -> Result<(), Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mount = open(&hierarchy.mount_point, flags, Mode::empty())?;
    if fstat(&mount)?.st_dev != hierarchy.device() {
        return Err(Errno::ENOENT);
    }
    group.mark(MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT, MaskFlags::FAN_MODIFY, &mount, Some("."))
}

/// Runs the thread until there have been no migrations for a while.
fn run(shared: &SharedHost) {
    let monitor = &shared.migration_monitor;
    loop {
        read_events(shared);
        let mut state = monitor.state.lock();
        let read = state.read;
        let is_over = |done: &(Instant, HeldProcess)| read.is_some_and(|read| done.0 + EVENT_GRACE < read);
        let (over, rest) =
            state.migrations.drain(..).partition(|migration| migration.done.as_ref().is_some_and(is_over));
        state.migrations = rest;
        let quiet = state.used.map_or(IDLE_TIMEOUT, |used| used.elapsed());
        if state.migrations.is_empty() && quiet >= IDLE_TIMEOUT {
            let gone = std::mem::take(&mut *state);
            // The counter goes on, so that numbers stay unique.
            state.next = gone.next;
            drop(state);
            drop((gone, over));
            return;
        }
        // A migration that is under way, however long, is checked when it ends.
        if quiet >= LULL_AFTER && state.migrations.iter().all(|migration| migration.done.is_none()) {
            state.is_lull = true;
            monitor.begun.wait_for(&mut state, LULL_INTERVAL);
            state.is_lull = false;
            drop(state);
        } else {
            drop(state);
            thread::sleep(EVENT_GRACE);
        }
        drop::<VecDeque<Migration>>(over);
    }
}

/// Takes the events of all writes so far.
fn read_events(shared: &SharedHost) {
    let state = shared.migration_monitor.state.lock();
    let (group, since) = (state.group.clone(), state.read);
    drop(state);
    let Some(group) = group else { return };
    let now = Instant::now();
    while let Ok(events) = group.read_events() {
        if events.is_empty() {
            break;
        }
        // Migrations that begin later came after these writes.
        if shared.migration_monitor.state.lock().migrations.is_empty() {
            continue;
        }
        for event in &events {
            if let Some((hierarchy, write)) = written_list(shared, event) {
                note_foreign_write(shared, hierarchy, &write, since);
            }
        }
    }
    shared.migration_monitor.state.lock().read = Some(now);
}

/// Returns the list that was written. `None` if it's no list, or can't be found any more; no hierarchy if the queue
/// overflowed.
fn written_list(shared: &SharedHost, event: &FanotifyEvent) -> Option<(Option<usize>, ForeignWrite)> {
    let Some(file) = event.fd() else {
        let is_too_much = event.mask().contains(MaskFlags::FAN_Q_OVERFLOW);
        return is_too_much.then_some((None, ForeignWrite { cgroup: None, writer: 0 }));
    };
    let stat = fstat(file).ok()?;
    let mut all = shared.cgroups.hierarchies.iter();
    let hierarchy = all.position(|hierarchy| hierarchy.device() == stat.st_dev)?;
    let hierarchy_there = shared.cgroups.hierarchies.get(hierarchy)?;
    let path = path_in(hierarchy_there, file, stat.st_ino)?;
    if !matches!(FileClass::of(&hierarchy_there.kind, path.file_name()?), FileClass::Membership(_)) {
        return None;
    }
    let cgroup = CgroupPath::parse(path.parent()?.as_os_str()).ok()?;
    Some((Some(hierarchy), ForeignWrite { cgroup: Some(cgroup), writer: event.pid() }))
}

/// Returns the path of a file in its hierarchy. The event's own descriptor is in the writer's mount, which may be
/// anywhere.
fn path_in(hierarchy: &HostHierarchy, file: BorrowedFd<'_>, inode: u64) -> Option<PathBuf> {
    let link = |file: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
    if hierarchy.has_handles() && hierarchy.is_detached() {
        let here: OwnedFd = by_id(hierarchy.root(), inode, libc::O_PATH).ok()?;
        return link(here.as_fd());
    }
    let path = link(file)?;
    match path.strip_prefix(&hierarchy.mount_point) {
        Ok(below) => Some(Path::new("/").join(below)),
        Err(_) => Some(path),
    }
}

/// Checks the migrations that a write by somebody else, later than `since`, may have undone.
fn note_foreign_write(shared: &SharedHost, hierarchy: Option<usize>, write: &ForeignWrite, since: Option<Instant>) {
    let mut suspects = Vec::new();
    let mut state = shared.migration_monitor.state.lock();
    if shared.migration_monitor.is_own_program(write.writer) {
        return;
    }
    for migration in &mut state.migrations {
        let delegated = migration.view.hierarchy(migration.hierarchy).and_then(|entry| entry.delegated.as_ref());
        let is_inside = match (&write.cgroup, delegated) {
            (Some(cgroup), Some(delegated)) => cgroup.is_within(delegated),
            _ => false,
        };
        if is_inside || hierarchy.is_some_and(|hierarchy| hierarchy != migration.hierarchy) {
            continue;
        }
        match &migration.done {
            None => drop(migration.foreign_write.get_or_insert_with(|| write.clone())),
            Some((at, _)) if since.is_some_and(|since| *at + EVENT_GRACE < since) => {}
            Some(_) => suspects.push(migration.id),
        }
    }
    let (suspects, rest) = state.migrations.drain(..).partition(|migration| suspects.contains(&migration.id));
    state.migrations = rest;
    drop(state);
    // The same process may have been migrated several times.
    let mut told = BTreeSet::new();
    let suspects: VecDeque<Migration> = suspects;
    for Migration { hierarchy, view, done, .. } in suspects {
        let Some((_, process)) = done else { continue };
        if told.insert(process.host_number()) {
            warn_if_brought_back(shared, &view, hierarchy, process, write);
        }
    }
}

/// Logs that a process inside the subtree may have been brought back.
fn warn_if_brought_back(
    shared: &SharedHost,
    view: &View,
    hierarchy: usize,
    mut process: HeldProcess,
    write: &ForeignWrite,
) {
    let kind = view.hierarchy(hierarchy).map(|entry| &entry.kind);
    let from = kind.and_then(|kind| process.seen_at(kind));
    let Ok(places) = shared.processes.thread_locations(&mut process, hierarchy, false) else { return };
    let delegated = view.hierarchy(hierarchy).and_then(|entry| entry.delegated.as_ref());
    let inside =
        places.iter().filter_map(|place| place.path()).find(|path| delegated.is_some_and(|top| path.is_within(top)));
    let Some(to) = inside else { return };
    let Some(suppressed) = shared.migration_monitor.log.admit() else { return };
    let text = |path: Option<&CgroupPath>| path.map(ToString::to_string).unwrap_or_default();
    let (process, writer) = (process.host_number().unwrap_or(0), write.writer);
    let command = procfs::text(writer, "comm").unwrap_or_default();
    tracing::warn!(
        process,
        from = ?text(from.as_ref()),
        to = ?text(Some(to)),
        outside = ?text(write.cgroup.as_ref()),
        writer,
        command = ?command.trim_end(),
        hierarchy = ?kind.map(ToString::to_string).unwrap_or_default(),
        suppressed,
        "the host wrote a list of processes outside while the container migrated this one, which may have brought a process back"
    );
}

impl MonitoredMigration {
    /// Ends the migration, and logs a write that may have brought the process back.
    pub(in crate::host) fn finish(self, process: HeldProcess) {
        let monitor = &self.shared.migration_monitor;
        read_events(&self.shared);
        let now = Instant::now();
        let mut gone = VecDeque::new();
        let mut state = monitor.state.lock();
        if state.migrations.len() >= MIGRATIONS_MAX {
            // Migrations that are under way stay, however long they take: their agent may have been stopped in
            // between.
            let is_old = |migration: &Migration| migration.done.as_ref().is_some_and(|(at, _)| *at + EVENT_GRACE < now);
            let (old, rest) = state.migrations.drain(..).partition(is_old);
            gone = old;
            state.migrations = rest;
        }
        let Some(at) = state.migrations.iter().rposition(|migration| migration.id == self.id) else { return };
        let foreign_write = state.migrations.get_mut(at).and_then(|migration| match migration.foreign_write.take() {
            None => {
                migration.done = Some((now, process));
                None
            }
            Some(foreign_write) => Some((foreign_write, process)),
        });
        monitor.wake(state.is_lull);
        let foreign_write = foreign_write.and_then(|foreign_write| Some((foreign_write, state.migrations.remove(at)?)));
        drop(state);
        drop(gone);
        if let Some(((write, process), Migration { view, hierarchy, .. })) = foreign_write {
            warn_if_brought_back(&self.shared, &view, hierarchy, process, &write);
        }
    }
}

impl Drop for MonitoredMigration {
    fn drop(&mut self) {
        let mut state = self.shared.migration_monitor.state.lock();
        let mine = state.migrations.iter().rposition(|migration| migration.id == self.id && migration.done.is_none());
        let gone = mine.and_then(|at| state.migrations.remove(at));
        drop(state);
        drop(gone);
    }
}
