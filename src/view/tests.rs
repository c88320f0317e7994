use std::ffi::OsStr;

use proptest::prelude::*;

use super::*;
use crate::cgroup::ancestor::limits_what_is_below;
use crate::cgroup::{CgroupPath, HierarchyKind, Setup};
use crate::policy::{Rules, Zone};

fn path(text: &str) -> CgroupPath {
    CgroupPath::parse(text).unwrap()
}

fn view(shape: Shape, setup: Setup, delegated: Option<&str>) -> View {
    let hierarchy = |list: &str, directory: &str| ViewHierarchy {
        kind: if list.is_empty() { HierarchyKind::Unified } else { HierarchyKind::v1(list) },
        directory: directory.into(),
        links: if list == "cpu,cpuacct" { vec!["cpu".into(), "cpuacct".into()] } else { Vec::new() },
        delegated: delegated.map(path),
    };
    let hierarchies = match setup {
        Setup::Unified => vec![hierarchy("", "cgroup")],
        Setup::Legacy => vec![hierarchy("cpu,cpuacct", "cpu,cpuacct"), hierarchy("name=systemd", "systemd")],
        Setup::Hybrid => vec![hierarchy("cpu,cpuacct", "cpu,cpuacct"), hierarchy("", "unified")],
    };
    View {
        setup,
        shape,
        rules: Rules::default(),
        ancestor_limits: AncestorLimits::Shown,
        hierarchies,
        aliases: vec!["docker".into()],
    }
}

fn role(view: &View, text: &str) -> Option<(Role, EntryPath, Option<String>)> {
    let resolved = view.resolve_directory(&path(text))?;
    let backing = resolved.backing.map(|(_, path)| path.to_string());
    Some((resolved.position.role, resolved.position.entry_path, backing))
}

#[test]
fn host_path_shows_the_way_and_nothing_beside_it() {
    let view = view(Shape::HostPath, Setup::Hybrid, Some("/lxc/c1"));
    let at = |text| role(&view, text).map(|(role, _, backing)| (role, backing.unwrap_or_default()));
    assert_eq!(at("/"), Some((Role::Top, String::new())));
    assert_eq!(at("/unified"), Some((Role::Ancestor { depth: 0 }, "/".into())));
    assert_eq!(at("/unified/lxc"), Some((Role::Ancestor { depth: 1 }, "/lxc".into())));
    assert_eq!(at("/unified/lxc/c1"), Some((Role::Boundary, "/lxc/c1".into())));
    assert_eq!(at("/unified/lxc/c1/a/b"), Some((Role::Inside, "/lxc/c1/a/b".into())));
    assert_eq!(at("/cpu/lxc/c1"), Some((Role::Boundary, "/lxc/c1".into())));
    for hidden in ["/unified/lxc/c10", "/unified/lxc/c", "/unified/other", "/memory", "/lxc"] {
        assert_eq!(at(hidden), None, "{hidden}");
    }
    let ancestor = view.resolve_directory(&path("/unified/lxc")).unwrap().position;
    assert!(view.lists(ancestor, OsStr::new("cgroup.controllers"), false));
    assert!(!view.lists(ancestor, OsStr::new("cgroup.procs"), false));
    assert!(!view.lists(ancestor, OsStr::new("c10"), true));
    let v1 = view.resolve_directory(&path("/cpu/lxc")).unwrap().position;
    assert!(
        !view.lists(v1, OsStr::new("cpu.shares"), false) && !view.lists(v1, OsStr::new("cgroup.controllers"), false)
    );
}

#[test]
fn ancestors_show_limits_unless_they_are_hidden() {
    let shown = view(Shape::HostPath, Setup::Hybrid, Some("/lxc/c1"));
    let hidden = View { ancestor_limits: AncestorLimits::Hidden, ..shown.clone() };
    for (directory, name) in [
        ("/cpu", "cpu.cfs_quota_us"),
        ("/cpu", "cpu.shares"),
        ("/cpu/lxc", "cpu.cfs_quota_us"),
        ("/unified", "memory.max"),
        ("/unified/lxc", "memory.max"),
    ] {
        let position = shown.resolve_directory(&path(directory)).unwrap().position;
        assert!(shown.lists(position, OsStr::new(name), false), "{directory} {name}");
        assert!(!hidden.lists(position, OsStr::new(name), false), "{directory} {name}");
        assert_eq!(hidden.child(position, OsStr::new(name)), Child::Hidden);
        // A directory of that name leads nowhere.
        assert!(!shown.lists(position, OsStr::new(name), true));
    }
    let rooted = view(Shape::Rooted, Setup::Unified, Some("/lxc/c1"));
    let step =
        Position { hierarchy: Some(0), entry_path: EntryPath::HostPathAlias, role: Role::HostPathStep { depth: 1 } };
    assert_eq!(rooted.child(step, OsStr::new("memory.max")), Child::Hidden);
}

