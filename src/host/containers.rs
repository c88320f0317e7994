//! The containers of a mount for all callers, by their pid namespaces.
//!
//! A container is the set of processes in a pid namespace. Its cgroups are those of the namespace's process 1, which
//! the server reads with each request. The delegated subtrees stay the same as long as process 1 stays inside those
//! that were found first: the container itself can only move it within them. If the host moves it elsewhere, the
//! server makes a new view.
//!
//! A nested namespace sees nothing that the one around it doesn't. A caller in the server's own pid namespace is in
//! no container, and has no delegated subtree.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;
use parking_lot::{Mutex, RwLock};

use super::kernel_host::KernelHost;
use super::known_namespace::{HostContainer, KnownNamespace, LastSeen};
use super::plan;
use super::proc::held_process;
use super::proc::pid_namespace::{ParentNs, PidNamespaceFd};
pub use super::proc::pid_namespace::{are_found, tenant_of};
use super::proc::procfs::{self, Namespace};
use super::saved_containers::{self, ContainerNote};
use super::server_cgroup::leave_delegated_subtrees;
use super::shared::SharedHost;
use crate::cgroup::CgroupPath;
use crate::fs::dispatch::Tenant;
use crate::fs::dispatch::per_caller::{Container, Containers, SharedLimits};
use crate::fs::host::HostFiles;
use crate::fs::{Caller, FsResult};
use crate::limit::LogLimiter;
use crate::policy::{Rule, Rules};
use crate::records::{Records, SavedScope, Topic};
use crate::sys;
use crate::sys::offset::read_at;
use crate::view::{AncestorLimits, Shape, View};

/// How many pid namespaces are known at once.
const NAMESPACES_MAX: usize = 4096;

/// How many of them one tenant may have: a container with its nested namespaces, or a user of the host. A tenant
/// never gets more than half of what the others leave.
const NAMESPACES_PER_TENANT_MAX: usize = 256;

/// How many descriptors the server needs for each of them.
const FDS_PER_NAMESPACE: usize = 16;

/// How often the server checks which namespaces have ended, in milliseconds, if the kernel doesn't notify it (before
/// Linux 5.3).
const END_CHECK_INTERVAL_MS: u16 = 500;

/// The longest text of memberships: a path for each hierarchy, of which there are at most a few dozen.
const MEMBERSHIPS_BYTES_MAX: usize = 256 * 1024;

