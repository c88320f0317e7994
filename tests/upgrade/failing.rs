//! A program that can't take a view over is given up, and the one before it goes on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::probe::names::{mkdir, rmdir};
use testkit::{
    Caller, Container, ContainerOptions, NEXT_COMMIT, TIMEOUT, TestCgroup, hierarchy, is_over, next_version,
    run_to_end, wait_until,
};

use crate::view::{Listed, Mounted, program, run};

/// Has the other program fail at a point, in a view that goes on afterwards with the program that it had. Returns what is
/// said.
fn fails_at(point: &str) -> (String, Mounted) {
    let scene = Mounted::new(|options| options.environment("VCGROUPFS_TEST_UPGRADE", point));
    let top = scene.view.hierarchy(&hierarchy("unified").expect("cgroup2"));
    let held = fs::File::open(top.join("cgroup.procs")).expect("a list");
    let said = scene.fail();
    assert!(said.contains("the program before it goes on"), "{said}");
    assert!(!scene.listed.is_next(), "{said}");
    std::os::unix::fs::FileExt::read_at(&held, &mut [0; 64], 0).expect("a file that was open");
    fs::create_dir(top.join("made")).expect("mkdir");
    fs::remove_dir(top.join("made")).expect("rmdir");
    (said, scene)
}

/// The same, where nothing has changed: the process of the server is the same one.
#[test]
fn it_cannot_read_the_state() {
    require_upgrade!();
    let (said, scene) = fails_at("abort:check");
    assert!(said.contains("ended before it has looked at the state"), "{said}");
    let server = scene.listed.process("pid");
    scene.fail();
    assert_eq!(scene.listed.process("pid"), server);
}

#[test]
fn it_hangs_over_the_state() {
    require_upgrade!();
    let begin = Instant::now();
    let (said, _scene) = fails_at("hang:check");
    assert!(said.contains("the new program hangs"), "{said}");
    assert!(begin.elapsed().as_secs() < 25, "{:?}", begin.elapsed());
}

#[test]
fn its_keeper_is_killed() {
    require_upgrade!();
    let (said, scene) = fails_at("abort:keeper");
    assert!(said.contains("the new program has ended"), "{said}");
    // The fallback is the keeper.
    let keeper = scene.listed.process("keeper");
    let name = fs::read_to_string(format!("/proc/{keeper}/comm")).expect("its name");
    assert_eq!(name, "keeper\n");
    let server = scene.listed.process("pid");
    kill(server, Signal::SIGKILL).expect("a signal");
    wait_until("another server", || scene.listed.process("pid") != server);
    let directory = scene.target();
    let (cgroup, listed) = (scene.cgroup, scene.listed);
    let output = run(program(), &["umount", &directory]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    listed.is_gone();
    wait_until("the keeper ends", || is_over(keeper));
    drop((scene.view, cgroup));
}

/// Its memory is unwound, and what that drops mustn't take the view away: the container would see the host's cgroups.
#[test]
fn its_keeper_panics_in_the_view_of_a_container() {
    require_upgrade!();
    let cgroup = TestCgroup::new(&["name=systemd", "unified"]);
    let cgroups = ["name=systemd", "unified"].map(|selector| cgroup.child(selector, "box"));
    let container = Container::start(ContainerOptions { cgroups: cgroups.to_vec(), ..ContainerOptions::default() });
    let init = container.init().to_string();
    let mounts =
        || fs::read_to_string(format!("/proc/{init}/mountinfo")).expect("mountinfo").matches("fuse.vcgroupfs").count();
    // It has copies of what other tests have mounted.
    let others = mounts();
    let mut attach = Command::new(program());
    attach.args(["attach", &init]).env("VCGROUPFS_TEST_UPGRADE", "panic:begin");
    assert!(run_to_end(&mut attach, TIMEOUT).status.success());
    let view = Listed::of_container(container.init());
    let before = mounts();
    assert!(before > others);
    let output = run(next_version(), &["upgrade", &init]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("the new program has ended"), "{said}");
    assert!(!view.is_next());
    assert_eq!(mounts(), before);
    let mut session = container.session(Caller::Root);
    let top = hierarchy("unified").expect("cgroup2").in_view(Path::new("/sys/fs/cgroup"));
    session.set("OWN", top.join(cgroup.name()).join("box").display());
    session.expect(&mkdir("$OWN/made"));
    session.expect(&rmdir("$OWN/made"));
    drop(session);
    let output = run(program(), &["detach", &init]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    view.is_gone();
    assert_eq!(mounts(), others);
}

/// Its server goes on without it, and must not serve beside another one.
#[test]
fn its_keeper_is_killed_while_its_server_starts() {
    require_upgrade!();
    let scene = Mounted::new(|options| options.environment("VCGROUPFS_TEST_UPGRADE", "hang:server"));
    let (keeper, target) = (scene.listed.process("keeper"), scene.target());
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| run(next_version(), &["upgrade", &target]));
        wait_until("the new program", || {
            let entry = scene.listed.entry().expect("the view");
            entry["version"].as_str().is_some_and(|version| version.contains(NEXT_COMMIT))
        });
        let server = scene.listed.entry().expect("the view")["pid"].as_i64().expect("a server");
        let server = Pid::from_raw(i32::try_from(server).expect("a number of a process"));
        kill(keeper, Signal::SIGKILL).expect("a signal");
        let output = upgrade.join().expect("the command");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        wait_until("the server's end", || is_over(server));
    });
    assert!(!scene.listed.is_next());
    assert_ne!(scene.listed.process("keeper"), keeper);
    assert!(fs::read_dir(scene.view.dir()).expect("the view").count() > 0);
    assert!(run(program(), &["umount", &target]).status.success());
}

#[test]
fn its_keeper_hangs() {
    require_upgrade!();
    let (said, _scene) = fails_at("hang:keeper");
    assert!(said.contains("the new program hangs"), "{said}");
}

#[test]
fn its_server_ends() {
    require_upgrade!();
    let (said, scene) = fails_at("abort:server");
    assert!(said.contains("killed by SIGABRT"), "{said}");
    let keeper = scene.listed.process("keeper");
    assert_eq!(scene.listed.entry().expect("the view")["restarts"], 0);
    // The other program works again, once it's told to.
    assert_eq!(scene.listed.process("keeper"), keeper);
}

#[test]
fn its_server_hangs() {
    require_upgrade!();
    let (said, _scene) = fails_at("hang:server");
    assert!(said.contains("didn't come up in 10 s"), "{said}");
}

/// A view whose program is told to end meanwhile ends.
#[test]
fn the_view_ends_meanwhile() {
    require_upgrade!();
    for point in ["hang:check", "hang:server", "hang:keeper"] {
        let scene = Mounted::new(|options| options.environment("VCGROUPFS_TEST_UPGRADE", point));
        let keeper = scene.listed.process("keeper");
        let target = scene.target();
        std::thread::scope(|scope| {
            let upgrade = scope.spawn(|| run(testkit::next_version(), &["upgrade", &target]));
            std::thread::sleep(std::time::Duration::from_millis(500));
            kill(keeper, Signal::SIGTERM).expect("a signal");
            let output = upgrade.join().expect("the command");
            assert_eq!(output.status.code(), Some(1), "{point}: {}", String::from_utf8_lossy(&output.stderr));
        });
        scene.listed.is_gone();
        assert!(!scene.view.log().contains("fatal runtime error"), "{point}: {}", scene.view.log());
    }
}
