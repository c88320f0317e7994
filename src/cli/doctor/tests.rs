//! Every client against every layout: the table of what was measured, or read in the clients' sources.

use super::clients::judge;
use super::facts::Facts;
use super::finding::{Level, Recognised};
use super::general::findings;
use super::layouts::{Kind, LEGACY, UNIFIED, Variant, legacy, unified};

fn letter(recognised: Recognised) -> char {
    match recognised {
        Recognised::Yes => 'y',
        Recognised::Partly => 'p',
        Recognised::No => 'n',
    }
}

fn verdict(facts: &Facts, client: &str) -> char {
    let all = judge(facts);
    let finding = all.iter().find(|finding| finding.client == client).unwrap_or_else(|| panic!("no {client}"));
    assert_eq!(finding.recognised == Recognised::Yes, finding.advice.is_none(), "{finding:?}");
    letter(finding.recognised)
}

/// What each makes of the layouts of a legacy host, in the order of `LEGACY`, and of a unified one, in that of `UNIFIED`. Controllers are
/// delegated.
const MATRIX: [(&str, &str); 24] = [
    ("systemd <= 232", "yyyyyn ynnyyyy"),
    ("systemd 233-235", "ynnyyn ynnyyyy"),
    ("systemd 236-255", "yyyyyn ynnyyyy"),
    ("systemd 256, 257", "pppppn ynnyyyy"),
    ("systemd >= 258", "nnnnnn ynnyyyy"),
    ("systemd-cgls, systemd-cgtop", "yyyyyn ynnyyyy"),
    ("runc, kubelet, cadvisor", "ynppnn nnnnnny"),
    ("containerd", "ynyyyn ynnyyyy"),
    ("dockerd", "pnpppn pnnpppy"),
    ("crun", "yyyyyn pnnpppy"),
    ("podman", "yppyyn nnnnnny"),
    ("youki", "yyyyyn ynnyyyy"),
    ("LXC >= 4", "ynnyyn ynnyyyy"),
    ("LXC 2", "ynyyyn nnnnnnn"),
    ("lxc-checkconfig", "ynyyyn ynyyyyy"),
    ("JVM (hotspot)", "ynyynn ynnyyyy"),
    ("Go automaxprocs", "ynyynn ynyyyyy"),
    ("Go >= 1.25", "ynyyyn ynyyyyy"),
    (".NET", "ynyyyn ynnyyyy"),
    ("Node.js 18 (libuv 1.44)", "pnnppn nnnnnnn"),
    ("Node.js 20 (libuv 1.46)", "yyyyyy yyyyyyy"),
    ("Rust std", "yyyyyy yyyyyyy"),
    ("libcgroup", "ynyyyn ynyyyyy"),
    ("shell scripts", "yyyyyy yyyyyyy"),
];

