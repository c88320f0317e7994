//! A view outlives whoever made it, and all that is in the same cgroups: its processes are elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::{Container, ContainerOptions, Need, TIMEOUT, TestCgroup, hierarchies, require, run_to_end};

use crate::life::{in_time, program, wait_until};

/// The cgroups of a caller, in every hierarchy, and a container beside them.
struct Scene {
    cgroup: TestCgroup,
    callers: Vec<PathBuf>,
    boxes: Vec<PathBuf>,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let selectors: Vec<String> = hierarchies().iter().map(testkit::Hierarchy::selector).collect();
        let cgroup = TestCgroup::new(&selectors.iter().map(String::as_str).collect::<Vec<_>>());
        let [callers, boxes] = ["caller", "box"].map(|name| cgroup.children(name));
        let folder = tempfile::Builder::new().prefix("vcgroupfs-callers-").tempdir().expect("a directory");
        Self { cgroup, callers, boxes, folder }
    }

    fn container(&self) -> Container {
        Container::start(ContainerOptions { cgroups: self.boxes.clone(), ..ContainerOptions::default() })
    }

    /// Starts a shell in the caller's cgroups.
    fn caller(&self, script: &str, arguments: &[&str]) -> Child {
        let entries: Vec<PathBuf> = self.callers.iter().map(|cgroup| cgroup.join("cgroup.procs")).collect();
        let enter = "while [ \"$1\" != -- ]; do echo $$ >\"$1\" || exit 9; shift; done; shift";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{enter}\n{script}"), "sh"]).args(entries).arg("--");
        command.arg(program()).args(arguments).stdin(Stdio::null()).spawn().expect("a shell")
    }

    /// Kills all that is in the caller's cgroups, as systemd does with a session.
    fn kill_caller(&self, caller: &mut Child) {
        wait_until("the caller's cgroups are empty", || {
            let _ = caller.try_wait();
            let lists = self.callers.iter().map(|cgroup| cgroup.join("cgroup.procs"));
            let lists: String = lists.map(|list| fs::read_to_string(list).expect("a list")).collect();
            for pid in lists.lines() {
                let _ = kill(Pid::from_raw(pid.parse().expect("a number")), Signal::SIGKILL);
            }
            lists.is_empty()
        });
        testkit::end_of(caller, TIMEOUT).expect("the caller has ended");
    }

    /// The entry of `list` for a view of this container's.
    fn listed(&self) -> Option<Value> {
        let output = run_to_end(Command::new(program()).args(["list", "--json"]), TIMEOUT);
        let views: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let own = |view: &&Value| view["delegated"].to_string().contains(&self.cgroup.path());
        views.as_array().expect("an array").iter().find(own).cloned()
    }

    /// Checks that no process of the view is in a cgroup of the caller's.
    #[track_caller]
    fn is_elsewhere(&self, view: &Value) {
        let number = |key: &str| view[key].as_u64().map(|number| u32::try_from(number).expect("a process id"));
        let mut processes: Vec<u32> = ["pid", "keeper"].into_iter().filter_map(number).collect();
        processes.extend(processes.clone().into_iter().flat_map(testkit::children_of));
        assert!(processes.len() > 1, "{view}");
        for process in processes {
            let Ok(cgroups) = fs::read_to_string(format!("/proc/{process}/cgroup")) else { continue };
            assert!(
                !cgroups.contains(self.cgroup.name()),
                "process {process} is in a cgroup of the caller's:\n{cgroups}"
            );
        }
    }
}

#[test]
fn a_view_that_was_mounted_outlives_its_caller() {
    require!(Need::Root, Need::Fuse);
    let scene = Scene::new();
    let (directory, live) = (scene.folder.path().join("view"), scene.folder.path().join("live"));
    fs::create_dir(&directory).expect("a mount point");
    let delegated = format!("{}/box", scene.cgroup.path());
    let script = "\"$1\" mount --cgroup \"$2\" \"$3\" && echo >\"$4\"; sleep 1000";
    let texts = [&directory, &live].map(|path| path.to_str().expect("UTF-8"));
    let mut caller = scene.caller(script, &[&delegated, texts[0], texts[1]]);
    wait_until("the view is live", || live.exists());
    let view = scene.listed().expect("a listed view");
    scene.is_elsewhere(&view);
    scene.kill_caller(&mut caller);
    answers(&directory);
    let ended = run_to_end(Command::new(program()).arg("umount").arg(&directory), TIMEOUT);
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn a_view_that_was_attached_outlives_its_caller() {
    require!(Need::Root, Need::Fuse);
    let scene = Scene::new();
    let container = scene.container();
    let live = scene.folder.path().join("live");
    let init = container.init().to_string();
    let script = "\"$1\" attach \"$2\" && echo >\"$3\"; sleep 1000";
    let mut caller = scene.caller(script, &[&init, live.to_str().expect("UTF-8")]);
    wait_until("the view is attached", || live.exists());
    let view = scene.listed().expect("a listed view");
    scene.is_elsewhere(&view);
    scene.kill_caller(&mut caller);
    answers(Path::new(&format!("/proc/{init}/root/sys/fs/cgroup")));
    let ended = run_to_end(Command::new(program()).args(["detach", &init]), TIMEOUT);
    assert!(ended.status.success(), "{ended:?}");
}

/// A server that its caller took with it would leave the command's cgroups.
#[test]
fn the_server_of_a_command_removes_its_cgroups_when_the_caller_is_killed() {
    require!(Need::Root, Need::Fuse);
    let scene = Scene::new();
    let script = "exec \"$1\" run --name inside --cgroup \"$2\" -- sleep 1000";
    let mut caller = scene.caller(script, &[&format!("{}/box", scene.cgroup.path())]);
    wait_until("the view is live", || scene.listed().is_some_and(|view| view["state"] == "live"));
    let view = scene.listed().expect("a listed view");
    scene.is_elsewhere(&view);
    scene.kill_caller(&mut caller);
    wait_until("the server has ended", || scene.listed().is_none());
    wait_until("the command's cgroups are gone", || scene.boxes.iter().all(|cgroup| !cgroup.join("inside").exists()));
}

/// Checks that a view answers.
#[track_caller]
fn answers(directory: &Path) {
    let directory = directory.to_owned();
    let names = in_time(move || fs::read_dir(directory).map(Iterator::count));
    let names = names.expect("the view hangs").expect("the view answers");
    assert!(names > 1, "{names} names");
}
