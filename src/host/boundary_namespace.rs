//! The cgroup namespace that begins at a view's delegation boundary (cgroup v2).
//!
//! With `nsdelegate` the kernel checks both ends of a migration at the write, under its own locks. It checks them
//! against the cgroup namespace in which the membership file was opened (`cgroup_attach_permissions`). So the server
//! opens such files in a namespace that begins at the boundary. Then a write can't bring back a process that the host
//! takes out of the subtree at that very moment. A helper makes the namespace (`mount_helper::boundary`), and tests
//! that it has this effect.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use parking_lot::Mutex;

use super::interface_file::read_file;
use super::shared::SharedHost;
use crate::agents::{BoundaryHelper, HelperImage, monotonic_ns};
use crate::cgroup::{CgroupPath, HierarchyKind, parse_memberships};
use crate::fs::SysResult;
use crate::fs::host::Credentials;
use crate::records::{Number, Records};
use crate::sys::descriptors::recovered;
use crate::sys::namespace::Entered;
use crate::sys::offset::read_at;
use crate::view::View;

use super::cgroup_namespace::OpenedIn;
use super::nsdelegate::nanoseconds;

/// The delay after a failure before the next attempt, at first and at most.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// The boundary of a view in cgroup v2.
#[derive(Debug)]
pub(super) struct Boundary {
    shared: Arc<SharedHost>,
    image: Arc<HelperImage>,
    hierarchy: usize,
    path: CgroupPath,
    /// The namespace, once a test has shown that the kernel enforces it.
    namespace: OnceLock<OwnedFd>,
    /// Where the next server finds it.
    records: OnceLock<Arc<Records>>,
    /// Whether an attempt is under way.
    is_tried: AtomicBool,
    /// The time of the next attempt (monotonic ns), and the delay after it.
    next: Mutex<(u64, Duration)>,
}

impl Boundary {
    /// Returns the boundary of a view. `None` if there's no boundary, or if no namespace can be made.
    pub(super) fn of(view: &View, shared: &Arc<SharedHost>) -> Option<Arc<Self>> {
        shared.cgroup_namespace.as_ref()?;
        let image = shared.processes.agents().ok()?.image();
        let hierarchy = view.hierarchies.iter().position(|entry| entry.kind == HierarchyKind::Unified)?;
        let path = view.hierarchy(hierarchy)?.delegated.clone()?;
        Some(Arc::new(Self {
            shared: Arc::clone(shared),
            image,
            hierarchy,
            path,
            namespace: OnceLock::new(),
            records: OnceLock::new(),
            is_tried: AtomicBool::new(false),
            next: Mutex::new((0, INITIAL_BACKOFF)),
        }))
    }

