//! Containers that have the same mount on their `/sys/fs/cgroup`, and live side by side.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use testkit::{Caller, Container, ContainerOptions, Session, TestCgroup, View, ViewOptions, hierarchy};

/// The hierarchies that the containers have cgroups in: v1 with a controller, v1 with a name, and v2, or v2 alone where there's nothing else. In
/// all others they sit in the root.
pub(crate) fn hierarchies() -> &'static [&'static str] {
    if is_split() { testkit::each_sort() } else { &["unified"] }
}

/// One of the hierarchies: v2, if the machine has it.
pub(crate) fn place() -> &'static str {
    hierarchies().last().expect("a hierarchy")
}

/// Whether there are v1 hierarchies on this machine.
pub(crate) fn is_split() -> bool {
    testkit::hierarchies().iter().any(|found| found.split)
}

/// The mount point in the containers.
const MOUNT_POINT: &str = "/sys/fs/cgroup";

pub(crate) fn program() -> PathBuf {
    std::env::var_os("VCGROUPFS_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_vcgroupfs").into(), PathBuf::from)
}

/// A mount for all callers, and cgroups for containers. The fields are dropped in their order.
pub(crate) struct Scene {
    pub(crate) view: View,
    pub(crate) cgroup: TestCgroup,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(ViewOptions::new())
    }

    pub(crate) fn with(options: ViewOptions) -> Self {
        let cgroup = TestCgroup::new(hierarchies());
        let controllers = if is_split() { vec![testkit::controller()] } else { Vec::new() };
        let options = options.flag("--per-caller").policy("delegate").delegate_controllers(&controllers);
        Self { view: View::mount(&program(), &options), cgroup }
    }

    /// A container in a cgroup of this name, in each hierarchy.
    pub(crate) fn container(&self, name: &str) -> Container {
        self.container_with(ContainerOptions { cgroups: self.cgroup.children(name), ..ContainerOptions::default() })
    }

    pub(crate) fn container_with(&self, options: ContainerOptions) -> Container {
        let prepare = format!("mount --bind {} {MOUNT_POINT}\n{}", self.view.dir().display(), options.prepare);
        Container::start(ContainerOptions { prepare, ..options })
    }

    /// The path at which containers find a cgroup below the scene's.
    pub(crate) fn shown(&self, selector: &str, below: &str) -> PathBuf {
        let found = hierarchy(selector).expect("a hierarchy of the scene");
        let top = found.in_view(Path::new(MOUNT_POINT)).join(self.cgroup.name());
        if below.is_empty() { top } else { top.join(below) }
    }

    /// The directory of that cgroup on the host.
    pub(crate) fn real(&self, selector: &str, below: &str) -> PathBuf {
        self.cgroup.dir(selector).join(below)
    }

    /// A probe in a container that knows where it and others are: `$ABOVE`, `$OWN`, `$OTHER`.
    pub(crate) fn session(&self, container: &Container, selector: &str, own: &str, other: &str) -> Session {
        let mut session = container.session(Caller::Root);
        session.set("ABOVE", self.shown(selector, "").display());
        session.set("OWN", self.shown(selector, own).display());
        session.set("OTHER", self.shown(selector, other).display());
        session
    }

    /// The pid namespaces that the server holds.
    pub(crate) fn held_namespaces(&self) -> BTreeSet<String> {
        let folder = format!("/proc/{}/fd", self.view.server());
        let links = fs::read_dir(folder).expect("the server's descriptors").flatten();
        let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.map(|link| link.display().to_string()).filter(|link| link.starts_with("pid:[")).collect()
    }
}

/// The pid namespace of a process, as a descriptor of it is shown.
pub(crate) fn namespace(pid: u32) -> String {
    fs::read_link(format!("/proc/{pid}/ns/pid")).expect("a process").display().to_string()
}

/// The directories in a listing by a probe.
pub(crate) fn directories(listing: &serde_json::Value) -> Vec<String> {
    let entries = listing.as_array().expect("a listing").iter().filter_map(|entry| entry.as_str());
    entries.filter_map(|entry| entry.strip_suffix(" directory").map(str::to_owned)).collect()
}

pub(crate) use testkit::wait_until;