#[test]
fn rooted_has_a_hidden_alias() {
    let view = view(Shape::Rooted, Setup::Unified, Some("/lxc/c1"));
    assert_eq!(role(&view, "/"), Some((Role::Boundary, EntryPath::Main, Some("/lxc/c1".into()))));
    assert_eq!(role(&view, "/x"), Some((Role::Inside, EntryPath::Main, Some("/lxc/c1/x".into()))));
    assert_eq!(role(&view, "/lxc"), Some((Role::HostPathStep { depth: 1 }, EntryPath::HostPathAlias, None)));
    assert_eq!(role(&view, "/lxc/c1"), Some((Role::Boundary, EntryPath::HostPathAlias, Some("/lxc/c1".into()))));
    assert_eq!(role(&view, "/lxc/c1/x"), Some((Role::Inside, EntryPath::HostPathAlias, Some("/lxc/c1/x".into()))));
    assert_eq!(role(&view, "/lxc/c2"), None);
    // The alias doesn't exist below itself: there the name is an ordinary one.
    assert_eq!(role(&view, "/lxc/c1/lxc"), Some((Role::Inside, EntryPath::HostPathAlias, Some("/lxc/c1/lxc".into()))));
    assert!(!view.lists(
        Position { hierarchy: Some(0), entry_path: EntryPath::HostPathAlias, role: Role::HostPathStep { depth: 1 } },
        OsStr::new("c1"),
        true
    ));
}

#[test]
fn an_alias_of_one_step() {
    let view = view(Shape::Rooted, Setup::Unified, Some("/c1"));
    assert_eq!(role(&view, "/c1"), Some((Role::Boundary, EntryPath::HostPathAlias, Some("/c1".into()))));
}

#[test]
fn full_shows_everything() {
    let view = view(Shape::Full, Setup::Legacy, Some("/lxc/c1"));
    let zone = |text| view.zone(view.resolve_directory(&path(text)).unwrap().position);
    assert_eq!(zone("/cpuacct/lxc/c10"), Zone::Outside);
    assert_eq!(zone("/cpuacct/lxc/c1"), Zone::Boundary);
    assert_eq!(zone("/cpuacct/lxc/c1/x/y"), Zone::Inside);
    assert_eq!(zone("/cpuacct/lxc/c10/c1"), Zone::Outside);
    assert_eq!(zone("/systemd/c1/lxc/c1"), Zone::Outside);
}

#[test]
fn without_a_delegated_subtree_there_are_only_the_roots_files() {
    for shape in [Shape::HostPath, Shape::Rooted] {
        let view = view(shape, Setup::Hybrid, None);
        let top = view.top_of(1);
        assert_eq!(top.role, Role::HostRoot);
        assert_eq!(view.zone(top), Zone::Outside);
        assert!(view.lists(top, OsStr::new("cgroup.procs"), false));
        assert!(!view.lists(top, OsStr::new("system.slice"), true));
        assert_eq!(role(&view, "/unified/system.slice"), None);
    }
    assert_eq!(role(&view(Shape::Full, Setup::Unified, None), "/a").unwrap().0, Role::Foreign);
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop::sample::select(vec![Shape::HostPath, Shape::Rooted, Shape::Full])
}

fn setups() -> impl Strategy<Value = Setup> {
    prop::sample::select(vec![Setup::Legacy, Setup::Hybrid, Setup::Unified])
}