/// The containers of all pid namespaces with a caller.
#[derive(Debug)]
pub struct PidNamespaces {
    shared: Arc<SharedHost>,
    rules: Rules,
    ancestor_limits: AncestorLimits,
    own: Namespace,
    /// The server's user namespace; `None` on a kernel that has none.
    own_user: Option<Namespace>,
    host: HostContainer,
    shared_limits: SharedLimits,
    most: usize,
    /// No system call is made while it's held.
    known: RwLock<HashMap<Namespace, Arc<KnownNamespace>>>,
    ends: Epoll,
    stop: EventFd,
    log: LogLimiter,
    /// The containers that an earlier server has left.
    restored: Mutex<Vec<HostContainer>>,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl PidNamespaces {
    /// Makes the containers for views with these rules, with or without limits of ancestors. `passes_through` says
    /// whether the kernel may read files itself, if it can.
    ///
    /// # Errors
    /// When the server's own namespaces can't be read, or the roots of the hierarchies can't be found.
    pub fn new(
        shared: Arc<SharedHost>,
        rules: Rules,
        ancestor_limits: AncestorLimits,
        passes_through: bool,
        records: &Arc<Records>,
    ) -> std::io::Result<Self> {
        let nowhere = vec![None; shared.cgroups().hierarchies.len()];
        let view = Arc::new(plan::view(shared.cgroups(), Shape::HostPath, rules.clone(), nowhere));
        let host = KernelHost::sharing(Arc::clone(&view), Arc::clone(&shared));
        let files = host.most_files();
        let shared_limits = SharedLimits::new(files, passes_through, Arc::clone(records));
        // It's the first one of each server.
        let mut scopes = records.scopes();
        let recorded = |scope| scopes.remove(&scope).unwrap_or_default();
        let host = shared_limits.container(view, host, Tenant::default(), None, recorded)?;
        let (ends, stop) = (
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        );
        ends.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX))?;
        let this = Self {
            shared,
            rules,
            ancestor_limits,
            own: procfs::own_namespace("pid")?,
            own_user: procfs::own_namespace("user").ok(),
            host,
            shared_limits,
            most: NAMESPACES_MAX.min(files / FDS_PER_NAMESPACE),
            known: RwLock::default(),
            ends,
            stop,
            log: LogLimiter::default(),
            restored: Mutex::default(),
        };
        this.restore(records, scopes);
        Ok(this)
    }

    /// Continues with the namespaces and containers that an earlier server has recorded.
    fn restore(&self, records: &Arc<Records>, mut scopes: HashMap<u32, SavedScope>) {
        let mut left = records.notes(Topic::Namespace);
        loop {
            let before = left.len();
            left.retain(|saved| {
                let find = |number| self.known.read().get(&Namespace::numbered(number)).map(Arc::clone);
                let Some(known) = saved_containers::namespace(records, saved, find) else { return true };
                let added = known
                    .end
                    .as_ref()
                    .map(|end| self.ends.add(end, EpollEvent::new(EpollFlags::EPOLLIN, known.namespace.id().number())));
                if let Some(Err(errno)) = added {
                    tracing::debug!(%errno, "the end of a container won't be seen");
                }
                self.known.write().insert(known.namespace.id(), Arc::new(known));
                false
            });
            if left.is_empty() || left.len() == before {
                break;
            }
        }
        let mut notes: Vec<_> = records.notes(Topic::Container);
        notes.sort_by_key(|saved| saved.key);
        for saved in notes {
            let record = records.take_over_note(&saved);
            if let Some(container) = ContainerNote::read(&saved).and_then(|note| self.restored(&note, &mut scopes)) {
                container.set_record(record);
                self.restored.lock().push(container);
            }
        }
        scopes.values().for_each(|ended| records.drop_scope(ended));
        let known = self.known.read();
        self.shared_limits.forget_xattrs_left(|tenant| !known.values().any(|known| known.tenant == tenant));
    }

    fn restored(&self, note: &ContainerNote, scopes: &mut HashMap<u32, SavedScope>) -> Option<HostContainer> {
        let known = self.known.read().get(&Namespace::numbered(note.namespace)).map(Arc::clone)?;
        let view = plan::view(self.shared.cgroups(), Shape::HostPath, self.rules.clone(), note.subtrees()?);
        let view = Arc::new(View { ancestor_limits: self.ancestor_limits, ..view });
        let host = KernelHost::sharing(Arc::clone(&view), Arc::clone(&self.shared));
        let recorded = |scope| scopes.remove(&scope).unwrap_or_default();
        let saved = Some(note.saved.clone());
        let container = self.shared_limits.container(view, host, known.tenant, saved, recorded).ok()?;
        // They are read again with the next request.
        let memberships = Vec::new();
        *known.seen.lock() = Some(LastSeen { memberships, around: note.around, container: Arc::clone(&container) });
        Some(container)
    }

    fn known(&self, namespace: PidNamespaceFd, thread: Option<i32>) -> FsResult<Arc<KnownNamespace>> {
        if let Some(known) = self.known.read().get(&namespace.id()) {
            return Ok(Arc::clone(known));
        }
        let around = match namespace.parent(self.own, thread).map_err(|_| Rule::ContainerUnknown)? {
            ParentNs::Own => None,
            ParentNs::Other(around) => Some(self.known(around, None)?),
        };
        let tenant = around.as_ref().map_or_else(|| namespace.tenant(self.own_user, thread), |around| around.tenant);
        self.check_room(&self.known.read(), tenant)?;
        let mut known = look_at(namespace, around, tenant, thread).map_err(|_| Rule::ContainerUnknown)?;
        known.record = saved_containers::note_namespace(self.shared_limits.records(), &known);
        let known = Arc::new(known);
        match &known.end {
            Some(end) => {
                self.ends.add(end, EpollEvent::new(EpollFlags::EPOLLIN, known.namespace.id().number()))?;
            }
            // Wake the waiting thread, so that it begins to check.
            None => drop(self.stop.write(1)),
        }
        let mut all = self.known.write();
        if let Some(known) = all.get(&known.namespace.id()) {
            // The new object isn't needed; it's dropped after the lock, together with its end notification.
            return Ok(Arc::clone(known));
        }
        self.check_room(&all, tenant)?;
        all.insert(known.namespace.id(), Arc::clone(&known));
        Ok(known)
    }

    fn check_room(&self, all: &HashMap<Namespace, Arc<KnownNamespace>>, tenant: Tenant) -> FsResult<()> {
        let own = all.values().filter(|known| known.tenant == tenant).count();
        let others = all.len().saturating_sub(own);
        if own < NAMESPACES_PER_TENANT_MAX.min(self.most.saturating_sub(others).div_ceil(2)) {
            Ok(())
        } else {
            Err(Rule::TooManyContainers.into())
        }
    }

    fn container(&self, known: &KnownNamespace) -> FsResult<HostContainer> {
        let around = known.around.as_ref().map(|around| self.container(around)).transpose()?;
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(MEMBERSHIPS_BYTES_MAX, 0);
            // Read under the lock, so that an older text never replaces a newer one. One read returns the whole text
            // as of one moment (proc_cgroup_show).
            let mut seen = known.seen.lock();
            let length = read_at(&known.memberships, buffer, 0).map_err(|_| Rule::ContainerUnknown)?;
            let now = buffer.get(..length).filter(|_| length < MEMBERSHIPS_BYTES_MAX).ok_or(Rule::ContainerUnknown)?;
            let number = around.as_ref().map(|around| around.number());
            if let Some(seen) = &mut *seen
                && seen.around == number
            {
                if seen.memberships == now {
                    return Ok(Arc::clone(&seen.container));
                }
                if stays_inside(seen.container.fs().view(), &self.subtrees(now, around.as_deref())) {
                    seen.memberships = now.to_vec();
                    return Ok(Arc::clone(&seen.container));
                }
            }
            let container = self.make(self.subtrees(now, around.as_deref()), known, number)?;
            let memberships = now.to_vec();
            let before = seen.replace(LastSeen { memberships, around: number, container: Arc::clone(&container) });
            drop((seen, before));
            Ok(container)
        })
    }

    /// Returns the container's cgroups, which are those of its process 1, as far as they are within the enclosing
    /// container's.
    fn subtrees(&self, memberships: &[u8], around: Option<&Container<KernelHost>>) -> Vec<Option<CgroupPath>> {
        let mut subtrees = plan::container_by(self.shared.cgroups(), memberships);
        for subtree in &mut subtrees {
            subtree.take_if(|path| path.is_root());
        }
        if let Some(around) = around {
            for (subtree, hierarchy) in subtrees.iter_mut().zip(&around.fs().view().hierarchies) {
                subtree.take_if(|path| !hierarchy.delegated.as_ref().is_some_and(|around| path.is_within(around)));
            }
        }
        subtrees
    }

    fn make(
        &self,
        mut subtrees: Vec<Option<CgroupPath>>,
        known: &KnownNamespace,
        around: Option<u64>,
    ) -> FsResult<HostContainer> {
        let cgroups = self.shared.cgroups();
        for (index, subtree) in subtrees.iter_mut().enumerate() {
            // A cgroup that is gone doesn't count.
            subtree.take_if(|path| cgroups.open_cgroup(index, path).is_err());
        }
        let view = plan::view(cgroups, Shape::HostPath, self.rules.clone(), subtrees.clone());
        let view = Arc::new(View { ancestor_limits: self.ancestor_limits, ..view });
        leave_delegated_subtrees(cgroups, &view).map_err(|error| {
            if let Some(suppressed) = self.log.admit() {
                tracing::warn!(suppressed, "a container gets no view: {error}");
            }
            Rule::ServerInside
        })?;
        let host = KernelHost::sharing(Arc::clone(&view), Arc::clone(&self.shared));
        let container = self.shared_limits.container(view, host, known.tenant, None, |_| SavedScope::default())?;
        let note = ContainerNote::new(known.namespace.id().number(), around, &subtrees, container.saved());
        if let Some(record) = note.keep(self.shared_limits.records()) {
            container.set_record(record);
        }
        Ok(container)
    }
}

