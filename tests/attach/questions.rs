//! What is asked about a container that has a view: its options are the view's, and what the kernel says first is told first.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::{ContainerOptions, Need, TestCgroup, View, ViewOptions, require, write_program};

use crate::scene::{MountMethod, Said, Scene, program, said, wait_until};

fn ask(scene: &Scene, words: &[&str]) -> Said {
    said(scene.command().args(words))
}

/// The answer of `explain` of a target.
fn explained(scene: &Scene, target: &str, options: &[&str], operation: &str, path: &str) -> Value {
    let said = ask(scene, &[&["explain", "--json"], options, &[target, operation, path]].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    serde_json::from_str(&said.stdout).expect("JSON")
}

#[test]
fn questions_about_a_target_use_the_options_of_its_live_view() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let scene = Scene::plain(MountMethod::Moved);
    let pid = scene.pid();
    let (limit, home) = (format!("/pids{}/job/pids.max", scene.home()), scene.home());
    scene.cgroup.child("pids", "home/job");
    // None is live: the defaults.
    let before = explained(&scene, &pid, &[], "write", &limit);
    assert_eq!(
        (before["rule"].as_str(), before["allowed"].as_bool()),
        (Some("v1-controllers-read-only"), Some(false)),
        "{before}"
    );
    assert!(before["whose"].as_str().is_some_and(|view| view.contains("none is live")), "{before}");
    scene.attach(&["--shape", "host-path", "--policy", "delegate", "--delegate-controllers", "pids"]).ok();
    let after = explained(&scene, &pid, &[], "write", &limit);
    assert_eq!((after["rule"].as_str(), after["allowed"].as_bool()), (Some("allowed"), Some(true)), "{after}");
    assert!(
        after["whose"].as_str().is_some_and(|view| view.starts_with("live,") && view.contains("policy delegate")),
        "{after}"
    );
    // What stands in front of the path is where it's mounted.
    let long = explained(&scene, &pid, &[], "write", &format!("/sys/fs/cgroup{limit}"));
    assert_eq!(long["path"], after["path"]);
    let tree = ask(&scene, &["tree", &pid, &format!("/pids{home}")]);
    assert!(tree.code == 0 && tree.stdout.starts_with("rw  ") && tree.stderr.contains("view: live"), "{tree:?}");
    let map = ask(&scene, &["map", "--json", &pid, &home]);
    assert!(map.stdout.contains(&format!("/unified{home}")), "{map:?}");
    scene.detach().ok();
    // The shape is the view's, too.
    scene.attach(&["--shape", "rooted"]).ok();
    let rooted = explained(&scene, &pid, &[], "mkdir", "/unified/new");
    assert_eq!(rooted["host"].as_str(), Some(format!("unified:{home}/new").as_str()), "{rooted}");
    scene.detach().ok();
}

#[test]
fn explain_reports_what_the_kernel_checks_first() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"), Need::UserNamespaces);
    for user_namespace in [false, true] {
        let scene = Scene::new(MountMethod::Moved, ContainerOptions { user_namespace, ..ContainerOptions::default() });
        let pid = scene.pid();
        scene.attach(&["--shape", "host-path"]).ok();
        let home = scene.home();
        // Controllers are mounted read-only, under strict.
        let answer = explained(&scene, &pid, &[], "mkdir", &format!("/pids{home}/new"));
        assert_eq!((answer["errno"].as_str(), answer["rule"].as_str()), (Some("EROFS"), Some("kernel")), "{answer}");
        assert!(answer["reason"].as_str().is_some_and(|why| why.contains("/sys/fs/cgroup/pids")), "{answer}");
        let done = scene.sh(&format!("mkdir /sys/fs/cgroup/pids{home}/new"));
        assert!(done.code != 0 && done.stderr.contains("Read-only"), "{done:?}");
        // Whose the directory is.
        let new = format!("/unified{home}/new");
        let by = |who: &[&str]| explained(&scene, &pid, who, "mkdir", &new)["errno"].as_str().map(str::to_owned);
        let root = scene.sh(&format!("mkdir /sys/fs/cgroup{new} && rmdir /sys/fs/cgroup{new}"));
        assert_eq!(by(&[]).is_none(), root.code == 0, "{root:?}");
        assert_eq!(by(&[]).is_none(), !user_namespace);
        assert_eq!(by(&["--as", "1000:1000"]).as_deref(), Some("EACCES"));
        assert_eq!(by(&["--as", "0"]), by(&[]));
        let owned = explained(&scene, &pid, &["--as", "1000"], "chmod", &format!("/unified{home}/cgroup.procs"));
        assert_eq!(owned["errno"].as_str(), Some("EPERM"), "{owned}");
        // A file that isn't there.
        let missing = explained(&scene, &pid, &[], "write", &format!("/unified{home}/memory.max"));
        assert_eq!(missing["errno"].as_str(), Some("ENOENT"));
        assert!(
            missing["reason"].as_str().is_some_and(|why| why.contains("memory isn't in cgroup.controllers")),
            "{missing}"
        );
        scene.detach().ok();
    }
}

