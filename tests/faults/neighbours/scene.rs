//! Containers that have one mount for all of them on their `/sys/fs/cgroup`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use testkit::{
    Caller, Container, ContainerOptions, Session, TIMEOUT, TestCgroup, View, ViewOptions, hierarchy, run_to_end,
};

/// The mount point in the containers.
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
    /// Makes a scene with cgroups in these hierarchies, all of whose v1 controllers are delegated.
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

    /// The path at which containers find a cgroup below the scene's.
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

pub(super) use testkit::wait_until;

/// How many times its caller's processor time a server may take. A debug build takes about 8, and took 90 when it took each
/// listing from the host.
pub(super) const COST_FACTOR_MAX: u32 = 20;

/// The processor time of a process so far.
pub(super) fn used_by(process: u32) -> Duration {
    let ticks = testkit::processor_ticks(process);
    let each = sysconf(SysconfVar::CLK_TCK).expect("sysconf").expect("ticks of a second");
    Duration::from_millis(ticks * 1000 / u64::try_from(each).expect("ticks of a second"))
}

/// Runs a command to its end, and says how much processor time that took, with all that it started.
fn used_to_run(command: &Command) -> Duration {
    let mut timed = Command::new("sh");
    timed.args(["-c", "\"$@\" >/dev/null || exit; times", "sh"]).arg(command.get_program()).args(command.get_args());
    let output = run_to_end(&mut timed, TIMEOUT);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // The second line is the children's: user and system, each as `0m0.120000s`.
    let of_children = text.lines().nth(1).expect("times of children");
    let seconds = |time: &str| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').expect("a time");
        minutes.parse::<f64>().expect("minutes") * 60.0 + seconds.parse::<f64>().expect("seconds")
    };
    Duration::from_secs_f64(of_children.split_whitespace().map(seconds).sum())
}

/// The processor time that it takes a container to do something so often.
pub(super) fn flood(container: &Container, kind: &str, directory: &Path, count: usize) -> Duration {
    let mut command = container.command(Caller::Root);
    command.arg(container.probe()).args(["--flood", kind]).arg(directory).arg(count.to_string());
    used_to_run(&command)
}
