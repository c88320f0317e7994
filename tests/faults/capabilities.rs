//! What is written for a caller is written with the caller's capabilities: the kernel asks `capable()` of the writer of the moment, whoever
//! opened the file. The same scripts on the kernel's cgroupfs and on a view.

use std::path::{Path, PathBuf};

use testkit::probe::names::*;
use testkit::probe::{Op, Outcome};
use testkit::{
    Caller, Container, ContainerOptions, MAPPED_ROOT, Need, OWNER, STRANGER, Session, TestCgroup, View, ViewOptions,
    chown_tree, hierarchy, require,
};

/// A cgroup by one path, with a container in its `home` and an empty cgroup `a`.
pub(crate) struct Subject {
    // Dropped in this order: the container has the view among its mounts.
    container: Container,
    _view: Option<View>,
    pub(crate) cgroup: TestCgroup,
    selector: &'static str,
    seen: PathBuf,
    folder: tempfile::TempDir,
}

impl Subject {
    /// Makes a subject on the kernel's cgroupfs, or on a view with everything delegated. `prepare` is what the host does to the cgroup first.
    pub(crate) fn new(
        selector: &'static str,
        by_view: bool,
        user_namespace: bool,
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let cgroup = TestCgroup::new(&[selector]);
        prepare(&cgroup.dir(selector));
        let home = cgroup.child(selector, "home");
        cgroup.child(selector, "a");
        chown_tree(&cgroup.dir(selector), if user_namespace { MAPPED_ROOT } else { OWNER });
        let mut options = ViewOptions::new().cgroup(&cgroup).shape("rooted").policy("delegate");
        if selector != "unified" && !selector.contains('=') {
            options = options.delegate_controllers(&[selector]);
        }
        let view = by_view.then(|| View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options));
        let found = hierarchy(selector).expect("a required hierarchy");
        let seen = view.as_ref().map_or_else(|| cgroup.dir(selector), |view| view.hierarchy(&found));
        let cgroups = vec![home];
        let container = Container::start(ContainerOptions { cgroups, user_namespace, ..ContainerOptions::default() });
        let folder = tempfile::Builder::new().prefix("vcgroupfs-writers-").tempdir().expect("a temporary directory");
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
        Self { container, _view: view, cgroup, selector, seen, folder }
    }

    /// A process of the container's, to which `$CG` is the cgroup.
    pub(crate) fn session(&self, caller: Caller) -> Session {
        let mut session = self.container.session(caller);
        session.set("CG", self.seen.display());
        session.set("BOX", self.folder.path().join("box").display());
        session
    }

    /// The content of a file below the cgroup, as the host reads it.
    pub(crate) fn host_reads(&self, file: &str) -> String {
        std::fs::read_to_string(self.cgroup.dir(self.selector).join(file)).expect("a file of a test cgroup")
    }
}

/// `opener` opens a file for writing and passes it on to `writer`, to whom it's `f`.
fn pass(file: &str, opener: &mut Session, writer: &mut Session) {
    writer.expect(&Op::Mailbox { path: "$BOX".into(), fd: "box".into() });
    opener.expect(&open("f", &format!("$CG/{file}"), &["O_WRONLY"]));
    opener.expect(&Op::Post { fd: "f".into(), path: "$BOX".into() });
    writer.expect(&Op::Fetch { mailbox: "box".into(), fd: "f".into() });
    writer.expect(&Op::Unlink { path: "$BOX".into() });
}

/// Which devices the host leaves to the cgroup, and what is then tried below it.
const DENIED_BY_THE_HOST: &str = "c 240:3 rwm";
const DEVICE_WRITES: [(&str, &str); 5] = [
    ("devices.deny", "c 240:4 rwm"),
    ("devices.allow", "c 240:4 r"),
    ("devices.allow", DENIED_BY_THE_HOST),
    ("devices.allow", "a"),
    ("devices.deny", "nonsense"),
];

