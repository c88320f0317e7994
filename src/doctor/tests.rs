//! Every client against every layout: the table of what was measured, or read in the clients' sources.

use super::clients::CLIENTS;
use super::facts::{Facts, ServerFacts, ViewRules};
use super::finding::{Finding, Level, NumberVerdict, Recognition};
use super::general::findings;
use super::layouts::{Host, Kind, LEGACY, UNIFIED, Variant, legacy, limits, members, unified};
use super::limits::Limits;
use super::native::NativeFiles;
use super::paths::paths_to_probe;
use super::verdict::{self, HostContext};
use crate::cgroup::HierarchyKind;

/// The findings about all programs, with the effective limits and the host's files.
fn judge(facts: &Facts) -> Vec<Finding> {
    let native = NativeFiles::of(&facts.system(), &members(facts), &Host);
    verdict::judge(facts, HostContext { limits: Some(&limits()), native: native.as_ref() })
}

#[test]
fn the_words_of_verdicts_in_json_stay() {
    let all = [NumberVerdict::Ok, NumberVerdict::NativeFiles, NumberVerdict::Wrong, NumberVerdict::Unknown];
    assert_eq!(serde_json::to_string(&all).unwrap(), r#"["ok","native","wrong","unknown"]"#);
}

fn letter(recognised: Recognition) -> char {
    match recognised {
        Recognition::Yes => 'y',
        Recognition::Partly => 'p',
        Recognition::Wrong => 'w',
        Recognition::No => 'n',
    }
}

fn verdict(facts: &Facts, client: &str) -> char {
    let all = judge(facts);
    let finding = all.iter().find(|finding| finding.client == client).unwrap_or_else(|| panic!("no {client}"));
    assert_eq!(finding.recognised == Recognition::Yes, finding.advice.is_none(), "{finding:?}");
    letter(finding.recognised)
}

/// The verdicts of each client about the layouts of a legacy host, in the order of `LEGACY`, and of a unified one, in
/// that of `UNIFIED`. Controllers are delegated.
const MATRIX: &[(&str, &str)] = &[
    ("systemd 215-229", "yyyyyn nnnnnnn"),
    ("systemd 230-232", "yyyyyn ynnyyyy"),
    ("systemd 233-235", "ynnyyn ynnyyyy"),
    ("systemd 236-255", "yyyyyn ynnyyyy"),
    ("systemd 256, 257", "pppppn ynnyyyy"),
    ("systemd >= 258", "nnnnnn ynnyyyy"),
    ("systemd-cgls, systemd-cgtop", "yyyyyn ynnyyyy"),
    ("elogind", "pppppn ynnyyyy"),
    ("OpenRC", "pppppp ppppppy"),
    ("runc, kubelet, cadvisor", "ynppnn nnnnnny"),
    ("containerd", "ynyyyn ynnyyyy"),
    ("dockerd", "pnpppn pnnpppy"),
    ("crun", "yyyyyn pnnpppy"),
    ("podman", "yppyyn nnnnnny"),
    ("youki", "yyyyyn ynnyyyy"),
    ("LXC >= 4", "ynnyyn ynnyyyy"),
    ("LXC 2", "ynyyyn nnnnnnn"),
    ("lxc-checkconfig", "ynyyyn ynyyyyy"),
    ("JVM (hotspot) 8u372 to 21", "ywyyww ywyyyyy"),
    ("JVM (hotspot) 25", "ywyyyw ywwyyyy"),
    ("Go automaxprocs", "ywyyww ywyyyyy"),
    ("Go >= 1.25", "ywyyyw ywyyyyy"),
    (".NET 8", "ywyyyw ywwyyyy"),
    (".NET >= 9", "ywyyyw ywwyyyy"),
    ("Node.js 18 (libuv 1.44)", "ywyyww ywyywwy"),
    ("Node.js 20 (libuv 1.46)", "yyyyyy yyyyyyy"),
    ("Node.js 24 (libuv 1.50)", "yyyyyy yyyyyyy"),
    ("Rust std", "yyyyyy yyyyyyy"),
    ("Rust num_cpus", "ywyyww ywyywwy"),
    ("nproc (coreutils >= 9.8)", "ywyyww yyyyyyy"),
    ("nproc (coreutils < 9.8)", "yyyyyy yyyyyyy"),
    ("Python os.process_cpu_count", "yyyyyy yyyyyyy"),
    ("Python psutil", "yyyyyy yyyyyyy"),
    ("Docker sysinfo", "ynnyyn ynnyyyy"),
    ("monitors at fixed paths", "ynnywn ynnywwy"),
    ("busybox, Alpine (sendfile)", "yyyyyy yyyyyyy"),
    ("libcgroup", "ynyyyn ynyyyyy"),
    ("shell scripts", "yyyyyy yyyyyyy"),
];

#[test]
fn the_matrix() {
    let variant = Variant::default();
    let mut wrong = Vec::new();
    for (client, expected) in MATRIX.iter().copied() {
        let v1: String = LEGACY.iter().map(|kind| verdict(&legacy(*kind, variant), client)).collect();
        let v2: String = UNIFIED.iter().map(|kind| verdict(&unified(*kind, variant), client)).collect();
        if format!("{v1} {v2}") != expected {
            wrong.push(format!("{client}: {v1} {v2}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(CLIENTS.len(), MATRIX.len(), "a client is missing from the table");
}

/// The programs whose verdict isn't that of the matrix, with the new verdict.
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
    // On v2 a real mount along the path doesn't matter then, but a view still does.
    let without = Variant { has_no_openat2: true, ..Variant::default() };
    assert_eq!(verdict(&unified(Kind::Real, without), "runc, kubelet, cadvisor"), 'y');
    assert_eq!(verdict(&unified(Kind::SkeletonA, without), "runc, kubelet, cadvisor"), 'n');
}

#[test]
fn dead_and_hung_views_serve_no_program() {
    for broken in [Variant { is_dead: true, ..Variant::default() }, Variant { is_hung: true, ..Variant::default() }] {
        for (facts, still) in [
            // These use mountinfo, and find out later.
            (legacy(Kind::Stack, broken), vec!["containerd", "LXC 2", "lxc-checkconfig", "libcgroup"]),
            (legacy(Kind::Fuse, broken), vec![]),
            (legacy(Kind::Plain, broken), vec![]),
            (unified(Kind::Fuse, broken), vec![]),
        ] {
            // Programs that ask the kernel, or found nothing to try, don't notice.
            let asks = |finding: &Finding| {
                finding.why.contains("/sys/fs/cgroup") || finding.why.contains("line") || finding.why.contains("tmpfs")
            };
            let yes = judge(&facts).into_iter().filter(|finding| finding.recognised == Recognition::Yes);
            let yes = yes.filter(asks).filter(|finding| !finding.why.contains("it reads no other"));
            assert_eq!(yes.map(|finding| finding.client).collect::<Vec<_>>(), still);
            let worst = findings(&facts).into_iter().next().unwrap();
            let expected = if broken.is_dead { "dead-view" } else { "hung-view" };
            assert_eq!((worst.finding, worst.level), (expected, Level::Problem));
            assert!(worst.what.contains("/sys/fs/cgroup"), "{worst:?}");
        }
    }
}

#[test]
fn what_the_registry_says_of_a_server_is_found() {
    let found = |variant, server: ServerFacts| {
        let mut facts = legacy(Kind::Stack, variant);
        facts.server = server;
        let servers = ["dead-view", "server-restarted", "keeper-lost"];
        let all = findings(&facts).into_iter().filter(|one| servers.contains(&one.finding));
        all.map(|one| (one.finding, one.level, format!("{}; {}", one.what, one.advice.unwrap_or_default())))
            .collect::<Vec<_>>()
    };
    assert_eq!(found(Variant::default(), ServerFacts::default()), []);
    let server = ServerFacts {
        failure: Some("its server and keeper were killed".to_owned()),
        remedy: Some("vcgroupfs attach docker:web".to_owned()),
        ..ServerFacts::default()
    };
    let dead = found(Variant { is_dead: true, ..Variant::default() }, server);
    let [("dead-view", Level::Problem, said)] = dead.as_slice() else { panic!("{dead:?}") };
    assert!(said.contains("its server and keeper were killed, and everything"), "{said}");
    assert!(
        said.contains("; 'vcgroupfs attach docker:web' makes it work again, with the options that it had"),
        "{said}"
    );
    let restarts = Some("restarted 3x, last 2 min ago: killed by SIGSEGV".to_owned());
    let server = ServerFacts { restarts, has_lost_keeper: true, ..ServerFacts::default() };
    let live = found(Variant::default(), server);
    let [("server-restarted", Level::Warning, restarted), ("keeper-lost", Level::Warning, lost)] = live.as_slice()
    else {
        panic!("{live:?}")
    };
    assert!(
        restarted.contains("restarted 3x, last 2 min ago: killed by SIGSEGV; 'journalctl -t vcgroupfs'"),
        "{restarted}"
    );
    assert!(lost.contains("nothing starts it again; 'vcgroupfs detach'"), "{lost}");
}

#[test]
fn systemd_is_told_about_bpf_where_a_view_serves_v2() {
    let why = |facts: &Facts| judge(facts).into_iter().find(|one| one.client == "systemd >= 258").unwrap().why;
    assert!(why(&unified(Kind::SkeletonA, Variant::default())).contains("DeviceAllow="));
    assert!(!why(&unified(Kind::Namespace, Variant::default())).contains("DeviceAllow="));
}

/// It reads one file at the top, which belongs to its own cgroup only if that is mounted there.
#[test]
fn an_old_node_needs_its_own_cgroup_at_the_top() {
    let finding = |facts: &Facts| {
        let mut all = judge(facts).into_iter();
        all.find(|one| one.client.starts_with("Node.js 18")).expect("a client")
    };
    let real = finding(&legacy(Kind::Real, Variant::default()));
    assert!(
        real.recognised == Recognition::Yes && real.why.contains("natively the same, though 1 CPU, 536870912 bytes"),
        "{real:?}"
    );
    let hidden = finding(&legacy(Kind::Fuse, Variant::default()));
    assert!(hidden.why.contains("/sys/fs/cgroup/memory/memory.limit_in_bytes can't be read"), "{hidden:?}");
    assert!(
        hidden.recognised == Recognition::Wrong && hidden.why.contains("536870912 bytes would be right"),
        "{hidden:?}"
    );
    let dead = finding(&legacy(Kind::Fuse, Variant { is_dead: true, ..Variant::default() }));
    assert!(dead.advice.is_some_and(|advice| advice.contains("server has ended")));
}

/// A hybrid host whose kernel has memory only for v2.
#[test]
fn without_v1_memory_dotnet_sees_its_cpus_alone() {
    for (kind, expected) in [(Kind::Real, 'p'), (Kind::Stack, 'p'), (Kind::Fuse, 'w')] {
        let mut facts = with_cgroups(&legacy(kind, Variant::default()), |text| text.replace("4:memory:/c1\n", ""));
        facts.mounts.retain(|mount| !mount.mount_point.to_string_lossy().starts_with("/sys/fs/cgroup/memory"));
        let limits = Limits { memory: None, ..limits() };
        let all = verdict::judge(&facts, HostContext { limits: Some(&limits), native: None });
        let of = |client: &str| all.iter().find(|finding| finding.client == client).expect("a client");
        assert_eq!(letter(of(".NET >= 9").recognised), expected, "{kind:?}");
        assert_eq!(letter(of("JVM (hotspot) 8u372 to 21").recognised), 'w', "it needs all of them: {kind:?}");
    }
}

#[test]
fn numbers_are_compared_with_the_limits() {
    let number = |facts: &Facts, client: &str| {
        let all = judge(facts);
        let finding = all.into_iter().find(|finding| finding.client == client).expect("a client");
        finding.numbers.into_iter().next().expect("a number")
    };
    let real = number(&legacy(Kind::Real, Variant::default()), "Rust std");
    assert_eq!((real.taken.value, real.expected, real.natively), (Some(1), Some(Some(1)), Some(Some(1))));
    assert_eq!(real.taken.from.as_deref(), Some("/sys/fs/cgroup/cpu/c1/cpu.cfs_quota_us"));
    let new = number(&legacy(Kind::Stack, Variant::default()), "nproc (coreutils >= 9.8)");
    assert_eq!((new.taken.value, new.expected, new.verdict), (Some(8), Some(Some(1)), NumberVerdict::NativeFiles));
    let lost = number(&legacy(Kind::Fuse, Variant::default()), "Go >= 1.25");
    assert_eq!((lost.taken.value, lost.expected, lost.natively), (Some(8), Some(Some(2)), None));
    assert_eq!(lost.verdict, NumberVerdict::Wrong);
    let unknown = verdict::judge(&legacy(Kind::Real, Variant::default()), HostContext::default());
    let numbers = unknown.iter().flat_map(|finding| &finding.numbers);
    assert!(numbers.clone().count() > 15 && numbers.clone().all(|number| number.verdict == NumberVerdict::Unknown));
}

/// Each row names its source and the source's date.
#[test]
fn rows_name_their_sources() {
    for client in CLIENTS {
        let source = client.source;
        let date =
            source.read.split_once('-').and_then(|(year, month)| Some((year.parse().ok()?, month.parse().ok()?)));
        assert!(matches!(date, Some((2025..=2099, 1..=12))), "{client:?}");
        assert!(!source.files.is_empty() && !source.version.is_empty(), "{client:?}");
    }
    let names: std::collections::BTreeSet<_> = CLIENTS.iter().map(|client| client.name).collect();
    assert_eq!(names.len(), CLIENTS.len());
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

#[test]
fn mounts_over_a_view_are_named() {
    let usual = legacy(Kind::Stack, Variant::default());
    let mut covered = usual.clone();
    let mut over = usual.mounts.last().expect("a mount").clone();
    (over.id, over.fstype) = (999, "tmpfs".to_owned());
    over.mount_point = "/sys/fs/cgroup/memory/c1".into();
    covered.mounts.push(over);
    let finding = findings(&covered).into_iter().find(|one| one.finding == "covered-view").expect("a finding");
    assert!(finding.what.contains("/sys/fs/cgroup/memory/c1 (tmpfs)"), "{finding:?}");
    assert!(!findings(&usual).iter().any(|one| one.finding == "covered-view"));
}

/// A view that nobody sees is neither a cgroup that was removed nor a container without a view.
#[test]
fn a_mount_over_a_whole_view_is_named() {
    for (kind, over) in [
        (Kind::Stack, "/sys/fs/cgroup/memory"),
        (Kind::Fuse, "/sys/fs/cgroup/memory"),
        (Kind::Stack, "/sys/fs/cgroup"),
        (Kind::Plain, "/sys/fs/cgroup"),
    ] {
        let facts = legacy(kind, Variant { tmpfs_over: Some(over), ..Variant::default() });
        let all = findings(&facts);
        let finding = all.iter().find(|one| one.finding == "covered-view");
        let finding = finding.unwrap_or_else(|| panic!("{kind:?} {over}: {all:?}"));
        assert!(finding.what.ends_with(&format!(": {over} (tmpfs)")), "{finding:?}");
        for wrong in ["no-view", "stale-boundary", "own-cgroup-not-found"] {
            assert!(!all.iter().any(|one| one.finding == wrong), "{kind:?} {over}: {all:?}");
        }
    }
    // The tmpfs that 'attach' makes covers nothing that matters.
    assert!(!words(&legacy(Kind::Stack, Variant::default())).contains(&"covered-view"));
}

#[test]
fn a_cgroup_that_was_made_again_is_named_by_the_record() {
    let rules = |made_again: &[&str]| {
        let made_again = made_again.iter().map(|kind| HierarchyKind::parse(kind)).collect();
        Some(ViewRules { policy: "strict".to_owned(), made_again, ..ViewRules::default() })
    };
    let mut facts = legacy(Kind::Stack, Variant::default());
    facts.rules = rules(&[]);
    assert!(!words(&facts).contains(&"stale-boundary"));
    facts.rules = rules(&["memory"]);
    let finding = findings(&facts).into_iter().find(|one| one.finding == "stale-boundary").expect("a finding");
    assert!(finding.what.ends_with("in: memory"), "{finding:?}");
    // A path that leads nowhere isn't enough.
    let mut facts = with_cgroups(&legacy(Kind::Stack, Variant::default()), |text| text.replace("/c1", "/elsewhere"));
    facts.rules = rules(&[]);
    assert!(words(&facts).contains(&"own-cgroup-not-found") && !words(&facts).contains(&"stale-boundary"));
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

/// Returns the facts of another target: its cgroups have one more hierarchy, or its path is another.
fn with_cgroups(facts: &Facts, change: impl Fn(&str) -> String) -> Facts {
    let mut changed = facts.clone();
    changed.process.cgroup = change(&facts.process.cgroup);
    changed.memberships = crate::cgroup::parse_memberships(changed.process.cgroup.as_bytes());
    changed.mark_absent(paths_to_probe(&changed.memberships, &changed.mounts));
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
        ("JVM (hotspot) 8u372 to 21", 'w'),
        ("Rust std", 'w'),
        ("Node.js 20 (libuv 1.46)", 'w'),
    ] {
        let all = verdict::judge(&facts, HostContext { limits: Some(&limits()), native: None });
        let finding = all.iter().find(|finding| finding.client == client).expect("a client");
        assert_eq!(letter(finding.recognised), expected, "{client}");
    }
    let outside = with_cgroups(&unified(Kind::Namespace, Variant::default()), |_| "0::/../x\n".to_owned());
    assert_eq!(verdict(&outside, "runc, kubelet, cadvisor"), 'n');
    assert_eq!(verdict(&outside, "systemd >= 258"), 'p');
}

#[test]
fn nothing_at_all() {
    let facts = Facts::new(super::facts::Process::default(), super::facts::ProbeResults::default());
    assert!(words(&facts).contains(&"no-tree"));
    let fine: Vec<_> = judge(&facts).into_iter().filter(|finding| finding.recognised == Recognition::Yes).collect();
    let ask_the_kernel =
        ["nproc (coreutils < 9.8)", "Python os.process_cpu_count", "Python psutil", "busybox, Alpine (sendfile)"];
    assert_eq!(fine.iter().map(|finding| finding.client).collect::<Vec<_>>(), ask_the_kernel, "{fine:?}");
}
