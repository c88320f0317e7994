//! A filesystem over a fake host with the same few cgroups in every hierarchy.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use nix::errno::Errno;

use super::fake::FakeHost;
use crate::cgroup::{CgroupPath, HierarchyKind, Setup};
use crate::fs::EntryTtl;
use crate::fs::inode::{NodeId, ROOT_ID};
use crate::fs::{Caller, CgroupFs, Entry, FsError, FsResult, HandleId, ListedEntry, OpenMode};
use crate::policy::{Policy, Rules};
use crate::view::{AncestorLimits, Shape, View, ViewHierarchy};

/// The delegated subtree, in each hierarchy that has one.
pub(super) const DELEGATED: &str = "/lxc/c1";

/// The cgroups of every hierarchy, each after its parent.
pub(super) const CGROUPS: [&str; 10] = [
    "/",
    "/lxc",
    "/lxc/c1",
    "/lxc/c1/a",
    "/lxc/c1/a/b",
    "/lxc/c1/z",
    "/lxc/c10",
    "/lxc/c10/secret",
    "/other",
    "/other/c1",
];

/// The numbers of the hierarchies of a hybrid scene.
pub(super) const UNIFIED: usize = 0;
pub(super) const MEMORY: usize = 1;
pub(super) const CPU: usize = 2;
pub(super) const SYSTEMD: usize = 3;
/// The hierarchy in whose root the container is.
pub(super) const CPUSET: usize = 4;

/// The hierarchies: the kernel's names, and their directories.
const KINDS: [(&str, &str); 5] = [
    ("", "unified"),
    ("memory", "memory"),
    ("cpu,cpuacct", "cpu,cpuacct"),
    ("name=systemd", "systemd"),
    ("cpuset", "cpuset"),
];

pub(super) const SHAPES: [Shape; 3] = [Shape::HostPath, Shape::Rooted, Shape::Full];
pub(super) const POLICIES: [Policy; 2] = [Policy::Strict, Policy::Delegate];

/// A caller with all rights.
pub(super) const CALLER: Caller = Caller { tid: 7, uid: 0, gid: 0 };

pub(super) const READ: OpenMode = OpenMode { read: true, write: false, truncate: false };
pub(super) const WRITE: OpenMode = OpenMode { read: false, write: true, truncate: false };

/// The interface files of a cgroup.
pub(super) fn files_of(hierarchy: usize, is_root: bool) -> Vec<&'static str> {
    let mut files = match hierarchy {
        UNIFIED => vec![
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.controllers",
            "cgroup.subtree_control",
            "cgroup.type",
            "cgroup.kill",
            "memory.max",
            "pids.max",
            "memory.pressure",
            "odd",
        ],
        _ => vec!["cgroup.procs", "tasks", "notify_on_release", "cgroup.clone_children"],
    };
    files.extend(match hierarchy {
        MEMORY => &["memory.limit_in_bytes", "cgroup.event_control"][..],
        CPU => &["cpu.shares", "cpuacct.usage"],
        CPUSET => &["cpuset.cpus"],
        _ => &[],
    });
    if is_root && hierarchy != UNIFIED {
        files.push("release_agent");
    }
    files
}

/// A filesystem and its host.
pub(super) struct Scene {
    pub(super) fs: CgroupFs<FakeHost>,
    pub(super) host: FakeHost,
    pub(super) view: Arc<View>,
}

/// All scenes.
pub(super) fn all() -> impl Iterator<Item = Scene> {
    [Setup::Hybrid, Setup::Unified, Setup::Legacy].into_iter().flat_map(|setup| {
        SHAPES
            .into_iter()
            .flat_map(move |shape| POLICIES.into_iter().map(move |policy| Scene::new(setup, shape, policy)))
    })
}

impl Scene {
    pub(super) fn new(setup: Setup, shape: Shape, policy: Policy) -> Self {
        let hierarchies = KINDS.iter().enumerate().filter(|(index, _)| match setup {
            Setup::Unified => *index == UNIFIED,
            // A legacy scene has the named hierarchy in place of the unified one, so that the numbers stay the same.
            Setup::Legacy | Setup::Hybrid => true,
        });
        let hierarchies = hierarchies.map(|(index, (list, directory))| {
            let (list, directory) = match (setup, index) {
                (Setup::Legacy, UNIFIED) => ("name=elogind", "elogind"),
                _ => (*list, *directory),
            };
            ViewHierarchy {
                kind: if list.is_empty() { HierarchyKind::Unified } else { HierarchyKind::v1(list) },
                directory: directory.into(),
                links: if index == CPU { vec!["cpu".into(), "cpuacct".into()] } else { Vec::new() },
                delegated: (index != CPUSET).then(|| CgroupPath::parse(DELEGATED).unwrap()),
            }
        });
        let rules = Rules {
            memory_is_hierarchical: true,
            policy,
            delegate_controllers: ["memory"].into_iter().collect(),
            delegatable: Rules::default_delegatable(),
            fetches_descriptors: false,
        };
        let view = Arc::new(View {
            setup,
            shape,
            rules,
            ancestor_limits: AncestorLimits::Shown,
            hierarchies: hierarchies.collect(),
            aliases: vec!["docker".into()],
        });
        let host = FakeHost::new(Arc::clone(&view));
        for (index, hierarchy) in view.hierarchies.iter().enumerate() {
            for cgroup in CGROUPS {
                let mut state = host.state.lock();
                if let Some((above, name)) = cgroup.rsplit_once('/').filter(|(_, name)| !name.is_empty()) {
                    let above = state.find(index, above).unwrap();
                    state.add(index, above, OsStr::new(name), libc::S_IFDIR | 0o755);
                }
                let directory = state.find(index, cgroup).unwrap();
                let files = if hierarchy.kind == HierarchyKind::Unified { UNIFIED } else { index.max(1) };
                // The fourth one has only core files, like the named hierarchy of a legacy scene.
                let files = if setup == Setup::Legacy && index == UNIFIED { SYSTEMD } else { files };
                for file in files_of(files, cgroup == "/") {
                    state.add(index, directory, OsStr::new(file), libc::S_IFREG | 0o644);
                }
            }
        }
        let fs = CgroupFs::new(Arc::clone(&view), host.clone()).unwrap();
        host.calls();
        Self { fs, host, view }
    }