    /// Returns the namespace that begins here, by which the kernel judges a migration. If there's none yet, this may
    /// start an attempt to make one.
    pub(super) fn namespace(self: &Arc<Self>) -> Option<BorrowedFd<'_>> {
        if let Some(namespace) = self.namespace.get() {
            return Some(namespace.as_fd()).filter(|_| self.shared.nsdelegate.is_on());
        }
        self.attempt_aside();
        None
    }

    /// Takes over the namespace that an earlier server has made, and keeps a new one for the next server.
    pub(super) fn keep_in(&self, records: &Arc<Records>) {
        if let Some(made) = records.descriptor(Number::BoundaryNamespace).and_then(recovered) {
            let _ = self.namespace.set(made);
        }
        let _ = self.records.set(Arc::clone(records));
    }

    /// Makes the namespace, if possible.
    pub(super) fn attempt(&self) {
        if self.namespace.get().is_some() || !self.may_attempt() || self.is_tried.swap(true, Ordering::AcqRel) {
            return;
        }
        self.attempt_with(|| self.make());
    }

    /// Makes the namespace in a thread of its own: the container can freeze the helper in the boundary until the
    /// deadline.
    fn attempt_aside(self: &Arc<Self>) {
        if !self.may_attempt() || self.is_tried.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        let thread = std::thread::Builder::new().name("boundary".to_owned()).stack_size(128 * 1024);
        if thread.spawn(move || this.attempt_with(|| this.make())).is_err() {
            self.is_tried.store(false, Ordering::Release);
        }
    }

    /// Adopts an existing namespace that begins here, if the kernel enforces it. It may exist even if the cgroup
    /// can't be entered.
    fn adopt(&self, namespace: BorrowedFd<'_>) {
        if self.namespace.get().is_some() || !self.may_attempt() || self.is_tried.swap(true, Ordering::AcqRel) {
            return;
        }
        self.attempt_with(|| {
            let helper = BoundaryHelper::start(&self.image)?;
            self.is_kept_to(namespace, helper)?;
            namespace.try_clone_to_owned().map_err(|_| Errno::EMFILE)
        });
    }

    fn may_attempt(&self) -> bool {
        self.shared.nsdelegate.is_on() && self.next.lock().0 <= monotonic_ns()
    }

    fn attempt_with(&self, make: impl FnOnce() -> Result<OwnedFd, Errno>) {
        match make() {
            Ok(namespace) => {
                let number = namespace.as_raw_fd();
                if self.namespace.set(namespace).is_ok()
                    && let Some(records) = self.records.get()
                {
                    records.set_descriptor(Number::BoundaryNamespace, number);
                }
                tracing::debug!(boundary = %self.path, "the kernel checks both ends of migrations");
            }
            Err(errno) => {
                let mut next = self.next.lock();
                *next = (monotonic_ns().saturating_add(nanoseconds(next.1)), (next.1 * 2).min(MAX_BACKOFF));
                drop(next);
                tracing::debug!(boundary = %self.path, %errno, "no cgroup namespace could be made at the boundary");
            }
        }
        self.is_tried.store(false, Ordering::Release);
    }

    fn make(&self) -> Result<OwnedFd, Errno> {
        let cgroups = &self.shared.cgroups;
        let directory = cgroups.open_cgroup(self.hierarchy, &self.path)?;
        // Nobody can enter it then (no-internal-process rule). Checking saves starting a helper.
        if read_file(&directory, "cgroup.subtree_control").is_ok_and(|enabled| !enabled.trim().is_empty()) {
            return Err(Errno::EBUSY);
        }
        let own = own_place().ok_or(Errno::ENOENT)?;
        let home = cgroups.open_cgroup(self.hierarchy, &own)?;
        let (boundary, home) = (for_writing(&directory)?, for_writing(&home)?);
        let (namespace, helper) = BoundaryHelper::make_namespace(&self.image, boundary.as_fd(), home.as_fd())?;
        self.is_kept_to(namespace.as_fd(), helper)?;
        Ok(namespace)
    }

    /// Returns EPERM unless the kernel keeps a process outside from entering through a file that was opened in this
    /// namespace.
    fn is_kept_to(&self, namespace: BorrowedFd<'_>, helper: BoundaryHelper) -> Result<(), Errno> {
        let directory = self.shared.cgroups.open_cgroup(self.hierarchy, &self.path)?;
        let own = self.shared.cgroup_namespace.as_ref().ok_or(Errno::ENOSYS)?;
        let entered = own.enter(namespace)?;
        let file = for_writing(&directory);
        drop(entered);
        if helper.is_refused(file?.as_fd())? { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Enters the namespace in which `opener` opens a membership file: its own if that begins inside, otherwise the
    /// one that begins at the boundary, if there's one.
    pub(super) fn enter_for(self: &Arc<Self>, opener: &Credentials) -> SysResult<(Option<Entered<'_>>, OpenedIn)> {
        let Some(own) = &self.shared.cgroup_namespace else { return Ok((None, OpenedIn::Around)) };
        let other = own.other_of(opener.thread)?;
        let root = match &other {
            None => NamespaceRoot::Above,
            Some(_) if !self.shared.nsdelegate.is_on() => NamespaceRoot::Elsewhere,
            Some(other) => self.position_of(other.as_fd(), opener.thread),
        };
        if let (NamespaceRoot::AtBoundary, Some(other)) = (root, &other) {
            self.adopt(other.as_fd());
        }
        let namespace = self.namespace();
        let opened_in = match root {
            NamespaceRoot::Above if namespace.is_some() => OpenedIn::Boundary,
            NamespaceRoot::Above => OpenedIn::Around,
            NamespaceRoot::AtBoundary | NamespaceRoot::Below if namespace.is_some() => OpenedIn::Inside,
            _ => OpenedIn::Elsewhere,
        };
        let entered = match (opened_in, other) {
            (OpenedIn::Boundary, _) => namespace.map(|namespace| own.enter(namespace)),
            (_, other) => other.map(|other| own.enter(other.as_fd())),
        };
        Ok((entered.transpose()?, opened_in))
    }

    /// Enters the namespace that begins here, if there's one.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Entered<'_>> {
        self.shared.cgroup_namespace.as_ref()?.enter(self.namespace()?).ok()
    }

    /// Whether the kernel checks both ends of a migration through a file that was opened in this namespace.
    pub(super) fn is_checked(&self, opened_in: OpenedIn) -> bool {
        matches!(opened_in, OpenedIn::Boundary | OpenedIn::Inside) && self.shared.nsdelegate.is_on()
    }

    /// Finds where a cgroup namespace begins, as seen from the boundary. `thread` is in the namespace and inside the
    /// boundary, and waits meanwhile.
    fn position_of(&self, namespace: BorrowedFd<'_>, thread: i32) -> NamespaceRoot {
        self.try_position_of(namespace, thread).unwrap_or(NamespaceRoot::Elsewhere)
    }

    fn try_position_of(&self, namespace: BorrowedFd<'_>, thread: i32) -> Option<NamespaceRoot> {
        let own = self.shared.cgroup_namespace.as_ref()?;
        let memberships = std::fs::File::open(format!("/proc/{thread}/cgroup")).ok()?;
        let read = || {
            let mut text = vec![0; MEMBERSHIPS_BYTES_MAX];
            let length = read_at(&memberships, &mut text, 0).ok()?;
            text.truncate(length);
            unified_path(&text).map(<[u8]>::to_vec)
        };
        let here = CgroupPath::parse(OsStr::from_bytes(&read()?)).ok()?;
        let server_here = CgroupPath::parse(OsStr::from_bytes(&own_path()?)).ok()?;
        let entered = own.enter(namespace).ok()?;
        let (there, server_there) = (read(), own_path());
        drop(entered);
        namespace_root(&self.path, &here, &there?, server_here.components().len(), &server_there?)
    }
}

