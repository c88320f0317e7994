//! Views in each configuration, callers of each kind, and for each caller a twin on the kernel's own cgroupfs.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use testkit::probe::names::{mkdir, write_file};
use testkit::{
    Caller, Container, ContainerOptions, MAPPED_ROOT, Programs, RESTARTS_VARIABLE, Session, TIMEOUT, TestCgroup, View,
    ViewOptions, chown_tree, hierarchy, run_to_end,
};

use crate::live_view::LiveView;
use crate::pair::{Pair, Side};
use crate::steps::Setting;

/// The mount point of a view in a container.
const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// A hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    V1,
    V2,
}

pub(crate) const PLACES: [Place; 2] = [Place::V1, Place::V2];

impl Place {
    /// The hierarchy's name on the command line.
    pub(crate) fn selector(self) -> &'static str {
        match self {
            Self::V1 => "name=systemd",
            Self::V2 => "unified",
        }
    }

    /// The name of the cgroup where the pair of this hierarchy is at first.
    pub(crate) fn home(self) -> &'static str {
        match self {
            Self::V1 => "home1",
            Self::V2 => "home2",
        }
    }

    /// The directory of the hierarchy in a view.
    pub(crate) fn in_view(self, view: &Path) -> PathBuf {
        hierarchy(self.selector()).expect("a required hierarchy").in_view(view)
    }
}

/// Where a caller runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Host,
    PidNamespace,
    UserNamespace,
}

impl Kind {
    /// The name of its cgroups.
    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::PidNamespace => "pid",
            Self::UserNamespace => "user",
        }
    }
}

/// How a view is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Configuration {
    /// Mounted on a directory, from which all callers reach it.
    Mounted { passthrough: bool },
    /// One for each container, on its `/sys/fs/cgroup`.
    Attached,
    /// One for each command of `run`.
    Run,
    /// One for all containers, which each sees its own cgroups.
    PerCaller,
}

impl Configuration {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Mounted { .. } => &[Kind::Host, Kind::PidNamespace, Kind::UserNamespace],
            Self::Attached | Self::PerCaller => &[Kind::PidNamespace, Kind::UserNamespace],
            Self::Run => &[Kind::PidNamespace],
        }
    }
}

/// The program under test.
pub(crate) fn program() -> &'static str {
    testkit::program(env!("CARGO_BIN_EXE_vcgroupfs"))
}

/// Views, and pairs of processes that use them and their twins. What ends first comes first.
pub(crate) struct Scene {
    pub(crate) configuration: Configuration,
    pub(crate) pairs: Vec<Pair>,
    containers: Vec<Container>,
    pub(crate) views: Vec<LiveView>,
    mounted: Option<View>,
    subject: TestCgroup,
    twin: TestCgroup,
}

impl fmt::Debug for Scene {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scene").field("configuration", &self.configuration).finish_non_exhaustive()
    }
}

impl Scene {
    pub(crate) fn new(configuration: Configuration) -> Self {
        leave_mount_namespace();
        let selectors = PLACES.map(Place::selector);
        let [subject, twin] = [(); 2].map(|()| TestCgroup::new(&selectors));
        for kind in configuration.kinds() {
            prepare(&twin, *kind);
            if configuration != Configuration::Run {
                prepare(&subject, *kind);
            }
        }
        let mut scene = Self {
            configuration,
            pairs: Vec::new(),
            containers: Vec::new(),
            views: Vec::new(),
            mounted: mount(configuration, &subject),
            subject,
            twin,
        };
        scene.views.extend(scene.mounted.as_ref().map(|view| LiveView::on(view.dir())));
        for kind in configuration.kinds() {
            scene.add(*kind);
        }
        scene
    }

