//! `list`, `tree`, `map`: text for people, JSON with documented keys for scripts.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;
use testkit::{Need, View, ViewOptions, hierarchies, require};

use crate::support::{Sandbox, program};

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("not an object: {value}")).keys().map(String::as_str).collect()
}

#[test]
fn list_shows_directory_target_and_server() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["pids", "unified"]);
    let path = sandbox.path();
    let view = View::mount(program(), &ViewOptions::new().cgroup(sandbox.cgroup()).shape("rooted").policy("delegate"));
    let directory = view.dir();
    let mut found = None;
    crate::support::wait_until("the record", || {
        let views = sandbox.vcgroupfs(&["list", "--json"]).json();
        let ours =
            views.as_array().expect("a list").iter().find(|view| view["directory"].as_str() == directory.to_str());
        found = ours.cloned();
        found.is_some()
    });
    let found = found.expect("a record");
    let of_the_view = [
        "aliases",
        "delegate_controllers",
        "delegated",
        "hides_ancestor_limits",
        "options",
        "per_caller",
        "policy",
        "shape",
        "since",
        "target",
    ];
    let of_the_server =
        ["confinement", "container", "directory", "directory_escaped", "keeper", "pid", "unit", "version"];
    let of_its_state = ["last_restart", "reason", "restarts", "state"];
    assert_eq!(keys(&found), of_the_view.into_iter().chain(of_the_server).chain(of_its_state).collect());
    let cgroups = ["pids", "unified"].map(|hierarchy| format!("{hierarchy}={path}"));
    assert_eq!((&found["state"], &found["restarts"], &found["reason"]), (&"live".into(), &0.into(), &Value::Null));
    assert_eq!(found["options"], serde_json::json!({"cgroup": cgroups, "policy": "delegate", "shape": "rooted"}));
    assert_eq!((&found["aliases"], &found["delegate_controllers"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert_eq!((found["shape"].as_str(), found["policy"].as_str()), (Some("rooted"), Some("delegate")));
    assert_eq!(found["delegated"], serde_json::json!({"pids": path, "unified": path}));
    assert!(found["target"].as_str().is_some_and(|target| target.contains(&format!("pids={path}"))), "{found}");
    let server = found["pid"].as_u64().expect("a number");
    assert_eq!(
        fs::read_link(format!("/proc/{server}/exe")).expect("exe"),
        fs::canonicalize(program()).expect("a path")
    );
    assert!(found["since"].as_u64().is_some_and(|since| since > 1_500_000_000));
    let text = sandbox.vcgroupfs(&["list"]).ok();
    assert!(text.starts_with("SERVER "), "{text}");
    let line = text.lines().find(|line| line.contains(directory.to_str().expect("a path"))).expect("a line");
    let words: Vec<&str> = line.split_whitespace().take(4).collect();
    assert_eq!(words, [&*server.to_string(), directory.to_str().expect("a path"), "rooted", "delegate"]);
}

/// Compares a branch of the tree with the directory that it stands for.
fn compare(branch: &Value, directory: &Path, checked: &mut usize) {
    assert_eq!(keys(branch), ["children", "hidden", "kind", "link", "name", "writable"].into());
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let listed: BTreeSet<String> = fs::read_dir(directory).expect("a directory").flatten().map(name).collect();
    let children = branch["children"].as_array().expect("children");
    let shown: BTreeSet<String> =
        children.iter().map(|child| child["name"].as_str().expect("a name").to_owned()).collect();
    assert_eq!(shown, listed, "{}", directory.display());
    for child in children {
        let path = directory.join(child["name"].as_str().expect("a name"));
        let metadata = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        *checked += 1;
        match child["kind"].as_str() {
            Some("directory") => {
                assert!(metadata.is_dir());
                compare(child, &path, checked);
            }
            Some("file") => assert!(metadata.is_file()),
            Some("link") => {
                assert_eq!(fs::read_link(&path).expect("a link").to_str(), child["link"].as_str());
                continue;
            }
            other => panic!("{other:?}"),
        }
        // The write bits tell the truth but for files that the kernel itself has read-only.
        let has_write_bits = metadata.mode() & 0o222 != 0;
        assert!(!has_write_bits || child["writable"] == Value::Bool(true), "{}: {child}", path.display());
    }
}

#[test]
fn tree_shows_what_the_view_shows() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("pids"),
        Need::Hierarchy("unified"),
        Need::Hierarchy("name=systemd")
    );
    for shape in ["rooted", "host-path"] {
        let sandbox = Sandbox::with_cgroup(&["pids", "unified", "name=systemd"]);
        sandbox.cgroup().children("kept-a");
        sandbox.cgroup().children("kept-a/b");
        let options = ViewOptions::new().cgroup(sandbox.cgroup()).shape(shape);
        let view = View::mount(program(), &options);
        let path = sandbox.path();
        let cgroups: Vec<String> = ["pids", "unified", "name=systemd"]
            .iter()
            .flat_map(|name| ["--cgroup".into(), format!("{name}={path}")])
            .collect();
        let cgroups: Vec<&str> = cgroups.iter().map(String::as_str).collect();
        let arguments = [&["tree", "--json", "--files", "--shape", shape], cgroups.as_slice()].concat();
        let tree = sandbox.vcgroupfs(&arguments).json();
        assert_eq!((tree["kind"].as_str(), &tree["writable"]), (Some("directory"), &Value::Bool(false)));
        let mut checked = 0;
        compare(&tree, &view.dir(), &mut checked);
        assert!(checked > 60, "{checked}");
        let text = sandbox.vcgroupfs(&[&["tree", "--shape", shape], cgroups.as_slice()].concat()).ok();
        assert!(text.starts_with("ro  /\n"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("rw") && line.ends_with("kept-a")), "{text}");
        assert!(!text.contains("cgroup.procs"), "files only when asked for");
        assert!(text.contains("hidden)"), "{text}");
        let below = if shape == "rooted" {
            "/unified/kept-a".to_owned()
        } else {
            format!("/sys/fs/cgroup/unified{path}/kept-a")
        };
        let branch =
            sandbox.vcgroupfs(&[&["tree", "--json", "--shape", shape, &below], cgroups.as_slice()].concat()).json();
        assert_eq!(branch["children"][0]["name"], "b", "{branch}");
    }
}

