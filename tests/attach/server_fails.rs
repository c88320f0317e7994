//! The server fails, and whoever attaches is killed at the worst moment: the container is as it was all the same.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{Need, Programs, TestCgroup, require};

use crate::scene::{MountMethod, Scene, program, said, wait_until};

/// `attach` in a pids cgroup and under strace, building the stack in the container.
fn attach_in(scene: &Scene, cgroup: &Path, strace: &[String], options: &[&str]) -> Command {
    let mut command = scene.on_host("strace");
    command.args(["-f", "-qq", "-o", "/dev/null"]).args(strace);
    command.args(["sh", "-c", r#"echo $$ > "$1"/cgroup.procs && shift && exec "$@""#, "sh"]).arg(cgroup);
    command.arg(&Programs::find().legacy).args([program(), "attach"]).args(options).arg(scene.pid());
    command
}

/// The command, while it runs: a child of strace's, as its server isn't.
fn command_of(scene: &Scene, strace: u32) -> Option<i32> {
    let parent = |pid: &i32| testkit::status_field(pid.cast_unsigned(), "PPid");
    scene.processes().into_iter().find(|pid| parent(pid) == Some(strace.to_string()))
}

/// The server can't start the thread that would watch the container, while the helper is working. The helper ends with the
/// command, and leaves a part of the stack.
#[test]
fn a_server_that_cannot_watch_the_container_cleans_up() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("pids"),
        Need::Program("strace"),
        Need::LegacySyscalls
    );
    // By chance the server's end is there first, and the attempt is undone properly.
    assert!((0..20).any(|_| is_killed_in_the_midst(|_| {})), "the helper was never in the midst of its work");
}

/// For a moment there's no room for the helper that would remove the part, and the server tries again. Killed processes take room, too, until
/// somebody waits for them.
#[test]
fn a_server_that_cannot_clean_up_at_once_tries_again() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("pids"),
        Need::Program("strace"),
        Need::LegacySyscalls
    );
    let crowd = |few: &Path| {
        let sleep = |_| Command::new("sleep").arg("1").spawn().expect("sleep");
        let crowd: Vec<_> = (0..4).map(sleep).collect();
        for process in &crowd {
            fs::write(few.join("cgroup.procs"), process.id().to_string()).expect("a migration");
        }
        // They go by themselves.
        thread::spawn(|| crowd.into_iter().for_each(|mut process| drop(process.wait())));
    };
    assert!((0..20).any(|_| is_killed_in_the_midst(crowd)), "the helper was never in the midst of its work");
}

/// Whether the helper was, when the command was killed; the container is as it was in any case.
fn is_killed_in_the_midst(meanwhile: impl FnOnce(&Path)) -> bool {
    let scene = Scene::plain(MountMethod::Built);
    let before = scene.mounts();
    let few = TestCgroup::new(&["pids"]);
    let few = few.dir("pids");
    // The command, its helper, the server, its keeper, and their abort guard.
    fs::write(few.join("pids.max"), "5").expect("a limit");
    // Not the first mount that the view is asked for, and one more than the command makes to have each hierarchy for itself. Nobody but the helper
    // makes as many.
    let number = 2 * (testkit::hierarchies().len() - 1) + 1;
    let slow = format!("inject=mount:delay_enter=60000000:when={number}");
    // The server leaves the caller's cgroups where it can, and so not in a hierarchy that isn't mounted.
    let script = r#"top=$1; shift; exec 9>"$1"/cgroup.procs && umount -l "$top" && shift && exec "$@""#;
    let enter = r#"echo $$ >&9 && exec 9>&- && exec "$@""#;
    let mut strace = Command::new("unshare");
    strace.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    strace.arg(testkit::hierarchy("pids").expect("the hierarchy that was required").mountpoint).arg(&few);
    strace.args(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=mount", "-e", &slow]);
    strace.args(["sh", "-c", enter, "sh"]).arg(&Programs::find().legacy).args([program(), "attach", &scene.pid()]);
    let mut strace = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace");
    wait_until("a thread that can't be started", || {
        !fs::read_to_string(few.join("pids.events")).expect("pids.events").starts_with("max 0")
    });
    let command = command_of(&scene, strace.id()).filter(|_| scene.is_attached());
    if let Some(command) = command {
        meanwhile(&few);
        kill(Pid::from_raw(command), Signal::SIGKILL).expect("a signal");
    }
    strace.wait().expect("strace's end");
    scene.is_as_before(&before);
    command.is_some()
}

/// The server is started in the container's own subtree and can't leave it. It makes no mount that nobody would serve, and gives the reason.
#[test]
fn a_server_that_cannot_leave_the_subtree_mounts_nothing() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("pids"),
        Need::Program("strace"),
        Need::LegacySyscalls
    );
    let scene = Scene::plain(MountMethod::Built);
    let before = scene.mounts();
    let home = scene.cgroup.dir("pids").join("home");
    let top = testkit::hierarchy("pids").expect("the hierarchy that was required").mountpoint;
    // From the cgroup above its own up to the root, as they're called in the command's own mount of the hierarchy.
    let own = Path::new("/").join(home.strip_prefix(top).expect("a cgroup of the hierarchy"));
    let mut stays = vec!["-e".to_owned(), "inject=write:error=EBUSY".to_owned()];
    stays.extend(
        own.ancestors().skip(1).flat_map(|above| ["-P".to_owned(), above.join("cgroup.procs").display().to_string()]),
    );
    let delegated = ["--policy", "delegate", "--delegate-controllers", "pids"];
    let complaint = said(&mut attach_in(&scene, &home, &stays, &delegated)).fails(1);
    assert!(complaint.contains("the server would run inside the delegated subtree"), "{complaint}");
    scene.is_as_before(&before);
}
