//! A program that can't take a view over is given up, and the one before it goes on.

use std::fs;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use testkit::{Need, hierarchy, is_over, require, wait_until};

use crate::view::{Mounted, program, run};

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
    require!(Need::Program("sleep"));
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
    }
}
