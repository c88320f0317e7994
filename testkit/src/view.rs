//! Views that the program under test mounts.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::killer::Unrest;
use crate::{
    Hierarchy, Programs, TIMEOUT, TestCgroup, ViewProcesses, comes_true, found_within, run_to_end, thread_states,
};

/// If this environment variable is set, the server of each view is killed again and again: whatever a test is about, it mustn't notice that.
/// Only a program with debug assertions lets a server fail that often ([`RESTARTS_VARIABLE`]).
const UNREST_VARIABLE: &str = "VCGROUPFS_KILL_SERVERS";

/// After so many failures in a minute a keeper gives up, if this environment variable says so. The default is for a server that fails whenever it's
/// started, not for tests.
pub const RESTARTS_VARIABLE: (&str, &str) = ("VCGROUPFS_TEST_RESTARTS_MAX", "1000000");

/// The options with which a view is mounted.
#[derive(Clone, Debug, Default)]
pub struct ViewOptions {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    legacy: bool,
    without_later_calls: bool,
}

impl ViewOptions {
    /// The defaults of the program. If the environment variable `VCGROUPFS_LEGACY` is set, the server runs as on an old kernel.
    pub fn new() -> Self {
        Self { legacy: std::env::var_os("VCGROUPFS_LEGACY").is_some(), ..Self::default() }
    }

    /// Adds `--cgroup HIERARCHY=PATH` for every hierarchy in which a test cgroup is.
    #[must_use]
    pub fn cgroup(mut self, cgroup: &TestCgroup) -> Self {
        for hierarchy in cgroup.hierarchies() {
            self = self.option("--cgroup", &format!("{}={}", hierarchy.selector(), cgroup.path()));
        }
        self
    }

    /// Adds `--shape`.
    #[must_use]
    pub fn shape(self, shape: &str) -> Self {
        self.option("--shape", shape)
    }

    /// Adds `--policy`.
    #[must_use]
    pub fn policy(self, policy: &str) -> Self {
        self.option("--policy", policy)
    }

    /// Adds `--delegate-controllers`, if there are any.
    #[must_use]
    pub fn delegate_controllers(self, controllers: &[&str]) -> Self {
        if controllers.is_empty() { self } else { self.option("--delegate-controllers", &controllers.join(",")) }
    }

    /// Adds any option with its value.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.into(), value.into()]);
        self
    }

    /// Adds any option that takes no value.
    #[must_use]
    pub fn flag(mut self, name: &str) -> Self {
        self.arguments.push(name.into());
        self
    }

    /// Sets an environment variable of the command.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets whether the server runs as on Linux 3.10, as far as this kernel can imitate that ([`crate::legacy`]).
    #[must_use]
    pub fn legacy(mut self, legacy: bool) -> Self {
        self.legacy = legacy;
        self
    }

    /// Sets whether the server has only the system calls of Linux 3.10, and everything else of this kernel.
    #[must_use]
    pub fn without_later_calls(mut self, without: bool) -> Self {
        self.without_later_calls = without;
        self
    }
}

/// A live view, served by a process of its own. Dropping it unmounts it and ends the server.
#[derive(Debug)]
pub struct View {
    // What the command has become: its server, or the keeper of that.
    child: Child,
    program: PathBuf,
    server: AtomicU32,
    unrest: Option<Unrest>,
    folder: TempDir,
}