/// The buffer for `/proc/PID/cgroup`: a path of the greatest length, and the lines of other hierarchies before it.
const MEMBERSHIPS_BYTES_MAX: usize = 64 * 1024;

/// Where another cgroup namespace begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NamespaceRoot {
    /// It begins at the boundary.
    AtBoundary,
    /// It begins somewhere below the boundary.
    Below,
    /// It begins somewhere above the boundary.
    Above,
    /// It begins beside the boundary, or its root can't be seen.
    Elsewhere,
}

/// Compares the paths of a thread and of the server, as seen from here and from the other namespace. The depth is
/// taken from the server's path, which the container can't change meanwhile.
fn namespace_root(
    boundary: &CgroupPath,
    thread_here: &CgroupPath,
    thread_there: &[u8],
    server_depth: usize,
    server_there: &[u8],
) -> Option<NamespaceRoot> {
    let is_outside = thread_there == b"/.." || thread_there.starts_with(b"/../");
    if is_outside || !thread_here.is_within(boundary) {
        return Some(NamespaceRoot::Elsewhere);
    }
    let names: Vec<&[u8]> = server_there.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    let up = names.iter().take_while(|name| **name == b"..").count();
    // Up from the namespace's root to the common ancestor, and down to the server.
    let in_common = (server_depth + up).checked_sub(names.len() - up);
    Some(match in_common.map(|common| common.cmp(&boundary.components().len())) {
        None | Some(std::cmp::Ordering::Less) => NamespaceRoot::Above,
        Some(std::cmp::Ordering::Equal) => NamespaceRoot::AtBoundary,
        Some(std::cmp::Ordering::Greater) => NamespaceRoot::Below,
    })
}

/// Returns the path on cgroup2's line.
fn unified_path(memberships: &[u8]) -> Option<&[u8]> {
    memberships.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))
}

fn own_path() -> Option<Vec<u8>> {
    unified_path(&std::fs::read("/proc/self/cgroup").ok()?).map(<[u8]>::to_vec)
}

/// The path of the server's own cgroup in cgroup2.
fn own_place() -> Option<CgroupPath> {
    let all = parse_memberships(&std::fs::read("/proc/self/cgroup").ok()?);
    all.into_iter().find(|membership| membership.kind == HierarchyKind::Unified)?.location.path().cloned()
}

fn for_writing(directory: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat(directory, "cgroup.procs", flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> CgroupPath {
        CgroupPath::parse(text).unwrap()
    }

    /// The server is in `/s/server`, which has two names; the boundary is `/m/c1`.
    #[test]
    fn where_namespaces_begin() {
        for (thread, there, server, expected) in [
            ("/m/c1/a", "/a", "/../../s/server", NamespaceRoot::AtBoundary),
            ("/m/c1", "/", "/../../s/server", NamespaceRoot::AtBoundary),
            ("/m/c1/a/b", "/b", "/../../../s/server", NamespaceRoot::Below),
            ("/m/c1/a", "/c1/a", "/../s/server", NamespaceRoot::Above),
            ("/m/c1/a", "/m/c1/a", "/s/server", NamespaceRoot::Above),
            // The namespace of a host around the server's.
            ("/m/c1/a", "/x/m/c1/a", "/x/s/server", NamespaceRoot::Above),
            ("/m/c1/a", "/../a", "/../../../s/server", NamespaceRoot::Elsewhere),
            ("/m/c1/a", "/..", "/../../../s/server", NamespaceRoot::Elsewhere),
            ("/m/c10/a", "/a", "/../../s/server", NamespaceRoot::Elsewhere),
        ] {
            let found = namespace_root(&path("/m/c1"), &path(thread), there.as_bytes(), 2, server.as_bytes());
            assert_eq!(found, Some(expected), "{thread} {there} {server}");
        }
        // The server is above the boundary, or both are inside the same cgroup.
        assert_eq!(
            namespace_root(&path("/m/c1"), &path("/m/c1/a"), b"/a", 0, b"/../.."),
            Some(NamespaceRoot::AtBoundary)
        );
        assert_eq!(
            namespace_root(&path("/m/c1"), &path("/m/c1/a"), b"/a", 2, b"/../server"),
            Some(NamespaceRoot::AtBoundary)
        );
    }
}
