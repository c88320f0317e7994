//! A view of a cgroup against a real cgroup namespace at a cgroup like it, whose hierarchy is mounted with nsdelegate: the same
//! operations, the same results.

use std::fs;
use std::process::Command;

use testkit::probe::names::*;
use testkit::probe::{Op, Outcome};
use testkit::{Programs, Session, hierarchy};

use crate::in_a_machine;
use crate::scene::{Scene, names, report};

/// What a view does differently at the boundary, on purpose or for want of knowledge: a part of the operation's name, what the kernel
/// answers, and why.
const DIFFERENT: &[(&str, &str, &str)] = &[
    (
        ".pressure",
        "EPERM write",
        "a trigger changes no state of the cgroup, so a view lets it be set at the boundary as well",
    ),
    ("rw.pressure", "EPERM ", "the same"),
    (
        "cpuset.cpus\", data: \"xxx",
        "EPERM write",
        "how much this file takes depends on the kernel's number of CPUs: a view says E2BIG",
    ),
    ("cpuset.cpus.exclusive\", data: \"xxx", "EPERM write", "the same"),
    ("cpuset.mems\", data: \"xxx", "EPERM write", "the same"),
];

/// A probe in a pid namespace, whose cgroup namespace begins at the boundary, with a cgroupfs mounted in there.
fn in_a_namespace(scene: &Scene) -> Session {
    let unified = hierarchy("unified").expect("cgroup2");
    let probe = &Programs::find().probe;
    fs::create_dir_all("/tmp/vm-namespace").expect("a mount point");
    // A namespace begins where the process is; only a cgroup without controllers for its children takes processes.
    crate::scene::disable_all(&scene.real(&unified, ""));
    let mut command = Command::new(probe);
    command.arg("--join").arg(scene.real(&unified, "")).arg("--");
    command.args(["unshare", "--cgroup", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"]);
    command.arg(format!("mount -t cgroup2 none /tmp/vm-namespace && exec {}", probe.display()));
    let mut session = Session::start(&mut command);
    session.set("CG", "/tmp/vm-namespace");
    // The launcher is in the boundary as well: out with both.
    session.expect(&write_file("$CG/home/cgroup.procs", "0"));
    fs::write(scene.real(&unified, "home").join("cgroup.procs"), session.pid().to_string()).expect("the launcher");
    crate::scene::enable_all(&scene.real(&unified, ""));
    session
}

/// The same behind a view.
fn behind_a_view(scene: &Scene, dir: &std::path::Path) -> Session {
    let unified = hierarchy("unified").expect("cgroup2");
    let probe = &Programs::find().probe;
    let mut command = Command::new(probe);
    command.arg("--join").arg(scene.real(&unified, "home")).arg("--");
    command.args(["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]).arg(probe);
    let mut session = Session::start(&mut command);
    session.set("CG", dir.display());
    session
}

/// A write of what a file holds already to every file, of the boundary and below it; then structure, attributes and migrations.
fn operations(scene: &Scene) -> Vec<Op> {
    let unified = hierarchy("unified").expect("cgroup2");
    let mut all = vec![readdir("$CG"), readdir("$CG/below")];
    for below in ["", "/below"] {
        let dir = scene.real(&unified, below.trim_start_matches('/'));
        for name in names(&dir).iter().filter(|name| name.contains('.')) {
            let path = format!("$CG{below}/{name}");
            // Processes are migrated below; this kills them, and that makes a trigger.
            let data = match name.as_str() {
                "cgroup.procs" | "cgroup.threads" => "-1".to_owned(),
                "cgroup.kill" => "0".to_owned(),
                name if name.ends_with(".pressure") => "nonsense".to_owned(),
                _ => fs::read_to_string(dir.join(name)).unwrap_or_default().lines().next().unwrap_or("0").to_owned(),
            };
            all.push(write_file(&path, &data));
            // Before the rule of nsdelegate, and after it.
            all.push(write_file(&path, ""));
            all.push(write_file(&path, &"x".repeat(5000)));
            all.push(write_file(&path, "nonsense"));
            all.push(Op::Access { path: path.clone(), mode: "w".into() });
            all.push(stat(&path));
            let handle = if name.ends_with(".pressure") { "rw.pressure" } else { "rw" };
            all.push(open(handle, &path, &["O_RDWR"]));
            all.push(write(handle, "nonsense"));
        }
    }
    all.extend([
        mkdir("$CG/new"),
        mkdir("$CG/new"),
        mkdir("$CG/new/deep"),
        rmdir("$CG/new"),
        rename("$CG/new", "$CG/other"),
        rmdir("$CG/new/deep"),
        rmdir("$CG/new"),
        rmdir("$CG/new"),
        rmdir("$CG"),
        rename("$CG/below", "$CG/other"),
        Op::Unlink { path: "$CG/cgroup.procs".into() },
        Op::Truncate { path: "$CG/memory.max".into(), len: 0 },
        Op::Truncate { path: "$CG/below/memory.max".into(), len: 0 },
        chmod("$CG/below/memory.max", 0o600),
        stat("$CG/below/memory.max"),
        chown("$CG/below", 12345),
        stat("$CG/below"),
        chown("$CG/below", 0),
        spawn("P"),
        write_file("$CG/below/cgroup.procs", "$P"),
        write_file("$CG/cgroup.procs", "$P"),
        write_file("$CG/below/cgroup.procs", "0"),
        write_file("$CG/below/cgroup.procs", "999999"),
        write_file("$CG/below/cgroup.procs", "$P 1"),
        write_file("$CG/below/cgroup.threads", "$P"),
        write_file("$CG/below/cgroup.subtree_control", "+pids"),
        write_file("$CG/cgroup.subtree_control", "-pids"),
        write_file("$CG/cgroup.subtree_control", "+nonsense"),
        readdir("$CG/below"),
        write_file("$CG/cgroup.subtree_control", "+pids"),
        readdir("$CG/below"),
        rmdir("$CG/below"),
        write_file("$CG/home/cgroup.procs", "0"),
        write_file("$CG/home/cgroup.procs", "$P"),
        // An unprivileged process finds the kernel's own permissions.
        seteuid(12345),
        mkdir("$CG/new"),
        write_file("$CG/cgroup.subtree_control", "+pids"),
        write_file("$CG/memory.max", "max"),
        write_file("$CG/below/cgroup.procs", "0"),
        seteuid(0),
        kill("P"),
    ]);
    all
}

fn comparable(op: &Op, outcome: Outcome) -> String {
    match (op, outcome) {
        (Op::Stat { .. }, Outcome::Ok(mut value)) => {
            if let Some(object) = value.as_object_mut() {
                object.remove("ino");
                // `files` compares sizes.
                object.remove("size");
            }
            value.to_string()
        }
        (Op::Spawn { .. }, Outcome::Ok(_)) => "ok".into(),
        (_, Outcome::Ok(value)) => value.to_string(),
        (_, Outcome::Err { errno, stage }) => format!("{errno} {stage}"),
        (_, Outcome::Bad(what)) => panic!("{op:?}: {what}"),
    }
}

#[test]
fn v2_delegate_allows_what_nsdelegate_allows() {
    in_a_machine!();
    let (one, other) = (Scene::new(), Scene::new());
    let view = other.view("rooted", "delegate");
    let (mut kernel, mut behind) = (in_a_namespace(&one), behind_a_view(&other, &view.dir()));
    let mut found = Vec::new();
    let operations = operations(&one);
    let mut denied = 0;
    for op in &operations {
        let left = comparable(op, kernel.run(op));
        let right = comparable(op, behind.run(op));
        denied += usize::from(left == "EPERM write");
        let name = format!("{op:?}");
        let is_known = DIFFERENT.iter().any(|(part, kernel, _)| name.contains(part) && left == *kernel);
        if left != right && !is_known {
            let name: String = name.chars().take(120).collect();
            found.push(format!("{name}: the kernel {left}, the view {right}"));
        }
    }
    // Else the namespace isn't one, or its mount has no nsdelegate.
    assert!(denied > 10, "the kernel denied {denied} of {} operations by nsdelegate", operations.len());
    report(&found);
}
