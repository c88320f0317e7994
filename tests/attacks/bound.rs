//! The host has mounted another cgroup on one inside the subtree.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::probe::names::*;
use testkit::{
    Bind, Caller, Container, ContainerOptions, Need, Programs, TIMEOUT, TestCgroup, View, ViewOptions, require,
    run_to_end,
};

use super::{NAMED, PROGRAM, Scene};

fn bind_leads_nowhere(legacy: bool, bound_first: bool) {
    let victim = TestCgroup::new(&[NAMED]);
    let cgroup = TestCgroup::new(&[NAMED]);
    let (homes, sub) = (cgroup.children("home"), cgroup.child(NAMED, "sub"));
    let mut bind = bound_first.then(|| Bind::new(&victim.dir(NAMED), sub.clone()));
    let view = View::mount(Path::new(PROGRAM), &ViewOptions::new().cgroup(&cgroup).shape("rooted").legacy(legacy));
    let container = Container::start(ContainerOptions { cgroups: homes, ..ContainerOptions::default() });
    let scene = Scene { container, view, cgroup };
    bind.get_or_insert_with(|| Bind::new(&victim.dir(NAMED), sub.clone()));
    let mut session = scene.session(Caller::Root, NAMED);
    session.expect(&mkdir("$CG/sub/by-the-view"));
    fs::create_dir(sub.join("control")).expect("mkdir through the bind mount");
    drop(bind);
    assert!(victim.dir(NAMED).join("control").exists(), "the control reaches the other cgroup");
    assert!(!victim.dir(NAMED).join("by-the-view").exists());
    assert!(sub.join("by-the-view").exists());
}

#[test]
fn a_bind_mount_of_another_cgroup_leads_nowhere() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(NAMED));
    bind_leads_nowhere(false, false);
    bind_leads_nowhere(false, true);
}

#[test]
fn a_bind_mount_of_another_cgroup_leads_nowhere_without_new_system_calls() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(NAMED), Need::LegacySyscalls);
    bind_leads_nowhere(true, false);
    bind_leads_nowhere(true, true);
}

/// Where all mounts are shared, what the host mounts doesn't come to the server, what the server mounts doesn't come to the host, and nothing of the
/// server's keeps the host from unmounting a hierarchy. `$0` is the test cgroup, `$1` its directory, `$2` the other cgroup, `$3` where the view goes,
/// `$4` the hierarchy, `$5` its mount point, and the rest the program. What other tests mount on their cgroups may come and go, and is taken away in here.
const SHARED: &str = r#"
    ours=$0 own=$1 victim=$2 dir=$3 name=$4 point=$5
    shift 5
    grep -o " $point/vcgroupfs-test-[^ ]*" /proc/self/mountinfo | xargs -r -n 1 umount
    mount --make-rshared /
    before=$(grep -v /vcgroupfs-test- /proc/self/mountinfo)
    "$@" mount --cgroup "$name=$ours" --shape rooted "$dir"
    test "$(grep -v -e " $dir " -e /vcgroupfs-test- /proc/self/mountinfo)" = "$before"
    view=$dir/$(basename "$point")
    mount --bind "$victim" "$own/sub"
    mkdir "$view/sub/by-the-view" "$own/sub/control"
    umount "$own/sub"
    test -d "$own/sub/by-the-view" -a ! -d "$own/sub/control"
    umount "$point"
    mkdir "$view/sub/later"
    test -d "$view/sub/later"
    umount "$dir"
"#;

#[test]
fn the_servers_own_mounts_are_separate_from_the_hosts() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(NAMED), Need::LegacySyscalls);
    for legacy in [false, true] {
        let (cgroup, victim) = (TestCgroup::new(&[NAMED]), TestCgroup::new(&[NAMED]));
        cgroup.child(NAMED, "sub");
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", SHARED]);
        command.args([cgroup.path(), cgroup.dir(NAMED).display().to_string(), victim.dir(NAMED).display().to_string()]);
        command.arg(folder.path()).arg(NAMED).arg(testkit::hierarchy(NAMED).expect("required").mountpoint);
        if legacy {
            command.arg(&Programs::find().legacy);
        }
        let output = run_to_end(command.arg(PROGRAM).stderr(Stdio::piped()), TIMEOUT);
        assert!(output.status.success(), "legacy {legacy}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(cgroup.dir(NAMED).join("sub/later").exists());
    }
}