    /// Adds a pair for each hierarchy.
    fn add(&mut self, kind: Kind) {
        let own = match self.configuration {
            Configuration::Run => None,
            _ => Some(self.start(kind)),
        };
        let twin_container = start(&self.twin, kind, String::new());
        for place in PLACES {
            let twin_top = self.twin.dir(place.selector()).join(kind.name());
            let kernel = Side {
                session: session(twin_container.as_ref(), &self.twin, kind, place),
                path: format!("{}/{}", self.twin.path(), kind.name()),
                top: twin_top.clone(),
                real: twin_top,
            };
            let view = match &own {
                None => self.run(place),
                Some(container) => {
                    let real = self.subject.dir(place.selector()).join(kind.name());
                    Side {
                        session: session(container.as_ref(), &self.subject, kind, place),
                        path: format!("{}/{}", self.subject.path(), kind.name()),
                        top: self.top(place, kind),
                        real,
                    }
                }
            };
            let setting = Setting {
                place,
                // In other configurations the view covers the host's cgroups.
                reaches_host: matches!(self.configuration, Configuration::Mounted { .. }),
                is_told_of_others: self.configuration != Configuration::PerCaller,
            };
            self.pairs.push(Pair::new(setting, kind, kernel, view));
        }
        self.containers.extend(twin_container.into_iter().chain(own.flatten()));
    }

    /// Where a caller finds its cgroup in the view.
    fn top(&self, place: Place, kind: Kind) -> PathBuf {
        match &self.mounted {
            Some(view) if self.configuration != Configuration::PerCaller => {
                place.in_view(&view.dir()).join(kind.name())
            }
            _ => place.in_view(Path::new(MOUNT_POINT)).join(self.subject.name()).join(kind.name()),
        }
    }

    /// A container that has the view.
    fn start(&mut self, kind: Kind) -> Option<Container> {
        let bind = |view: &View| format!("mount --bind {} {MOUNT_POINT}", view.dir().display());
        let per_caller = self.mounted.as_ref().filter(|_| self.configuration == Configuration::PerCaller);
        let container = start(&self.subject, kind, per_caller.map(bind).unwrap_or_default());
        if let (Configuration::Attached, Some(container)) = (self.configuration, &container) {
            let mut command = Command::new(program());
            command.args(["attach", &container.init().to_string()]).env(RESTARTS_VARIABLE.0, RESTARTS_VARIABLE.1);
            let output = run_to_end(&mut command, TIMEOUT);
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
            self.views.push(LiveView::of_container(container.init()));
        }
        container
    }

    /// A probe as the command of a `run`.
    fn run(&mut self, place: Place) -> Side {
        let name = format!("run-{}", self.views.len());
        let mut command = Command::new(program());
        command.args(["run", "--shape", "rooted", "--cgroup", &self.subject.path(), "--name", &name, "--"]);
        command.arg(&Programs::find().probe).env(RESTARTS_VARIABLE.0, RESTARTS_VARIABLE.1);
        let mut session = Session::start(&mut command);
        let top = place.in_view(Path::new(MOUNT_POINT));
        let home = top.join(place.home()).display().to_string();
        session.expect(&mkdir(&home));
        session.expect(&write_file(&format!("{home}/cgroup.procs"), "0"));
        let path = format!("{}/{name}", self.subject.path());
        self.views.push(LiveView::of_cgroup(path.clone()));
        Side { session, path, top, real: self.subject.dir(place.selector()).join(name) }
    }

    /// The keeper of each view; `None` if one has none.
    pub(crate) fn keepers(&self) -> Option<Vec<Pid>> {
        self.views.iter().map(|view| view.processes()?.keeper).collect()
    }

    /// The agents in the pid namespaces of the containers, whichever server has started them.
    fn agents(&self) -> Vec<u32> {
        let namespace = |process: u32| fs::read_link(format!("/proc/{process}/ns/pid")).ok();
        let own: Vec<_> = self.containers.iter().filter_map(|container| namespace(container.init())).collect();
        let is_agent = |process: &u32| {
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            name == "vcgroupfs-agent\n" && namespace(*process).is_some_and(|one| own.contains(&one))
        };
        testkit::processes().into_iter().filter(is_agent).collect()
    }

