//! Processes of a container: migration by its own numbers, and `run`.

use std::fs;
use std::process::Command;

use testkit::probe::Op;
use testkit::probe::names::*;
use testkit::{Caller, Container, ContainerOptions, Hierarchy, hierarchies, hierarchy};

use crate::scene::{Scene, report, vcgroupfs};
use crate::{Setup, in_a_machine, setup};

/// Hierarchies in which `delegate` lets processes migrate, one of each sort.
fn places() -> Vec<Hierarchy> {
    ["unified", "name=systemd", "pids"].into_iter().filter_map(hierarchy).collect()
}

#[test]
fn processes_migrate_by_the_numbers_of_their_pid_namespace() {
    in_a_machine!();
    let scene = Scene::new();
    let view = scene.view("rooted", "delegate");
    let container = Container::start(ContainerOptions { cgroups: scene.homes(), ..ContainerOptions::default() });
    let mut session = container.session(Caller::Root);
    let outsider = Command::new(testkit::Programs::find().probe.as_path()).arg("--sleep").spawn().expect("a process");
    let mut found = Vec::new();
    for hierarchy in places() {
        let key = hierarchy.membership_key();
        session.set("CG", scene.seen(&view, &hierarchy, "rooted").display());
        session.set("HOST", outsider.id());
        let threads = if hierarchy.is_unified() { "$CG/below/cgroup.threads" } else { "$CG/below/tasks" };
        let above = scene.cgroup.path();
        let below = format!("{above}/box/below");
        let home = format!("{above}/box/home");
        session.expect(&spawn("P"));
        session.expect(&spawn("Q"));
        let mut step = |op: Op, expected: &str| {
            let told = session.run(&op).brief();
            if told != expected {
                found.push(format!("{key} {op:?}: {told}, not {expected}"));
            }
        };
        step(write_file("$CG/below/cgroup.procs", "$P"), "ok");
        step(write_file("$CG/below/cgroup.procs", "$P $Q"), "EINVAL");
        step(write_file("$CG/below/cgroup.procs", "$HOST"), "ESRCH");
        step(write_file("$CG/below/cgroup.procs", "-1"), "EINVAL");
        // A process of a domain can't have threads elsewhere (cgroup_migrate_vet_dst); v1 lets them.
        step(write_file(threads, "0"), if hierarchy.is_unified() { "EOPNOTSUPP" } else { "ok" });
        step(write_file("$CG/below/cgroup.procs", "0"), "ok");
        for (who, expected) in [("$P", &below), ("$Q", &home), ("$PID", &below)] {
            let all = session.expect(&membership(who));
            if all[&key].as_str() != Some(expected.as_str()) {
                found.push(format!("{key} {who} is in {}, not {expected}", all[&key]));
            }
        }
        let procs = session.expect(&read_file("$CG/below/cgroup.procs"));
        let inside: Vec<&str> = procs.as_str().unwrap_or_default().lines().collect();
        if inside.len() != 2 || inside.contains(&"0") {
            found.push(format!("{key} lists {inside:?}"));
        }
        session.expect(&write_file("$CG/home/cgroup.procs", "0"));
        session.expect(&kill("P"));
        session.expect(&kill("Q"));
    }
    let mut outsider = outsider;
    outsider.kill().expect("kill");
    outsider.wait().expect("wait");
    report(&found);
}

#[test]
fn nobody_migrates_out_of_or_into_the_subtree() {
    in_a_machine!();
    let scene = Scene::new();
    let view = scene.view("full", "delegate");
    let inside = Container::start(ContainerOptions { cgroups: scene.homes(), ..ContainerOptions::default() });
    let outside = Container::start(ContainerOptions::default());
    let mut found = Vec::new();
    for hierarchy in places() {
        let boundary = scene.seen(&view, &hierarchy, "full");
        let mut session = inside.session(Caller::Root);
        session.set("CG", boundary.display());
        for target in ["$CG/../cgroup.procs", "$CG/../sibling/cgroup.procs"] {
            let told = session.run(&write_file(target, "0")).brief();
            if told != "EACCES" {
                found.push(format!("{} to {target}: {told}", hierarchy.selector()));
            }
        }
        let mut stranger = outside.session(Caller::Root);
        stranger.set("CG", boundary.display());
        let told = stranger.run(&write_file("$CG/below/cgroup.procs", "0")).brief();
        if told != "EACCES" {
            found.push(format!("{} from outside: {told}", hierarchy.selector()));
        }
    }
    report(&found);
}

/// Runs a shell script in a container made by `run`; status and output.
fn run(options: &[&str], script: &str) -> (Option<i32>, String) {
    let mut arguments = vec!["run"];
    arguments.extend(options);
    arguments.extend(["--", "sh", "-c", script]);
    let output = vcgroupfs(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn run_exits_as_its_command_does() {
    in_a_machine!();
    for (script, expected) in [("true", 0), ("exit 7", 7), ("kill -9 $$", 137), ("exec /no/such/program", 127)] {
        let (status, text) = run(&[], script);
        assert_eq!(status, Some(expected), "{script}: {text}");
    }
    assert_eq!(vcgroupfs(["run", "--", "/no/such/program"]).status.code(), Some(127));
    assert_eq!(vcgroupfs(["run", "--", "/etc/passwd"]).status.code(), Some(126));
}

#[test]
fn run_gives_a_container_its_own_cgroups() {
    in_a_machine!();
    let tree = match setup() {
        Some(Setup::Unified) => "/sys/fs/cgroup",
        _ => "/sys/fs/cgroup/systemd",
    };
    let script = format!(
        "set -e; test $$ -lt 10; own=$(sed -n 's/^[0-9]*:\\(name=systemd\\)\\{{0,1\\}}:\\(.*vm-run\\)$/\\2/p' /proc/self/cgroup | head -n 1); \
         cd {tree}$own; mkdir a; echo 0 >a/cgroup.procs; grep -q vm-run/a /proc/self/cgroup; cat a/cgroup.procs >/dev/null; \
         echo 0 >cgroup.procs; rmdir a; test -e ../vm-run; ! mkdir ../b 2>/dev/null; ! mkdir /sys/fs/cgroup/b 2>/dev/null; echo fine"
    );
    for shape in ["host-path", "full"] {
        for policy in ["strict", "delegate"] {
            let (status, text) = run(&["--name", "vm-run", "--shape", shape, "--policy", policy], &script);
            assert_eq!((status, text.as_str()), (Some(0), "fine\n"), "{shape} {policy}");
            for hierarchy in hierarchies() {
                assert!(!hierarchy.mountpoint.join("vm-run").exists(), "left in {}", hierarchy.selector());
            }
        }
    }
}

#[test]
fn run_hides_the_real_tree() {
    in_a_machine!();
    let (status, text) =
        run(&[], "tail -n 1 /proc/self/mountinfo; grep ' /sys/fs/cgroup ' /proc/self/mountinfo | tail -n 1");
    assert_eq!(status, Some(0), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.contains(" - fuse.vcgroupfs "), "{text}");
    assert!(!fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").contains("fuse.vcgroupfs"));
}
