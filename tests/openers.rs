//! Who opened a file, and who writes to it: credentials, capabilities and cgroup namespace are the opener's, process numbers and `0` the
//! writer's (`cgroup_file_open`, `__cgroup_procs_write`). The same scripts on the kernel's cgroupfs and on a view, by processes that pass
//! their open files on.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::probe::names::*;
use testkit::probe::{Op, Outcome};
use testkit::{
    Caller, Container, ContainerOptions, MAPPED_ROOT, Need, OWNER, Programs, STRANGER, Session, TestCgroup, View,
    ViewOptions, chown_tree, controller, each_sort, hierarchy, require, wait_until,
};

/// Returns from the test, loudly, without what every test or this one needs.
macro_rules! require_hierarchies {
    ($($more:expr),*) => {
        require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), $($more),*)
    };
}

/// A cgroup by one path, a container in its `home`, and where descriptors are passed.
struct Subject {
    container: Container,
    _view: Option<View>,
    selector: &'static str,
    cgroup: TestCgroup,
    seen: PathBuf,
    folder: tempfile::TempDir,
}

impl Subject {
    fn new(selector: &'static str, by_view: bool, user_namespace: bool, legacy: bool) -> Self {
        let cgroup = TestCgroup::new(&[selector]);
        let home = cgroup.child(selector, "home");
        for below in ["a", "b"] {
            cgroup.child(selector, below);
        }
        chown_tree(&cgroup.dir(selector), if user_namespace { MAPPED_ROOT } else { 0 });
        let controller = if selector == "cpuset" { "cpuset" } else { controller() };
        let options = ViewOptions::new().cgroup(&cgroup).shape("rooted").policy("delegate");
        let options = options.delegate_controllers(&[controller]).legacy(legacy);
        let view = by_view.then(|| View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options));
        let found = hierarchy(selector).expect("a required hierarchy");
        let seen = view.as_ref().map_or_else(|| cgroup.dir(selector), |view| view.hierarchy(&found));
        let container =
            Container::start(ContainerOptions { cgroups: vec![home], user_namespace, ..ContainerOptions::default() });
        let folder = tempfile::Builder::new().prefix("vcgroupfs-openers-").tempdir().expect("a temporary directory");
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
        Self { container, _view: view, selector, cgroup, seen, folder }
    }

    fn prepare(&self, mut session: Session) -> Session {
        session.set("CG", self.seen.display());
        session.set("BOX", self.folder.path().join("box").display());
        session
    }

    fn session(&self, caller: Caller) -> Session {
        self.prepare(self.container.session(caller))
    }

    /// A process of the host's pid namespace that is in `home` as well.
    fn outside(&self) -> Session {
        let mut command = Command::new(&Programs::find().probe);
        command.arg("--join").arg(self.cgroup.dir(self.selector).join("home")).arg("--").arg(&Programs::find().probe);
        self.prepare(Session::start(&mut command))
    }

    /// Root in a cgroup namespace whose root is where it is now: `home`.
    fn in_a_cgroup_namespace(&self) -> Session {
        let mut command = self.container.command(Caller::Root);
        command.args(["unshare", "--cgroup"]).arg(self.container.probe());
        self.prepare(Session::start(&mut command))
    }

    /// Lets a user write to files below the cgroup, and waits until everybody sees that.
    fn give_away(&self, below: &str, user: u32) {
        let file = self.cgroup.dir(self.selector).join(below);
        chown(&file, Some(user), Some(user)).expect("chown of an interface file");
        let owner = |path: &Path| fs::metadata(path).map(|found| std::os::unix::fs::MetadataExt::uid(&found)).ok();
        wait_until("the view sees the new owner", || owner(&self.seen.join(below)) == Some(user));
    }

    /// The cgroup of a process of that session, relative to the test's cgroup.
    fn place(&self, session: &mut Session, who: &str) -> String {
        let found = session.expect(&membership(who));
        let path = found.get(self.selector).and_then(Value::as_str).unwrap_or_default();
        path.strip_prefix(&self.cgroup.path()).unwrap_or("elsewhere").to_owned()
    }

    fn lists(&self) -> &'static [&'static str] {
        if self.selector == "unified" { &["cgroup.procs"] } else { &["cgroup.procs", "tasks"] }
    }
}

