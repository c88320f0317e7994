//! `doctor` for people and scripts: the summary, the programs that matter, and the status.

use std::process::Command;

use serde_json::Value;
use testkit::{Caller, Need, require};

use crate::doctor::{Scene, Sleeper, client};
use crate::support::{Sandbox, program, said};

/// The program in `programs` with this name.
fn found<'a>(answer: &'a Value, name: &str) -> Option<&'a Value> {
    answer["programs"].as_array().expect("programs").iter().find(|one| one["program"] == name)
}

#[test]
fn the_summary_fits_a_screen() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy("name=systemd"));
    let scene = Scene::new(false).plainly();
    let pid = scene.container.init().to_string();
    for options in [&[][..], &["--only-bad"], &["--client", "systemd", "--client", "jvm"], &["--client", "e"]] {
        let text = scene.sandbox.vcgroupfs(&[&["doctor"], options, &[&pid]].concat()).ok();
        assert!(text.lines().count() <= 25 && text.lines().all(|line| line.chars().count() <= 100), "{text}");
        for start in ["process   ", "view      ", "limits    ", "verdict   ", "more      "] {
            assert!(text.lines().any(|line| line.starts_with(start)), "{start}: {text}");
        }
        assert!(text.trim_end().ends_with("--client NAME: one of them"), "{text}");
    }
    let text = scene.sandbox.vcgroupfs(&["doctor", &pid]).ok();
    assert!(text.contains("\nwarning   the view is on /sys/fs/cgroup itself, without a stack"), "{text}");
    scene.end();
}

/// A program counts if it runs in the container, and not if it runs elsewhere.
#[test]
fn programs_of_the_container_matter() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy("name=systemd"), Need::Program("java"));
    let scene = Scene::new(false).plainly();
    let before = scene.doctor();
    assert_eq!(before["version"], 1);
    assert!(found(&before, "JVM").is_none_or(|jvm| jvm["pid"].is_null()), "{before}");
    // A stand-in: what runs is known by its name, and by nothing that it says.
    let java = scene.sandbox.directory("jdk-25").join("java");
    assert_eq!(said(Command::new("cp").arg("/bin/sleep").arg(&java)).code, 0);
    let mut inside = scene.container.command(Caller::Root);
    let running = crate::support::Running::start(inside.arg(&java).arg("1000"));
    let mut answer = Value::Null;
    testkit::wait_until("the program", || {
        answer = scene.doctor();
        found(&answer, "JVM").is_some_and(|jvm| jvm["pid"].is_number())
    });
    let jvm = found(&answer, "JVM").expect("the program");
    assert_eq!((&jvm["version"], &jvm["clients"]), (&25.into(), &serde_json::json!(["JVM (hotspot) 25"])));
    assert_eq!(client(&answer, "JVM (hotspot) 25")["relevance"], "running");
    assert_eq!(answer["healthy"], false, "{answer}");
    let pid = scene.container.init().to_string();
    let text = scene.sandbox.vcgroupfs(&["doctor", &pid]).ok();
    let line = text.lines().find(|line| line.contains("JVM (hotspot) 25 (process "));
    assert!(line.is_some_and(|line| line.starts_with("no  ") || line.starts_with("wrong  ")), "{text}");
    // The same on the host isn't the container's.
    assert!(
        found(&scene.sandbox.vcgroupfs(&["doctor", "--json"]).json(), "JVM").is_none_or(|jvm| jvm["pid"].is_null())
    );
    drop(running);
    scene.end();
}

