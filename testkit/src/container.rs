//! Containers: process trees in namespaces of their own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use tempfile::TempDir;

use crate::{Programs, Session, copy_program, wait_for};

/// The unprivileged user to whom tests give the delegated subtree.
pub const OWNER: u32 = 12345;

/// An unprivileged user who owns nothing.
pub const STRANGER: u32 = 23456;

/// The user outside that is user 0 of a container's user namespace.
pub const MAPPED_ROOT: u32 = 100_000;

/// The capabilities that Docker leaves to root in a container, as setpriv(1) takes them.
const DOCKER_CAPABILITIES: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
    +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// The user and capabilities with which a probe runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// User 0 with every capability of the container's user namespace.
    Root,
    /// User 0 with Docker's default capabilities.
    DockerRoot,
    /// [`OWNER`], without capabilities.
    Owner,
    /// [`STRANGER`], without capabilities.
    Stranger,
}

/// How to start a container.
#[derive(Clone, Debug, Default)]
pub struct ContainerOptions {
    /// The cgroups in which the container's processes are.
    pub cgroups: Vec<PathBuf>,
    /// Whether the container has a user namespace of its own, where user 0 is [`MAPPED_ROOT`].
    pub user_namespace: bool,
    /// Whether the container has a cgroup namespace of its own, whose roots are its cgroups.
    pub cgroup_namespace: bool,
    /// Whether the container shares the test's pid namespace.
    pub host_pids: bool,
    /// Whether the container's mounts are peers of the host's, where those are shared.
    pub shared: bool,
    /// A script that runs in the container's mount namespace before its process 1 and its other namespaces exist. `$EMPTY` is an empty directory.
    pub prepare: String,
}

/// Processes in a pid and a mount namespace of their own. Dropping it ends them all.
#[derive(Debug)]
pub struct Container {
    launcher: Child,
    init: u32,
    options: ContainerOptions,
    probe: PathBuf,
    _input: Option<ChildStdin>,
    _folder: TempDir,
}

impl Container {
    /// Starts a container. It has a copy of the current mounts, a /proc of its own, and a process 1 that sleeps.
    ///
    /// # Panics
    ///
    /// When its process 1 doesn't start.
    pub fn start(options: ContainerOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("vcgroupfs-container-").tempdir().expect("a temporary directory");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("chmod of a temporary directory");
        // A copy that everybody can execute, wherever the build's directory is.
        let probe = folder.path().join("vcgroupfs-probe");
        copy_program(&Programs::find().probe, &probe);

        let mut command = joining(&probe, &options.cgroups);
        let propagation = if options.shared { "unchanged" } else { "private" };
        if !options.prepare.is_empty() {
            let empty = folder.path().join("empty");
            fs::create_dir(&empty).expect("an empty directory");
            // Before a user namespace is entered, in which these mounts are locked then.
            let script = format!("{}\nexec \"$@\"", options.prepare);
            command.args(["unshare", "--mount", "--propagation", propagation, "sh", "-e", "-c", &script, "sh"]);
            command.env("EMPTY", empty);
            // busybox' sh would take its own unshare.
            command.arg(&probe).args(["--join", "--"]);
        }
        command.args(["unshare", "--mount", "--propagation", propagation, "--fork", "--kill-child"]);
        if !options.host_pids {
            command.args(["--pid", "--mount-proc"]);
        }
        if options.user_namespace {
            command.arg("--user");
        }
        if options.cgroup_namespace {
            command.arg("--cgroup");
        }
        command.arg(&probe).arg("--init").stdin(Stdio::piped()).stdout(Stdio::null());
        let mut launcher = command.spawn().unwrap_or_else(|error| panic!("can't start {command:?}: {error}"));
        let input = launcher.stdin.take();
        let init = wait_for_init(&mut launcher);
        let container = Self { launcher, init, options, probe, _input: input, _folder: folder };
        if container.options.user_namespace {
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{init}/{map}"), format!("0 {MAPPED_ROOT} 65536"))
                    .expect("the map of user ids");
            }
        }
        container
    }

    /// The container's process 1, by its number in the test's pid namespace.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// Starts a probe in the container.
    pub fn session(&self, caller: Caller) -> Session {
        self.session_in(caller, &self.options.cgroups)
    }

    /// Starts a probe in the container that is a member of other cgroups.
    pub fn session_in(&self, caller: Caller, cgroups: &[PathBuf]) -> Session {
        let mut command = joining(&self.probe, cgroups);
        self.enter(&mut command, caller);
        command.arg(&self.probe);
        Session::start(&mut command)
    }

    /// A command that runs in the container and in its cgroups.
    pub fn command(&self, caller: Caller) -> Command {
        let mut command = joining(&self.probe, &self.options.cgroups);
        self.enter(&mut command, caller);
        command
    }

    /// The path of a probe that everybody in the container can execute.
    pub fn probe(&self) -> &Path {
        &self.probe
    }

    fn enter(&self, command: &mut Command, caller: Caller) {
        command.args(["nsenter", "--target", &self.init.to_string(), "--mount"]);
        if !self.options.host_pids {
            command.arg("--pid");
        }
        if self.options.cgroup_namespace {
            command.arg("--cgroup");
        }
        if self.options.user_namespace {
            command.args(["--user", "--setuid", "0", "--setgid", "0"]);
        }
        command.arg("--");
        let unprivileged = |command: &mut Command, id: u32| {
            command.arg("setpriv");
            command.args([format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".into()]);
        };
        match caller {
            Caller::Root => {}
            Caller::DockerRoot => {
                command.args(["setpriv", &format!("--bounding-set={DOCKER_CAPABILITIES}")]);
            }
            Caller::Owner => unprivileged(command, OWNER),
            Caller::Stranger => unprivileged(command, STRANGER),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // `unshare --kill-child` takes process 1 with it, and process 1 everything in its pid namespace.
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

fn joining(probe: &Path, cgroups: &[PathBuf]) -> Command {
    let mut command = Command::new(probe);
    command.arg("--join").args(cgroups).arg("--");
    command
}

fn wait_for_init(launcher: &mut Child) -> u32 {
    let parent = launcher.id();
    wait_for("process 1 of the container", || {
        let status = launcher.try_wait().expect("the state of unshare");
        assert!(status.is_none(), "the container ended with {status:?}");
        child_of(parent)
    })
}

/// The child of a process that has become a sleeping process 1.
fn child_of(parent: u32) -> Option<u32> {
    fs::read_dir("/proc").ok()?.filter_map(Result::ok).find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let is_child = field("PPid:")? == parent.to_string();
        let is_init = fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.ends_with(b"\0--init\0"))
            && field("Name:")? == "vcgroupfs-probe";
        (is_child && is_init).then_some(pid)
    })
}