/// A record of outcomes, a line each.
struct Record(Vec<String>);

impl Record {
    fn note(&mut self, what: &str, outcome: Outcome) {
        self.0.push(format!("{what}: {}", outcome.brief()));
    }
}

/// Runs a script on the kernel and on a view: they have to say the same, and as often as expected that something is so.
fn compare(user_namespace: bool, script: impl Fn(&Subject, &mut Record), expected: &[&str]) {
    compare_on(false, user_namespace, script, expected);
}

/// On an old kernel a list shows the state at its open, which isn't compared.
fn compare_on(legacy: bool, user_namespace: bool, script: impl Fn(&Subject, &mut Record), expected: &[&str]) {
    for &selector in each_sort() {
        let [kernel, view] = [false, true].map(|by_view| {
            let mut record = Record(Vec::new());
            script(&Subject::new(selector, by_view, user_namespace, legacy), &mut record);
            record.0.retain(|line| !legacy || !line.contains(", reads "));
            record.0
        });
        assert_eq!(kernel, view, "{selector}: the kernel, and the view");
        for line in expected {
            assert!(kernel.iter().any(|told| told == line), "{selector}: {line} isn't in {kernel:#?}");
        }
    }
}

/// `opener` opens a list and passes it on to `writer`, who may find the opener gone.
fn pass(list: &str, mut opener: Session, opener_ends: bool, writer: &mut Session) -> (Outcome, Option<Session>) {
    writer.expect(&Op::Mailbox { path: "$BOX".into(), fd: "box".into() });
    let opened = opener.run(&open("f", &format!("$CG/{list}"), &["O_RDWR"]));
    if opened.is_ok() {
        opener.expect(&Op::Post { fd: "f".into(), path: "$BOX".into() });
    }
    let kept = if opener_ends {
        drop(opener);
        None
    } else {
        Some(opener)
    };
    if opened.is_ok() {
        writer.expect(&Op::Fetch { mailbox: "box".into(), fd: "f".into() });
    }
    writer.expect(&Op::Unlink { path: "$BOX".into() });
    (opened, kept)
}

/// What a writer can do with a list of `a` that it was given, and where that leaves whom.
fn write_all(subject: &Subject, record: &mut Record, title: &str, writer: &mut Session) {
    writer.expect(&spawn("MINE"));
    for what in ["$MINE", "0", "$PID", "1", "2147483647", "nonsense", ""] {
        let outcome = writer.run(&write("f", what));
        record.note(&format!("{title}, writes {what:?}"), outcome);
        for who in ["$MINE", "$PID"] {
            record.0.push(format!("{title}, then {who} is in {:?}", subject.place(writer, who)));
        }
    }
    let list = writer.run(&pread("f", 4096, 0));
    record.0.push(format!("{title}, reads {} lines", list.text().map_or(0, |text| text.lines().count())));
    // Home again, if it may.
    let _ = writer.run(&write_file("$CG/home/cgroup.procs", "0"));
}

#[test]
fn opened_by_root_and_written_by_a_stranger() {
    require_hierarchies!(Need::OpenersRights);
    opened_by_root_and_written_by_a_stranger_on(false);
}

#[test]
fn opened_by_root_and_written_by_a_stranger_on_an_old_kernel() {
    require_hierarchies!(Need::LegacySyscalls);
    opened_by_root_and_written_by_a_stranger_on(true);
}

