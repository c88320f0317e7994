//! `explain TARGET --last`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testkit::{Caller, Container, ContainerOptions, TIMEOUT, TestCgroup, View, ViewOptions, hierarchy, run_to_end};

use crate::scene::{Watched, program, refused, run_as_stranger, told};

fn paths(rejections: &[Value]) -> Vec<&str> {
    rejections.iter().map(|rejection| rejection["path"].as_str().expect("text")).collect()
}

#[test]
fn the_latest_rejections_are_explained() {
    require_watched!();
    let scene = Watched::new();
    let target = scene.target();
    assert_eq!(told(&["explain", &target, "--last", "--json"]), "[]\n");
    scene.reject("one");
    fs::write(scene.own().join("cgroup.procs"), std::process::id().to_string()).expect_err("the source is outside");
    let all = scene.rejections(|all| all.len() == 2);
    let first = &all[0];
    let command = fs::read_to_string("/proc/thread-self/comm").expect("the own name");
    assert_eq!(
        (&first["operation"], &first["path"], &first["errno"], &first["rule"], &first["verdict"]),
        (&json!("mkdir"), &json!("/unified/one"), &json!("EACCES"), &json!("outside-subtree"), &json!("rejected")),
    );
    assert_eq!((&first["pid"], &first["uid"]), (&json!(std::process::id()), &json!(0)));
    // The status of a process names its main thread, and that of a thread the thread.
    assert_eq!(first["command"], json!(command.trim_end()));
    assert!(first["microseconds"].as_f64().expect("a number") > 0.0 && first["change"].is_string());
    assert_eq!((&all[1]["rule"], &all[1]["operation"]), (&json!("source-outside-subtree"), &json!("write")));
    // What it says to run says the same.
    let explain = first["explain"].as_str().expect("a command");
    assert_eq!(explain, format!("vcgroupfs explain {target} mkdir /unified/one"));
    let again = told(&explain.split(' ').skip(1).collect::<Vec<_>>());
    assert!(again.contains("rule       outside-subtree\n"), "{again}");
    assert!(all[1]["explain"].as_str().expect("a command").contains(" migrate /unified/"), "{all:?}");
    let text = told(&["explain", &target, "--last", "1"]);
    assert!(
        text.contains(" = EACCES (source-outside-subtree)\n  process  ") && !text.contains("/unified/one"),
        "{text}"
    );
    assert!(
        text.contains("\n  reason   ") && text.contains("\n  change   ") && text.contains("\n  explain  "),
        "{text}"
    );
}

/// They're in no process of the view alone.
#[test]
fn they_survive_a_killed_server_and_an_upgrade() {
    require_watched!();
    let scene = Watched::new();
    scene.reject("before");
    scene.rejections(|all| all.len() == 1);
    scene.kill_server();
    scene.reject("between");
    assert_eq!(paths(&scene.rejections(|all| all.len() == 2)), ["/unified/before", "/unified/between"]);
    scene.upgrade();
    scene.reject("after");
    let all = scene.rejections(|all| all.len() == 3);
    assert_eq!(paths(&all), ["/unified/before", "/unified/between", "/unified/after"]);
}

#[test]
fn the_last_256_are_kept() {
    require_watched!();
    let scene = Watched::new();
    (0..300).for_each(|number| scene.reject(&format!("n{number}")));
    let all = scene.rejections(|all| all.last().is_some_and(|last| last["path"] == "/unified/n299"));
    assert_eq!(all.len(), 256);
    assert_eq!(all[0]["path"], "/unified/n44");
    let two = told(&["explain", &scene.target(), "--last", "2", "--json"]);
    let two: Vec<Value> = serde_json::from_str(&two).expect("JSON");
    assert_eq!(paths(&two), ["/unified/n298", "/unified/n299"]);
}