#[test]
fn explain_says_that_a_subtree_was_made_again() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let cgroup = TestCgroup::new(&["unified"]);
    let made = cgroup.child("unified", "again");
    let path = format!("{}/again", cgroup.path());
    let options = ViewOptions::new().shape("rooted").option("--cgroup", &format!("unified={path}"));
    let view = View::mount(Path::new(program()), &options);
    let directory = view.dir().display().to_string();
    let explain = || said(Command::new(program()).args(["explain", "--json", &directory, "mkdir", "/unified/new"]));
    // It's mounted before it's known.
    wait_until("its record", || explain().code == 0);
    let answer: Value = serde_json::from_str(&explain().ok()).expect("JSON");
    assert_eq!(answer["allowed"].as_bool(), Some(true), "{answer}");
    assert!(answer["whose"].as_str().is_some_and(|view| view.starts_with("live")), "{answer}");
    fs::remove_dir(&made).expect("its removal");
    fs::create_dir(&made).expect("another one");
    let answer: Value = serde_json::from_str(&explain().ok()).expect("JSON");
    assert_eq!(answer["errno"].as_str(), Some("ENOENT"), "{answer}");
    assert!(answer["reason"].as_str().is_some_and(|why| why.contains("detach") && why.contains("attach")), "{answer}");
}

#[test]
fn commands_say_that_they_are_inside_a_view() {
    require!(Need::Root, Need::Fuse);
    let scene = Scene::plain(MountMethod::Moved);
    scene.attach(&[]).ok();
    for words in ["tree --pid 1", "run -- true", "mount --pid 1 /mnt", "explain --pid 1 write /"] {
        let said = scene.sh(&format!("{} {words}", program()));
        assert!(
            said.code == 3 && said.stderr.contains("inside one") && !said.stderr.contains("mount -t"),
            "{words}: {said:?}"
        );
    }
    scene.detach().ok();
}

#[test]
fn every_form_of_a_target_is_known() {
    require!(Need::Root);
    let scene = Scene::plain(MountMethod::Moved);
    let pid = scene.pid();
    let folder = tempfile::tempdir().expect("a directory");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").expect("PATH"));
    let only = |program: &str, arguments: &str, prints: &str| {
        for other in ["docker", "podman", "lxc-info", "incus", "lxc", "crictl", "runc", "crun"] {
            write_program(&folder.path().join(other), "#!/bin/sh\nexit 1\n");
        }
        let script = format!("#!/bin/sh\n[ \"$*\" = '{arguments}' ] && printf '%s\\n' '{prints}'\n");
        write_program(&folder.path().join(program), &script);
    };
    let state = format!("{{\"pid\": {pid}, \"status\": \"running\"}}");
    let inspection = format!("{{\"status\": {{\"id\": \"x\"}}, \"info\": {{\"pid\": {pid}}}}}");
    for (target, program_name, arguments, prints) in [
        ("docker:web", "docker", "container inspect --format {{.State.Pid}} web", &pid),
        ("podman:web", "podman", "container inspect --format {{.State.Pid}} web", &pid),
        ("lxc:web", "lxc-info", "-H -p -n web", &pid),
        ("lxc:/srv/lxc/web", "lxc-info", "-P /srv/lxc -H -p -n web", &pid),
        ("incus:web", "incus", "query /1.0/instances/web/state --force-local", &state),
        ("incus:web", "lxc", "query /1.0/instances/web/state --force-local", &state),
        ("crictl:4f5e", "crictl", "inspect --output json 4f5e", &inspection),
        ("runc:web", "runc", "state web", &state),
        ("runc:web", "crun", "state web", &state),
        ("web", "runc", "state web", &state),
    ] {
        only(program_name, arguments, prints);
        for verb in [
            &["explain", "--json", target, "lookup", "/"][..],
            &["tree", target],
            &["map", target, "/"],
            &["doctor", "--json", target],
        ] {
            let said = said(Command::new(program()).args(verb).env("PATH", &path));
            assert_eq!(said.code, 0, "{verb:?}: {}", said.stderr);
        }
    }
    // What an attacker can have printed isn't taken.
    for prints in ["{\"info\": {\"pid\": \"1\"}}", "{\"pid\": 1}", "{\"info\": {\"pid\": 1}} {}", "1"] {
        only("crictl", "inspect --output json 4f5e", prints);
        let said = said(Command::new(program()).args(["tree", "crictl:4f5e"]).env("PATH", &path));
        assert!(said.code == 1 && said.stderr.contains("no running container"), "{prints}: {said:?}");
    }
    for wrong in ["lxc:../web", "lxc:srv/web", "lxc:/srv/-n", "runc:/srv/web"] {
        let said = said(Command::new(program()).args(["detach", wrong]).env("PATH", &path));
        assert_eq!(said.code, 2, "{wrong}: {said:?}");
    }
    // A path is a directory, on which no view is mounted here.
    let line = said(Command::new(program()).args(["detach", "/srv"])).fails(1);
    assert!(line.contains("no view is mounted on /srv: 'vcgroupfs list' shows"), "{line}");
}
