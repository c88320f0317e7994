//! Situations that `doctor` names.

use std::fs;

use testkit::{Need, require, wait_until};

use crate::scene::{Scene, printed, unwrapped};

/// The summary names the cause, and its commands make that go away.
#[track_caller]
fn is_mended(scene: &Scene, cause: &str) {
    let before = scene.doctor();
    assert!(unwrapped(&before).contains(cause), "no '{cause}': {before}");
    scene.type_all(&printed(&before));
    let after = scene.doctor();
    assert!(!unwrapped(&after).contains(cause), "{before}\n{after}");
}

#[test]
fn the_cgroup_was_removed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::attached();
    scene.cgroup.children("other");
    scene.migrate_everywhere("home", "other");
    scene.remove_everywhere("home");
    is_mended(&scene, "the cgroup for which the view was made was removed, and there is nothing in its place");
    let told = scene.explain(&[], &["mkdir", &format!("/systemd{}/other/job", scene.cgroup.path())]);
    assert!(told.contains("verdict    allowed"), "{told}");
}

#[test]
fn the_cgroup_was_removed_and_made_again() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::new();
    scene.program(&["attach", "--policy", "delegate", "--hide-ancestor-limits", &scene.pid()]);
    scene.make_again();
    is_mended(&scene, "the container's cgroup was removed and made again");
    // The options are those that the view had.
    let told = scene.explain(&[], &["mkdir", &format!("/systemd{}/job", scene.home())]);
    assert!(
        told.contains("verdict    allowed") && told.contains("policy delegate, without limits of ancestors"),
        "{told}"
    );
}

#[test]
fn a_limit_is_that_of_an_ancestor() {
    require!(Need::Root, Need::Hierarchy("memory"), Need::Hierarchy("cpu"));
    let scene = Scene::new();
    let limit = |selector: &str, file: &str, value: &str| {
        fs::write(scene.cgroup.dir(selector).join(file), value).expect("a limit");
    };
    limit("memory", "memory.limit_in_bytes", "314572800");
    limit("cpu", "cpu.cfs_quota_us", "150000");
    let before = unwrapped(&scene.doctor());
    let by = format!("{}/memory.limit_in_bytes", scene.cgroup.path());
    assert!(
        before.contains("(314572800 bytes) is that of a cgroup above the container's") && before.contains(&by),
        "{before}"
    );
    is_mended(&scene, "is that of a cgroup above the container's");
    let own = |selector: &str, file: &str| fs::read_to_string(scene.dir(selector, "home").join(file)).expect("a limit");
    assert_eq!(
        (&*own("memory", "memory.limit_in_bytes"), &*own("cpu", "cpu.cfs_quota_us")),
        ("314572800\n", "150000\n")
    );
}

#[test]
fn another_mount_hides_the_view() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::attached();
    scene.sh("mount -t tmpfs tmpfs /sys/fs/cgroup/systemd");
    is_mended(&scene, "other mounts cover the view or parts of it");
}

#[test]
fn the_process_was_migrated_out_of_the_subtree() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::attached();
    scene.cgroup.children("other");
    scene.migrate(&scene.dir("name=systemd", "other"));
    is_mended(&scene, "was migrated out of the view's delegated subtree");
    let memberships = fs::read_to_string(format!("/proc/{}/cgroup", scene.pid())).expect("memberships");
    assert!(memberships.contains(&format!(":name=systemd:{}\n", scene.home())), "{memberships}");
}

#[test]
fn the_process_is_in_the_root_cgroup() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::in_roots();
    is_mended(&scene, "the container has no cgroup of its own: it is in the host's root cgroup of all hierarchies");
    let told = scene.explain(&[], &["mkdir", &format!("/systemd/vcgroupfs-place-{}/job", scene.pid())]);
    assert!(told.contains("verdict    allowed"), "{told}");
}

#[test]
fn the_server_is_dead() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::attached();
    scene.view_processes().kill_to_the_end();
    wait_until("the view's death", || scene.doctor().contains("dead view"));
    is_mended(&scene, "dead view on");
    scene.sh("ls /sys/fs/cgroup/systemd");
}

/// What works has no command, and no word of anything wrong.
#[test]
fn nothing_is_wrong() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::attached();
    let text = scene.doctor();
    assert!(!text.contains("run: ") && !text.contains("problem"), "{text}");
}
