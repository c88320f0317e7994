//! Whatever names are entered one after the other: a directory in the boundary's zone has the boundary's backing path, one in the zone
//! inside a path below it, and nothing outside the delegated subtree is in either.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use vcgroupfs::cgroup::{CgroupPath, HierarchyKind, Setup};
use vcgroupfs::policy::{Rules, Zone};
use vcgroupfs::view::{AncestorLimits, Child, Position, Shape, Role, View, ViewHierarchy, view_path_of};

/// A path of few names, so that they meet.
fn path(bytes: &[u8]) -> CgroupPath {
    let names = bytes.iter().map(|byte| name(*byte).into());
    CgroupPath::from_components(names.collect())
}

fn name(byte: u8) -> &'static str {
    [
        "a",
        "b",
        "ab",
        "c",
        "unified",
        "cpu",
        "cpuacct",
        "cpu,cpuacct",
        "systemd",
        "cgroup.procs",
        "cgroup.type",
        ".",
        "..",
        "",
    ][usize::from(byte) % 14]
}

/// Follows names as lookups do. The host has a directory under every name, unless `lacks` says otherwise.
fn follow(view: &View, names: &[&OsStr], lacks: u8) {
    let mut at = view.root();
    let mut backing = at.hierarchy.map(|index| view.top_path(index));
    for (step, name) in names.iter().enumerate() {
        let (position, below): (Position, Option<CgroupPath>) = match view.child(at, name) {
            Child::Hidden => return,
            Child::Hierarchy(index) | Child::Link { hierarchy: index, .. } => {
                (view.top_of(index), Some(view.top_path(index)))
            }
            // A symlink into the subtree.
            Child::Alias { name } => {
                let index = at.hierarchy.expect("a hierarchy");
                let target = view.alias_target(index, name).expect("the alias of a view with a subtree");
                (Position { role: Role::Inside, ..at }, Some(target))
            }
            Child::HostPathAlias(position) => through_host_path_alias(view, position),
            Child::Backing { otherwise: Some(position), .. } if lacks >> (step % 8) & 1 == 1 => {
                through_host_path_alias(view, position)
            }
            Child::Backing { directory: Some(position), .. } => {
                let Some(below) = backing.as_ref().and_then(|above| above.join(name).ok()) else { return };
                (position, Some(below))
            }
            Child::Backing { .. } => return,
        };
        let delegated = position.hierarchy.and_then(|index| view.hierarchy(index)?.delegated.as_ref());
        match view.zone(position) {
            Zone::Boundary => assert_eq!(below.as_ref(), delegated),
            Zone::Inside => {
                let (below, delegated) = (below.as_ref().expect("a path"), delegated.expect("a subtree"));
                assert!(below.is_within(delegated) && below != delegated, "{below} isn't below {delegated}");
            }
            Zone::Outside => {
                let inside = below.as_ref().zip(delegated).is_some_and(|(below, delegated)| below.is_within(delegated));
                assert!(!inside, "{below:?} is in the subtree");
                let shown = view.shape == Shape::Full || !matches!(position.role, Role::Foreign);
                assert!(shown, "{position:?} is shown");
            }
        }
        if let (Some(index), Some(below)) = (position.hierarchy, &below) {
            assert!(view_path_of(view, index, below).is_some(), "{below} has no path in the view");
        }
        (at, backing) = (position, below);
    }
}

fn through_host_path_alias(view: &View, position: Position) -> (Position, Option<CgroupPath>) {
    let delegated = position.hierarchy.and_then(|index| view.hierarchy(index)?.delegated.clone());
    (position, delegated.filter(|_| position.role == Role::Boundary))
}

fuzz_target!(|data: (u8, u8, Vec<u8>, Vec<u8>, Vec<u8>, &[u8])| {
    let (kind, lacks, one, two, steps, raw) = data;
    let setup = [Setup::Unified, Setup::Hybrid, Setup::Legacy][usize::from(kind) % 3];
    let shape = [Shape::HostPath, Shape::Rooted, Shape::Full][usize::from(kind / 3) % 3];
    let delegated = |bytes: &[u8]| {
        let legal: Vec<u8> =
            bytes.iter().copied().filter(|byte| !matches!(name(*byte), "" | "." | "..")).take(6).collect();
        (!legal.is_empty()).then(|| path(&legal))
    };
    let hierarchy = |kind, directory: &str, links: &[&str], delegated| ViewHierarchy {
        kind,
        directory: directory.into(),
        links: links.iter().map(Into::into).collect(),
        delegated,
    };
    let unified = hierarchy(HierarchyKind::Unified, "unified", &[], delegated(&one));
    let v1 = [
        hierarchy(HierarchyKind::v1("cpu,cpuacct"), "cpu,cpuacct", &["cpu", "cpuacct"], delegated(&two)),
        hierarchy(HierarchyKind::v1("name=systemd"), "systemd", &[], delegated(&one)),
    ];
    let hierarchies = match setup {
        Setup::Unified => vec![unified],
        Setup::Hybrid => [unified].into_iter().chain(v1).collect(),
        Setup::Legacy => v1.into(),
    };
    let aliases = vec!["docker".into()];
    let ancestor_limits = AncestorLimits::default();
    let view = View { setup, shape, rules: Rules::default(), ancestor_limits, hierarchies, aliases };
    let mut names: Vec<&OsStr> = steps.iter().map(|byte| OsStr::new(name(*byte))).collect();
    names.extend(raw.split(|byte| *byte == b'/').map(OsStr::from_bytes));
    follow(&view, &names, lacks);
});
