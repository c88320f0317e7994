//! Backing ids, of which a connection has a limited number: who holds many files open doesn't take them from others, and what gets none is read
//! right all the same.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use testkit::probe::Op;
use testkit::probe::names::*;
use testkit::{Caller, Container, Need, TIMEOUT, run_to_end};

use super::scene::Scene;

/// All backing ids of a connection.
const IDS: usize = 8192;

/// A process that holds files open until this is dropped.
struct Holder(Child);

impl Holder {
    /// Opens all files below a cgroup's directory, and says how many it got.
    fn new(scene: &Scene, container: &Container, below: &str) -> (Self, usize) {
        let mut command = container.command(Caller::Root);
        command.arg(container.probe()).arg("--open-all").arg(scene.shown("memory", below));
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a probe");
        let mut line = String::new();
        let output = holder.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let opened = line.split(' ').next().and_then(|count| count.parse().ok()).expect("a count");
        (Self(holder), opened)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Makes cgroups with more than so many files in all.
fn fill(scene: &Scene, below: &str, files: usize) {
    let each = fs::read_dir(scene.cgroup.child("memory", below)).expect("a cgroup").count();
    for number in 0..=files / each {
        scene.cgroup.child("memory", &format!("{below}/{number}"));
    }
}

/// The output of busybox' cat, which only copies with sendfile(2) and splice(2).
fn cat(scene: &Scene, container: &Container, file: &str) -> String {
    let mut command = container.command(Caller::Root);
    let output = run_to_end(command.args(["busybox", "cat"]).arg(scene.shown("memory", file)), TIMEOUT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_possible() -> bool {
    let needs =
        [Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy("unified"), Need::Program("busybox")];
    testkit::missing(&needs).is_none()
}

#[test]
fn a_tenant_that_holds_many_files_open_takes_no_content_from_others() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new(&["memory", "unified"]);
    let containers = [scene.container("a"), scene.container("b")];
    fill(&scene, "a/many", IDS + IDS / 10);
    let (_holder, opened) = Holder::new(&scene, &containers[0], "a/many");
    assert!(opened > IDS / 4, "{opened}");
    let limit = scene.cgroup.dir("memory").join("b/memory.limit_in_bytes");
    fs::write(&limit, "77881344").expect("a limit");
    assert_eq!(cat(&scene, &containers[1], "b/memory.limit_in_bytes"), "77881344\n");
}

/// A file is open without a backing id, and opened again once there are ids, and read in every way meanwhile.
#[test]
fn a_file_without_a_backing_id_reads_correctly() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new(&["memory", "unified"]);
    let container = scene.container("a");
    // Half of all for a tenant, half of that for one of its users.
    fill(&scene, "a/many", IDS / 4);
    scene.cgroup.child("memory", "a/job");
    let mut session = scene.session(&container, "memory", "a");
    session.expect(&Op::SpawnMany { count: 1100 });
    let (holder, opened) = Holder::new(&scene, &container, "a/many");
    assert!(opened > IDS / 4, "{opened}");
    let limit = scene.cgroup.dir("memory").join("a/job/memory.limit_in_bytes");
    // It becomes longer, and so does its size.
    for value in ["4096", "77881344"] {
        fs::write(&limit, value).expect("a limit");
        for _ in 0..3 {
            assert_eq!(cat(&scene, &container, "a/job/memory.limit_in_bytes"), format!("{value}\n"));
        }
        let read = session.expect(&read_file("$OWN/job/memory.limit_in_bytes"));
        assert_eq!(read.as_str(), Some(format!("{value}\n").as_str()));
    }
    let list = cat(&scene, &container, "a/cgroup.procs");
    assert!(list.len() > 4096 && list.lines().count() >= 1100, "{} lines", list.lines().count());
    let copied = container
        .command(Caller::Root)
        .args(["cp", "--sparse=auto"])
        .arg(scene.shown("memory", "a/job/memory.limit_in_bytes"))
        .arg("/dev/stdout")
        .output()
        .expect("cp");
    assert_eq!(String::from_utf8_lossy(&copied.stdout), "77881344\n");
    // One that is open without an id stays so beside others, and beside those that come once there are ids.
    session.expect(&open("R", "$OWN/job/memory.limit_in_bytes", &["O_RDONLY"]));
    session.expect(&open("W", "$OWN/job/memory.limit_in_bytes", &["O_RDWR"]));
    drop(holder);
    session.expect(&open("S", "$OWN/job/memory.limit_in_bytes", &["O_RDONLY"]));
    session.expect(&write("W", "8192"));
    for descriptor in ["R", "W", "S"] {
        assert_eq!(session.expect(&pread(descriptor, 64, 0)).as_str(), Some("8192\n"), "{descriptor}");
    }
    for descriptor in ["R", "W", "S"] {
        session.expect(&close(descriptor));
    }
    // Those that were closed gave theirs back.
    assert_eq!(cat(&scene, &container, "a/job/memory.limit_in_bytes"), "8192\n");
}