    /// Ends the callers, so that only the views are left.
    pub(crate) fn end_callers(&mut self) {
        self.pairs.clear();
        // Of those of killed servers, too.
        testkit::wait_until("agents end", || self.agents().is_empty());
        if !matches!(self.configuration, Configuration::Attached) {
            self.containers.clear();
        }
    }

    /// Ends the views, and checks that nothing is left of them.
    pub(crate) fn end(mut self) {
        let processes: Vec<_> = self.views.iter().filter_map(LiveView::processes).collect();
        self.end_callers();
        for view in &self.views {
            view.end();
        }
        self.containers.clear();
        for view in &self.views {
            testkit::wait_until("the view isn't listed any more", || view.listed().is_none());
        }
        for process in processes.iter().flat_map(|found| found.keeper.into_iter().chain([found.server])) {
            testkit::wait_until("the view's processes end", || testkit::is_over(process));
        }
        self.views.clear();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if thread::panicking() {
            // Who waits for an answer can't be killed.
            self.views.iter().for_each(LiveView::abort);
        }
    }
}

/// Gives the calling thread, and what it starts, a mount namespace of its own, without other tests' views: each container has copies of all mounts,
/// and with them a view would live on.
pub(crate) fn leave_mount_namespace() {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, all, None::<&str>).expect("private mounts");
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    for mount in mounts.lines().filter(|line| line.contains(" - fuse.vcgroupfs ")) {
        if let Some(point) = mount.split(' ').nth(4) {
            // One that lies on another one has gone with that.
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

/// The cgroups of a kind of callers: its own, and the one where they are at first.
fn prepare(cgroup: &TestCgroup, kind: Kind) {
    cgroup.children(kind.name());
    for place in PLACES {
        cgroup.children(&format!("{}/{}", kind.name(), place.home()));
    }
    if kind == Kind::UserNamespace {
        for hierarchy in cgroup.hierarchies() {
            chown_tree(&cgroup.dir(&hierarchy.selector()).join(kind.name()), MAPPED_ROOT);
        }
    }
}

/// The cgroups of a name, in each hierarchy.
fn cgroups(cgroup: &TestCgroup, below: &str) -> Vec<PathBuf> {
    PLACES.iter().map(|place| cgroup.dir(place.selector()).join(below)).collect()
}

fn mount(configuration: Configuration, subject: &TestCgroup) -> Option<View> {
    let options = ViewOptions::new().environment(RESTARTS_VARIABLE.0, RESTARTS_VARIABLE.1);
    let options = match configuration {
        Configuration::Mounted { passthrough } => {
            let options = options.cgroup(subject).shape("rooted");
            if passthrough { options } else { options.flag("--no-passthrough") }
        }
        Configuration::PerCaller => options.flag("--per-caller"),
        Configuration::Attached | Configuration::Run => return None,
    };
    Some(View::mount(Path::new(program()), &options))
}

/// A container for a kind of callers; the host's need none.
fn start(cgroup: &TestCgroup, kind: Kind, prepare: String) -> Option<Container> {
    let options = ContainerOptions {
        cgroups: cgroups(cgroup, kind.name()),
        user_namespace: kind == Kind::UserNamespace,
        prepare,
        ..ContainerOptions::default()
    };
    (kind != Kind::Host).then(|| Container::start(options))
}

/// A probe of a kind, in the cgroup where it is at first.
fn session(container: Option<&Container>, cgroup: &TestCgroup, kind: Kind, place: Place) -> Session {
    let home = cgroups(cgroup, &format!("{}/{}", kind.name(), place.home()));
    match container {
        Some(container) => container.session_in(Caller::Root, &home),
        None => {
            let probe = &Programs::find().probe;
            Session::start(Command::new(probe).arg("--join").args(home).arg("--").arg(probe))
        }
    }
}
