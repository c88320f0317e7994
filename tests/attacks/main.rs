//! Attacks on a view and its server, each beside a control that shows what it would do without the defence.

mod bound;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, Whence, lseek};
use testkit::probe::names::*;
use testkit::{
    Caller, Container, ContainerOptions, MAPPED_ROOT, Need, STRANGER, Session, TIMEOUT, TestCgroup, View, ViewOptions,
    children_of, require, resident_kib, run_to_end, threads_named, wait_in_kernel, wait_until,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vcgroupfs");
const NAMED: &str = "name=systemd";

/// A view of a test cgroup, and a container that lives in the cgroup's `home`.
///
/// The fields are dropped in their order: as long as the container has the view among its mounts, its server lives.
struct Scene {
    container: Container,
    view: View,
    cgroup: TestCgroup,
}

impl Scene {
    fn new(selectors: &[&str], shape: &str, user_namespace: bool) -> Self {
        Self::with(selectors, user_namespace, Path::new(PROGRAM), |options| options.shape(shape))
    }

    fn with(
        selectors: &[&str],
        user_namespace: bool,
        program: &Path,
        options: impl FnOnce(ViewOptions) -> ViewOptions,
    ) -> Self {
        let cgroup = TestCgroup::new(selectors);
        let homes = cgroup.children("home");
        let view = View::mount(program, &options(ViewOptions::new().cgroup(&cgroup)));
        let container =
            Container::start(ContainerOptions { cgroups: homes, user_namespace, ..ContainerOptions::default() });
        Self { container, view, cgroup }
    }

    /// The directory of a hierarchy in the container.
    fn seen(&self, selector: &str) -> PathBuf {
        self.view.hierarchy(&testkit::hierarchy(selector).expect("a required hierarchy"))
    }

    fn session(&self, caller: Caller, selector: &str) -> Session {
        let mut session = self.container.session(caller);
        session.set("CG", self.seen(selector).display());
        session
    }

    /// The process that serves the view.
    fn server(&self) -> u32 {
        self.view.server()
    }

    /// The resident memory of the server, in KiB.
    fn memory(&self) -> u64 {
        resident_kib(self.server())
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.server())).expect("the server's descriptors").count()
    }
}

fn reopen_for_write(pid: u32, descriptor: &str) -> Result<(), Option<i32>> {
    let path = format!("/proc/{pid}/fd/{descriptor}");
    File::options().write(true).open(path).map(drop).map_err(|error| error.raw_os_error())
}

/// An agent's descriptors are what a container with CAP_SYS_PTRACE can take: the same open files as the server's.
#[test]
fn a_file_opened_for_reading_cannot_be_reopened_for_writing() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"));
    let scene = Scene::new(&["pids"], "full", false);
    let mut session = scene.session(Caller::Root, "pids");
    // Files that the server holds open for who reads them, since they're notified of changes.
    let boundary = format!("$CG/{}", scene.cgroup.name());
    for path in [format!("{boundary}/pids.events"), format!("{boundary}/home/pids.events")] {
        assert_eq!(session.run(&open("W", &path, &["O_WRONLY"])).errno(), Some("EACCES"), "{path}");
        session.expect(&open(&path, &path, &["O_RDONLY"]));
    }
    let server = scene.server();
    let mut found = 0;
    for entry in fs::read_dir(format!("/proc/{server}/fd")).expect("the server's descriptors").flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if target.file_name().is_some_and(|name| name == "pids.events") {
            found += 1;
            let outcome = reopen_for_write(server, &entry.file_name().to_string_lossy());
            assert_eq!(outcome, Err(Some(Errno::EROFS as i32)), "{}", target.display());
        }
    }
    assert_eq!(found, 2, "the backing files of the two that are open");

    let bare = File::open(scene.cgroup.dir("pids").join("cgroup.procs")).expect("a file of the bare cgroupfs");
    let number = std::os::fd::AsRawFd::as_raw_fd(&bare).to_string();
    assert_eq!(reopen_for_write(std::process::id(), &number), Ok(()), "the control");
}

#[test]
fn link_counts_do_not_reveal_hidden_cgroups() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let outer = TestCgroup::new(&["pids"]);
    for name in ["ours", "hidden", "hidden-too"] {
        outer.child("pids", name);
    }
    let ours = format!("pids={}/ours", outer.path());
    let view = View::mount(Path::new(PROGRAM), &ViewOptions::new().option("--cgroup", &ours).shape("host-path"));
    let top = |selector| view.hierarchy(&testkit::hierarchy(selector).expect("a required hierarchy"));
    let links = |path: PathBuf| fs::metadata(path).expect("a directory").nlink();
    assert_eq!(links(outer.dir("pids")), 5, "the control");
    assert_eq!([top("pids"), top("pids").join(outer.name()), top("unified")].map(links), [3, 3, 2]);
}