/// Names of a container can't change a terminal's state, and are cut where they're too long.
#[test]
fn names_are_escaped() {
    require_watched!();
    let scene = Watched::new();
    let evil = "\u{1b}[2J\u{202e}\u{9b}31m'x'";
    scene.reject(evil);
    let long = format!("{}end", "y".repeat(250));
    // The kernel's name of a command has 15 bytes.
    let folder = tempfile::tempdir().expect("a directory");
    let shell = folder.path().join("\u{1b}[31mred");
    fs::copy("/bin/sh", &shell).expect("a copy");
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755)).expect("chmod");
    let script = format!(": > {}/{long}", scene.top().display());
    run_to_end(Command::new(&shell).args(["-c", &script]), TIMEOUT);
    let all = scene.rejections(|all| all.iter().any(|one| one["operation"] == "create"));
    assert_eq!(all[0]["path"], format!("/unified/{evil}"));
    assert_eq!(all[1]["command"], "\u{1b}[31mred");
    for arguments in [&["--last"][..], &["--last", "--json"]] {
        let text = told(&[&["explain", &scene.target()][..], arguments].concat());
        assert!(text.chars().all(|one| one == '\n' || (one != '\u{202e}' && !one.is_control())), "{text:?}");
        assert!(text.contains("end"), "{text}");
    }
    let explain = all[0]["explain"].as_str().expect("a command");
    assert!(explain.is_ascii() && explain.contains(r"/unified/\033\1332J"), "{explain}");
    let again = run_to_end(
        Command::new("sh").args(["-c", &explain.replacen("vcgroupfs", &program().display().to_string(), 1)]),
        TIMEOUT,
    );
    assert!(String::from_utf8_lossy(&again.stdout).contains("outside-subtree"), "{again:?}");
}

/// A mount for all callers has those of all containers, and names the processes as the host does.
#[test]
fn each_container_of_a_mount_for_all_callers_is_named() {
    require_watched!();
    let cgroup = TestCgroup::new(&["name=systemd", "unified"]);
    let view = View::mount(program(), &ViewOptions::new().flag("--per-caller"));
    let target = view.dir().display().to_string();
    for name in ["one", "two"] {
        let prepare = format!("mount --bind {target} /sys/fs/cgroup");
        let options = ContainerOptions { cgroups: cgroup.children(name), prepare, ..ContainerOptions::default() };
        let container = Container::start(options);
        let outside = hierarchy("unified").expect("cgroup2").in_view(Path::new("/sys/fs/cgroup")).join(name);
        let mut mkdir = container.command(Caller::Root);
        let output = run_to_end(mkdir.arg("mkdir").arg(outside), TIMEOUT);
        assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
    }
    let said = testkit::wait_for("both rejections", || {
        let all = told(&["explain", &target, "--last", "--json"]);
        let all: Vec<Value> = serde_json::from_str(&all).expect("JSON");
        (all.len() == 2).then_some(all)
    });
    for (rejection, name) in said.iter().zip(["one", "two"]) {
        assert_eq!((&rejection["path"], &rejection["command"]), (&json!(format!("/unified/{name}")), &json!("mkdir")));
        let pid = rejection["pid"].as_i64().expect("a number");
        assert!(pid > 2, "{said:?}");
        let explain = rejection["explain"].as_str().expect("a command");
        assert_eq!(explain, format!("vcgroupfs explain {pid} mkdir /unified/{name}"));
    }
}

#[test]
fn what_is_wrong_is_said() {
    require_watched!();
    let scene = Watched::new();
    let target = scene.target();
    for (arguments, words) in [
        (&["explain", "--last", &target][..], "isn't a number of rejections: TARGET stands before --last"),
        (&["explain", &target, "mkdir", "/", "--last"], "takes one TARGET and nothing else"),
        (&["explain", &target, "--last", "--as", "0"], "can't be used with"),
        (&["explain", "--pid", "1", &target, "--last"], "takes one TARGET and nothing else"),
    ] {
        let said = refused(arguments, 2);
        assert!(said.contains(words), "{said}");
    }
    let folder = tempfile::tempdir().expect("a directory");
    let said = refused(&["explain", folder.path().to_str().expect("text"), "--last"], 1);
    assert!(said.contains("no live view is mounted on"), "{said}");
    // Only root of the host may look.
    let output = run_as_stranger(&["explain", &target, "--last"]);
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
}
