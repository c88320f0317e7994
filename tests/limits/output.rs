//! What `limits` prints: a table, JSON, and both again and again.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use testkit::{Need, TIMEOUT, TestCgroup, require, run_to_end};

use crate::scene::{Consumer, program, row};

/// Cgroups with a limit of each kind on the upper one, with a name that leaves no room for others.
fn scene() -> (TestCgroup, Vec<PathBuf>) {
    let cgroup = TestCgroup::new(&["memory", "pids", "cpu"]);
    let name = "a-name-that-takes-up-more-columns-than-any-table-has-room-for-".repeat(3);
    let set = |controller: &str, file: &str, value: &str| {
        let path = cgroup.dir(controller).join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    };
    let own = cgroup.children(&name);
    set("memory", "memory.limit_in_bytes", "67108864");
    set("cpu", "cpu.cfs_quota_us", "150000");
    set("pids", &format!("{name}/pids.max"), "7");
    let own = own.iter().map(|dir| dir.join("below")).collect::<Vec<_>>();
    own.iter().for_each(|dir| fs::create_dir(dir).expect("a cgroup"));
    (cgroup, own)
}

macro_rules! require_scene {
    () => {
        require!(Need::Root, Need::Hierarchy("memory"), Need::Hierarchy("pids"), Need::Hierarchy("cpu"));
    };
}

#[test]
fn a_table_fits() {
    require_scene!();
    let (cgroup, own) = scene();
    let process = Consumer::start(&own, &["--sleep"]);
    let output = run_to_end(Command::new(program()).args(["limits", &process.pid()]), TIMEOUT);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(wide.is_empty(), "{wide:#?}");
    let mut wider_than_a_terminal = text.lines().filter(|line| line.chars().count() > 80);
    assert!(wider_than_a_terminal.all(|line| line.contains(" /vcgroupfs-test-")), "only the last column: {text}");
    assert!(text.lines().all(|line| line.trim_end() == line && !line.contains('\x1b')), "{text}");
    let cells = |start: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}: {text}"));
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    let above = cgroup.path();
    assert_eq!(cells("memory  ")[1..3], ["none", "64 MiB"], "{text}");
    assert_eq!(cells("memory  ").last(), Some(&above), "{text}");
    assert_eq!(cells("CPU time")[1..3], ["none", "1.50 CPUs"], "{text}");
    assert!(cells("pids")[1..3] == ["none", "7"] && cells("pids").iter().any(|cell| cell.contains("...")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("memory   ") && line.contains("64 MiB")), "{text}");
    let psutil = text.lines().rfind(|line| line.contains("Python psutil")).expect("psutil");
    let mark = psutil.split_ascii_whitespace().next().filter(|word| word.starts_with('!')).expect(&text);
    assert!(text.contains(&format!("{mark} tell the program its limit")), "{text}");
}

#[test]
fn json_has_documented_keys() {
    require_scene!();
    let (_cgroup, own) = scene();
    let process = Consumer::start(&own, &["--sleep"]);
    let answer = crate::scene::limits(&[&process.pid()]);
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&answer),
        "cgroup_namespace cgroups clients clients_unknown_because command complete cpus_used incomplete_because limits \
         machine pid setup time version"
    );
    let memory = row(&answer, "memory");
    assert_eq!(keys(memory), "effective events left levels notes own part resource unit used");
    assert_eq!(keys(&memory["levels"][0]), "binds cgroup events file limit state used");
    assert_eq!(keys(&answer["clients"][0]), "client differs expected from is_native missing quantity remedy value");
    let node = answer["clients"].as_array().expect("clients").iter();
    let mut memory = node.filter(|one| one["quantity"] == "memory" && one["client"] == "Python psutil");
    let psutil = memory.next().expect("psutil");
    assert_eq!((&psutil["value"], &psutil["expected"]), (&Value::Null, &67_108_864.into()));
    assert_eq!((&psutil["differs"], psutil["remedy"].is_string()), (&true.into(), true));
}

#[test]
fn watching_ends_with_the_process() {
    require_scene!();
    let (_cgroup, own) = scene();
    let process = Consumer::start(&own, &["--sleep"]);
    let mut command = Command::new(program());
    command.args(["limits", &process.pid(), "--json", "--watch", "0.1"]);
    let mut watching = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("limits");
    let mut lines = BufReader::new(watching.stdout.take().expect("a pipe")).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    let (first, second) = (next(), next());
    assert_eq!((&first["version"], &first["cpus_used"]), (&1.into(), &Value::Null));
    assert!(second["cpus_used"].is_f64() && second["time"].as_f64() > first["time"].as_f64(), "{second}");
    drop(process);
    let end = testkit::end_of(&mut watching, TIMEOUT).expect("the end");
    let mut complaint = String::new();
    std::io::Read::read_to_string(&mut watching.stderr.take().expect("a pipe"), &mut complaint).expect("text");
    assert!(end.success() && complaint.contains("has ended"), "{end:?}: {complaint}");
}

#[test]
fn wrong_usage_is_said() {
    for (arguments, code, says) in [
        (&["limits", "--watch", "docker:web"][..], 2, "a TARGET stands before --watch"),
        (&["limits", "--watch", "0"], 2, "seconds from 0.1"),
        (&["limits", "999999999"], 1, "999999999"),
        (&["limits", "--bogus"], 2, "--bogus"),
    ] {
        let output = run_to_end(Command::new(program()).args(arguments), TIMEOUT);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
        assert!(complaint.contains(says) && complaint.lines().count() == 1, "{complaint}");
    }
}