#[test]
fn map_translates_in_both_directions() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("pids"),
        Need::Hierarchy("unified"),
        Need::Hierarchy("name=systemd")
    );
    let selectors = ["pids", "unified", "name=systemd"];
    for shape in ["rooted", "host-path", "full"] {
        let sandbox = Sandbox::with_cgroup(&selectors);
        sandbox.cgroup().children("kept-a");
        sandbox.cgroup().children("kept-other");
        sandbox.cgroup().children("kept-a/b");
        let boundary = format!("{}/kept-a", sandbox.path());
        let cgroups: Vec<String> =
            selectors.iter().flat_map(|name| ["--cgroup".into(), format!("{name}={boundary}")]).collect();
        let mut options = ViewOptions::new().shape(shape);
        for name in selectors {
            options = options.option("--cgroup", &format!("{name}={boundary}"));
        }
        let view = View::mount(program(), &options);
        let map = |path: &str| {
            let cgroups: Vec<&str> = cgroups.iter().map(String::as_str).collect();
            sandbox.vcgroupfs(&[&["map", "--json", "--shape", shape, path], cgroups.as_slice()].concat()).json()
        };
        let mut shown = 0;
        for hierarchy in hierarchies().iter().filter(|one| selectors.contains(&one.selector().as_str())) {
            for below in ["", "/kept-a", "/kept-a/b", "/kept-other"] {
                let host = format!("{}{below}", sandbox.path());
                // By the host's mount point the hierarchy is known.
                let on_host = format!("{}{host}", hierarchy.mountpoint.display());
                let there = map(&on_host);
                assert_eq!(keys(&there), ["host_to_view", "path", "view_to_host"].into());
                let [found] = there["host_to_view"].as_array().expect("a list").as_slice() else { panic!("{there}") };
                assert_eq!(keys(found), ["hierarchy", "host", "view"].into());
                assert_eq!(
                    (found["hierarchy"].as_str(), found["host"].as_str()),
                    (Some(&*hierarchy.selector()), Some(&*host))
                );
                let expected =
                    shape == "full" || below.starts_with("/kept-a") || (shape == "host-path" && below.is_empty());
                let Some(in_view) = found["view"].as_str() else {
                    assert!(!expected, "{shape} {host}: {found}");
                    continue;
                };
                assert!(expected, "{shape} {host}: {found}");
                shown += 1;
                let back = map(in_view);
                assert_eq!(keys(&back["view_to_host"]), ["hierarchy", "host"].into());
                assert_eq!(back["view_to_host"]["host"].as_str(), Some(&*host), "{in_view}");
                assert_eq!(back["view_to_host"]["hierarchy"].as_str(), Some(&*hierarchy.selector()));
                let real = fs::metadata(&on_host).expect("the host's").ino();
                let path = view.dir().join(in_view.trim_start_matches('/'));
                assert_eq!(
                    fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).ino(),
                    real
                );
            }
        }
        assert!(shown >= 6, "{shape}: {shown}");
        let text = sandbox.vcgroupfs(&["map", "--shape", shape, "--cgroup", &boundary, &boundary]).ok();
        assert!(text.starts_with("as a path of the host:\n") && text.contains("as a path of the view:\n"), "{text}");
        let hidden = map(&format!("{}/kept-other", sandbox.path()));
        assert_eq!(
            hidden["host_to_view"].as_array().expect("a list").iter().all(|one| one["view"].is_null()),
            shape != "full"
        );
    }
}

/// As with `vcgroupfs list | head -n 0`.
#[test]
fn a_closed_standard_output_is_no_panic() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let said =
        std::process::Command::new(program()).args(["doctor", "--json"]).stdout(writer).output().expect("doctor");
    assert_eq!((said.status.code(), String::from_utf8_lossy(&said.stderr).as_ref()), (Some(0), ""));
}