#[test]
fn the_matrix() {
    let variant = Variant::default();
    let mut wrong = Vec::new();
    for (client, expected) in MATRIX {
        let v1: String = LEGACY.iter().map(|kind| verdict(&legacy(*kind, variant), client)).collect();
        let v2: String = UNIFIED.iter().map(|kind| verdict(&unified(*kind, variant), client)).collect();
        if format!("{v1} {v2}") != expected {
            wrong.push(format!("{client}: {v1} {v2}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(judge(&legacy(Kind::Real, variant)).len(), MATRIX.len(), "a client that isn't in the table");
}

/// What differs from the matrix: `y` all that it had, else the clients by which it was changed, with their new verdict.
fn changes(usual: &Facts, now: &Facts) -> Vec<(&'static str, char)> {
    let pairs = judge(usual).into_iter().zip(judge(now));
    pairs
        .filter(|(before, after)| before.recognised != after.recognised)
        .map(|(_, after)| (after.client, letter(after.recognised)))
        .collect()
}

#[test]
fn controllers_that_are_read_only_keep_containers_out() {
    let strict = Variant { is_strict: true, ..Variant::default() };
    let usual = legacy(Kind::Stack, Variant::default());
    let changed = changes(&usual, &legacy(Kind::Stack, strict));
    assert_eq!(changed, [("crun", 'p'), ("youki", 'p')]);
    let finding = judge(&legacy(Kind::Stack, strict)).into_iter().find(|finding| finding.client == "dockerd").unwrap();
    assert!(finding.why.contains("the daemon starts") && finding.why.contains("may not make cgroups"), "{finding:?}");
}

#[test]
fn devices_and_an_alias_make_docker_work() {
    let usual = legacy(Kind::Stack, Variant::default());
    let devices = Variant { passes_devices: true, ..Variant::default() };
    let without = legacy(Kind::Stack, devices);
    assert_eq!(changes(&usual, &without), [("runc, kubelet, cadvisor", 'y')]);
    assert_eq!(changes(&without, &legacy(Kind::Stack, Variant { has_alias: true, ..devices })), [("dockerd", 'y')]);
    let finding = judge(&without).into_iter().find(|finding| finding.client == "dockerd").unwrap();
    assert!(finding.advice.is_some_and(|advice| advice.contains("--cgroup-parent=/c1/NAME")));
}

#[test]
fn before_openat2_files_have_to_be_of_the_type() {
    let usual = legacy(Kind::Stack, Variant::default());
    let old = legacy(Kind::Stack, Variant { has_no_openat2: true, ..Variant::default() });
    assert_eq!(changes(&usual, &old), [("runc, kubelet, cadvisor", 'n'), ("podman", 'n')]);
    // On v2 a real mount on the way doesn't matter then, a view still does.
    let without = Variant { has_no_openat2: true, ..Variant::default() };
    assert_eq!(verdict(&unified(Kind::Real, without), "runc, kubelet, cadvisor"), 'y');
    assert_eq!(verdict(&unified(Kind::SkeletonA, without), "runc, kubelet, cadvisor"), 'n');
}

#[test]
fn what_is_dead_or_hung_serves_nobody() {
    for broken in [Variant { is_dead: true, ..Variant::default() }, Variant { is_hung: true, ..Variant::default() }] {
        for (facts, still) in [
            // They go by mountinfo, and find out later.
            (legacy(Kind::Stack, broken), vec!["containerd", "LXC 2", "lxc-checkconfig", "libcgroup"]),
            (legacy(Kind::Fuse, broken), vec![]),
            (legacy(Kind::Plain, broken), vec![]),
            (unified(Kind::Fuse, broken), vec![]),
        ] {
            let yes = judge(&facts).into_iter().filter(|finding| finding.recognised == Recognised::Yes);
            assert_eq!(yes.map(|finding| finding.client).collect::<Vec<_>>(), still);
            let worst = findings(&facts).into_iter().next().unwrap();
            let expected = if broken.is_dead { "dead-view" } else { "hung-view" };
            assert_eq!((worst.finding, worst.level), (expected, Level::Problem));
            assert!(worst.what.contains("/sys/fs/cgroup"), "{worst:?}");
        }
    }
}

#[test]
fn systemd_is_told_about_bpf_where_a_view_serves_v2() {
    let why = |facts: &Facts| judge(facts).into_iter().find(|one| one.client == "systemd >= 258").unwrap().why;
    assert!(why(&unified(Kind::SkeletonA, Variant::default())).contains("DeviceAllow="));
    assert!(!why(&unified(Kind::Namespace, Variant::default())).contains("DeviceAllow="));
}

/// Its limit is the file's at the top, which is its own if that's what is mounted there.
#[test]
fn an_old_node_needs_its_own_cgroup_at_the_top() {
    let node = |facts: &Facts| verdict(facts, "Node.js 18 (libuv 1.44)");
    let at_root = |facts: &Facts| with_cgroups(facts, |text| text.replace("/c1", "/"));
    let real = legacy(Kind::Real, Variant::default());
    assert_eq!((node(&real), node(&at_root(&real))), ('p', 'y'));
    // As Docker binds it for a container without a cgroup namespace.
    let mut bound = real.clone();
    let own = |mount: &crate::cgroup::MountEntry| mount.hierarchy().is_some_and(|kind| kind.matches("memory"));
    bound.mounts.iter_mut().filter(|mount| own(mount)).for_each(|mount| mount.root = "/c1".into());
    assert_eq!(node(&bound), 'y');
    let finding = |variant| {
        let all = judge(&legacy(Kind::Stack, variant));
        all.into_iter().find(|one| one.client.starts_with("Node.js 18")).unwrap()
    };
    let hidden = finding(Variant::default());
    assert!(hidden.why.contains("/sys/fs/cgroup/memory/memory.limit_in_bytes isn't there"), "{hidden:?}");
    assert!(hidden.advice.is_some_and(|advice| advice.contains("Node.js 20.3")));
    let dead = finding(Variant { is_dead: true, ..Variant::default() });
    assert!(dead.advice.is_some_and(|advice| advice.contains("server has ended")));
}

/// As on a hybrid host whose kernel has memory for v2 only.
#[test]
fn without_v1_memory_dotnet_sees_its_cpus_alone() {
    for (kind, expected) in [(Kind::Real, 'p'), (Kind::Stack, 'p'), (Kind::Fuse, 'n')] {
        let mut facts = with_cgroups(&legacy(kind, Variant::default()), |text| text.replace("4:memory:/c1\n", ""));
        facts.mounts.retain(|mount| mount.mount_point != "/sys/fs/cgroup/memory");
        assert!(facts.hierarchy("memory").is_none());
        assert_eq!(verdict(&facts, ".NET"), expected, "{kind:?}");
        assert_eq!(verdict(&facts, "JVM (hotspot)"), 'n', "{kind:?}");
    }
}

#[test]
fn a_sentinel_is_one_view() {
    let facts = unified(Kind::Sentinel, Variant::default());
    assert_eq!(facts.views().map(super::facts::point).collect::<Vec<_>>(), ["/sys/fs/cgroup/c1"]);
    let on_v2 =
        |kind| findings(&unified(kind, Variant::default())).into_iter().find(|one| one.finding == "unified-host");
    let (sentinel, fuse) = (on_v2(Kind::Sentinel).expect("a finding"), on_v2(Kind::Fuse).expect("a finding"));
    assert!(sentinel.what.contains("runc and Docker") && !sentinel.what.contains("systemd"), "{sentinel:?}");
    assert!(fuse.advice.is_some_and(|advice| advice.contains("'vcgroupfs attach'")));
}

fn words(facts: &Facts) -> Vec<&'static str> {
    findings(facts).into_iter().map(|finding| finding.finding).collect()
}

#[test]
fn general_findings() {
    let usual = Variant::default();
    let open = Variant { may_mount: true, has_writable_tmpfs: true, ..usual };
    let namespace = Variant { has_cgroup_namespace: true, ..usual };
    for (what, facts, expected) in [
        ("a stack", legacy(Kind::Stack, namespace), vec!["fuse-limits"]),
        ("a host's paths", legacy(Kind::Stack, usual), vec!["fuse-limits", "no-cgroup-namespace"]),
        ("no stack", legacy(Kind::Fuse, namespace), vec!["no-stack", "fuse-limits"]),
        ("on the root", legacy(Kind::Plain, namespace), vec!["no-stack", "fuse-limits"]),
        (
            "open",
            legacy(Kind::Stack, Variant { has_cgroup_namespace: true, ..open }),
            vec!["can-unmount", "writable-tmpfs", "fuse-limits"],
        ),
        ("a skeleton", legacy(Kind::SkeletonA, namespace), vec!["siblings-visible", "fuse-limits"]),
        ("an empty one", legacy(Kind::SkeletonB, namespace), vec!["fuse-limits"]),
        ("no view", legacy(Kind::Real, usual), vec!["no-view"]),
        (
            "a unified host",
            unified(Kind::SkeletonA, namespace),
            vec!["siblings-visible", "unified-host", "fuse-limits"],
        ),
        ("a sentinel", unified(Kind::Sentinel, namespace), vec!["unified-host", "fuse-limits"]),
        ("a namespace", unified(Kind::Namespace, usual), vec!["no-view"]),
    ] {
        assert_eq!(words(&facts), expected, "{what}");
    }
}

/// The facts of another target: its cgroups have one more hierarchy, or its path is another.
fn with_cgroups(facts: &Facts, change: impl Fn(&str) -> String) -> Facts {
    let mut changed = facts.clone();
    changed.process.cgroup = change(&facts.process.cgroup);
    changed.memberships = crate::cgroup::parse_memberships(changed.process.cgroup.as_bytes());
    changed.mark_absent();
    changed
}

#[test]
fn hierarchies_that_are_not_mounted() {
    for (variant, level) in [
        (Variant::default(), Level::Warning),
        (Variant { may_mount: true, has_writable_tmpfs: true, ..Variant::default() }, Level::Problem),
    ] {
        let facts =
            with_cgroups(&legacy(Kind::Stack, variant), |text| format!("{text}9:net_cls,net_prio:/c1\n0::/c1\n"));
        let all = findings(&facts);
        let missing = all.iter().find(|one| one.finding == "missing-hierarchies").expect("a finding");
        assert!(missing.what.contains("net_cls,net_prio, unified"), "{missing:?}");
        assert_eq!(missing.level, level);
    }
}

#[test]
fn paths_that_lead_nowhere() {
    let facts = with_cgroups(&legacy(Kind::Stack, Variant::default()), |text| text.replace("/c1", "/elsewhere"));
    assert!(words(&facts).contains(&"own-cgroup-not-found"));
    for (client, expected) in [
        ("runc, kubelet, cadvisor", 'n'),
        ("systemd 236-255", 'n'),
        ("JVM (hotspot)", 'n'),
        ("Rust std", 'n'),
        ("Node.js 18 (libuv 1.44)", 'n'),
        ("Node.js 20 (libuv 1.46)", 'n'),
    ] {
        assert_eq!(verdict(&facts, client), expected, "{client}");
    }
    let outside = with_cgroups(&unified(Kind::Namespace, Variant::default()), |_| "0::/../x\n".to_owned());
    assert_eq!(verdict(&outside, "runc, kubelet, cadvisor"), 'n');
    assert_eq!(verdict(&outside, "systemd >= 258"), 'p');
}

#[test]
fn nothing_at_all() {
    let facts = Facts::new(super::facts::Process::default(), std::collections::BTreeMap::new());
    assert!(words(&facts).contains(&"no-tree"));
    assert!(judge(&facts).iter().all(|finding| finding.recognised == Recognised::No), "{:?}", judge(&facts));
}
