//! A server that uses its own mount ends as one that doesn't.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::inotify::AddWatchFlags as Mask;
use tempfile::TempDir;
use testkit::{Need, TIMEOUT, TestCgroup, ViewProcesses, comes_true, hierarchy, require, run_to_end};

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

    fn processes(&self) -> ViewProcesses {
        ViewProcesses::of_process(program(), self.server.id())
    }

    fn has_ended(&mut self) -> bool {
        self.server.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.processes().kill();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn wait(what: &str, condition: impl FnMut() -> bool) {
    assert!(comes_true(TIMEOUT, condition), "{what} doesn't come");
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
fn unmounting_never_waits_for_a_replay() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    unmounted(false);
}

#[test]
fn unmounting_never_waits_for_a_replay_on_old_kernels() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::LegacySyscalls);
    unmounted(true);
}

/// The server is killed in the middle of an operation on its own mount, which nobody can answer any more.
#[test]
fn a_server_that_is_killed_ends() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let ours = TestCgroup::new(&[UNIFIED]);
    for turn in 0..12 {
        let mut apart = Apart::start(&ours, false);
        let processes = apart.processes();
        let mut view = Watcher::new();
        view.add("top", apart.cgroup());
        changing(&ours, || {
            view.wait("a change", |seen| seen.len() > 20 * turn);
            processes.kill();
            wait("the server's end", || apart.has_ended());
        });
    }
}

/// In the middle of everything: its threads tell the kernel to forget what callers hold locked, whose requests it serves, or hasn't read yet.
#[test]
fn nobody_waits_for_a_server_that_was_killed() {
    const PLACES: [&str; 2] = ["a", "b"];
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let ours = TestCgroup::new(&[UNIFIED]);
    let dirs = PLACES.map(|name| ours.child(UNIFIED, name));
    for round in 0..rounds() {
        let mut apart = Apart::start(&ours, false);
        let connection = Connected::new(&apart);
        let (processes, server) = (apart.processes(), apart.server.id());
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).expect("its children");
        let mut view = Watcher::new();
        let mut users = Vec::new();
        for (place, label) in PLACES.into_iter().zip(["a", "b"]) {
            let seen = apart.cgroup().join(place);
            view.add(label, &seen);
            for number in 0..3 {
                let mut user = Command::new(&testkit::Programs::find().probe);
                let user = user.args(["--churn", &number.to_string()]).current_dir(&seen).stdin(Stdio::null()).spawn();
                users.push(user.expect("a user"));
            }
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for dir in &dirs {
                scope.spawn(|| {
                    let mut names = (0..4).map(|number| dir.join(format!("host{number}"))).cycle();
                    while !stop.load(Ordering::Acquire) {
                        let (dir, all) = (names.next().expect("a cycle"), dir.join("all"));
                        for dir in [&dir, &all] {
                            let _ = fs::create_dir(dir);
                        }
                        for dir in [&dir, &all] {
                            let _ = fs::remove_dir(dir);
                        }
                    }
                });
            }
            // The time is what the test varies: the server is killed at another moment of their work each time.
            view.take();
            thread::sleep(Duration::from_millis(60 + round * 37 % 200));
            let all_run = users.iter_mut().all(|user| user.try_wait().is_ok_and(|status| status.is_none()));
            processes.kill();
            stop.store(true, Ordering::Release);
            assert!(all_run, "a user ended by itself");
        });
        let guards = children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
        let guards = guards.map(|pid| PathBuf::from(format!("/proc/{pid}/exe")));
        let is_over = || {
            let users = users.iter_mut().filter_map(|user| user.try_wait().transpose()).count();
            users == 2 * 3 && apart.has_ended() && guards.clone().all(|exe| exe.read_link().is_err())
        };
        assert!(
            comes_true(Duration::from_secs(20), is_over),
            "round {round}: somebody waits for a server that is gone"
        );
        assert_eq!(connection.look(), Err(nix::errno::Errno::ENOTCONN));
        assert!(connection.umount(&apart), "it can't be unmounted");
        for dir in &dirs {
            for name in (0..4).map(|number| format!("host{number}")).chain(["all", "0", "1", "2"].map(str::to_owned)) {
                let _ = fs::remove_dir(dir.join(name));
            }
        }
    }
}

/// How often the test is repeated. `VCGROUPFS_ROUNDS` sets another number.
fn rounds() -> u64 {
    std::env::var("VCGROUPFS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(24)
}

/// A view whose server may be gone.
struct Connected {
    namespace: fs::File,
    root: std::os::fd::OwnedFd,
    /// Ends the connection whatever happens, lest processes be left that can't be killed.
    device: Option<u64>,
}

impl Connected {
    fn new(apart: &Apart) -> Self {
        let process = Path::new("/proc").join(apart.server.id().to_string());
        let namespace = fs::File::open(process.join("ns/mnt")).expect("a mount namespace");
        let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
        let path = process.join("root").join(apart.folder.path().strip_prefix("/").expect("an absolute path"));
        let root = nix::fcntl::open(&path, flags, nix::sys::stat::Mode::empty()).expect("the view");
        let device = nix::sys::stat::fstat(&root).expect("its attributes").st_dev;
        Self { namespace, root, device: Some(nix::sys::stat::minor(device)) }
    }

    fn look(&self) -> nix::Result<()> {
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::sys::stat::fstatat(&self.root, "cgroup.procs", flags).map(drop)
    }

    /// Whether it can be unmounted.
    fn umount(mut self, apart: &Apart) -> bool {
        use std::os::fd::AsRawFd;
        let namespace = format!("--mount=/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        // The way to it would keep it busy, as it does for a moment in a process that another thread makes just now.
        let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
        let nothing = nix::fcntl::open("/", flags, nix::sys::stat::Mode::empty()).expect("/");
        drop(std::mem::replace(&mut self.root, nothing));
        // From now on the number may be another's.
        self.device = None;
        comes_true(Duration::from_secs(20), || {
            let mut command = Command::new("nsenter");
            run_to_end(command.arg(&namespace).arg("umount").arg(apart.folder.path()), TIMEOUT).status.success()
        })
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let Some(device) = self.device else { return };
        let script = "mount -t fusectl none /sys/fs/fuse/connections && echo 1 >/sys/fs/fuse/connections/$0/abort";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, &device.to_string()]);
        run_to_end(&mut command, TIMEOUT);
    }
}

#[test]
fn events_of_run_are_replayed_until_its_init_ends() {
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
