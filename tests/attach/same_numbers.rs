//! `attach` compares what clients read before and after, and `--dry-run` does nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testkit::{ContainerOptions, Need, hierarchies, require};

use crate::runtimes::{Runc, is_possible, own_cgroups};
use crate::scene::{Host, MountMethod, Scene, program, said};

/// The numbers of a comparison.
fn changes(runc: &Runc, options: &[&str]) -> Vec<Value> {
    let said = runc.attach(&[&["--dry-run", "--json"], options].concat());
    let answer: Value = serde_json::from_str(&said.clone().ok()).expect("JSON");
    assert!(answer["target"].is_string() && answer["view"].is_string(), "{answer}");
    answer["changes"].as_array().expect("changes").clone()
}

fn of<'a>(changes: &'a [Value], client: &str, quantity: &str) -> &'a Value {
    let is_it = |change: &&Value| {
        change["client"].as_str().is_some_and(|name| name.starts_with(client)) && change["quantity"] == quantity
    };
    changes.iter().find(is_it).unwrap_or_else(|| panic!("no {client}: {changes:?}"))
}

/// Everything that a dry run could leave behind: mounts in the container and on the host, cgroups, records, processes.
fn traces(runc: &Runc) -> (String, String, Vec<String>, String, Vec<String>) {
    let pid = runc.pid();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    // Other tests have views, too.
    let host = read("/proc/self/mountinfo").lines().filter(|line| line.contains(&pid)).map(str::to_owned).collect();
    let cgroups = hierarchies().into_iter().flat_map(|hierarchy| {
        let entries = fs::read_dir(runc.own(&hierarchy.selector())).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.path().is_dir());
        directories.map(|entry| entry.path().display().to_string()).collect::<Vec<_>>()
    });
    let list: Value = serde_json::from_str(&said(Command::new(program()).args(["list", "--json"])).ok()).expect("JSON");
    let views = list.as_array().expect("a list").iter().filter(|view| view["container"].as_u64() == pid.parse().ok());
    let is_trial = |line: &String| line.contains("--dry-run") && line.ends_with(&format!("\0{pid}\0"));
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    (
        read(&format!("/proc/{pid}/mountinfo")),
        host,
        cgroups.collect(),
        views.map(ToString::to_string).collect(),
        lines.filter(is_trial).collect(),
    )
}

/// A container of runc's on v1, whose mounts begin at its own cgroup: with the host's paths clients lose their limits.
#[test]
fn attach_warns_of_a_number_that_changes() {
    if !is_possible() {
        return;
    }
    let runc = Runc::run(&[own_cgroups()], &json!({}));
    let limit: u64 = {
        let text = fs::read_to_string(runc.own("memory").join("memory.limit_in_bytes")).expect("the limit");
        text.trim().parse().expect("a number")
    };
    let before = traces(&runc);
    let lost = changes(&runc, &["--shape", "host-path"]);
    let jvm = of(&lost, "JVM", "memory");
    assert_eq!((&jvm["before"], &jvm["after"], &jvm["differs"]), (&limit.into(), &Value::Null, &true.into()), "{jvm}");
    assert!(jvm["remedy"].as_str().is_some_and(|remedy| remedy.contains("without --shape")), "{jvm}");
    assert_eq!(of(&lost, "JVM", "cpus")["before"], 1);
    let node = of(&lost, "Node.js 20", "memory");
    assert_eq!((&node["before"], &node["after"]), (&limit.into(), &limit.into()), "{node}");
    let kept = changes(&runc, &[]);
    // Go finds its quota only in the view. On a machine with more than 2 CPUs that changes its number.
    let is_kept = |change: &Value| change["differs"] == false || change["quantity"] == "cpus";
    assert!(kept.len() > 15 && kept.iter().all(|change| is_kept(change) && change["remedy"].is_null()), "{kept:?}");
    let text = runc.attach(&["--dry-run", "--shape", "host-path"]).ok();
    assert!(text.contains("host-path") && text.contains(&format!("{limit} bytes -> no limit of memory")), "{text}");
    assert_eq!(traces(&runc), before, "nothing is left of it");
    assert_eq!(runc.shape(), None);

    let told = runc.attach(&["--shape", "host-path"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let line = told.stderr.lines().find(|line| line.contains("JVM") && line.contains("memory"));
    let line = line.unwrap_or_else(|| panic!("no warning: {}", told.stderr));
    assert!(
        line.contains(&format!("no limit of memory, no limit of processes; not 1 CPU, {limit} bytes, 50 processes"))
            && line.contains("without --shape"),
        "{line}"
    );
    // As doctor sees it.
    let doctor = said(Command::new(program()).args(["doctor", "--all", &runc.pid()])).ok();
    let verdict = doctor.lines().find(|line| line.starts_with("JVM")).expect("a line");
    assert!(
        verdict.contains("wrong") && verdict.contains(&format!("{limit} bytes, 50 processes would be right")),
        "{verdict}"
    );
    runc.detach();

    let silent = runc.attach(&[]);
    assert!(silent.code == 0 && !silent.stderr.contains("reads another limit"), "{}", silent.stderr);
    let doctor = said(Command::new(program()).args(["doctor", "--all", &runc.pid()])).ok();
    let verdict = doctor.lines().find(|line| line.starts_with("JVM")).expect("a line");
    assert!(verdict.contains(" ok ") && verdict.contains(&format!("{limit} bytes")), "{verdict}");
    let again = runc.attach(&["--dry-run"]);
    assert!(again.code == 0 && again.stderr.contains("already"), "{}", again.stderr);
    runc.detach();
}

/// On each host, and for containers with a user namespace, whose rights it takes to look.
#[test]
fn a_dry_run_leaves_nothing_behind() {
    require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::Hierarchy("unified"), Need::Hierarchy("pids"));
    for host in [Host::Own, Host::Unified] {
        for user_namespace in [false, true] {
            let options = ContainerOptions { user_namespace, ..ContainerOptions::default() };
            let scene = Scene::new(MountMethod::Moved, options).on(host);
            let sentinels = || {
                let unified = hierarchies().into_iter().find(testkit::Hierarchy::is_unified).expect("cgroup2");
                let entries = fs::read_dir(unified.mountpoint).expect("cgroup2").flatten();
                let number = format!("-{}", scene.namespace);
                entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(&number)).count()
            };
            let mounts = scene.mounts();
            let told = scene.attach(&["--dry-run", "--json"]);
            assert_eq!(told.code, 0, "{host:?}, {user_namespace}: {}", told.stderr);
            let answer: Value = serde_json::from_str(&told.stdout).expect("JSON");
            let changes = answer["changes"].as_array().expect("changes");
            assert!(changes.len() > 15, "{answer}");
            assert!(changes.iter().all(|change| change["remedy"].is_null()), "{host:?}, {user_namespace}: {answer}");
            assert_eq!((scene.mounts(), sentinels()), (mounts.clone(), 0), "{host:?}, {user_namespace}");
            // It can be attached, with the same result.
            let told = scene.attach(&[]);
            assert!(told.code == 0 && !told.stderr.contains("another limit"), "{}", told.stderr);
            scene.detach();
            assert_eq!(scene.mounts(), mounts);
        }
    }
    let old = Scene::plain(MountMethod::Built);
    let told = old.attach(&["--dry-run"]);
    assert!(told.code == 3 && told.stderr.contains("Linux 5.2"), "{}", told.stderr);
}

