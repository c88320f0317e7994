//! Whichever step fails, and whenever the command is killed, the container is as it was, and nothing is left on the host.

use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use testkit::{ContainerOptions, Need, Programs, require, wait_for};

use crate::scene::{Host, MountMethod, Scene, program, said, wait_until};

/// Makes a call fail, as an option of strace.
const FAILS: &str = "error=EPERM";
/// Kills the process that makes the call, before it's made.
const KILLS: &str = "signal=SIGKILL";

/// Attaches while this happens to the `number`-th call of each process. Whether the view is there in the end: then there are no more calls to fail.
fn attach_with_fault(scene: &Scene, call: &str, fault: &str, number: usize) -> bool {
    let mut command = scene.on_host("strace");
    let fault = format!("inject={call}:{fault}:when={number}");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &fault]);
    if scene.method == MountMethod::Built {
        command.arg(&Programs::find().legacy);
    }
    command.args([program(), "attach", &scene.pid()]).stdin(Stdio::null()).stderr(Stdio::null());
    let mut strace = command.spawn().expect("strace");
    // It ends with the last process that it traces, and with it the server's.
    wait_for(&format!("{call} {number}: either attached or given up"), || {
        if strace.try_wait().expect("strace's state").is_some() {
            assert!(!scene.is_attached(), "{call} {number}: no server, but a view");
            return Some(false);
        }
        if scene.is_attached() && is_committed(scene) {
            let detached = scene.detach();
            if detached.stderr.contains("has no view") {
                // The server was about to take it away by itself.
                return None;
            }
            detached.ok();
            strace.wait().expect("strace's end");
            return Some(true);
        }
        None
    })
}

/// Whether the command has ended and left the view's processes: none of ours has strace as its parent.
fn is_committed(scene: &Scene) -> bool {
    scene.is_at_rest() && !scene.processes().iter().any(|pid| is_child_of_strace(*pid))
}

fn is_child_of_strace(pid: i32) -> bool {
    let parent = testkit::status_field(pid.cast_unsigned(), "PPid").and_then(|parent| parent.parse().ok());
    parent.and_then(|parent| testkit::status_field(parent, "Name")).as_deref() == Some("strace")
}

/// Injects the fault into one call after the other, as long as there are calls.
fn sweep(host: Host, method: MountMethod, call: &str, fault: &str, numbers: impl Iterator<Item = usize>) {
    let scene = Scene::new(method, ContainerOptions::default()).on(host);
    let before = scene.mounts();
    let (mut failed, mut attached) = (0, false);
    for number in numbers {
        attached = attach_with_fault(&scene, call, fault, number);
        wait_until("the end", || scene.processes().is_empty());
        scene.is_as_before(&before);
        failed += usize::from(!attached);
    }
    assert!(failed > 0, "{call} isn't called at all");
    assert!(attached, "the last of these numbers is that of a call which is never made");
}

macro_rules! sweeps {
    ($($name:ident: $method:expr, $call:literal, $numbers:expr;)+) => {$(
        #[test]
        fn $name() {
            require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::Program("strace"), Need::LegacySyscalls);
            sweep(Host::Own, $method, $call, FAILS, $numbers);
        }
    )+};
}

macro_rules! sweeps_of_unified_hosts {
    ($($name:ident: $method:expr, $call:literal, $numbers:expr;)+) => {$(
        #[test]
        fn $name() {
            require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::Program("strace"), Need::LegacySyscalls);
            sweep(Host::Unified, $method, $call, FAILS, $numbers);
        }
    )+};
}

/// How many mounts a stack takes at most, for each of its hierarchies.
const MOUNTS_PER_HIERARCHY_MAX: usize = 6;

/// A number of calls that's beyond all of the stack's.
fn beyond() -> usize {
    12 + MOUNTS_PER_HIERARCHY_MAX * testkit::hierarchies().len()
}

/// Some numbers of calls, and one beyond the last call.
fn every(step: usize) -> impl Iterator<Item = usize> {
    (1..beyond() / 2).step_by(step).chain([beyond()])
}

sweeps! {
    moved_mount: MountMethod::Moved, "mount", every(3);
    moved_mkdirat: MountMethod::Moved, "mkdirat", every(6);
    moved_unlinkat: MountMethod::Moved, "unlinkat", [1, 2, beyond()].into_iter();
    moved_umount: MountMethod::Moved, "umount2", [1, 2, beyond()].into_iter();
    moved_setns: MountMethod::Moved, "setns", [1, beyond()].into_iter();
    moved_move_mount: MountMethod::Moved, "move_mount", [1, beyond()].into_iter();
    moved_unshare: MountMethod::Moved, "unshare", [1, 2, beyond()].into_iter();
    moved_fchdir: MountMethod::Moved, "fchdir", [1, 2, 3, beyond()].into_iter();
    built_mount: MountMethod::Built, "mount", every(3);
    built_mkdirat: MountMethod::Built, "mkdirat", every(6);
    built_setns: MountMethod::Built, "setns", [1, beyond()].into_iter();
    built_umount: MountMethod::Built, "umount2", [1, 2, 5, beyond()].into_iter();
    built_statfs: MountMethod::Built, "statfs", [1, 4, beyond()].into_iter();
}

