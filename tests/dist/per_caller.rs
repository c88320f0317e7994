//! The mount for all containers, by the commands of the unit, bound into a container.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{
    Caller, Container, ContainerOptions, Need, TIMEOUT, TestCgroup, kill_view, require, run_to_end, wait_until,
};

use crate::{dist, program};

/// A command of the unit, for another program and directory.
fn command(key: &str, directory: &str) -> Command {
    let unit = fs::read_to_string(dist("systemd/vcgroupfs.service")).expect("the unit");
    let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    let line = line.replace("/usr/bin/vcgroupfs", program()).replace("/var/lib/vcgroupfs/cgroup", directory);
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).stdin(Stdio::null());
    command
}

/// A path that needs quotes in a shell.
fn quoted(key: &str, directory: &str) -> Command {
    let unit = fs::read_to_string(dist("systemd/vcgroupfs.service")).expect("the unit");
    let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    shell(line, directory)
}

fn shell(line: &str, directory: &str) -> Command {
    let line = line.trim_start_matches('-').replace("$$", "$").replace("/usr/bin/vcgroupfs", program());
    let mut command = Command::new("sh");
    command.args(["-c", &line.replace("/var/lib/vcgroupfs/cgroup", directory)]).stdin(Stdio::null());
    command
}

/// A server in the foreground, which a test that fails ends as well.
struct Started(Child);

impl Started {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.0.wait()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// A socket that stands in for the service manager's.
struct Manager {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        Self { folder, socket }
    }

    /// Starts the server as the unit does.
    fn start(&self, directory: &str) -> Started {
        self.start_by(&["env"], directory)
    }

    /// Starts it with another program, which executes it.
    fn start_by(&self, words: &[&str], directory: &str) -> Started {
        let unit = command("ExecStart=", directory);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(unit.get_program()).args(unit.get_args()).stdin(Stdio::null());
        Started(command.env("NOTIFY_SOCKET", self.folder.path().join("notify")).spawn().expect("the server"))
    }

    /// What it's told next, but for what to keep.
    fn next(&self) -> String {
        loop {
            let mut message = [0; 4096];
            let length = self.socket.recv(&mut message).expect("a message");
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if !message.starts_with("FDSTORE") {
                return message;
            }
        }
    }
}

/// Runs what the unit does before its start.
#[track_caller]
fn prepare(directory: &str) {
    let unit = fs::read_to_string(dist("systemd/vcgroupfs.service")).expect("the unit");
    let mut seen = 0;
    for line in unit.lines().filter_map(|line| line.strip_prefix("ExecStartPre=")) {
        let done = run_to_end(&mut shell(line, directory), TIMEOUT);
        assert!(done.status.success() || line.starts_with('-'), "{line}: {done:?}");
        seen += 1;
    }
    assert!(seen > 1, "{seen}");
}

/// A container has the mount bound meanwhile, and remains of the last server are there.
#[test]
fn the_unit_starts_again_after_a_crash() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let folder = tempfile::tempdir().expect("a directory");
    let text = folder.path().join("cgroup").display().to_string();
    let cgroup = TestCgroup::new(&["name=systemd"]);
    let mut containers = Vec::new();
    for stops in [true, false, true] {
        prepare(&text);
        let mut server = command("ExecStart=", &text).spawn().expect("the server");
        wait_until("it's mounted", || {
            assert!(server.try_wait().expect("its state").is_none(), "it has ended");
            fs::read_dir(&text).map_or(0, Iterator::count) > 0
        });
        let cgroups = vec![cgroup.dir("name=systemd")];
        let prepare = format!("mount --bind {text} /sys/fs/cgroup");
        containers.push(Container::start(ContainerOptions { cgroups, prepare, ..ContainerOptions::default() }));
        kill_view(program(), server.id());
        server.wait().expect("its end");
        // Or systemd itself was killed.
        if stops {
            let stopped = run_to_end(&mut quoted("ExecStopPost=", &text), TIMEOUT);
            assert!(stopped.status.success() && !folder.path().join("cgroup").exists(), "{stopped:?}");
        }
    }
    // A server that doesn't answer any more, and that systemd doesn't know.
    prepare(&text);
    let manager = Manager::new();
    let mut server = manager.start(&text);
    assert_eq!(manager.next(), "READY=1");
    let pid = Pid::from_raw(server.id().cast_signed());
    kill(pid, Signal::SIGSTOP).expect("a signal");
    prepare(&text);
    assert_eq!(fs::read_dir(&text).expect("the directory").count(), 0);
    kill(pid, Signal::SIGCONT).expect("a signal");
    server.wait().expect("its end");
}