proptest! {
    #[test]
    fn whatever_is_writable_lies_within_the_subtree(
        shape in shapes(), setup in setups(), delegated in "(/[ab]{1,2}){1,3}", walk in "(/[ab]{1,2}|/cpu|/unified){0,6}",
    ) {
        let view = view(shape, setup, Some(&delegated));
        if let Some(resolved) = view.resolve_directory(&path(&format!("/{walk}"))) {
            let zone = view.zone(resolved.position);
            match resolved.backing {
                Some((_, backing)) => {
                    prop_assert_eq!(backing.is_within(&path(&delegated)), zone != Zone::Outside);
                    prop_assert_eq!(backing == path(&delegated), zone == Zone::Boundary);
                    if shape != Shape::Full {
                        prop_assert!(backing.is_within(&path(&delegated)) || path(&delegated).is_within(&backing));
                    }
                }
                None => prop_assert_eq!(zone, Zone::Outside),
            }
        }
    }

    /// An ancestor has only the next component, and files that the host lets it show, whose zone is outside.
    #[test]
    fn an_ancestor_has_the_next_step_and_files_that_are_never_written(
        setup in setups(), depth in 0usize..3, hides in any::<bool>(),
        name in prop_oneof!["[ab]{1,2}", "(cgroup|cpu|memory|pids|cpuset|hugetlb)[.][a-z._]{0,16}", Just("cpu.max".to_owned()), Just("cpu.cfs_quota_us".to_owned())],
    ) {
        let ancestor_limits = if hides { AncestorLimits::Hidden } else { AncestorLimits::Shown };
        let view = View { ancestor_limits, aliases: Vec::new(), ..view(Shape::HostPath, setup, Some("/a/b/aa")) };
        let steps = ["a", "b", "aa"];
        for (index, hierarchy) in view.hierarchies.iter().enumerate() {
            let position = Position { hierarchy: Some(index), entry_path: EntryPath::Main, role: Role::Ancestor { depth } };
            prop_assert_eq!(view.zone(position), Zone::Outside);
            match view.child(position, OsStr::new(&name)) {
                Child::Backing { directory: Some(below), file: false, otherwise: None } => {
                    prop_assert_eq!(name.as_str(), steps[depth]);
                    prop_assert_eq!(below.role == Role::Boundary, depth == 2);
                }
                Child::Backing { directory: None, file: true, otherwise: None } => {
                    let is_core = ["cgroup.controllers", "cgroup.subtree_control", "cgroup.type"].contains(&name.as_str());
                    prop_assert!(is_core || !hides && limits_what_is_below(&hierarchy.kind, depth, &name));
                    let class = crate::cgroup::FileClass::of(&hierarchy.kind, OsStr::new(&name));
                    let subject = crate::policy::Subject::File { name: OsStr::new(&name), class: &class };
                    let node = crate::policy::PolicyNode { kind: Some(&hierarchy.kind), zone: view.zone(position), subject };
                    for policy in [crate::policy::Policy::Strict, crate::policy::Policy::Delegate] {
                        let rules = Rules { policy, delegate_controllers: crate::cgroup::ControllerSet::parse("cpu,memory,pids,cpuset,hugetlb"), ..Rules::default() };
                        prop_assert!(!crate::policy::decide(&rules, &node, crate::policy::Operation::Write).is_allowed());
                        prop_assert_eq!(crate::policy::shown_mode(&rules, &node, 0o644), 0o444);
                    }
                }
                Child::Hidden => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn view_to_host_to_view_is_the_identity(
        shape in shapes(), setup in setups(), delegated in "(/[ab]{1,2}){1,3}", below in "(/[ab]{1,2}){0,4}",
        inside in any::<bool>(),
    ) {
        let view = view(shape, setup, Some(&delegated));
        let prefix = if inside { delegated.clone() } else { String::new() };
        let host = path(&format!("/{prefix}{below}"));
        for index in 0..view.hierarchies.len() {
            if let Some(shown) = view_path_of(&view, index, &host) {
                let resolved = view.resolve_directory(&shown);
                // In a rooted view, names below the boundary that are the alias' own lead through the alias instead.
                let through_host_path_alias = resolved.as_ref().is_none_or(|resolved| resolved.position.entry_path == EntryPath::HostPathAlias);
                prop_assume!(!(shape == Shape::Rooted && through_host_path_alias));
                prop_assert_eq!(resolved.unwrap().backing, Some((index, host.clone())));
            } else {
                prop_assert!(shape != Shape::Full && !host.is_within(&path(&delegated)));
            }
        }
    }
}