fn opened_by_root_and_written_by_a_stranger_on(legacy: bool) {
    let script = |subject: &Subject, record: &mut Record| {
        for list in subject.lists() {
            for ends in [false, true] {
                let mut writer = subject.session(Caller::Stranger);
                let (opened, _opener) = pass(&format!("a/{list}"), subject.session(Caller::Root), ends, &mut writer);
                record.note(&format!("{list} opened"), opened);
                write_all(subject, record, &format!("{list}, opener ended: {ends}"), &mut writer);
            }
        }
    };
    let expected = [
        "cgroup.procs, opener ended: true, writes \"$MINE\": ok",
        "cgroup.procs, opener ended: true, writes \"0\": ok",
        "cgroup.procs, opener ended: true, then $PID is in \"/a\"",
        "cgroup.procs, opener ended: true, writes \"2147483647\": ESRCH",
    ];
    compare_on(legacy, false, script, &expected);
}

#[test]
fn opened_by_a_stranger_and_written_by_root() {
    require_hierarchies!(Need::OpenersRights);
    opened_by_a_stranger_and_written_by_root_on(false);
}

#[test]
fn opened_by_a_stranger_and_written_by_root_on_an_old_kernel() {
    require_hierarchies!(Need::LegacySyscalls);
    opened_by_a_stranger_and_written_by_root_on(true);
}

fn opened_by_a_stranger_and_written_by_root_on(legacy: bool) {
    let script = |subject: &Subject, record: &mut Record| {
        for list in subject.lists() {
            subject.give_away(&format!("a/{list}"), STRANGER);
            for ends in [false, true] {
                let mut writer = subject.session(Caller::Root);
                let (opened, _opener) =
                    pass(&format!("a/{list}"), subject.session(Caller::Stranger), ends, &mut writer);
                record.note(&format!("{list} opened"), opened);
                writer.expect(&Op::Spawn { name: "THEIRS".into(), uid: Some(STRANGER) });
                let theirs = writer.run(&write("f", "$THEIRS"));
                record.note(&format!("{list}, opener ended: {ends}, the stranger's"), theirs);
                record.0.push(format!("{list}, theirs is in {:?}", subject.place(&mut writer, "$THEIRS")));
                write_all(subject, record, &format!("{list}, opener ended: {ends}"), &mut writer);
            }
        }
    };
    compare_on(legacy, false, script, &["cgroup.procs, opener ended: true, writes \"0\": EACCES"]);
}

/// `test_core`'s lesser_ns_open and its like. Without nsdelegate a cgroup namespace keeps nobody from anything; a view doesn't change that
/// inside its subtree.
#[test]
fn opened_in_a_cgroup_namespace() {
    require_hierarchies!(Need::CgroupNamespaces);
    let script = |subject: &Subject, record: &mut Record| {
        for list in subject.lists() {
            for ends in [false, true] {
                let mut writer = subject.session(Caller::Root);
                let (opened, _opener) = pass(&format!("a/{list}"), subject.in_a_cgroup_namespace(), ends, &mut writer);
                record.note(&format!("{list} opened"), opened);
                write_all(subject, record, &format!("{list}, opener ended: {ends}"), &mut writer);
            }
            let mut writer = subject.in_a_cgroup_namespace();
            let (opened, _opener) = pass(&format!("a/{list}"), subject.session(Caller::Root), true, &mut writer);
            record.note(&format!("{list} opened"), opened);
            for what in ["0", "$PID", "1"] {
                record.note(&format!("{list}, written in one: {what}"), writer.run(&write("f", what)));
            }
        }
    };
    compare(false, script, &["cgroup.procs opened: ok"]);
}