/// Whether all of these are in the view's subtrees, and there's none in any other hierarchy.
fn stays_inside(view: &View, subtrees: &[Option<CgroupPath>]) -> bool {
    view.hierarchies.iter().zip(subtrees).all(|(hierarchy, now)| match (&hierarchy.delegated, now) {
        (Some(delegated), Some(now)) => now.is_within(delegated),
        (None, None) => true,
        _ => false,
    })
}

/// Opens a namespace's process 1.
fn look_at(
    namespace: PidNamespaceFd,
    around: Option<Arc<KnownNamespace>>,
    tenant: Tenant,
    thread: Option<i32>,
) -> Result<KnownNamespace, Errno> {
    let init = namespace.init_process(thread)?;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let memberships = openat(&init, "cgroup", flags, Mode::empty())?;
    let end = pidfd_of(&init).filter(|_| held_process::is_held(&init));
    Ok(KnownNamespace { namespace, around, tenant, init, memberships, end, seen: Mutex::default(), record: None })
}

/// Returns a pidfd of the process of this procfs directory, if it still has its number afterwards.
fn pidfd_of(process: &OwnedFd) -> Option<OwnedFd> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", process.as_raw_fd())).ok()?;
    sys::pidfd::open(path.file_name()?.to_str()?.parse().ok()?).ok()
}