impl View {
    /// Mounts a view with `program`, and waits until it's live. The environment variable `VCGROUPFS_PROGRAM` names another
    /// program, for example a release build.
    ///
    /// # Panics
    ///
    /// When the view doesn't come to life. The message has the server's log.
    pub fn mount(program: &Path, options: &ViewOptions) -> Self {
        let other = std::env::var_os("VCGROUPFS_PROGRAM").map(PathBuf::from);
        let program = other.as_deref().unwrap_or(program);
        let folder = tempfile::Builder::new().prefix("vcgroupfs-view-").tempdir().expect("a temporary directory");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("chmod of a temporary directory");
        fs::create_dir(folder.path().join("view")).expect("a mount point");
        let log = File::create(folder.path().join("log")).expect("the server's log");
        let programs = Programs::find();
        let wrapper = match (options.legacy, options.without_later_calls) {
            (true, _) => Some(&programs.legacy),
            (false, true) => Some(&programs.legacy_calls),
            (false, false) => None,
        };
        let mut command = Command::new(wrapper.map_or(program, PathBuf::as_path));
        command.args(wrapper.map(|_| program));
        command.arg("mount").args(&options.arguments).arg("-f").arg(folder.path().join("view"));
        if std::env::var_os(UNREST_VARIABLE).is_some() {
            if !cfg!(debug_assertions) {
                panic!("{UNREST_VARIABLE} is for a build with debug assertions");
            }
            command.env(RESTARTS_VARIABLE.0, RESTARTS_VARIABLE.1);
        }
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle of the log")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("can't start {command:?}: {error}"));
        let server = AtomicU32::new(child.id());
        let mut view = Self { child, program: program.into(), server, unrest: None, folder };
        let processes = view.wait_until_live();
        if std::env::var_os(UNREST_VARIABLE).is_some() {
            view.unrest = processes.keeper.map(Unrest::start);
        }
        view.server.store(processes.server.as_raw().cast_unsigned(), Ordering::Relaxed);
        view
    }

    fn wait_until_live(&mut self) -> ViewProcesses {
        let processes = found_within(TIMEOUT, || {
            let status = self.child.try_wait().expect("the server's state");
            assert!(status.is_none(), "the server ended with {status:?}:\n{}", self.log());
            self.is_mounted().then(|| ViewProcesses::of_live(&self.program, self.child.id()))?
        });
        processes.unwrap_or_else(|| panic!("the view didn't come to life:\n{}", self.log()))
    }

    fn is_mounted(&self) -> bool {
        let mountpoint = self.dir().display().to_string();
        // A test's thread can be in a mount namespace of its own; before Linux 3.17 none is.
        let text = fs::read_to_string("/proc/thread-self/mountinfo");
        let text = text.or_else(|_| fs::read_to_string("/proc/self/mountinfo")).unwrap_or_default();
        text.lines().any(|line| line.split(' ').nth(4) == Some(&mountpoint))
    }

    /// The mount point.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("view")
    }

    /// The directory of a hierarchy in the view.
    pub fn hierarchy(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.in_view(&self.dir())
    }

    /// The process id of its server. A server that has been killed is replaced by another one, if there's a keeper.
    pub fn server(&self) -> u32 {
        if thread_states(self.server.load(Ordering::Relaxed)).iter().all(|state| "ZX".contains(*state)) {
            self.server.store(self.processes().server.as_raw().cast_unsigned(), Ordering::Relaxed);
        }
        self.server.load(Ordering::Relaxed)
    }

    /// The processes that keep it alive.
    pub fn processes(&self) -> ViewProcesses {
        ViewProcesses::of_process(&self.program, self.child.id())
    }

    /// Kills it, so that nobody serves it any more, and waits for the end of its processes.
    pub fn kill(&self) {
        self.processes().kill_to_the_end();
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The server's log, once it has what is wanted, or after a timeout. A server writes its log with a delay, by a thread of its own.
    pub fn log_once(&self, is_enough: impl Fn(&str) -> bool) -> String {
        comes_true(TIMEOUT, || is_enough(&self.log()));
        self.log()
    }

    /// Whether the server still runs.
    pub fn is_served(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of the server:\n{}", self.log());
        }
        self.unrest = None;
        let dir = self.dir();
        for arguments in [&[][..], &["-l"]] {
            if self.is_mounted() {
                // If this one fails, the next one is tried.
                let _ = run_to_end(Command::new("umount").args(arguments).arg(&dir), TIMEOUT);
            }
        }
        comes_true(Duration::from_secs(5), || !self.is_served());
        if self.is_served() {
            self.processes().kill();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
