//! Containers by the names that their managers know them by. The managers are fakes, first in PATH.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::{Need, require};

use crate::scene::{MountMethod, Said, Scene, program, said};

/// A directory of programs.
struct Managers(tempfile::TempDir);

impl Managers {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// A program that answers with `script`.
    fn with(self, name: &str, script: &str) -> Self {
        testkit::write_program(&self.0.path().join(name), &format!("#!/bin/sh\n{script}\n"));
        self
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let path = std::env::var("PATH").expect("PATH");
        said(Command::new(program()).args(arguments).env("PATH", format!("{}:{path}", self.0.path().display())))
    }
}

#[test]
fn each_container_manager_resolves_its_names() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::plain(MountMethod::Moved);
    let pid = scene.pid();
    let before = scene.mounts();
    let inspect = format!("[ \"$*\" = 'container inspect --format {{{{.State.Pid}}}} web' ] && echo {pid}");
    let managers = Managers::new()
        .with("docker", &inspect)
        .with("podman", &inspect)
        .with("lxc-info", &format!("[ \"$*\" = '-H -p -n web' ] && echo {pid}"));
    let machine = format!("vcgroupfs-test-{}", std::process::id());
    let machines = Path::new("/run/systemd/machines");
    fs::create_dir_all(machines).expect("a directory");
    fs::write(machines.join(&machine), format!("# a comment\nNAME={machine}\nLEADER={pid}\n")).expect("a machine");
    for target in ["docker:web", "podman:web", "lxc:web", &format!("machine:{machine}")] {
        managers.run(&["attach", target]).ok();
        assert!(scene.is_attached(), "{target}");
        assert!(managers.run(&["list"]).ok().contains(target));
        managers.run(&["detach", target]).ok();
        assert_eq!(scene.mounts(), before, "{target}");
    }
    // A name alone, that one of them knows.
    managers.run(&["attach", &machine]).ok();
    managers.run(&["detach", &machine]).ok();
    fs::remove_file(machines.join(&machine)).expect("the machine's end");
    scene.is_as_before(&before);
}

#[test]
fn unknown_and_ambiguous_names_are_refused() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let own = std::process::id();
    let managers = Managers::new()
        .with("docker", &format!("case \"$*\" in *both) echo {own};; *stopped) echo 0;; *) echo 'Error: No such container' >&2; exit 1;; esac"))
        .with("podman", &format!("case \"$*\" in *both) echo {own};; *) exit 125;; esac"))
        .with("lxc-info", "exit 1");
    let refused = managers.run(&["attach", "docker:gone"]).fails(1);
    assert!(refused.contains("docker container inspect") && refused.contains("No such container"), "{refused}");
    let refused = managers.run(&["attach", "docker:stopped"]).fails(1);
    assert!(refused.contains("it doesn't run"), "{refused}");
    let refused = managers.run(&["attach", "gone"]).fails(1);
    for tried in ["docker", "podman", "/run/systemd/machines/gone", "lxc-info"] {
        assert!(refused.contains(tried), "{refused}");
    }
    let refused = managers.run(&["detach", "both"]).fails(1);
    assert!(
        refused.contains("several managers have a container 'both': name one of docker:both")
            && refused.contains("or podman:both"),
        "{refused}"
    );
    let refused = managers.run(&["attach", "rkt:web"]).fails(2);
    assert!(refused.contains("docker:NAME, podman:NAME, machine:NAME, lxc:[LXCPATH/]NAME, incus:NAME"), "{refused}");
    managers.run(&["attach", "docker:--help"]).fails(2);
    managers.run(&["attach", "machine:../c1"]).fails(2);
    // The number that a manager gives is another container's by the time that it's looked at: asked again, it says another.
    let folder = tempfile::tempdir().expect("a directory");
    let flag = folder.path().join("asked").display().to_string();
    let scene = Scene::plain(MountMethod::Moved);
    let script = format!("[ -e {flag} ] && echo 1 || {{ touch {flag}; echo {}; }}", scene.pid());
    let managers = Managers::new().with("docker", &script);
    let refused = managers.run(&["attach", "docker:web"]).fails(1);
    assert!(refused.contains("has just ended or been restarted"), "{refused}");
    assert!(!scene.is_attached());
}
