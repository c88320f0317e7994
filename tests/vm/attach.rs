//! A view in a container that already runs, on kernels with and without what it's made of.

use std::fs;
use std::process::Command;
use std::time::Duration;

use testkit::{Caller, Container, ContainerOptions, Programs, hierarchies, run_to_end};

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
fn v1_stack_comes_and_goes() {
    in_a_machine!();
    let scene = Scene::new();
    for (user_namespace, cgroup_namespace, legacy) in
        [(false, false, false), (true, true, false), (false, false, true), (true, false, true)]
    {
        let what = format!("user namespace {user_namespace}, cgroup namespace {cgroup_namespace}, legacy {legacy}");
        let options = ContainerOptions {
            user_namespace,
            cgroup_namespace,
            cgroups: scene.homes(),
            ..ContainerOptions::default()
        };
        let container = Container::start(options);
        let pid = container.init().to_string();
        let before = mounts(&container);
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

#[test]
fn v2_says_that_it_isnt_supported() {
    in_a_machine!();
    assert_eq!(setup(), Some(Setup::Unified));
    let container = Container::start(ContainerOptions::default());
    let before = mounts(&container);
    let (code, said) = run(false, &["attach", &container.init().to_string()]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("unified host"), "{said}");
    assert_eq!(mounts(&container), before);
}