impl Containers for PidNamespaces {
    type Host = KernelHost;

    fn of(&self, caller: &Caller) -> FsResult<HostContainer> {
        if caller.tid <= 0 {
            return Err(Rule::CallerInvisible.into());
        }
        let namespace = procfs::namespace(caller.tid, "pid").map_err(|_| Rule::ContainerUnknown)?;
        if namespace == self.own {
            return Ok(Arc::clone(&self.host));
        }
        let known = self.known.read().get(&namespace).map(Arc::clone);
        let known = match known {
            Some(known) => known,
            None => {
                let held = PidNamespaceFd::of_thread(caller.tid).map_err(|_| Rule::ContainerUnknown)?;
                self.known(held, Some(caller.tid))?
            }
        };
        self.container(&known)
    }

    fn host(&self) -> &HostContainer {
        &self.host
    }

    fn take_restored(&self) -> Vec<HostContainer> {
        std::mem::take(&mut *self.restored.lock())
    }

    fn forget_the_ended(&self) -> bool {
        let looks = self.known.read().values().any(|known| known.end.is_none());
        let timeout = if looks { EpollTimeout::from(END_CHECK_INTERVAL_MS) } else { EpollTimeout::NONE };
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.ends.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(_) => return false,
        };
        let events = events.get(..count).unwrap_or_default();
        if events.iter().any(|event| event.data() == u64::MAX) && self.stop.read().is_ok_and(|asked| asked > STOP) {
            return false;
        }
        let has_ended = |known: &KnownNamespace| match known.end {
            Some(_) => events.iter().any(|event| event.data() == known.namespace.id().number()),
            None => !held_process::is_held(&known.init),
        };
        let all: Vec<_> = self.known.read().values().map(Arc::clone).collect();
        for known in all.into_iter().filter(|known| has_ended(known)) {
            if let Some(end) = &known.end {
                // A nested namespace may still hold it.
                let _ = self.ends.delete(end);
            }
            let mut all = self.known.write();
            let forgotten = all.remove(&known.namespace.id());
            let is_left = all.values().any(|other| other.tenant == known.tenant);
            drop(all);
            drop(forgotten);
            if !is_left {
                self.shared_limits.forget(known.tenant);
            }
        }
        true
    }

    fn stop_waiting(&self) {
        let _ = self.stop.write(STOP + 1);
    }
}

/// More than all requests to check can add up to.
const STOP: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{HierarchyKind, Setup};
    use crate::view::ViewHierarchy;

    #[test]
    fn only_the_host_takes_a_container_elsewhere() {
        let path = |text: &str| (text != "-").then(|| CgroupPath::parse(text).unwrap());
        let hierarchy = |list: &str, delegated: &str| ViewHierarchy {
            kind: if list.is_empty() { HierarchyKind::Unified } else { HierarchyKind::v1(list) },
            directory: list.into(),
            links: Vec::new(),
            delegated: path(delegated),
        };
        let view = View {
            setup: Setup::Hybrid,
            shape: Shape::HostPath,
            rules: Rules::default(),
            hierarchies: vec![hierarchy("", "/docker/c1"), hierarchy("memory", "-")],
            ancestor_limits: AncestorLimits::Shown,
            aliases: Vec::new(),
        };
        for (now, stays) in [
            (["/docker/c1", "-"], true),
            (["/docker/c1/a/b", "-"], true),
            (["/docker/c10", "-"], false),
            (["/docker", "-"], false),
            (["-", "-"], false),
            (["/docker/c1", "/docker/c1"], false),
        ] {
            assert_eq!(stays_inside(&view, &now.map(path)), stays, "{now:?}");
        }
    }
}
