//! Hierarchies are found wherever they are, and a view shows them as the host has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use testkit::hierarchies;

use crate::scene::{Scene, is_v1_controller, names, told};
use crate::{Setup, in_a_machine, setup};

/// What the root of a view shows; process 1 of the machine mounts `freezer` elsewhere and `perf_event` nowhere.
fn expected_root() -> Vec<(String, Option<String>)> {
    let mut expected: Vec<(String, Option<String>)> = Vec::new();
    for hierarchy in hierarchies() {
        let name = hierarchy.mountpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
        expected.push((name, None));
    }
    for (link, target) in [
        ("cpu", "cpu,cpuacct"),
        ("cpuacct", "cpu,cpuacct"),
        ("net_cls", "net_cls,net_prio"),
        ("net_prio", "net_cls,net_prio"),
    ] {
        if is_v1_controller(link) {
            expected.push((link.into(), Some(target.into())));
        }
    }
    expected.sort();
    expected
}

#[test]
fn v1_the_machine_has_the_intended_hierarchies() {
    in_a_machine!();
    let names: Vec<String> = expected_root().into_iter().map(|(name, _)| name).collect();
    let controllers = fs::read_to_string("/proc/cgroups").expect("the kernel's controllers");
    for name in ["cpu", "cpu,cpuacct", "net_prio", "systemd", "freezer", "pids", "devices"] {
        // Linux 4.3 brought that.
        if name == "pids" && !controllers.contains("\npids\t") {
            continue;
        }
        assert!(names.iter().any(|known| known == name), "{name} isn't in {names:?}");
    }
    assert_eq!(names.contains(&"unified".to_owned()), setup() == Some(Setup::Hybrid));
    assert!(!names.contains(&"perf_event".to_owned()));
}

#[test]
fn v1_tree_shows_every_hierarchy_and_its_symlinks() {
    in_a_machine!();
    let scene = Scene::new();
    for (shape, policy) in crate::scene::MODES {
        let mut arguments = vec!["tree".to_owned(), "--json".to_owned()];
        arguments.extend(scene.options(shape, policy));
        let tree: Value = serde_json::from_str(&told(arguments)).expect("JSON");
        let mut found: Vec<(String, Option<String>)> = tree["children"]
            .as_array()
            .expect("children")
            .iter()
            .map(|child| {
                let text = |key: &str| child[key].as_str().map(str::to_owned);
                (text("name").unwrap_or_default(), text("link"))
            })
            .collect();
        found.sort();
        assert_eq!(found, expected_root(), "{shape} {policy}");
    }
}

#[test]
fn tree_marks_what_is_writable() {
    in_a_machine!();
    let scene = Scene::new();
    for policy in ["strict", "delegate"] {
        let mut arguments = vec!["tree".to_owned()];
        arguments.extend(scene.options("rooted", policy));
        let tree = told(arguments);
        let mark = |name: &str| {
            let line = tree.lines().find(|line| line.ends_with(&format!("─{name}")));
            line.map(|line| line.starts_with("rw"))
        };
        if setup() == Some(Setup::Unified) {
            assert!(tree.starts_with("rw"), "{tree}");
            assert_eq!(mark("below"), Some(true), "{tree}");
        } else {
            assert_eq!(mark("systemd"), Some(true), "{tree}");
            let delegated = if is_v1_controller("pids") { "pids" } else { "memory" };
            assert_eq!(mark(delegated), Some(policy == "delegate"), "{tree}");
        }
    }
}

/// They are a set: Linux 3.10 tells them in another order than they were mounted in.
fn controllers(selector: &str) -> BTreeSet<&str> {
    selector.split(',').collect()
}

#[test]
fn map_translates_in_both_directions() {
    in_a_machine!();
    let scene = Scene::new();
    for hierarchy in hierarchies() {
        let selector = hierarchy.selector();
        let host = scene.real(&hierarchy, "below");
        let cgroup = format!("{}/below", scene.path());
        for shape in ["host-path", "rooted", "full"] {
            let ask = |path: &Path| -> Value {
                let mut arguments = vec!["map".to_owned(), "--json".to_owned()];
                arguments.extend(scene.options(shape, "strict"));
                arguments.push(path.display().to_string());
                serde_json::from_str(&told(arguments)).expect("JSON")
            };
            let there = ask(&host);
            let named = there["host_to_view"][0]["hierarchy"].as_str().expect("a hierarchy");
            assert_eq!(controllers(named), controllers(&selector), "{there}");
            assert_eq!(there["host_to_view"][0]["host"], cgroup.as_str(), "{there}");
            let shown = there["host_to_view"][0]["view"].as_str().expect("a path of the view").to_owned();
            let back = ask(Path::new(&shown));
            assert_eq!(back["view_to_host"]["host"], cgroup.as_str(), "{shape} {selector}: {back}");
            let sibling = host.with_file_name("..").join("sibling");
            let sibling = ask(&fs::canonicalize(sibling).expect("the sibling"));
            let is_shown = !sibling["host_to_view"][0]["view"].is_null();
            assert_eq!(is_shown, shape == "full", "{shape} {selector}: {sibling}");
        }
    }
}

#[test]
fn v1_the_root_of_a_mounted_view_is_as_on_the_host() {
    in_a_machine!();
    let scene = Scene::new();
    let view = scene.view("host-path", "strict");
    let shown: Vec<(String, Option<String>)> = names(&view.dir())
        .into_iter()
        .map(|name| {
            let target = fs::read_link(view.dir().join(&name)).ok();
            (name, target.map(|target| target.display().to_string()))
        })
        .collect();
    assert_eq!(shown, expected_root());
    assert_eq!(names(&view.dir().join("cpu")), names(&view.dir().join("cpu,cpuacct")));
}
