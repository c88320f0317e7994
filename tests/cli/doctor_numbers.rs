//! `doctor`: the numbers that clients take, beside what holds, and beside what the programs themselves say.

use std::process::Command;

use serde_json::Value;
use testkit::{Caller, Container, Need, require};

use crate::doctor::{Scene, Stopped, client, findings, seen, verdict, why};
use crate::support::{program, said, wait_until};

const ROOT: &str = "/sys/fs/cgroup";

/// How many processes there are in the container's pid namespace.
fn population(container: &Container) -> usize {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(&container.init().to_string());
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter(|entry| namespace(&entry.file_name().to_string_lossy()) == own).count()
}

/// Such a view depends on the caller, so a process in the container's pid namespace looks at it.
#[test]
fn a_per_caller_view_is_shown_as_the_container_sees_it() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::UserNamespaces,
        Need::Hierarchy("memory"),
        Need::Hierarchy("cpu"),
        Need::Hierarchy("name=systemd")
    );
    for user_namespace in [false, true] {
        let scene = Scene::for_all(user_namespace).plainly_over();
        let population_before = population(&scene.container);
        let answer = scene.doctor();
        for client in ["Node.js 20", "Rust std"] {
            assert_eq!(verdict(&answer, client), "yes", "{client}: {answer}");
            assert!(why(&answer, client).contains(&scene.sandbox.mark), "{answer}");
        }
        assert!(!findings(&answer).contains("own-cgroup-not-found"), "{answer}");
        // As a process of the container's finds it by itself.
        let mut inside = scene.container.command(Caller::Root);
        let inside = said(inside.arg(program()).args(["doctor", "--json"])).json();
        assert_eq!(seen(&inside), seen(&answer));

        let stopped = Stopped::new(&scene.view);
        let hung = said(&mut scene.sandbox.command(&["doctor", "--json", &scene.container.init().to_string()]));
        drop(stopped);
        let hung: Value = serde_json::from_str(&hung.stdout).unwrap_or_else(|error| panic!("{error}: {hung:?}"));
        assert!(findings(&hung).contains("hung-view"), "{hung}");
        wait_until("nobody left in the container", || population(&scene.container) <= population_before);
        scene.end();
    }
}

/// Sets a limit of CPUs and of memory for the container of a scene, where the host has these on v1.
fn limit(scene: &Scene) {
    let set = |controller: &str, file: &str, value: &str| {
        let path = scene.sandbox.cgroup().dir(controller).join(file);
        std::fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    };
    set("cpu", "cpu.cfs_quota_us", "100000");
    set("memory", "memory.limit_in_bytes", "314572800");
}

/// A number that a client takes.
fn number<'a>(answer: &'a Value, name: &str, quantity: &str) -> &'a Value {
    let numbers = client(answer, name)["numbers"].as_array().expect("numbers");
    let found = numbers.iter().find(|number| number["quantity"] == quantity);
    found.unwrap_or_else(|| panic!("{name} takes no {quantity}: {answer}"))
}

/// By the value, not by a directory's existence: without lines of the hierarchies in mountinfo some find their limits and others don't.
#[test]
fn numbers_of_clients_stand_beside_the_limits_that_apply() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy("cpu"), Need::Hierarchy("cpuset"));
    let scene = Scene::new(false).plainly();
    limit(&scene);
    let answer = scene.doctor();
    let limits = &answer["limits"];
    assert_eq!(
        (&limits["memory"]["value"], &limits["quota"]["value"]),
        (&314_572_800.into(), &serde_json::json!([100_000, 100_000]))
    );
    let by = limits["memory"]["by"].as_str().expect("a file");
    assert!(
        by.starts_with("memory:/") && by.contains(&scene.sandbox.mark) && by.ends_with("/memory.limit_in_bytes"),
        "{by}"
    );
    let memory = |name: &str| number(&answer, name, "memory");
    assert_eq!((&memory("Node.js 20")["value"], &memory("Node.js 20")["verdict"]), (&314_572_800.into(), &"ok".into()));
    assert_eq!((&memory("JVM")["value"], &memory("JVM")["expected"]), (&Value::Null, &314_572_800.into()));
    assert_eq!(
        (verdict(&answer, "JVM"), verdict(&answer, ".NET >= 9"), verdict(&answer, "Go automaxprocs")),
        ("wrong", "wrong", "wrong")
    );
    assert!(why(&answer, "JVM").contains("314572800 bytes would be right"), "{answer}");
    assert!(
        client(&answer, "JVM")["advice"].as_str().is_some_and(|advice| advice.contains("beneath the view")),
        "{answer}"
    );
    for name in ["Rust std", "Node.js 20"] {
        assert_eq!(verdict(&answer, name), "yes", "{name}: {answer}");
    }
    assert_eq!(number(&answer, "Rust std", "cpus")["value"], 1);
    let text = scene.sandbox.vcgroupfs(&["doctor", "--all", &scene.container.init().to_string()]).ok();
    let line =
        |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}: {text}"));
    assert!(
        line("limits ").contains("1.00 CPUs of") && line("limits ").contains("314572800 bytes (memory:/"),
        "{text}"
    );
    assert!(line("clients ").contains(" wrong"), "{text}");
    assert!(line("JVM ").contains("wrong") && line("Rust std ").contains("  ok "), "{text}");
    scene.end();
}

/// The models against the programs themselves, in the same place.
#[test]
fn programs_read_what_doctor_says() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("memory"),
        Need::Hierarchy("cpu"),
        Need::Hierarchy("cpuset"),
        Need::Program("python3"),
        Need::Program("nproc")
    );
    let scene = Scene::new(false).plainly();
    limit(&scene);
    let answer = scene.doctor();
    let asked = |command: &[&str]| {
        let (program, arguments) = command.split_first().expect("a program");
        let mut inside = scene.container.command(Caller::Root);
        let told = said(inside.arg(program).args(arguments)).ok();
        told.trim().parse::<u64>().unwrap_or_else(|error| panic!("{command:?}: {error}: {told}"))
    };
    let of = |name: &str, quantity: &str| number(&answer, name, quantity)["value"].as_u64();
    assert_eq!(Some(asked(&["nproc"])), of("nproc (coreutils < 9.8)", "cpus"));
    let python = "import os; print(len(os.sched_getaffinity(0)))";
    assert_eq!(Some(asked(&["python3", "-c", python])), of("Python os.process_cpu_count", "cpus"));
    let probe = testkit::Programs::find().probe.display().to_string();
    assert_eq!(Some(asked(&[&probe, "--parallelism"])), of("Rust std", "cpus"));
    if Command::new("node").arg("--version").output().is_ok_and(|output| output.stdout.starts_with(b"v20")) {
        assert_eq!(Some(asked(&["node", "-p", "process.constrainedMemory()"])), of("Node.js 20", "memory"));
    }
    // What the kernel doesn't pass through is copied as it is read, or doctor says that it isn't.
    let path = why(&answer, "busybox")
        .split(' ')
        .find_map(|word| word.strip_suffix(',').or(Some(word)).filter(|word| word.starts_with(ROOT)));
    let path = path.unwrap_or_else(|| panic!("no file: {answer}"));
    let count = |reader: &str| asked(&["sh", "-c", &format!("{reader} {path} | wc -c")]);
    let (read, copied) = (count("head -c 65536"), count("busybox cat"));
    assert!(read > 0, "{path}");
    assert_eq!(
        verdict(&answer, "busybox"),
        if copied == read { "yes" } else { "wrong" },
        "{copied} of {read}: {answer}"
    );
    scene.end();
}