/// `devcgroup_update_access` asks for CAP_SYS_ADMIN in the initial user namespace, and keeps a child within its parent.
#[test]
fn device_lists_take_the_writers_capability_whoever_opened_them() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("devices"), Need::UserNamespaces);
    let prepare = |dir: &Path| std::fs::write(dir.join("devices.deny"), DENIED_BY_THE_HOST).expect("devices.deny");
    for user_namespace in [false, true] {
        let [kernel, view] = [false, true].map(|by_view| {
            let mut told = Vec::new();
            for writes in [Caller::Root, Caller::DockerRoot, Caller::Owner] {
                // In a user namespace the subtree is its root's.
                let openers = if user_namespace { vec![Caller::Root] } else { vec![Caller::Root, writes] };
                for opens in openers {
                    let subject = Subject::new("devices", by_view, user_namespace, prepare);
                    let (mut opener, mut writer) = (subject.session(opens), subject.session(writes));
                    for (file, text) in DEVICE_WRITES {
                        pass(&format!("a/{file}"), &mut opener, &mut writer);
                        let outcome = writer.run(&write("f", text)).brief();
                        told.push(format!("{opens:?} opens, {writes:?} writes {text:?} to {file}: {outcome}"));
                    }
                    told.push(subject.host_reads("a/devices.list"));
                }
            }
            told
        });
        assert_eq!(kernel, view, "user namespace: {user_namespace}: the kernel, and the view");
        let has = |line: &str| kernel.iter().any(|told| told == line);
        let by_root = if user_namespace { "EPERM" } else { "ok" };
        for line in [
            format!("Root opens, Root writes \"c 240:4 rwm\" to devices.deny: {by_root}"),
            "Root opens, Root writes \"c 240:3 rwm\" to devices.allow: EPERM".to_owned(),
            "Root opens, DockerRoot writes \"c 240:4 rwm\" to devices.deny: EPERM".to_owned(),
            "Root opens, Owner writes \"c 240:4 rwm\" to devices.deny: EPERM".to_owned(),
        ] {
            assert!(has(&line), "{line} isn't in {kernel:#?}");
        }
    }
}

/// A process with the capability writes to a file that was opened without any capability.
#[test]
fn the_writers_capability_counts_and_not_the_openers() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("devices"));
    let [kernel, view] = [false, true].map(|by_view| {
        let subject = Subject::new("devices", by_view, false, |_| {});
        let (mut opener, mut writer) = (subject.session(Caller::Owner), subject.session(Caller::Root));
        pass("a/devices.deny", &mut opener, &mut writer);
        let outcomes: [Outcome; 2] = [&mut opener, &mut writer].map(|session| session.run(&write("f", "c 240:4 rwm")));
        outcomes.map(|outcome| outcome.brief())
    });
    assert_eq!(kernel, view, "the kernel, and the view");
    assert_eq!(kernel, ["EPERM", "ok"]);
}

/// mkdir, rmdir, rename, chmod and chown are done with the caller's rights, too: by whom a directory is owned, and by which group and sticky bit, decides
/// as on the kernel's cgroupfs.
#[test]
fn changes_of_the_tree_are_made_with_the_callers_rights() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::UserNamespaces);
    for user_namespace in [false, true] {
        let [kernel, view] = [false, true].map(|by_view| {
            let subject = Subject::new("name=systemd", by_view, user_namespace, |_| {});
            let callers = [Caller::Root, Caller::DockerRoot, Caller::Owner, Caller::Stranger];
            // In a user namespace there's nobody else: who enters it is its root.
            let callers = if user_namespace { &callers[..1] } else { &callers[..] };
            let mut told = Vec::new();
            for (number, caller) in callers.iter().enumerate() {
                let mut session = subject.session(*caller);
                for (case, (owner, group, mode)) in [
                    (0, 0, 0o755),
                    (OWNER, 0, 0o755),
                    (0, OWNER, 0o775),
                    (MAPPED_ROOT, MAPPED_ROOT, 0o755),
                    (MAPPED_ROOT + 5, MAPPED_ROOT + 5, 0o700),
                    (MAPPED_ROOT + 5, 0, 0o700),
                    (STRANGER, STRANGER, 0o1777),
                    (OWNER, STRANGER, 0o2775),
                ]
                .into_iter()
                .enumerate()
                {
                    let name = format!("d{number}-{case}");
                    let real = subject.cgroup.child("name=systemd", &name);
                    let taken = subject.cgroup.child("name=systemd", &format!("{name}/others"));
                    std::os::unix::fs::chown(&taken, Some(owner), Some(owner)).expect("chown of a test cgroup");
                    std::os::unix::fs::chown(&real, Some(owner), Some(group)).expect("chown of a test cgroup");
                    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
                    std::fs::set_permissions(&real, permissions).expect("chmod of a test cgroup");
                    let path = |below: &str| format!("$CG/{name}{below}");
                    for op in [
                        mkdir(&path("/made")),
                        chmod(&path("/made"), 0o2750),
                        rename(&path("/made"), &path("/renamed")),
                        rename(&path("/others"), &path("/mine")),
                        rmdir(&path("/renamed")),
                        rmdir(&path("/others")),
                        chmod(&path("/others"), 0o711),
                        chmod(&path(""), 0o2755),
                        chown(&path(""), 7),
                        Op::Chown { path: path(""), uid: None, gid: Some(7) },
                        Op::Utimens { path: path(""), sec: Some(1) },
                        Op::Utimens { path: path(""), sec: None },
                    ] {
                        let outcome = session.run(&op).brief();
                        told.push(format!("{caller:?} {owner} {group} {mode:o} {op:?}: {outcome}"));
                        let stat = std::fs::metadata(&real).expect("a test cgroup");
                        use std::os::unix::fs::MetadataExt;
                        told.push(format!("{:o} {} {}", stat.mode(), stat.uid(), stat.gid()));
                    }
                }
            }
            told
        });
        for (native, shown) in kernel.iter().zip(&view) {
            assert_eq!(native, shown, "user namespace: {user_namespace}: the kernel, and the view");
        }
        let count = |outcome: &str| kernel.iter().filter(|told| told.ends_with(outcome)).count();
        assert!(count(": ok") > 10 && count(": EACCES") + count(": EPERM") > 10, "{kernel:#?}");
    }
}

