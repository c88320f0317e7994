//! A view in a container that already runs, on kernels with and without what it's made of.

use std::fs;
use std::process::Command;
use std::time::Duration;

use testkit::{Caller, Container, ContainerOptions, Need, Programs, hierarchies, run_to_end};

use crate::scene::{Scene, program, soon};
use crate::{Setup, in_a_machine, setup};

/// The options of `attach` and how it ended.
fn run(legacy: bool, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(if legacy { Programs::find().legacy.clone() } else { program() });
    if legacy {
        command.arg(program());
    }
    let output = run_to_end(command.args(words), Duration::from_secs(120));
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn mounts(container: &Container) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", container.init())).expect("mountinfo");
    text.lines().map(|line| line.splitn(3, ' ').nth(2).expect("a mount").to_owned()).collect()
}

fn is_listed(pid: &str) -> bool {
    let list = crate::scene::told(["list", "--json"]);
    list.contains(&format!("\"container\":{pid},"))
}

#[test]
fn v1_the_stack_appears_and_disappears() {
    in_a_machine!();
    let scene = Scene::new();
    for (user_namespace, cgroup_namespace, legacy) in
        [(false, false, false), (true, true, false), (false, false, true), (true, false, true)]
    {
        let what = format!("user namespace {user_namespace}, cgroup namespace {cgroup_namespace}, legacy {legacy}");
        let cgroup_namespace = cgroup_namespace && Need::CgroupNamespaces.is_met();
        if user_namespace && !Need::UserNamespaces.is_met() {
            continue;
        }
        let options = ContainerOptions {
            user_namespace,
            cgroup_namespace,
            cgroups: scene.homes(),
            ..ContainerOptions::default()
        };
        let container = Container::start(options);
        let pid = container.init().to_string();
        let before = mounts(&container);
        if user_namespace && !Need::FuseInUserNamespaces.is_met() {
            let (code, said) = run(legacy, &["attach", &pid]);
            assert!(code == Some(3) && said.contains("user namespace"), "{what}: {code:?} {said}");
            assert_eq!(mounts(&container), before, "{what}");
            continue;
        }
        assert_eq!(run(legacy, &["attach", &pid]), (Some(0), String::new()), "{what}");
        let after = mounts(&container);
        for hierarchy in hierarchies() {
            let point = hierarchy.in_view("/sys/fs/cgroup".as_ref()).display().to_string();
            let here: Vec<&String> = after.iter().filter(|mount| mount.split(' ').nth(2) == Some(&point)).collect();
            assert!(here.iter().any(|mount| mount.contains(" fuse.vcgroupfs ")), "{what}: {point}: {after:#?}");
            let real = here.iter().filter(|mount| mount.contains(" - cgroup") && mount.contains(" ro,")).count();
            assert_eq!(real, usize::from(!(legacy && hierarchy.is_unified())), "{what}: {point}: {after:#?}");
        }
        let script = "[ -d /sys/fs/cgroup/systemd ] && ! mkdir /sys/fs/cgroup/x 2>&1";
        let mut command = container.command(Caller::Root);
        let inside = run_to_end(command.args(["sh", "-c", script]), Duration::from_secs(60));
        assert!(inside.status.success(), "{what}: {inside:?}");
        assert_eq!(run(legacy, &["detach", &pid]), (Some(0), String::new()), "{what}");
        assert_eq!(mounts(&container), before, "{what}");
        assert!(!is_listed(&pid), "{what}");

        assert_eq!(run(legacy, &["attach", &pid]), (Some(0), String::new()), "{what}");
        assert!(is_listed(&pid), "{what}");
        drop(container);
        assert!(soon(|| !is_listed(&pid)), "{what}: it outlives its container");
    }
}

/// The superblock's options of cgroup2: `nsdelegate` is one, and a mount from the initial cgroup namespace without it would drop it.
fn options_of_cgroup2() -> String {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = text.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup2");
    line.rsplit(' ').next().expect("options").to_owned()
}

fn sentinels() -> usize {
    let names = crate::scene::names("/sys/fs/cgroup".as_ref());
    names.iter().filter(|name| name.starts_with("vcgroupfs-sentinel-")).count()
}

#[test]
fn v2_the_sentinel_appears_and_disappears() {
    in_a_machine!();
    assert_eq!(setup(), Some(Setup::Unified));
    let scene = Scene::new();
    let host = options_of_cgroup2();
    assert!(host.contains("nsdelegate"), "{host}");
    for (user_namespace, legacy) in [(false, false), (true, false), (false, true), (true, true)] {
        let what = format!("user namespace {user_namespace}, legacy {legacy}");
        let options = ContainerOptions { user_namespace, cgroups: scene.homes(), ..ContainerOptions::default() };
        let container = Container::start(options);
        let pid = container.init().to_string();
        let before = mounts(&container);
        let (code, said) = run(legacy, &["attach", &pid]);
        assert!(code == Some(0) && said.lines().count() == 1 && said.contains("unified host"), "{what}: {said}");
        assert_eq!(sentinels(), 1, "{what}");
        let own = format!("/sys/fs/cgroup{}/home", scene.path());
        let script = format!(
            "set -e
             [ $(stat -f -c %t /sys/fs/cgroup) = 63677270 ]
             [ $(stat -f -c %t {own}) = 65735546 ]
             grep -q memory /sys/fs/cgroup/cgroup.controllers
             grep -q '^0::{}/home$' /proc/self/cgroup
             read -r first < {own}/cgroup.procs; [ -n \"$first\" ]
             read -r limit < {own}/memory.max; [ -n \"$limit\" ]
             ! mkdir /sys/fs/cgroup/x 2>&1
             ! ls {own}/../../sibling 2>&1
             ! echo 0 > /sys/fs/cgroup/cgroup.procs",
            scene.path()
        );
        let mut command = container.command(Caller::Root);
        let inside = run_to_end(command.args(["sh", "-c", &script]), Duration::from_secs(60));
        assert!(inside.status.success(), "{what}: {inside:?}");
        if !user_namespace {
            let script = format!("mkdir {own}/x && sh -c 'echo 0 > {own}/x/cgroup.procs' && rmdir {own}/x");
            let mut command = container.command(Caller::Root);
            let inside = run_to_end(command.args(["sh", "-c", &script]), Duration::from_secs(60));
            assert!(inside.status.success(), "{what}: {inside:?}");
        }
        assert_eq!(run(legacy, &["detach", &pid]), (Some(0), String::new()), "{what}");
        assert_eq!(mounts(&container), before, "{what}");
        assert_eq!((sentinels(), options_of_cgroup2()), (0, host.clone()), "{what}");

        assert_eq!(run(legacy, &["attach", &pid]).0, Some(0), "{what}");
        assert!(is_listed(&pid), "{what}");
        drop(container);
        assert!(soon(|| !is_listed(&pid) && sentinels() == 0), "{what}: it outlives its container");
    }
}

/// There clients want a real cgroup2 at the top, which the kernel contains.
#[test]
fn v2_a_container_with_a_cgroup_namespace_is_refused() {
    in_a_machine!();
    let scene = Scene::new();
    let options = ContainerOptions { cgroup_namespace: true, cgroups: scene.homes(), ..ContainerOptions::default() };
    let container = Container::start(options);
    let before = mounts(&container);
    let (code, said) = run(false, &["attach", &container.init().to_string()]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("cgroup namespace of its own"), "{said}");
    assert_eq!((mounts(&container), sentinels()), (before, 0));
}
