//! Containers that have one mount for all of them on their `/sys/fs/cgroup`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Caller, Container, ContainerOptions, Session, TIMEOUT, TestCgroup, View, ViewOptions, hierarchy};

/// Where containers have the mount.
pub(super) const MOUNT_POINT: &str = "/sys/fs/cgroup";

pub(super) fn program() -> PathBuf {
    std::env::var_os("VCGROUPFS_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_vcgroupfs").into(), PathBuf::from)
}

/// A mount for all callers, and cgroups for containers. The fields are dropped in their order.
pub(super) struct Scene {
    pub(super) view: View,
    pub(super) cgroup: TestCgroup,
}

impl Scene {
    /// With cgroups in these hierarchies, of whose v1 controllers all are delegated.
    pub(super) fn new(selectors: &[&'static str]) -> Self {
        Self::with(&program(), selectors, ViewOptions::new())
    }

    pub(super) fn with(program: &Path, selectors: &[&'static str], options: ViewOptions) -> Self {
        let controllers: Vec<&str> =
            selectors.iter().copied().filter(|selector| *selector != "unified" && !selector.contains('=')).collect();
        let cgroup = TestCgroup::new(selectors);
        let options = options.flag("--per-caller").policy("delegate").delegate_controllers(&controllers);
        Self { view: View::mount(program, &options), cgroup }
    }

    /// A container in a cgroup of this name, in each hierarchy.
    pub(super) fn container(&self, name: &str) -> Container {
        let prepare = format!("mount --bind {} {MOUNT_POINT}", self.view.dir().display());
        Container::start(ContainerOptions { cgroups: self.cgroup.children(name), prepare, ..Default::default() })
    }

    /// Where containers find what is below the scene's cgroup.
    pub(super) fn shown(&self, selector: &str, below: &str) -> PathBuf {
        let found = hierarchy(selector).expect("a hierarchy of the scene");
        found.in_view(Path::new(MOUNT_POINT)).join(self.cgroup.name()).join(below)
    }

    /// A probe in a container that knows where it is: `$OWN`.
    pub(super) fn session(&self, container: &Container, selector: &str, own: &str) -> Session {
        let mut session = container.session(Caller::Root);
        session.set("OWN", self.shown(selector, own).display());
        session
    }

    /// The states of the server's threads.
    pub(super) fn thread_states(&self) -> Vec<char> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.view.server())).expect("the server's threads");
        let stats = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }
}

pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < end, "{what} doesn't come");
        thread::sleep(Duration::from_millis(10));
    }
}