#[test]
fn the_manager_is_told_how_the_unit_is() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::ResentRequests);
    let folder = tempfile::tempdir().expect("a directory");
    let text = folder.path().join("cgroup").display().to_string();
    prepare(&text);
    let manager = Manager::new();
    let mut server = manager.start(&text);
    assert_eq!(manager.next(), "READY=1");
    assert!(fs::read_dir(&text).expect("the mount").count() > 0, "it answers");
    assert_eq!(manager.next(), "WATCHDOG=1");
    let served = Command::new(program()).args(["list", "--json"]).output().expect("the list");
    let views: serde_json::Value = serde_json::from_slice(&served.stdout).expect("JSON");
    let view = views.as_array().expect("views").iter().find(|view| view["directory"] == *text).expect("the view");
    let process = i32::try_from(view["pid"].as_i64().expect("a process")).expect("a number of a process");
    kill(Pid::from_raw(process), Signal::SIGKILL).expect("a signal");
    let other = std::iter::from_fn(|| Some(manager.next())).find(|message| message != "WATCHDOG=1");
    assert_eq!(other.expect("a message"), "STATUS=the server was started again: killed by SIGKILL");
    assert!(fs::read_dir(&text).expect("the mount").count() > 0, "it answers again");
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    let other = std::iter::from_fn(|| Some(manager.next())).find(|message| message != "WATCHDOG=1");
    assert_eq!(other.expect("a message"), "STOPPING=1");
    assert!(server.wait().expect("its end").success());
}

/// What `systemctl stop` does while a container has the mount.
#[test]
fn the_unit_is_stopped_while_a_container_has_its_mount() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let folder = tempfile::tempdir().expect("a directory");
    let text = folder.path().join("cgroup").display().to_string();
    prepare(&text);
    let manager = Manager::new();
    let mut server = manager.start(&text);
    assert_eq!(manager.next(), "READY=1");
    let cgroup = TestCgroup::new(&["name=systemd"]);
    let cgroups = vec![cgroup.dir("name=systemd")];
    let bind = format!("mount --bind {text} /sys/fs/cgroup");
    let container = Container::start(ContainerOptions { cgroups, prepare: bind, ..ContainerOptions::default() });
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    assert!(server.wait().expect("its end").success());
    // What it has sent, and nobody has read, is still open.
    drop(manager);
    let said = run_to_end(container.command(Caller::Root).args(["ls", "/sys/fs/cgroup"]), TIMEOUT);
    assert!(String::from_utf8_lossy(&said.stderr).contains("not connected"), "{said:?}");
    let stopped = run_to_end(&mut quoted("ExecStopPost=", &text), TIMEOUT);
    assert!(stopped.status.success() && !folder.path().join("cgroup").exists(), "{stopped:?}");
}

/// A server that has no keeper, since there's no room for one's descriptors.
#[test]
fn the_manager_is_told_without_a_keeper() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::Program("prlimit"));
    let folder = tempfile::tempdir().expect("a directory");
    let text = folder.path().join("cgroup").display().to_string();
    prepare(&text);
    let manager = Manager::new();
    let mut server = manager.start_by(&["prlimit", "--nofile=512:512"], &text);
    assert_eq!([manager.next(), manager.next(), manager.next()], ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    assert!(server.wait().expect("its end").success());
}

#[test]
fn the_unit_is_reloaded_while_a_process_uses_its_mount() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::ResentRequests);
    let folder = tempfile::tempdir().expect("a directory");
    let text = folder.path().join("cgroup").display().to_string();
    prepare(&text);
    let manager = Manager::new();
    let mut main = manager.start(&text);
    assert_eq!(manager.next(), "READY=1");
    let held = fs::read_dir(&text).expect("the mount");
    let reloaded = run_to_end(&mut command("ExecReload=", &text), TIMEOUT);
    assert!(reloaded.status.success(), "{reloaded:?}");
    assert!(held.count() > 0, "an open directory goes on");
    // The main process is the same, and goes on telling the manager.
    while manager.next() != "WATCHDOG=1" {}
    kill(Pid::from_raw(main.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    assert!(main.wait().expect("its end").success());
}

#[test]
fn the_units_mount_is_bound_into_a_container() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let folder = tempfile::tempdir().expect("a directory");
    let directory = folder.path().join("cgroup");
    fs::create_dir(&directory).expect("a directory");
    let text = directory.display().to_string();
    let mut server = command("ExecStart=", &text).spawn().expect("the server");
    let is_mounted = || fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").contains(&format!(" {text} "));
    wait_until("it's mounted", || {
        assert!(server.try_wait().expect("its state").is_none(), "it has ended");
        is_mounted()
    });
    let cgroup = TestCgroup::new(&["name=systemd"]);
    cgroup.child("name=systemd", "sibling");
    let cgroups = cgroup.children("home");
    let prepare = format!("mount --bind {text} /sys/fs/cgroup");
    let container = Container::start(ContainerOptions { cgroups, prepare, ..ContainerOptions::default() });
    let own = format!("/sys/fs/cgroup/systemd{}", cgroup.path());
    let script =
        format!("ls -d {own}/*/ && mkdir {own}/home/x && rmdir {own}/home/x && ! ls {own}/sibling 2>/dev/null");
    let said = run_to_end(container.command(Caller::Root).args(["sh", "-c", &script]), TIMEOUT);
    drop(container);
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    let ended = server.wait().expect("its end");
    assert!(said.status.success(), "{said:?}");
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{own}/home/\n"));
    assert!(ended.success() && !is_mounted(), "{ended}");
}