#[test]
fn half_read_listings_do_not_fill_the_servers_memory() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(NAMED));
    const DIRECTORIES: usize = 400;
    let scene = Scene::new(&[NAMED], "rooted", false);
    let large = scene.cgroup.child(NAMED, "large");
    for number in 0..1000 {
        fs::create_dir(large.join(format!("{number:04}{}", "x".repeat(240)))).expect("mkdir");
    }
    let before = scene.memory();
    let seen = scene.seen(NAMED).join("large");
    let read_some = || {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = Dir::open(&seen, flags, Mode::empty()).expect("the large directory");
        // Away from where the kernel's own copy of the listing could serve it.
        lseek(directory.as_fd(), 3, Whence::SeekSet).expect("lseek");
        assert!(directory.iter().next().is_some_and(|entry| entry.is_ok()));
        directory
    };
    let mut directories: Vec<Dir> = (0..DIRECTORIES).map(|_| read_some()).collect();
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 40 * 1024, "{DIRECTORIES} half-read directories cost {grown} KiB");
    // Whoever's listing was displaced goes on where he stood.
    for directory in [0, DIRECTORIES - 1] {
        let rest = directories[directory].iter().map(|entry| entry.expect("an entry").file_name().to_owned());
        let mut names: Vec<_> = rest.collect();
        names.sort_unstable();
        names.dedup();
        assert!(names.len() > 990, "{} of 1000", names.len());
    }
}

#[test]
fn groups_do_not_fill_the_servers_memory() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(NAMED));
    let scene = Scene::new(&[NAMED], "rooted", false);
    let groups: Vec<String> = (1..=20_000).map(|group| group.to_string()).collect();
    let mut command = scene.container.command(Caller::Root);
    command.args(["setpriv", &format!("--groups={}", groups.join(","))]).arg(scene.container.probe());
    let mut session = Session::start(&mut command);
    session.set("CG", scene.seen(NAMED).display());
    let open_many = |session: &mut Session, from: usize| {
        for number in from..from + 500 {
            session.expect(&open(&format!("F{number}"), "$CG/home/notify_on_release", &["O_WRONLY"]));
        }
    };
    // The first ones make room for what doesn't grow.
    open_many(&mut session, 0);
    let before = scene.memory();
    open_many(&mut session, 500);
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 10 * 1024, "500 open files cost {grown} KiB, but their lists of groups would be 40000");
    session.expect(&write("F999", "0"));
}

#[test]
fn a_stranger_cannot_take_all_descriptors() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let program = folder.path().join("limited");
    let script = "#!/bin/sh\nexec prlimit --nofile=1400 \"$PROGRAM\" \"$@\"\n".replace("$PROGRAM", PROGRAM);
    testkit::write_program(&program, &script);
    let scene = Scene::with(&["unified"], false, &program, |options| options.shape("rooted"));
    let mut stranger = scene.session(Caller::Stranger, "unified");
    let opened = (0..2000).take_while(|number| {
        let outcome = stranger.run(&open(&format!("F{number}"), "$CG/cgroup.events", &["O_RDONLY"]));
        assert!(outcome.is_ok() || outcome.errno() == Some("EMFILE"), "{outcome:?}");
        outcome.is_ok()
    });
    let opened = opened.count();
    assert!((100..1000).contains(&opened), "user {STRANGER} opened {opened} files");
    let mut root = scene.session(Caller::Root, "unified");
    root.expect(&mkdir("$CG/made"));
    root.expect(&write_file("$CG/made/cgroup.procs", "0"));
    root.expect(&read_file("$CG/made/cgroup.events"));
    root.expect(&write_file("$CG/home/cgroup.procs", "0"));
}

