//! A view that is watched.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::{TIMEOUT, TestCgroup, View, ViewOptions, hierarchy, run_to_end, wait_until};

/// The program under test.
pub(crate) fn program() -> &'static Path {
    Path::new(testkit::program(env!("CARGO_BIN_EXE_vcgroupfs")))
}

/// Runs a command of the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    run_to_end(Command::new(program()).args(arguments), TIMEOUT)
}

/// The same as a user who isn't root, and who may not be able to reach the program where it was built.
pub(crate) fn run_as_stranger(arguments: &[&str]) -> Output {
    let folder = tempfile::Builder::new().prefix("vcgroupfs-watched-").tempdir().expect("a directory");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let copy = folder.path().join("vcgroupfs");
    testkit::copy_program(program(), &copy);
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy).args(arguments);
    run_to_end(&mut stranger, TIMEOUT)
}

/// Runs a command that succeeds. Returns what it prints.
#[track_caller]
pub(crate) fn told(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The same for one that fails with this status. Returns what it says.
#[track_caller]
pub(crate) fn refused(arguments: &[&str], status: i32) -> String {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(status), b"".as_slice()), "{said}");
    said
}

/// A view on a directory, that shows the host's paths of a cgroup.
pub(crate) struct Watched {
    pub(crate) view: View,
    pub(crate) cgroup: TestCgroup,
}

impl Watched {
    pub(crate) fn new() -> Self {
        let cgroup = TestCgroup::new(&["name=systemd", "unified"]);
        let view = View::mount(program(), &ViewOptions::new().cgroup(&cgroup).shape("host-path"));
        Self { view, cgroup }
    }

    pub(crate) fn target(&self) -> String {
        self.view.dir().display().to_string()
    }

    /// The top of the v2 hierarchy, where nothing may be changed.
    pub(crate) fn top(&self) -> PathBuf {
        self.view.hierarchy(&hierarchy("unified").expect("cgroup2"))
    }

    /// The container's own cgroup.
    pub(crate) fn own(&self) -> PathBuf {
        self.top().join(self.cgroup.name())
    }

    /// Has a cgroup of this name rejected.
    #[track_caller]
    pub(crate) fn reject(&self, name: &str) {
        let error = fs::create_dir(self.top().join(name)).expect_err("it's outside");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }

    /// What `explain --last` says, once it's as wanted: an answer comes before it's noted.
    #[track_caller]
    pub(crate) fn rejections(&self, is_enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        testkit::wait_for("the rejections", || {
            let all: Vec<Value> =
                serde_json::from_str(&told(&["explain", &self.target(), "--last", "--json"])).expect("JSON");
            is_enough(&all).then_some(all)
        })
    }

    /// Kills the server, and waits for the next one.
    pub(crate) fn kill_server(&self) {
        let server = self.view.server();
        kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL).expect("a signal");
        wait_until("another server", || self.view.server() != server);
    }

    /// Has the view served by the same program, in another server.
    pub(crate) fn upgrade(&self) {
        let server = self.view.server();
        told(&["upgrade", &self.target()]);
        assert_ne!(self.view.server(), server);
    }
}