    /// The name of a scene, for messages.
    pub(super) fn name(&self) -> String {
        format!("{:?} {:?} {:?}", self.view.setup, self.view.shape, self.view.rules.policy)
    }

    /// Looks up every component of a path of the view.
    pub(super) fn walk(&self, path: &str) -> FsResult<Entry> {
        let names: Vec<OsString> = path.split('/').filter(|name| !name.is_empty()).map(OsString::from).collect();
        let (attributes, attributes_last) = self.fs.attributes(ROOT_ID, None)?;
        let ttl = EntryTtl { entry: attributes_last, attributes: attributes_last };
        names.iter().try_fold(Entry { id: ROOT_ID, attributes, ttl }, |at, name| self.fs.lookup(at.id, name))
    }

    pub(super) fn id(&self, path: &str) -> NodeId {
        self.walk(path).unwrap_or_else(|failure| panic!("{}: {path}: {failure:?}", self.name())).id
    }

    /// Returns the path in the view of a hierarchy's path, by the view's shape alone; it may be hidden there.
    pub(super) fn shown(&self, hierarchy: usize, host: &str) -> Option<String> {
        let has_subtree = self.view.hierarchies[hierarchy].delegated.is_some();
        let below = match self.view.shape {
            Shape::Rooted if has_subtree => {
                let rest = host.strip_prefix(DELEGATED)?;
                if !rest.is_empty() && !rest.starts_with('/') {
                    return None;
                }
                rest
            }
            _ => host,
        };
        let top = match self.view.setup {
            Setup::Unified => String::new(),
            _ => format!("/{}", self.view.hierarchies[hierarchy].directory.display()),
        };
        Some(format!("{top}/{}", below.trim_start_matches('/')))
    }

    /// The same for an object that must be shown.
    pub(super) fn at(&self, hierarchy: usize, host: &str) -> String {
        self.shown(hierarchy, host).unwrap_or_else(|| panic!("{}: {host} isn't shown", self.name()))
    }

    pub(super) fn open(&self, path: &str, mode: OpenMode) -> FsResult<HandleId> {
        self.fs.open(&CALLER, self.walk(path)?.id, mode, false)
    }

    /// Returns all entries after an offset.
    pub(super) fn list(&self, id: NodeId, offset: u64) -> FsResult<Vec<ListedEntry>> {
        let mut entries = Vec::new();
        self.fs.list(id, offset, |entry| {
            entries.push(entry.clone());
            true
        })?;
        Ok(entries)
    }

    pub(super) fn read(&self, path: &str) -> FsResult<Vec<u8>> {
        let handle = self.open(path, READ)?;
        let mut buffer = [0; 4096];
        let count = self.fs.read_by(&CALLER, handle, 0, &mut buffer);
        self.fs.release(handle);
        Ok(buffer[..count?].to_vec())
    }
}

impl CgroupFs<FakeHost> {
    pub(super) fn read_by(&self, caller: &Caller, handle: HandleId, offset: u64, buffer: &mut [u8]) -> FsResult<usize> {
        self.read(&self.transfer(caller, handle)?, offset, buffer)
    }

    pub(super) fn write_by(&self, caller: &Caller, handle: HandleId, data: &[u8]) -> FsResult<usize> {
        self.write(&self.transfer(caller, handle)?, data)
    }
}

/// The errno of a failure.
pub(super) fn errno<T: std::fmt::Debug>(outcome: FsResult<T>) -> Option<Errno> {
    outcome.err().map(|failure| failure.errno())
}

/// The rule of a rejection; "kernel" for the kernel's own errors.
pub(super) fn rule<T: std::fmt::Debug>(outcome: &FsResult<T>) -> &'static str {
    match outcome {
        Ok(_) => "allowed",
        Err(FsError::Kernel(_)) => "kernel",
        Err(FsError::Denied(denial)) => denial.rule().name(),
    }
}