#[test]
fn rejections_are_short_lines_that_nobody_can_forge() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"));
    let scene = Scene::with(&["pids"], false, Path::new(PROGRAM), |options| {
        options.shape("rooted").option("--log-level", "info")
    });
    let mut below = String::new();
    for _ in 0..12 {
        below = format!("{}{}", if below.is_empty() { below } else { below + "/" }, "\u{1b}x".repeat(120));
        scene.cgroup.child("pids", &below);
    }
    let mut session = scene.session(Caller::Root, "pids");
    let forged = "$CG/x\" rule=\"none\"\nFORGED";
    for path in [format!("$CG/{below}/x"), forged.to_owned()] {
        assert_eq!(session.run(&mkdir(&path)).errno(), Some("EACCES"));
    }
    let log = scene.view.log_once(|log| log.contains("FORGED"));
    assert!(log.lines().any(|line| line.contains("FORGED")), "the attempt is logged:\n{log}");
    for line in log.lines() {
        assert!(!line.starts_with("FORGED") && !line.contains("rule=\"none\"") && line.len() < 10_000, "{line}");
    }
}

/// The kernel lets the request come by what it knew; the server mustn't believe it.
#[test]
fn a_permission_that_is_revoked_under_way_is_revoked() {
    require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::Hierarchy(NAMED));
    let scene = Scene::new(&[NAMED], "rooted", true);
    let file = scene.cgroup.dir(NAMED).join("home/notify_on_release");
    chown(&file, Some(MAPPED_ROOT), Some(MAPPED_ROOT)).expect("chown of an interface file");
    let mut session = scene.session(Caller::Root, NAMED);
    let opening = open("F", "$CG/home/notify_on_release", &["O_WRONLY"]);
    let end = Instant::now() + TIMEOUT;
    while !session.run(&opening).is_ok() {
        assert!(Instant::now() < end, "the control: it can be opened as long as it's the caller's");
    }
    let server = Pid::from_raw(i32::try_from(scene.server()).expect("a process number"));
    assert!(testkit::stop(server), "the server is there");
    let asker = session.pid();
    let asking = thread::spawn(move || session.run(&opening));
    // The request is under way then, or the kernel itself refuses it later: both are right.
    wait_in_kernel(asker, &["request_wait_answer", "fuse"]);
    let revoked = chown(&file, Some(0), Some(0));
    kill(server, Signal::SIGCONT).expect("SIGCONT");
    revoked.expect("chown of an interface file");
    assert_eq!(asking.join().expect("the asking thread").errno(), Some("EACCES"));
}

/// Requests that wait for a stopped agent keep no other ones waiting: there are more of them than the server has workers.
#[test]
fn a_stopped_agent_stops_nothing_else() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(NAMED));
    const WRITERS: usize = 6;
    let scene = Scene::new(&[NAMED], "rooted", false);
    let migrate = write_file("$CG/home/cgroup.procs", "1");
    let mut session = scene.session(Caller::Root, NAMED);
    for number in 0..WRITERS {
        session.expect(&mkdir(&format!("$CG/w{number}")));
    }
    let server = scene.server();
    let named = |pid: &u32| testkit::status_field(*pid, "Name").as_deref() == Some("vcgroupfs-agent");
    // Those who ask are there before: they have as long as the server waits for an agent.
    let mut others = scene.session(Caller::Root, NAMED);
    let writers: Vec<_> = (0..WRITERS).map(|_| scene.session(Caller::Root, NAMED)).collect();
    let end = Instant::now() + TIMEOUT;
    loop {
        // An agent that nobody asks for a second has ended.
        session.expect(&migrate);
        let agent = children_of(server).into_iter().find(named).map(|pid| Pid::from_raw(pid.cast_signed()));
        if agent.is_some_and(testkit::stop) {
            break;
        }
        assert!(Instant::now() < end, "no agent");
    }
    let finished = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (number, mut writer) in writers.into_iter().enumerate() {
            let finished = &finished;
            scope.spawn(move || {
                // Writes to one file wait for each other in the caller's kernel. These fail, or succeed by another agent: that they end is
                // enough.
                let migrate = write_file(&format!("$CG/w{number}/cgroup.procs"), "1");
                writer.run(&migrate);
                finished.fetch_add(1, Ordering::AcqRel);
            });
        }
        wait_until("all requests wait", || threads_named(server, "slow request") >= WRITERS);
        others.expect(&mkdir("$CG/made"));
        assert_eq!(finished.load(Ordering::Acquire), 0, "the request had to wait for the agent");
    });
}

