//! Each kind of view is upgraded and goes on: what callers have open, what ends it, and what it removes at its end.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use testkit::probe::Op;
use testkit::probe::names::{mkdir, read_file, rmdir, write_file};
use testkit::{
    Caller, Container, ContainerOptions, Programs, Session, TestCgroup, hierarchy, is_over, next_version, wait_until,
};

use crate::view::{Listed, Mounted, program, told};

/// Has both programs take a view over, and back, twice.
fn there_and_back(view: &Listed, target: &str, mut check: impl FnMut()) {
    for with in [next_version(), program(), next_version(), program()] {
        view.upgrade(with, target);
        check();
    }
}

fn descriptors(process: nix::unistd::Pid) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).expect("descriptors").count()
}

#[test]
fn a_mount_in_the_foreground() {
    require_upgrade!();
    let scene = Mounted::new(|options| options);
    let top = scene.view.hierarchy(&hierarchy("unified").expect("cgroup2"));
    let (listed, kept) = (File::open(top.join("cgroup.procs")).expect("a list"), top.join("kept"));
    fs::create_dir(&kept).expect("mkdir");
    let before = descriptors(scene.listed.process("keeper"));
    there_and_back(&scene.listed, &scene.target(), || {
        listed.read_at(&mut [0; 64], 0).expect("a file that was open");
        assert_eq!(fs::read(kept.join("cgroup.procs")).expect("a list"), b"");
        fs::create_dir(top.join("made")).expect("mkdir");
        fs::remove_dir(top.join("made")).expect("rmdir");
    });
    let after = descriptors(scene.listed.process("keeper"));
    assert!(after <= before + 4, "{before} descriptors, and then {after}");
    let keeper = scene.listed.process("keeper");
    let children = testkit::children_of(keeper.as_raw().cast_unsigned());
    let names: Vec<String> = children.iter().filter_map(|child| testkit::status_field(*child, "Name")).collect();
    assert!(names.iter().all(|name| name == "vcgroupfs" || name == "abort guard"), "{names:?}");
    let arguments = fs::read(format!("/proc/{keeper}/cmdline")).expect("its command line");
    let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
    assert!(arguments.contains(" -- mount --cgroup ") && arguments.matches("resume").count() == 1, "{arguments}");
    fs::remove_dir(&kept).expect("rmdir");
    drop(listed);
    drop(scene.view);
    scene.listed.is_gone();
    assert!(is_over(keeper));
}

#[test]
fn a_mount_in_the_background() {
    require_upgrade!();
    let cgroup = TestCgroup::new(&["name=systemd", "unified"]);
    let folder = tempfile::tempdir().expect("a directory");
    let directory = folder.path().display().to_string();
    let log = tempfile::NamedTempFile::new().expect("a log");
    let log_file = log.path().display().to_string();
    told(program(), &["mount", "--log-level", "info", "--log-file", &log_file, "--cgroup", &cgroup.path(), &directory]);
    let view = Listed::on(folder.path().to_owned());
    there_and_back(&view, &directory, || {
        fs::read(hierarchy("unified").expect("cgroup2").in_view(folder.path()).join("cgroup.controllers"))
            .expect("a read");
    });
    let logged = fs::read_to_string(log.path()).expect("the log");
    assert_eq!(logged.matches("another program has taken the view over").count(), 4, "{logged}");
    told(program(), &["umount", &directory]);
    view.is_gone();
}

/// A view that is attached to a container, in whose cgroup `box` that is.
fn attached() -> (Listed, Container, TestCgroup) {
    let cgroup = TestCgroup::new(&["name=systemd", "unified"]);
    let cgroups = ["name=systemd", "unified"].map(|selector| cgroup.child(selector, "box"));
    let container = Container::start(ContainerOptions { cgroups: cgroups.to_vec(), ..ContainerOptions::default() });
    told(program(), &["attach", &container.init().to_string()]);
    (Listed::of_container(container.init()), container, cgroup)
}

#[test]
fn an_attached_view() {
    require_upgrade!();
    let (view, container, cgroup) = attached();
    let init = container.init().to_string();
    let top = hierarchy("unified").expect("cgroup2").in_view(&PathBuf::from("/sys/fs/cgroup"));
    let own = top.join(cgroup.name()).join("box");
    let mut session = container.session(Caller::Root);
    session.set("OWN", own.display());
    there_and_back(&view, &init, || {
        session.expect(&mkdir("$OWN/made"));
        session.expect(&write_file("$OWN/made/cgroup.procs", "0"));
        session.expect(&write_file("$OWN/cgroup.procs", "0"));
        session.expect(&rmdir("$OWN/made"));
    });
    drop(session);
    told(next_version(), &["detach", &init]);
    view.is_gone();
}

#[test]
fn a_view_ends_with_its_container() {
    require_upgrade!();
    let (view, container, _cgroup) = attached();
    let init = container.init().to_string();
    view.upgrade(next_version(), &init);
    let keeper = view.process("keeper");
    drop(container);
    view.is_gone();
    wait_until("the keeper ends", || is_over(keeper));
}

#[test]
fn the_view_of_a_command() {
    require_upgrade!();
    let name = format!("vcgroupfs-upgrade-{}", std::process::id());
    let cgroup = TestCgroup::new(&["name=systemd", "unified"]);
    let mut command = std::process::Command::new(program());
    command.args(["run", "--shape", "rooted", "--cgroup", &cgroup.path(), "--name", &name, "--"]);
    let mut session = Session::start(command.arg(&Programs::find().probe));
    let view = Listed::of_run(&name);
    let top = hierarchy("unified").expect("cgroup2").in_view(&PathBuf::from("/sys/fs/cgroup"));
    session.set("TOP", top.display());
    let target = testkit::children_of(init_of(session.pid())).first().expect("the command").to_string();
    there_and_back(&view, &target, || {
        session.expect(&mkdir("$TOP/made"));
        session.expect(&read_file("$TOP/made/cgroup.procs"));
        session.expect(&rmdir("$TOP/made"));
    });
    let real = cgroup.dir("unified").join(&name);
    assert!(real.exists());
    drop(session);
    view.is_gone();
    wait_until("its cgroups are removed", || !real.exists());
}

/// The process 1 of a command of `run`.
fn init_of(supervisor: u32) -> u32 {
    let namespace = |process: u32| fs::read_link(format!("/proc/{process}/ns/pid")).ok();
    let children = testkit::children_of(supervisor);
    children.into_iter().find(|child| namespace(*child) != namespace(supervisor)).expect("a process 1")
}

#[test]
fn the_view_of_all_callers() {
    require_upgrade!();
    let cgroup = TestCgroup::new(&["name=systemd", "unified"]);
    let view = testkit::View::mount(program(), &testkit::ViewOptions::new().flag("--per-caller"));
    let listed = Listed::on(view.dir());
    let cgroups = ["name=systemd", "unified"].map(|selector| cgroup.child(selector, "box"));
    let container = Container::start(ContainerOptions {
        cgroups: cgroups.to_vec(),
        prepare: format!("mount --bind {} /sys/fs/cgroup", view.dir().display()),
        ..ContainerOptions::default()
    });
    let mut session = container.session(Caller::Root);
    let top = hierarchy("unified").expect("cgroup2").in_view(&PathBuf::from("/sys/fs/cgroup"));
    session.set("OWN", top.join(cgroup.name()).join("box").display());
    there_and_back(&listed, &view.dir().display().to_string(), || {
        for op in [mkdir("$OWN/made"), read_file("$OWN/made/cgroup.procs"), rmdir("$OWN/made")] as [Op; 3] {
            session.expect(&op);
        }
    });
}