/// A process that migrates itself takes its threads along, each of which has rights of its own (`cap_safe_nice`).
#[test]
fn a_migration_to_a_cpuset_checks_each_thread() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("cpuset"));
    for caller in [Caller::Root, Caller::DockerRoot] {
        let [kernel, view] = [false, true].map(|by_view| {
            let subject = Subject::new("cpuset", by_view, false, |_| {});
            let mut session = subject.session(caller);
            session.expect(&thread("T"));
            session.expect(&open("procs", "$CG/a/cgroup.procs", &["O_WRONLY"]));
            session.expect(&open("tasks", "$CG/a/tasks", &["O_WRONLY"]));
            session.expect(&on("T", Op::DropCapabilities));
            let mut told = Vec::new();
            for (who, list) in [("T", "procs"), ("T", "tasks"), ("", "procs"), ("T", "procs")] {
                let op = write(list, "0");
                let outcome = session.run(&if who.is_empty() { op } else { on(who, op) });
                told.push(format!("{list} by {who:?}: {}", outcome.brief()));
            }
            told
        });
        assert_eq!(kernel, view, "{caller:?}: the kernel, and the view");
        assert_eq!(kernel[0], "procs by \"T\": EPERM", "{caller:?}");
        assert_eq!(kernel[2], "procs by \"\": ok", "{caller:?}");
    }
}

/// Whether cgroup2 has a controller to give to a cgroup below its root: where v1 has it, it hasn't.
fn unified_has(controller: &str) -> bool {
    let found = hierarchy("unified").map(|unified| unified.mountpoint.join("cgroup.subtree_control"));
    let enabled = found.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    enabled.split_whitespace().any(|one| one == controller)
}

/// A write that makes cpusets migrates their processes (`cgroup_update_dfl_csses`), and a partition takes CAP_SYS_ADMIN.
#[test]
fn cpusets_of_cgroup2_are_made_with_the_writers_rights() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::UserNamespaces);
    if !unified_has("cpuset") {
        assert!(std::env::var_os("VCGROUPFS_VM").is_none(), "this machine was made to have cpusets in cgroup2");
        eprintln!("SKIPPED: cgroup2 has no cpuset here; tests/vm/run --suite faults unified-6.1 has");
        return;
    }
    let prepare = |dir: &Path| std::fs::write(dir.join("cgroup.subtree_control"), "+cpuset").expect("+cpuset");
    for user_namespace in [false, true] {
        let [kernel, view] = [false, true].map(|by_view| {
            let mut told = Vec::new();
            for caller in [Caller::Root, Caller::DockerRoot, Caller::Owner] {
                let subject = Subject::new("unified", by_view, user_namespace, prepare);
                let mut root = subject.session(Caller::Root);
                root.expect(&mkdir("$CG/a/below"));
                root.expect(&spawn("P"));
                root.expect(&write_file("$CG/a/below/cgroup.procs", "$P"));
                // A user namespace's root is the owner there.
                let opens = if user_namespace { Caller::Root } else { caller };
                for (file, text) in [
                    ("cgroup.subtree_control", "+cpuset"),
                    ("cpuset.cpus", "0"),
                    ("cpuset.cpus.partition", "root"),
                    ("cpuset.cpus.partition", "member"),
                    ("cgroup.subtree_control", "-cpuset"),
                ] {
                    let mut writer = subject.session(caller);
                    pass(&format!("a/{file}"), &mut subject.session(opens), &mut writer);
                    let outcome = writer.run(&write("f", text)).brief();
                    told.push(format!("{caller:?} writes {text:?} to {file}: {outcome}"));
                    told.push(subject.host_reads(&format!("a/{file}")));
                }
            }
            told
        });
        assert_eq!(kernel, view, "user namespace: {user_namespace}: the kernel, and the view");
    }
}