#[test]
fn callers_that_are_killed_leave_nothing_behind() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy(NAMED));
    let scene = Scene::new(&["pids", NAMED], "rooted", false);
    let all = "cat $0/home/cgroup.procs; echo 0 > $0/home/cgroup.procs; mkdir $0/$$; rmdir $0/$$; ls -lR $0";
    // The directories that are in use are held open, those too that a killed shell didn't come to remove.
    let held = |scene: &Scene| fs::read_dir(scene.cgroup.dir(NAMED)).expect("the test cgroup").count();
    let shell = |scene: &Scene, script: &str| {
        let mut command = scene.container.command(Caller::Root);
        command.args(["sh", "-c", script]).arg(scene.seen(NAMED));
        command
    };
    // What a server needs for a while, it has had once.
    assert!(run_to_end(&mut shell(&scene, all), TIMEOUT).status.success());
    let before = scene.descriptors().saturating_sub(held(&scene));
    for round in 0..30 {
        let mut command = shell(&scene, &format!("while :; do {all}; done"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell in the container");
        // The time is what the test varies: the shell is killed at another moment each time.
        thread::sleep(Duration::from_millis(40 + 3 * round));
        child.kill().expect("SIGKILL");
        child.wait().expect("its end");
    }
    // What was killed were the shells' launchers; the container takes the rest with it.
    let Scene { container, view, cgroup } = scene;
    drop(container);
    let scene = Scene { container: Container::start(ContainerOptions::default()), view, cgroup };
    wait_until("the server has closed its descriptors", || scene.descriptors() <= before + held(&scene) + 2);
    scene.session(Caller::Root, NAMED).expect(&mkdir("$CG/made"));
}

#[test]
fn a_boundary_that_is_made_again_is_another_containers() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(NAMED));
    let outer = TestCgroup::new(&[NAMED]);
    let ours = outer.child(NAMED, "ours");
    let options = ViewOptions::new().shape("rooted").option("--cgroup", &format!("{NAMED}={}/ours", outer.path()));
    let view = View::mount(Path::new(PROGRAM), &options);
    let seen = view.hierarchy(&testkit::hierarchy(NAMED).expect("a required hierarchy"));
    let held = File::open(&seen).expect("the boundary");
    fs::create_dir(seen.join("control")).expect("mkdir in the boundary");
    for dir in [ours.join("control"), ours.clone()] {
        fs::remove_dir(dir).expect("rmdir by the host");
    }
    outer.child(NAMED, "ours");
    assert_eq!(mkdirat(&held, "by-handle", Mode::S_IRWXU), Err(Errno::ENOENT));
    assert!(fs::create_dir(seen.join("by-name")).is_err());
    assert!(!ours.join("by-handle").exists() && !ours.join("by-name").exists());
}

/// `vcgroupfs run` with a cgroup of its own below a test cgroup.
fn run_in(cgroup: &TestCgroup, limit: &[&str], script: &str) -> Command {
    let mut words = limit.iter().copied().chain([PROGRAM]);
    let mut command = Command::new(words.next().unwrap_or(PROGRAM));
    command.args(words).args(["run", "--cgroup", &format!("{NAMED}={}", cgroup.path())]);
    command.args(["--name", &format!("{}-run", cgroup.name()), "--", "sh", "-c", script]);
    command
}

#[test]
fn process_1_of_a_run_has_no_directory_of_the_host() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(NAMED));
    let cgroup = TestCgroup::new(&[NAMED]);
    let script = "[ -e /proc/1/fd/1 ] && echo readable; exec 9< /sys; [ -e /proc/$$/fd/9/fs ] && echo control\n\
                  for fd in /proc/1/fd/*; do [ -d $fd ] && echo $fd; done; true";
    let output = run_to_end(&mut run_in(&cgroup, &[], script), TIMEOUT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "readable\ncontrol\n");
}

/// The depth is the container's choice; what the removal costs mustn't be its square.
#[test]
fn a_deep_tree_is_removed_with_little_memory() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(NAMED));
    const DEPTH: usize = 3000;
    let cgroup = TestCgroup::new(&[NAMED]);
    // 3000 paths of all their names would be 1.3 GB.
    let mut command = run_in(&cgroup, &["prlimit", "--data=268435456"], "echo; read -r line");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("vcgroupfs run");
    let mut one = [0];
    std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut one).expect("the command runs");
    let own = cgroup.dir(NAMED).join(format!("{}-run", cgroup.name()));
    let mut at = std::os::fd::OwnedFd::from(File::open(&own).expect("the cgroup of the run"));
    let name = "x".repeat(250);
    for _ in 0..DEPTH {
        mkdirat(&at, name.as_str(), Mode::S_IRWXU).expect("mkdir");
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        at = openat(&at, name.as_str(), flags, Mode::empty()).expect("the new cgroup");
    }
    drop(at);
    child.stdin.take().expect("a pipe").write_all(b"\n").expect("a line for the command");
    assert!(child.wait().expect("the end of the run").success());
    assert!(!own.exists(), "the cgroups of the run are removed");
}
