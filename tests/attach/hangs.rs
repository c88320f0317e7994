//! A filesystem in the container that never answers, on the way to `/sys/fs/cgroup`.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{ContainerOptions, Need, TIMEOUT, ViewProcesses, require, wait_for};

use crate::scene::{MountMethod, Scene, program, wait_until};

/// A filesystem whose server will be stopped.
struct Hung {
    command: Child,
    /// Its keeper would replace the server, so it's stopped as well.
    processes: ViewProcesses,
    folder: tempfile::TempDir,
}

impl Hung {
    fn new(cgroup: &str) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(program());
        command.args(["mount", "--cgroup", cgroup, "-f"]).arg(folder.path()).stdin(Stdio::null());
        let command = command.spawn().expect("a server");
        let processes = wait_for("the mount", || ViewProcesses::of_live(program(), command.id()));
        Self { command, processes, folder }
    }

    fn stop(&self) {
        let ViewProcesses { keeper, server } = self.processes;
        for process in keeper.into_iter().chain([server]) {
            assert!(testkit::stop(process), "{process} is there");
        }
    }

    fn go_on(&self) {
        let ViewProcesses { keeper, server } = self.processes;
        for process in keeper.into_iter().chain([server]) {
            kill(process, Signal::SIGCONT).expect("a signal");
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.go_on();
        kill(Pid::from_raw(self.command.id().cast_signed()), Signal::SIGTERM).expect("a signal");
        let _ = self.command.wait();
    }
}

/// A container whose `/sys` is that.
fn hung_scene() -> (Scene, Hung) {
    let other = testkit::TestCgroup::new(&["name=systemd"]);
    let hung = Hung::new(&other.path());
    let script = format!("mount --bind {} /sys", hung.folder.path().display());
    let scene = Scene::new(MountMethod::Moved, ContainerOptions { prepare: script, ..ContainerOptions::default() });
    // Not before: busybox' mount asks the filesystem that it binds.
    hung.stop();
    (scene, hung)
}

fn start(scene: &Scene) -> Child {
    let mut command = scene.command();
    command.args(["attach", &scene.pid()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program");
    // The command, and a server that waits for it.
    wait_until("the server", || scene.processes().len() >= 2);
    child
}

/// `attach` gives up by itself. Meanwhile it can be given up by whoever waits, and another container isn't kept waiting.
#[test]
fn attach_gives_up_on_a_filesystem_that_never_answers() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let (scene, hung) = hung_scene();
    let before = scene.mounts();

    let mut interrupted = start(&scene);
    testkit::wait_in_kernel(interrupted.id(), &["request_wait_answer", "fuse"]);
    assert!(interrupted.try_wait().expect("its state").is_none(), "it doesn't wait for anything");
    kill(Pid::from_raw(interrupted.id().cast_signed()), Signal::SIGINT).expect("a signal");
    let mut ended = false;
    wait_until("its end", || {
        ended = interrupted.try_wait().expect("its state").is_some();
        ended
    });
    scene.is_as_before(&before);

    let mut waiting = start(&scene);
    let other = Scene::plain(MountMethod::Moved);
    other.attach(&[]).ok();
    other.detach().ok();
    assert!(waiting.try_wait().expect("its state").is_none(), "it was the other that waited");

    wait_until("it gives up", || waiting.try_wait().expect("its state").is_some());
    let said = waiting.wait_with_output().expect("its end");
    let complaint = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("does a filesystem in the container hang?"), "{complaint}");
    scene.is_as_before(&before);

    // Once it answers, all is as usual; this one has no /sys/fs.
    hung.go_on();
    let refused = scene.attach(&[]).fails(1);
    assert!(refused.contains("isn't empty"), "{refused}");
    scene.is_as_before(&before);
    drop(scene);
    drop(hung);
}

const _: () = assert!(TIMEOUT.as_secs() > 30, "attach gives up after 30 s");
