//! One view, one caller, and a twin of the caller on the kernel's own cgroupfs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::probe::{Op, Outcome};
use testkit::{
    Caller, Container, ContainerOptions, RESTARTS_VARIABLE, Session, TestCgroup, View, ViewOptions, ViewProcesses,
    hierarchy, is_over, servers_of, wait_until,
};

use crate::live_view::LiveView;
use crate::scene::{leave_mount_namespace, program};

/// A probe in a container of its own, and the cgroup that it finds at `$CG`, by a view or not.
pub(crate) struct Subject {
    callers: Option<(Session, Container)>,
    view: Option<View>,
    selector: &'static str,
    pub(crate) cgroup: TestCgroup,
}

/// A caller of a view, and its twin.
pub(crate) struct Single {
    pub(crate) kernel: Subject,
    pub(crate) view: Subject,
    _resident: Resident,
}

/// A process in the mount namespace of the test's thread. Without one, nobody else can see what is mounted there, and the
/// record of a view that has failed would be taken for one that is over.
struct Resident(Child);

impl Resident {
    fn start() -> Self {
        Self(Command::new("sleep").arg("100000").spawn().expect("a process"))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Single {
    /// With a view of a cgroup in this hierarchy, made with these options besides.
    pub(crate) fn new(selector: &'static str, options: ViewOptions) -> Self {
        leave_mount_namespace();
        let options = options.environment(RESTARTS_VARIABLE.0, RESTARTS_VARIABLE.1);
        Self::with(selector, options)
    }

    /// The same, where a keeper gives up as it does for everybody.
    pub(crate) fn with(selector: &'static str, options: ViewOptions) -> Self {
        leave_mount_namespace();
        let [kernel, view] = [None, Some(options)].map(|options| Subject::new(selector, options));
        Self { kernel, view, _resident: Resident::start() }
    }

    /// Has both do something, and returns what came of it on the kernel and on the view.
    pub(crate) fn both(&mut self, op: &Op) -> (Outcome, Outcome) {
        (self.kernel.run(op), self.view.run(op))
    }

    /// Has both do something, which has to come to the same.
    #[track_caller]
    pub(crate) fn same(&mut self, op: &Op) -> Outcome {
        let (kernel, view) = self.both(op);
        assert_eq!(view, kernel, "{op:?}");
        view
    }

    /// Has both do something, which has to succeed.
    #[track_caller]
    pub(crate) fn expect(&mut self, ops: &[Op]) {
        for op in ops {
            let (kernel, view) = self.both(op);
            assert!(kernel.is_ok() && view.is_ok(), "{op:?}: kernel {kernel:?}, view {view:?}");
        }
    }
}

impl Subject {
    fn new(selector: &'static str, options: Option<ViewOptions>) -> Self {
        let cgroup = TestCgroup::new(&[selector]);
        let home = cgroup.child(selector, "home");
        cgroup.child(selector, "cg");
        let view = options.map(|options| View::mount(Path::new(program()), &options.cgroup(&cgroup).shape("rooted")));
        let container = Container::start(ContainerOptions { cgroups: vec![home], ..ContainerOptions::default() });
        let mut session = container.session(Caller::Root);
        let place = hierarchy(selector).expect("a required hierarchy");
        let top = view.as_ref().map_or_else(|| cgroup.dir(selector), |view| view.hierarchy(&place));
        session.set("TOP", top.display());
        session.set("HOME", top.join("home").display());
        session.set("CG", top.join("cg").display());
        Self { callers: Some((session, container)), view, selector, cgroup }
    }

    pub(crate) fn run(&mut self, op: &Op) -> Outcome {
        self.session().run(op)
    }

    pub(crate) fn session(&mut self) -> &mut Session {
        &mut self.callers.as_mut().expect("callers").0
    }

    /// Ends the caller, whose container has a copy of the mount.
    pub(crate) fn end_callers(&mut self) {
        self.callers = None;
    }

    /// `$CG` as the host has it.
    pub(crate) fn real(&self) -> PathBuf {
        self.cgroup.dir(self.selector).join("cg")
    }

    /// The mount point of the view.
    pub(crate) fn dir(&self) -> PathBuf {
        self.view.as_ref().expect("a subject with a view").dir()
    }

    pub(crate) fn live(&self) -> LiveView {
        LiveView::on(self.dir())
    }

    fn keeper_and_server(&self) -> (Pid, Pid) {
        let ViewProcesses { keeper, server } = self.live().when_live();
        (keeper.expect("a keeper"), server)
    }

    /// Kills the server.
    pub(crate) fn kill(&self) -> Pid {
        let (_, server) = self.keeper_and_server();
        kill(server, Signal::SIGKILL).expect("a signal");
        server
    }

    /// Kills the server, and waits until another one serves the view.
    pub(crate) fn restart(&self) {
        let server = self.kill();
        self.when_another(server);
    }

    /// Waits until another server than this one serves the view.
    pub(crate) fn when_another(&self, server: Pid) {
        wait_until("another server", || self.live().when_live().server != server);
    }

    /// Does something while there's no server, and waits until there's another one.
    pub(crate) fn while_dead<T>(&self, action: impl FnOnce() -> T) -> T {
        let (keeper, server) = self.keeper_and_server();
        let stopped = Stopped::new(keeper);
        kill(server, Signal::SIGKILL).expect("a signal");
        wait_until("the server's end", || is_over(server));
        assert!(servers_of(keeper).iter().all(|child| is_over(*child)), "the keeper isn't stopped");
        let done = action();
        drop(stopped);
        wait_until("another server", || self.live().when_live().server != server);
        done
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if std::thread::panicking() && self.view.is_some() {
            // Who waits for an answer can't be killed.
            self.live().abort();
        }
    }
}

/// A process that is stopped, and goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Stopped(Pid);

impl Stopped {
    pub(crate) fn new(process: Pid) -> Self {
        assert!(testkit::stop(process), "{process} is there");
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
