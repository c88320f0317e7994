//! A server that uses its own mount ends as one that doesn't.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::inotify::AddWatchFlags as Mask;
use tempfile::TempDir;
use testkit::{Need, TIMEOUT, TestCgroup, hierarchy, require, run_to_end};

use super::watcher::Watcher;
use super::{SYSTEMD, UNIFIED, program};

/// A server in a mount namespace of its own: other tests' containers have copies of all mounts, and with them this view would live on.
struct Apart {
    server: Child,
    folder: TempDir,
}

impl Apart {
    fn start(ours: &TestCgroup, legacy: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("vcgroupfs-view-").tempdir().expect("a temporary directory");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        if legacy {
            command.arg(&testkit::Programs::find().legacy);
        }
        command.arg(program()).args(["mount", "-f", "--shape", "rooted", "--cgroup"]);
        command.arg(format!("unified={}", ours.path())).arg(folder.path()).stdin(Stdio::null()).stderr(Stdio::null());
        let apart = Self { server: command.spawn().expect("unshare"), folder };
        wait("the view", || apart.cgroup().join("cgroup.events").exists());
        apart
    }

    fn cgroup(&self) -> PathBuf {
        let inside = Path::new("/proc").join(self.server.id().to_string()).join("root");
        let view = inside.join(self.folder.path().strip_prefix("/").expect("an absolute path"));
        hierarchy(UNIFIED).expect("a required hierarchy").in_view(&view)
    }

    fn umount(&self) -> std::process::ExitStatus {
        let pid = self.server.id().to_string();
        let mut command = Command::new("nsenter");
        run_to_end(command.args(["--target", &pid, "--mount", "umount"]).arg(self.folder.path()), TIMEOUT).status
    }

    fn has_ended(&mut self) -> bool {
        self.server.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < end, "{what} doesn't come");
        thread::sleep(Duration::from_millis(2));
    }
}

fn unmounted(legacy: bool) {
    let ours = TestCgroup::new(&[UNIFIED]);
    for _ in 0..5 {
        let mut apart = Apart::start(&ours, legacy);
        let mut view = Watcher::new();
        view.add("top", apart.cgroup());
        changing(&ours, || {
            view.wait("a change", |seen| seen.len() > 4);
            assert!(apart.umount().success(), "it's busy");
            wait("the server's end", || apart.has_ended());
        });
        view.wait("the end", |seen| seen.iter().any(|seen| seen.mask.contains(Mask::IN_UNMOUNT)));
    }
}

/// Runs something while the host makes and removes a cgroup over and over.
fn changing(ours: &TestCgroup, action: impl FnOnce()) {
    let (dir, stop) = (ours.dir(UNIFIED).join("x"), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                fs::create_dir(&dir).expect("mkdir");
                fs::remove_dir(&dir).expect("rmdir");
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action));
        stop.store(true, Ordering::Release);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn unmounting_never_waits_for_it() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    unmounted(false);
}

#[test]
fn unmounting_never_waits_for_it_on_old_kernels() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::LegacySyscalls);
    unmounted(true);
}

/// In the middle of an operation on its own mount, whose answer nobody can give any more.
#[test]
fn a_server_that_is_killed_ends() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let ours = TestCgroup::new(&[UNIFIED]);
    for turn in 0..12 {
        let mut apart = Apart::start(&ours, false);
        let mut view = Watcher::new();
        view.add("top", apart.cgroup());
        changing(&ours, || {
            view.wait("a change", |seen| seen.len() > 20 * turn);
            apart.server.kill().expect("kill");
            wait("the server's end", || apart.has_ended());
        });
    }
}

#[test]
fn in_run_until_its_init_ends() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::Hierarchy(SYSTEMD));
    let name = format!("vcgroupfs-run-events-{}", std::process::id());
    let mut command = Command::new(program());
    command.args(["run", "--shape", "rooted", "--name", &name, "--", "sh", "-c", "read end"]);
    let mut supervisor = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
    let unified = hierarchy(UNIFIED).expect("a required hierarchy");
    let own = fs::read_to_string("/proc/self/cgroup").expect("memberships");
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).expect("a unified membership");
    let host = unified.mountpoint.join(own.trim_start_matches('/')).join(&name);
    // The supervisor waits in the new mount namespace.
    let seen = Path::new("/proc").join(supervisor.id().to_string()).join("root/sys/fs/cgroup/unified");
    wait("the command", || {
        let procs = fs::read_to_string(host.join("cgroup.procs")).unwrap_or_default();
        procs.lines().count() > 1 && seen.join("cgroup.events").exists()
    });
    let mut view = Watcher::new();
    view.add("top", &seen);
    fs::create_dir(host.join("x")).expect("mkdir");
    view.wait("mkdir", |seen| seen.iter().any(|seen| seen.mask.contains(Mask::IN_CREATE) && seen.name == "x"));
    fs::remove_dir(host.join("x")).expect("rmdir");
    drop(supervisor.stdin.take());
    let output = supervisor.wait_with_output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("in use") && !host.exists(), "{said}");
}