/// Between pid namespaces the numbers are the writer's.
#[test]
fn opened_in_another_pid_namespace() {
    require_hierarchies!();
    let script = |subject: &Subject, record: &mut Record| {
        for list in subject.lists() {
            for inwards in [false, true] {
                let (opener, mut writer) = match inwards {
                    true => (subject.outside(), subject.session(Caller::Root)),
                    false => (subject.session(Caller::Root), subject.outside()),
                };
                let (opened, _opener) = pass(&format!("a/{list}"), opener, true, &mut writer);
                record.note(&format!("{list} opened"), opened);
                writer.expect(&spawn("MINE"));
                for what in ["$MINE", "0", "$PID"] {
                    record.note(&format!("{list}, inwards: {inwards}, {what}"), writer.run(&write("f", what)));
                    for who in ["$MINE", "$PID"] {
                        record.0.push(format!("then {who} is in {:?}", subject.place(&mut writer, who)));
                    }
                }
            }
        }
    };
    let expected = ["cgroup.procs, inwards: true, $MINE: ok", "cgroup.procs, inwards: false, $MINE: ok"];
    compare(false, script, &expected);
}

/// Root of a user namespace is nobody in particular outside.
#[test]
fn opened_in_a_user_namespace() {
    require_hierarchies!(Need::UserNamespaces, Need::OpenersRights);
    let script = |subject: &Subject, record: &mut Record| {
        for list in subject.lists() {
            for ends in [false, true] {
                let mut writer = subject.outside();
                let (opened, _opener) = pass(&format!("a/{list}"), subject.session(Caller::Root), ends, &mut writer);
                record.note(&format!("{list} opened"), opened);
                writer.expect(&Op::Spawn { name: "THEIRS".into(), uid: Some(MAPPED_ROOT) });
                record.note(&format!("{list}, their process"), writer.run(&write("f", "$THEIRS")));
                write_all(subject, record, &format!("{list}, opener ended: {ends}"), &mut writer);

                let mut writer = subject.session(Caller::Root);
                let (opened, _opener) = pass(&format!("a/{list}"), subject.outside(), ends, &mut writer);
                record.note(&format!("{list} opened by the host"), opened);
                write_all(subject, record, &format!("{list}, the host's, ended: {ends}"), &mut writer);
            }
        }
    };
    compare(true, script, &["cgroup.procs opened: ok", "cgroup.procs opened by the host: ok"]);
}

/// Threads: `0` is the thread in a list of threads, and its process in one of processes.
#[test]
fn written_by_a_thread() {
    require_hierarchies!();
    let script = |subject: &Subject, record: &mut Record| {
        for list in subject.lists() {
            let mut writer = subject.session(Caller::Root);
            let (_, _opener) = pass(&format!("a/{list}"), subject.session(Caller::Root), true, &mut writer);
            writer.expect(&thread("T"));
            writer.expect(&thread("U"));
            for (who, what) in [("T", "0"), ("U", "$TID"), ("T", "$PID"), ("U", "$T")] {
                record.note(&format!("{list}, {who} writes {what}"), writer.run(&on(who, write("f", what))));
                for who in ["$PID", "$T", "$U"] {
                    record.0.push(format!("then {who} is in {:?}", subject.place(&mut writer, who)));
                }
            }
        }
    };
    compare(false, script, &["cgroup.procs, T writes 0: ok"]);
}

/// A worker of io_uring acts with the rights of whoever asks. `/proc` goes on showing those that its process had when the worker was made.
#[test]
fn opened_by_an_io_uring_worker_after_its_process_dropped_its_rights() {
    require_hierarchies!(Need::IoUring);
    let script = |subject: &Subject, record: &mut Record| {
        for list in subject.lists() {
            subject.give_away(&format!("a/{list}"), STRANGER);
            let mut caller = subject.session(Caller::Root);
            caller.expect(&spawn("MINE"));
            caller.expect(&Op::StartRing);
            caller.expect(&seteuid(STRANGER));
            let opened = caller.run(&Op::OpenByRing { path: format!("$CG/a/{list}"), fd: "f".into() });
            record.note(&format!("{list} opened"), opened);
            for what in ["$MINE", "0"] {
                record.note(&format!("{list}, writes {what}"), caller.run(&write("f", what)));
            }
            record.0.push(format!("{list}, then $MINE is in {:?}", subject.place(&mut caller, "$MINE")));
        }
    };
    compare(false, script, &["cgroup.procs opened: ok", "cgroup.procs, writes $MINE: EACCES"]);
}