sweeps_of_unified_hosts! {
    sentinel_moved_mount: MountMethod::Moved, "mount", (1..9).chain([beyond()]);
    sentinel_moved_mkdirat: MountMethod::Moved, "mkdirat", (1..6).chain([beyond()]);
    sentinel_moved_umount: MountMethod::Moved, "umount2", [1, beyond()].into_iter();
    sentinel_moved_setns: MountMethod::Moved, "setns", [1, beyond()].into_iter();
    sentinel_moved_move_mount: MountMethod::Moved, "move_mount", [1, beyond()].into_iter();
    sentinel_moved_fchdir: MountMethod::Moved, "fchdir", (1..5).chain([beyond()]);
    sentinel_moved_fstatfs: MountMethod::Moved, "fstatfs", (1..6).chain([beyond()]);
    sentinel_built_mount: MountMethod::Built, "mount", (1..6).chain([beyond()]);
    sentinel_built_mkdirat: MountMethod::Built, "mkdirat", (1..6).chain([beyond()]);
    sentinel_built_fchdir: MountMethod::Built, "fchdir", (1..5).chain([beyond()]);
    sentinel_built_unshare: MountMethod::Built, "unshare", [1, 2, beyond()].into_iter();
    sentinel_built_setns: MountMethod::Built, "setns", [1, 2, beyond()].into_iter();
    sentinel_built_umount: MountMethod::Built, "umount2", [1, beyond()].into_iter();
}

/// The helper is killed, with what it has mounted so far in the container: by a call that no process but that one makes.
#[test]
fn built_stack_whose_helper_is_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::Program("strace"), Need::LegacySyscalls);
    sweep(Host::Own, MountMethod::Built, "fchdir", KILLS, (1..4).chain([beyond()]));
}

#[test]
fn built_sentinel_whose_helper_is_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::Program("strace"), Need::LegacySyscalls);
    sweep(Host::Unified, MountMethod::Built, "fchdir", KILLS, (1..5).chain([beyond()]));
}

/// The kernel doesn't mount FUSE where the container is, as before Linux 4.18 where its mounts belong to a user namespace: then another way is told.
#[test]
fn attach_says_that_the_kernel_mounts_no_fuse_there() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::UserNamespaces,
        Need::Hierarchy("name=systemd"),
        Need::Program("strace"),
        Need::LegacySyscalls
    );
    for (user_namespace, code, parts) in [
        (true, 3, ["can't mount the view", "user namespace", "Linux 4.18", "'vcgroupfs mount"].as_slice()),
        (false, 4, &["can't mount the view", "EPERM"]),
    ] {
        let scene = Scene::new(MountMethod::Built, ContainerOptions { user_namespace, ..ContainerOptions::default() });
        let before = scene.mounts();
        let mut command = scene.on_host("strace");
        // As the helper calls the place of the whole view.
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=mount", "-e", "inject=mount:error=EPERM"]);
        command.args(["-P", ".view"]).arg(&Programs::find().legacy).args([program(), "attach", &scene.pid()]);
        let said = said(&mut command).fails(code);
        parts.iter().for_each(|part| assert!(said.contains(part), "no '{part}' in {said}"));
        scene.is_as_before(&before);
    }
}

/// The command is killed at any time.
fn killed(host: Host, method: MountMethod) {
    let scene = Scene::new(method, ContainerOptions::default()).on(host);
    let before = scene.mounts();
    let served = || scene.mounts().iter().filter(|mount| mount.contains(" fuse.vcgroupfs ")).count();
    assert_eq!(scene.attach(&[]).code, 0);
    let all = served();
    scene.detach().ok();
    let mut attached = 0;
    for round in 0..40 {
        let mut command = scene.command();
        command.args(["attach", &scene.pid()]).stdin(Stdio::null());
        let mut child = command.spawn().expect("the program");
        // The time is what the test varies: the command is killed at another moment each time.
        thread::sleep(Duration::from_millis(4 * round));
        kill(&mut child);
        // Whether it comes or goes, it comes to rest.
        wait_until("rest", || {
            let nobody = scene.processes().is_empty();
            (nobody && scene.mounts() == before) || (scene.is_at_rest() && served() == all && answers(&scene))
        });
        if scene.is_attached() {
            attached += 1;
            // A server whose command was killed before it was told that all is well takes its view away by itself.
            wait_until("the end of the view", || scene.detach().code == 0);
        }
        // What a command has made that was killed before there was a server, the next one takes away.
        if scene.has_sentinel() {
            assert_eq!(scene.attach(&[]).code, 0);
            scene.detach().ok();
        }
        scene.is_as_before(&before);
    }
    eprintln!("{attached} of 40 came through");
}

fn answers(scene: &Scene) -> bool {
    let directory = match scene.host {
        Host::Own | Host::Legacy => "/sys/fs/cgroup/systemd".to_owned(),
        Host::Unified => format!("/sys/fs/cgroup{}", scene.home()),
    };
    scene.sh(&format!("ls {directory}")).code == 0
}

fn kill(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn moved_stack_whose_command_is_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    killed(Host::Own, MountMethod::Moved);
}

#[test]
fn built_stack_whose_command_is_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    killed(Host::Own, MountMethod::Built);
}

#[test]
fn moved_sentinel_whose_command_is_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    killed(Host::Unified, MountMethod::Moved);
}

#[test]
fn built_sentinel_whose_command_is_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::LegacySyscalls);
    killed(Host::Unified, MountMethod::Built);
}
