//! A container with cgroups of its own, into which the program attaches a view.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use testkit::{
    Caller, Container, ContainerOptions, Programs, TIMEOUT, TestCgroup, ViewProcesses, hierarchies, run_to_end,
};

/// The cgroup of the container in each hierarchy, below the test's.
const HOME: &str = "home";

/// How a view gets into a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountMethod {
    /// Made on the host, and moved.
    Moved,
    /// Made in the container, as before Linux 5.2.
    Built,
}

pub(crate) const MOUNT_METHODS: [MountMethod; 2] = [MountMethod::Moved, MountMethod::Built];

/// Which hierarchies the program finds on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Host {
    /// Those that there are.
    #[default]
    Own,
    /// Only cgroup2, on `/sys/fs/cgroup`: the program is run in a mount namespace where that covers the others.
    Unified,
    /// All but cgroup2: the program is run in a mount namespace where that isn't mounted any more.
    Legacy,
}

/// The output of a command, and its exit status.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A container in `/vcgroupfs-test-.../home` of each hierarchy.
pub(crate) struct Scene {
    pub(crate) method: MountMethod,
    pub(crate) host: Host,
    /// The number of the container's mount namespace.
    pub(crate) namespace: u64,
    // The container ends before its cgroups are removed.
    pub(crate) container: Container,
    pub(crate) cgroup: TestCgroup,
}

impl Scene {
    pub(crate) fn new(method: MountMethod, options: ContainerOptions) -> Self {
        let selectors: Vec<String> = hierarchies().iter().map(testkit::Hierarchy::selector).collect();
        let cgroup = TestCgroup::new(&selectors.iter().map(String::as_str).collect::<Vec<_>>());
        let cgroups = cgroup.children(HOME);
        cgroup.children("sibling");
        Self::of(method, Container::start(ContainerOptions { cgroups, ..options }), cgroup)
    }

    fn of(method: MountMethod, container: Container, cgroup: TestCgroup) -> Self {
        let namespace = fs::metadata(format!("/proc/{}/ns/mnt", container.init())).expect("the mount namespace").ino();
        Self { method, host: Host::Own, namespace, container, cgroup }
    }

    /// Makes the same scene on another host.
    pub(crate) fn on(mut self, host: Host) -> Self {
        self.host = host;
        self
    }

    /// A container in the root of each hierarchy, or wherever the test is.
    pub(crate) fn without_cgroups(method: MountMethod, options: ContainerOptions) -> Self {
        Self::of(method, Container::start(options), TestCgroup::new(&[]))
    }

    pub(crate) fn plain(method: MountMethod) -> Self {
        Self::new(method, ContainerOptions::default())
    }

    /// The container's cgroup.
    pub(crate) fn home(&self) -> String {
        format!("{}/{HOME}", self.cgroup.path())
    }

    pub(crate) fn pid(&self) -> String {
        self.container.init().to_string()
    }

    /// The program, run so that it mounts views by this scene's method.
    pub(crate) fn command(&self) -> Command {
        match self.method {
            MountMethod::Moved => self.on_host(program()),
            MountMethod::Built => {
                let mut command = self.on_host(&Programs::find().legacy);
                command.arg(program());
                command
            }
        }
    }

    /// Any program, with the hierarchies of this scene's host.
    pub(crate) fn on_host(&self, program: impl AsRef<OsStr>) -> Command {
        // Each is told where cgroup2 is.
        let script = match self.host {
            Host::Own => return Command::new(program),
            Host::Unified => r#"mount --bind "$1" /sys/fs/cgroup && shift && exec "$@""#,
            Host::Legacy => r#"umount "$1" && shift && exec "$@""#,
        };
        let unified = testkit::hierarchy("unified").expect("cgroup2").mountpoint;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(unified).arg(program);
        command
    }

    pub(crate) fn attach(&self, options: &[&str]) -> Said {
        said(self.command().arg("attach").args(options).arg(self.pid()))
    }

    /// The processes that keep the container's view alive.
    #[track_caller]
    pub(crate) fn view_processes(&self) -> ViewProcesses {
        ViewProcesses::of_listed(&self.listed().unwrap_or_else(|| panic!("no view of {}", self.pid())))
    }

    /// The container's view, as `list` describes it.
    fn listed(&self) -> Option<serde_json::Value> {
        let list = said(self.command().args(["list", "--json"]));
        let views: Vec<serde_json::Value> = serde_json::from_str(&list.stdout).expect("a list");
        views.into_iter().find(|view| view["container"].as_u64() == Some(u64::from(self.container.init())))
    }