#[test]
fn a_container_without_a_cgroup_gets_a_hint_at_place() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"));
    let cgroups = hierarchies().iter().map(|hierarchy| hierarchy.mountpoint.clone()).collect();
    let scene = Scene::without_cgroups(MountMethod::Moved, ContainerOptions { cgroups, ..ContainerOptions::default() });
    let told = scene.attach(&[]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(told.stderr.contains("--place NAME"), "{}", told.stderr);
    scene.detach();
    let own = Scene::plain(MountMethod::Moved);
    let told = own.attach(&[]);
    assert!(told.code == 0 && !told.stderr.contains("--place"), "{}", told.stderr);
    own.detach();
}

#[test]
fn a_dry_run_takes_the_view_options() {
    require!(Need::Root);
    for (arguments, code) in [
        (&["attach", "--json", "1"][..], 2),
        (&["attach", "--dry-run", "--place", "x", "1"], 2),
        (&["attach", "--dry-run", "--oci-state"], 2),
    ] {
        assert_eq!(said(Command::new(program()).args(arguments)).code, code, "{arguments:?}");
    }
}

/// The view's boundary is gone then, whatever has its name.
#[test]
fn attach_warns_of_a_cgroup_that_was_made_again() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("name=systemd"));
    let scene = Scene::plain(MountMethod::Moved);
    scene.attach(&[]).ok();
    let found = || {
        let told = said(Command::new(program()).args(["doctor", "--json", &scene.pid()])).ok();
        let answer: Value = serde_json::from_str(&told).expect("JSON");
        answer["findings"].as_array().expect("findings").clone()
    };
    let is_stale = |finding: &Value| finding["finding"] == "stale-boundary";
    assert!(!found().iter().any(is_stale), "{:?}", found());
    let home = scene.cgroup.dir("pids").join("home");
    let migrate = |to: &Path, from: &Path| {
        for pid in fs::read_to_string(from.join("cgroup.procs")).expect("the processes").lines() {
            fs::write(to.join("cgroup.procs"), pid).expect("a migration");
        }
    };
    let aside = scene.cgroup.dir("pids").join("sibling");
    migrate(&aside, &home);
    fs::remove_dir(&home).expect("an empty cgroup");
    fs::create_dir(&home).expect("another one");
    migrate(&home, &aside);
    let finding = found().into_iter().find(is_stale).unwrap_or_else(|| panic!("no finding: {:?}", found()));
    assert!(finding["what"].as_str().is_some_and(|what| what.ends_with("in: pids")), "{finding}");
    assert!(finding["advice"].as_str().is_some_and(|advice| advice.contains("detach")), "{finding}");
    scene.detach();
}

/// What covers a view is named, and nothing else is concluded from what isn't seen.
#[test]
fn doctor_names_what_covers_a_view() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("name=systemd"));
    let scene = Scene::plain(MountMethod::Moved);
    scene.attach(&[]).ok();
    let pids = testkit::hierarchy("pids").expect("a hierarchy").in_view(Path::new("/sys/fs/cgroup"));
    for over in [pids.as_path(), Path::new("/sys/fs/cgroup")] {
        let over = over.display();
        scene.sh(&format!("mount -t tmpfs over {over}")).ok();
        let told = said(Command::new(program()).args(["doctor", "--json", &scene.pid()])).ok();
        let answer: Value = serde_json::from_str(&told).expect("JSON");
        let found = |word: &str| {
            let findings = answer["findings"].as_array().expect("findings");
            findings.iter().find(|finding| finding["finding"] == word).cloned()
        };
        let covered = found("covered-view").unwrap_or_else(|| panic!("{over}: {answer}"));
        assert!(covered["what"].as_str().is_some_and(|what| what.contains(&format!("{over} (tmpfs)"))), "{covered}");
        for wrong in ["stale-boundary", "own-cgroup-not-found", "no-view"] {
            assert_eq!(found(wrong), None, "{over}: {answer}");
        }
        scene.sh(&format!("umount {over}")).ok();
    }
    scene.detach().ok();
}
