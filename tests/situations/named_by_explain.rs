//! Situations that `explain` names.

use std::fs;

use testkit::{Caller, Need, OWNER, require};

use crate::scene::{Scene, printed};

/// The answer names errno and cause, and after the commands that it prints the operation is allowed.
#[track_caller]
fn is_mended(scene: &Scene, options: &[&str], words: &[&str], [errno, cause]: [&str; 2]) {
    let before = scene.explain(options, words);
    assert!(before.contains(&format!("errno      {errno}\n")) && before.contains(cause), "{before}");
    scene.type_all(&printed(&before));
    let after = scene.explain(options, words);
    assert!(after.contains("verdict    allowed") && !after.contains("remedy"), "{before}\n{after}");
}

/// A controller of cgroup2, and whether the host's root gives it to cgroups below.
fn controller() -> (String, bool) {
    let root = testkit::hierarchy("unified").expect("cgroup2").mountpoint;
    let words = |file: &str| {
        let text = fs::read_to_string(root.join(file)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let (enabled, all) = (words("cgroup.subtree_control"), words("cgroup.controllers"));
    let limits = |name: &&String| matches!(name.as_str(), "hugetlb" | "memory" | "pids");
    let found = enabled.iter().chain(&all).find(limits).expect("a controller in cgroup2");
    (found.clone(), enabled.contains(found))
}

#[test]
fn a_controller_is_not_enabled() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let (controller, is_given) = controller();
    let file = if controller == "hugetlb" { "hugetlb.2MB.max".to_owned() } else { format!("{controller}.max") };
    let scene = Scene::new();
    // A cgroup with processes can't give controllers to those below.
    for name in ["home/init.scope", "home/job"] {
        scene.cgroup.child("unified", name);
    }
    scene.migrate_all("unified", "home", "home/init.scope");
    scene.program(&["attach", &scene.pid()]);
    let directory = testkit::hierarchy("unified").expect("cgroup2").in_view("".as_ref()).display().to_string();
    let path = format!("/{directory}{}/job/{file}", scene.home());
    let (words, cause) = (["read", &path], format!("{controller} isn't in cgroup.controllers of"));
    if is_given {
        is_mended(&scene, &[], &words, ["ENOENT", &cause]);
        assert!(scene.dir("unified", "home/job").join(file).exists());
        return;
    }
    // The first command changes the host's root cgroup, which isn't the test's.
    let told = scene.explain(&[], &words);
    assert!(told.contains("errno      ENOENT\n") && told.contains(&cause), "{told}");
    let root = testkit::hierarchy("unified").expect("cgroup2").mountpoint;
    let tops = [root, scene.dir("unified", ""), scene.dir("unified", "home")];
    let wanted = tops.map(|top| format!("echo +{controller} > {}", top.join("cgroup.subtree_control").display()));
    let commands: Vec<String> = printed(&told).into_iter().map(|printed| printed.command).collect();
    assert_eq!(commands, wanted);
}

#[test]
fn the_cgroup_was_removed_and_made_again() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::attached();
    scene.make_again();
    let cgroup = format!("/systemd{}/job", scene.home());
    is_mended(&scene, &[], &["mkdir", &cgroup], ["ENOENT", "was removed and made again since the view was made"]);
    scene.sh(&format!("mkdir /sys/fs/cgroup{cgroup}"));
}

#[test]
fn the_owner_is_another_user() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::attached();
    let (user, cgroup) = (OWNER.to_string(), format!("/systemd{}/job", scene.home()));
    let make = format!("mkdir /sys/fs/cgroup{cgroup}");
    assert!(!scene.can(Caller::Owner, &make));
    is_mended(&scene, &["--as", &user], &["mkdir", &cgroup], ["EACCES", "belongs to user 0, group 0"]);
    assert!(scene.can(Caller::Owner, &make));
}

#[test]
fn the_mount_is_read_only() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::attached();
    scene.sh("mount -o remount,bind,ro /sys/fs/cgroup/systemd");
    let cgroup = format!("/systemd{}/job", scene.home());
    let make = format!("mkdir /sys/fs/cgroup{cgroup}");
    assert!(!scene.can(Caller::Root, &make));
    is_mended(&scene, &[], &["mkdir", &cgroup], ["EROFS", "/sys/fs/cgroup/systemd is mounted read-only there"]);
    assert!(scene.can(Caller::Root, &make));
}

#[test]
fn the_process_to_migrate_is_outside_the_subtree() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::attached();
    scene.cgroup.children("other");
    scene.migrate(&scene.dir("name=systemd", "other"));
    let (pid, cgroup) = (scene.pid(), format!("/systemd{}", scene.home()));
    let cause = ["EACCES", "the process to migrate isn't in the container's delegated subtree"];
    is_mended(&scene, &["--process", &pid], &["migrate", &cgroup], cause);
}

/// What the policy rejects isn't mended by a mode or a mount.
#[test]
fn no_command_is_printed_that_would_not_help() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"));
    let scene = Scene::attached();
    let user = OWNER.to_string();
    for (options, operation) in [(&["--as", &*user][..], "mkdir"), (&[], "mkdir"), (&[], "chmod")] {
        let told = scene.explain(options, &[operation, &format!("/pids{}", scene.cgroup.path())]);
        assert!(told.contains("verdict    rejected") && !told.contains("remedy"), "{told}");
    }
}