    /// Whether there is a live view, and no process of ours but those that keep it alive.
    pub(crate) fn is_at_rest(&self) -> bool {
        let Some(view) = self.listed().filter(|view| view["pid"].is_u64()) else { return false };
        let ViewProcesses { keeper, server } = ViewProcesses::of_listed(&view);
        let mut own: Vec<i32> = keeper.into_iter().chain([server]).map(nix::unistd::Pid::as_raw).collect();
        own.sort_unstable();
        let mut all = self.processes();
        all.sort_unstable();
        all == own
    }

    pub(crate) fn detach(&self) -> Said {
        said(self.command().args(["detach", &self.pid()]))
    }

    /// The container's mounts, without their numbers, which the kernel gives anew, and without those of other tests.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid())).expect("the container's mountinfo");
        let mounts = text.lines().map(|line| line.splitn(3, ' ').nth(2).expect("a mount").to_owned());
        let is_of_others = |mount: &String| {
            let point = mount.split(' ').nth(2).unwrap_or_default();
            let mut cgroups = point.split('/').filter(|name| name.starts_with("vcgroupfs-test-"));
            point.starts_with("/tmp/") || cgroups.any(|name| name != self.cgroup.name())
        };
        mounts.filter(|mount| !is_of_others(mount)).collect()
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.mounts().iter().any(|mount| mount.contains(" fuse.vcgroupfs "))
    }

    /// Runs a script as root of the container.
    pub(crate) fn sh(&self, script: &str) -> Said {
        said(self.container.command(Caller::Root).args(["sh", "-c", script]))
    }

    /// The directory of the container's cgroup in the view.
    pub(crate) fn own(&self, selector: &str, rooted: bool) -> PathBuf {
        let hierarchy = testkit::hierarchy(selector).expect("a hierarchy");
        let top = hierarchy.in_view(Path::new("/sys/fs/cgroup"));
        if rooted { top } else { top.join(&self.home()[1..]) }
    }

    /// What the program runs for this container: keepers, servers, and the command itself; not a server's abort guard, which ends with it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let pid = self.pid();
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let is_ours = |process: &i32| {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&&b"attach"[..])
                && words.contains(&pid.as_bytes())
                && words[0].ends_with(b"vcgroupfs")
                && name != "abort guard\n"
        };
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    /// Checks that nothing is left of a view: the mounts are as they were, and no server runs.
    #[track_caller]
    pub(crate) fn is_as_before(&self, before: &[String]) {
        assert_eq!(self.mounts(), before);
        self.is_unserved();
    }

    #[track_caller]
    pub(crate) fn is_unserved(&self) {
        wait_until("the server's end", || self.processes().is_empty());
        let host = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        // Who runs the tests may have mounted a tmpfs there to keep their records apart.
        let is_left = |mount: &str| mount.contains(" /run/vcgroupfs ") && !mount.contains(" - tmpfs tmpfs ");
        assert!(!host.lines().any(is_left), "{host}");
        assert!(!self.has_sentinel());
        // What a killed server has left, the next verb that has the turn removes: others attach at the same time.
        wait_until("the end of the record", || {
            assert_eq!(said(self.command().arg("list")).code, 0);
            let records = fs::read_dir("/run/vcgroupfs").into_iter().flatten().flatten();
            let pid = format!("\"pid\":{},", self.pid());
            // Others' come and go.
            records.map(|record| fs::read_to_string(record.path()).unwrap_or_default()).all(|text| !text.contains(&pid))
        });
    }
}

impl Scene {
    /// The cgroup that lies on `/sys/fs/cgroup` in this container, as the host sees it.
    pub(crate) fn sentinel(&self) -> PathBuf {
        let name = format!("vcgroupfs-sentinel-{}", self.namespace);
        testkit::hierarchy("unified").map_or_else(PathBuf::new, |unified| unified.mountpoint.join(name))
    }

    pub(crate) fn has_sentinel(&self) -> bool {
        self.sentinel().exists()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if thread::panicking() {
            for process in self.processes() {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), nix::sys::signal::SIGKILL);
            }
        }
    }
}

pub(crate) fn program() -> &'static str {
    testkit::program(env!("CARGO_BIN_EXE_vcgroupfs"))
}

pub(crate) fn said(command: &mut Command) -> Said {
    let output = run_to_end(command, TIMEOUT);
    let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {:?}", output.status));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

impl Said {
    /// Checks that it succeeded without a message, and returns what it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        self.stdout
    }

    /// Checks that it failed with one line.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        self.stderr
    }
}

pub(crate) use testkit::wait_until;
