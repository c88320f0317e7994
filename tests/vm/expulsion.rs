//! A process that the host takes out of the delegated subtree stays out, whatever the container writes meanwhile: cgroup2 is mounted with
//! nsdelegate here, so the kernel sees to it, wherever a cgroup namespace at the boundary can be had.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use testkit::expulsion::Expulsion;
use testkit::probe::names::*;
use testkit::{Caller, Container, ContainerOptions, MAPPED_ROOT, TestCgroup, View, ViewOptions, hierarchy};

use crate::in_a_machine;
use crate::scene::{disable_all, enable_all, program};

/// How often the host migrates a process out, for each kind of container.
const TRIES: usize = 40;

/// A boundary in cgroup2 with `a`, `b` and `home`, and a cgroup of the host.
struct Scene {
    ours: TestCgroup,
    hosts: TestCgroup,
}

impl Scene {
    fn new() -> Self {
        let (ours, hosts) = (TestCgroup::new(&["unified"]), TestCgroup::new(&["unified"]));
        for name in ["a", "b", "home"] {
            ours.child("unified", name);
        }
        Self { ours, hosts }
    }

    fn boundary(&self) -> PathBuf {
        self.ours.dir("unified")
    }

    fn home(&self) -> PathBuf {
        self.boundary().join("home")
    }

    fn view(&self) -> View {
        View::mount(&program(), &ViewOptions::new().cgroup(&self.ours).shape("rooted").policy("delegate"))
    }

    /// How many of a container's processes come back.
    fn come_back(&self, view: &View, container: &Container, number: &str) -> usize {
        let mut session = container.session_in(Caller::Root, &[self.home()]);
        session.set("CG", view.hierarchy(&hierarchy("unified").expect("cgroup2")).display());
        session.expect(&spawn("P"));
        let mut expulsion = Expulsion {
            session,
            between: ["a", "b"],
            list: "cgroup.procs",
            number: number.into(),
            writes: 24,
            boundary: self.boundary(),
            outside: self.hosts.dir("unified"),
        };
        expulsion.count(TRIES)
    }
}

fn container(home: PathBuf, options: ContainerOptions) -> Container {
    Container::start(ContainerOptions { cgroups: vec![home], ..options })
}

fn has_unified() -> bool {
    hierarchy("unified").is_some()
}

#[test]
fn nobody_comes_back_where_the_kernel_checks() {
    in_a_machine!();
    if !has_unified() {
        return;
    }
    for (host_pids, user_namespace, number) in
        [(false, false, "$P"), (true, false, "$P"), (false, true, "$P"), (false, false, "0")]
    {
        let scene = Scene::new();
        if user_namespace {
            for name in ["a", "b", "home", "."] {
                give(&scene.boundary().join(name));
            }
        }
        let view = scene.view();
        let options = ContainerOptions { host_pids, user_namespace, ..ContainerOptions::default() };
        let container = container(scene.home(), options);
        let back = scene.come_back(&view, &container, number);
        assert_eq!(back, 0, "host's pids {host_pids}, user namespace {user_namespace}, {number}: {}", view.log());
        assert!(!view.log().contains("WARN"), "{}", view.log());
    }
}

fn give(dir: &std::path::Path) {
    for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        std::os::unix::fs::chown(dir.join(name), Some(MAPPED_ROOT), Some(MAPPED_ROOT)).expect("chown");
    }
}

/// systemd enables controllers in a container. The boundary can't be entered any more then, but it was when the view was made.
#[test]
fn nobody_comes_back_when_controllers_are_enabled_later() {
    in_a_machine!();
    if !has_unified() {
        return;
    }
    let scene = Scene::new();
    let view = scene.view();
    enable_all(&scene.boundary());
    let container = container(scene.home(), ContainerOptions::default());
    assert_eq!(scene.come_back(&view, &container, "$P"), 0, "{}", view.log());
}

/// The boundary can't be entered, but there's a namespace: the container's own.
#[test]
fn nobody_comes_back_with_a_namespace_of_the_containers_own() {
    in_a_machine!();
    if !has_unified() {
        return;
    }
    let scene = Scene::new();
    // The container has to find the view, and has to be where nobody can be while controllers are enabled: so they are at first, when the
    // server would enter, and again when all is there.
    enable_all(&scene.boundary());
    let view = scene.view();
    disable_all(&scene.boundary());
    let options = ContainerOptions { cgroup_namespace: true, ..ContainerOptions::default() };
    let container = container(scene.boundary(), options);
    let list = fs::read_to_string(scene.boundary().join("cgroup.procs")).expect("the container's processes");
    for process in list.lines() {
        fs::write(scene.home().join("cgroup.procs"), process).expect("a process of the container");
    }
    enable_all(&scene.boundary());
    assert_eq!(scene.come_back(&view, &container, "$P"), 0, "{}", view.log());
}

/// Without a namespace at the boundary some processes come back, and each of them is logged.
#[test]
fn a_process_that_comes_back_where_the_kernel_cannot_check_is_logged() {
    in_a_machine!();
    if !has_unified() {
        return;
    }
    let scene = Scene::new();
    enable_all(&scene.boundary());
    let view = scene.view();
    let container = container(scene.home(), ContainerOptions::default());
    let back = scene.come_back(&view, &container, "$P");
    let count =
        |log: &str| log.lines().filter(|line| line.contains("WARN") && line.contains("brought a process back")).count();
    let told = count(&view.log_once(|log| count(log) >= back));
    let note = format!("without a namespace at the boundary {back} of {TRIES} came back, {told} warnings\n");
    let notes = fs::File::options().create(true).append(true).open("/tmp/vm-notes");
    notes.and_then(|mut notes| notes.write_all(note.as_bytes())).expect("a note");
    assert!(told >= back, "{back} came back, {told} were told: {}", view.log());
}