#[test]
fn scripts_get_a_status() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy("name=systemd"));
    let scene = Scene::new(false).plainly();
    let pid = scene.container.init().to_string();
    let status = |options: &[&str]| scene.sandbox.vcgroupfs(&[&["doctor"], options, &[&pid]].concat());
    // Without --check it's the answer's own.
    assert_eq!(status(&["--client", "crun"]).code, 0);
    let bad = status(&["--check", "--client", "crun"]);
    assert_eq!((bad.code, bad.stderr.as_str()), (1, ""), "{bad:?}");
    assert!(bad.stdout.contains("1 kind of program that you named doesn't work right"), "{bad:?}");
    assert_eq!(status(&["--check", "--client", "shell scripts"]).code, 0);
    assert_eq!(status(&["--check", "--json", "--client", "crun"]).code, 1);
    // Nothing that is known runs there.
    assert_eq!(status(&["--check"]).code, 0);
    scene.view.kill();
    testkit::wait_until("the view's death", || status(&["--check"]).code == 1);
}

#[test]
fn clients_are_selected() {
    require!(Need::Root);
    let sandbox = Sandbox::new();
    let names = |options: &[&str]| -> Vec<String> {
        let answer = sandbox.vcgroupfs(&[&["doctor", "--json"], options].concat()).json();
        let clients = answer["clients"].as_array().expect("clients").iter();
        clients.map(|one| one["client"].as_str().expect("a name").to_owned()).collect()
    };
    let all = names(&[]);
    assert!(all.len() > 35, "{all:?}");
    assert_eq!(names(&["--client", "JVM"]), ["JVM (hotspot) 8u372 to 21", "JVM (hotspot) 25"]);
    assert_eq!(names(&["--client", "node.js 20", "--client", "crun"]), ["crun", "Node.js 20 (libuv 1.46)"]);
    let bad = names(&["--only-bad"]);
    assert!(bad.len() < all.len() && !bad.contains(&"shell scripts".to_owned()), "{bad:?}");
    let text = sandbox.vcgroupfs(&["doctor", "--all", "--client", "jvm"]).ok();
    assert_eq!(text.lines().filter(|line| line.starts_with("JVM")).count(), 2, "{text}");
    assert!(!text.contains("crun"), "{text}");
    for (words, says) in [
        (&["--client", "nosuch"][..], "no program that doctor knows has 'nosuch' in its name"),
        (&["--client", ""], "--client"),
        (&["--support", "/nosuch", "--json"], "--support"),
    ] {
        let line = sandbox.vcgroupfs(&[&["doctor"], words].concat()).fails(2);
        assert!(line.contains(says), "{line}");
    }
    let line = sandbox.vcgroupfs(&["doctor", "--support", "/nosuch/report"]).fails(1);
    assert!(line.contains("can't make /nosuch/report"), "{line}");
    sandbox.is_clean();
}

/// Names of cgroups that a shell would misread stand in commands so that it doesn't.
#[test]
fn commands_can_be_typed_whatever_names_there_are() {
    require!(Need::Root, Need::Hierarchy("memory"));
    let sandbox = Sandbox::with_cgroup(&["memory"]);
    let top = sandbox.cgroup().dir("memory");
    std::fs::write(top.join("memory.limit_in_bytes"), "314572800").expect("a limit");
    for name in ["kept-a b", "kept-$(touch x)'\u{1b}[2J"] {
        let own = top.join(name);
        std::fs::create_dir(&own).expect("a cgroup");
        let sleeper = Sleeper::start(Command::new("env"));
        std::fs::write(own.join("cgroup.procs"), sleeper.pid.to_string()).expect("a migration");
        let answer = sandbox.vcgroupfs(&["doctor", "--json", &sleeper.pid.to_string()]).json();
        let findings = answer["findings"].as_array().expect("findings");
        let above = findings.iter().find(|one| one["finding"] == "limit-above").expect("a finding");
        let [command] = above["commands"].as_array().expect("commands").as_slice() else { panic!("{above}") };
        assert_eq!(command["where"], "host");
        let command = command["command"].as_str().expect("a command");
        assert!(command.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{command:?}");
        assert_eq!(said(Command::new("sh").args(["-c", command])).code, 0, "{command}");
        assert_eq!(std::fs::read_to_string(own.join("memory.limit_in_bytes")).expect("a limit"), "314572800\n");
    }
    assert!(program().exists());
}