/// Windows that need no capability.
const EVEN: [&str; 3] = ["2000000", "4000000", "10000000"];

/// Whether this process, and so the server, has CAP_SYS_RESOURCE.
fn has_resource_capability() -> bool {
    let capabilities = testkit::status_field(std::process::id(), "CapPrm").expect("CapPrm");
    u64::from_str_radix(&capabilities, 16).expect("capabilities") & (1 << 24) != 0
}

/// The window of a trigger is the opener's privilege: CAP_SYS_RESOURCE in whichever user namespace (`pressure_write`).
#[test]
fn windows_of_psi_triggers_are_the_openers_privilege() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::UserNamespaces);
    for user_namespace in [false, true] {
        let root = if user_namespace { MAPPED_ROOT } else { 0 };
        let callers = [
            (Caller::Root, root),
            (Caller::DockerRoot, root),
            (Caller::Owner, OWNER + if user_namespace { MAPPED_ROOT } else { 0 }),
        ];
        for (caller, uid) in callers {
            let [kernel, view] = [false, true].map(|by_view| {
                let subject = Subject::new("unified", by_view, user_namespace, false);
                for file in ["cpu", "memory", "io"] {
                    // Without PSI there's no such file.
                    if subject.seen.join(format!("a/{file}.pressure")).exists() {
                        subject.give_away(&format!("a/{file}.pressure"), uid);
                    }
                }
                let mut told = Vec::new();
                for (opener, writer) in [(caller, caller), (caller, Caller::Stranger)] {
                    for window in ["500000", "1000000", "2000000", "3000000", "4000000", "10000000"] {
                        // A difference that is known: a server can only lend the capability if it has it.
                        if user_namespace && !has_resource_capability() && !EVEN.contains(&window) {
                            continue;
                        }
                        let mut to = subject.session(writer);
                        let (opened, _) = pass("a/memory.pressure", subject.session(opener), true, &mut to);
                        let text = format!("some 150000 {window}");
                        told.push(format!(
                            "{opener:?}, {writer:?} {window}: {} {} {}",
                            opened.brief(),
                            to.run(&write("f", &text)).brief(),
                            to.run(&write("f", &text)).brief()
                        ));
                    }
                }
                told
            });
            assert_eq!(kernel, view, "user namespace: {user_namespace}: the kernel, and the view");
        }
    }
}

/// A cpuset takes only whom the writer may give another scheduling (`cap_safe_nice`), also if he's in the server's pid namespace.
#[test]
fn written_to_a_cpuset() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("cpuset"));
    let [kernel, view] = [false, true].map(|by_view| {
        let subject = Subject::new("cpuset", by_view, false, false);
        let probe = &Programs::find().probe;
        let weaker = |capability: &str| {
            let mut command = Command::new("setpriv");
            command.arg(format!("--bounding-set=-{capability}")).arg(probe);
            subject.prepare(Session::start(&mut command))
        };
        let mut other = subject.outside();
        let theirs = other.expect(&spawn("THEIRS")).to_string();
        let mut record = Record(Vec::new());
        for capability in ["sys_nice", "net_raw"] {
            let mut writer = weaker(capability);
            record.note(capability, writer.run(&write_file("$CG/a/cgroup.procs", &theirs)));
            record.note("another's tasks", writer.run(&write_file("$CG/b/tasks", &theirs)));
        }
        record.0
    });
    assert_eq!(kernel, view, "the kernel, and the view");
    assert_eq!(kernel, ["sys_nice: EPERM", "another's tasks: EPERM", "net_raw: ok", "another's tasks: ok"]);
}
