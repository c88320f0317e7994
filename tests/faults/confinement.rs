//! The privileges that a live server still has, and the resources that it takes.

use std::fs;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{
    Container, ContainerOptions, Need, TIMEOUT, TestCgroup, View, ViewOptions, ViewProcesses, comes_true, hierarchies,
    require, run_to_end, wait_until,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vcgroupfs");

/// The capabilities with which every operation gives what it gives with all of them (linux/capability.h).
const ENOUGH: [(&str, u32); 13] = [
    ("chown", 0),
    ("dac_override", 1),
    ("dac_read_search", 2),
    ("fowner", 3),
    ("kill", 5),
    ("setgid", 6),
    ("setuid", 7),
    ("setpcap", 8),
    ("sys_chroot", 18),
    ("sys_ptrace", 19),
    ("sys_admin", 21),
    ("sys_nice", 23),
    ("sys_resource", 24),
];

/// A set of them. `kill` is the supervisor's.
fn at_most(without: &[&str]) -> u64 {
    ENOUGH.iter().filter(|(name, _)| !without.contains(name)).fold(0, |set, (_, bit)| set | 1 << bit)
}

fn everywhere() -> TestCgroup {
    let selectors: Vec<String> = hierarchies().iter().map(testkit::Hierarchy::selector).collect();
    TestCgroup::new(&selectors.iter().map(String::as_str).collect::<Vec<_>>())
}

fn view_of(cgroup: &TestCgroup) -> View {
    View::mount(PROGRAM.as_ref(), &ViewOptions::new().cgroup(cgroup).policy("delegate"))
}

/// A field of `/proc/PID/status` of each of its threads.
#[track_caller]
fn fields(pid: u32, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let field = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).trim().to_owned()
    };
    texts.map(field).collect()
}

#[track_caller]
fn capabilities(pid: u32, set: &str) -> Vec<u64> {
    let sets = fields(pid, set);
    assert!(!sets.is_empty());
    sets.iter().map(|set| u64::from_str_radix(set, 16).expect("a number")).collect()
}

fn namespace(pid: &str, kind: &str) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace")
}

#[track_caller]
fn is_confined(pid: u32, most: u64) {
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        for found in capabilities(pid, set) {
            assert_eq!(found & !most, 0, "{set} of {pid} is {found:x}");
        }
    }
    for set in ["CapInh", "CapAmb"] {
        assert!(capabilities(pid, set).iter().all(|set| *set == 0), "{set} of {pid}");
    }
    assert!(fields(pid, "NoNewPrivs").iter().all(|field| field == "1"), "no_new_privs of {pid}");
    assert!(fields(pid, "Seccomp").iter().all(|field| field == "2"), "seccomp of {pid}");
}

#[test]
fn a_server_has_what_it_needs_and_nothing_else() {
    require!(Need::Root, Need::Fuse);
    let cgroup = everywhere();
    let view = view_of(&cgroup);
    // So that all threads are there.
    fs::read_dir(view.dir()).expect("the view").count();
    is_confined(view.server(), at_most(&["kill"]));
    assert!(capabilities(view.server(), "CapEff").iter().any(|set| *set != 0), "it does what takes some");
    for kind in ["net", "ipc", "uts"] {
        assert_ne!(namespace(&view.server().to_string(), kind), namespace("self", kind), "{kind}");
    }
    let network = fs::read_to_string(format!("/proc/{}/net/dev", view.server())).expect("its network");
    let interfaces: Vec<&str> =
        network.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    assert_eq!(interfaces, ["lo"]);
}

#[test]
fn the_successor_of_a_killed_server_has_no_privileges() {
    require!(Need::Root, Need::Fuse);
    let cgroup = everywhere();
    let view = view_of(&cgroup);
    let is_abort_guard =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "abort guard");
    let ViewProcesses { keeper, server } = view.processes();
    let parent = keeper.unwrap_or(server);
    let find = || {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("children");
        children.split_ascii_whitespace().find(is_abort_guard).map(|pid| pid.parse().expect("a pid"))
    };
    wait_until("an abort guard", || find().is_some());
    let guard = find().expect("it was there");
    // It has its name first.
    comes_true(TIMEOUT, || capabilities(guard, "CapPrm") == [0] && fields(guard, "Seccomp") == ["2"]);
    is_confined(guard, 0);
}

#[test]
fn the_supervisor_of_run_gives_up_what_its_command_keeps() {
    require!(Need::Root, Need::Fuse);
    let name = format!("vcgroupfs-confined-{}", std::process::id());
    let mut command = Command::new(PROGRAM);
    let script = "echo; exec cat";
    command.args(["run", "--name", &name, "--", "sh", "-c", script]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut supervisor = command.spawn().expect("run");
    let mut line = String::new();
    let output = supervisor.stdout.as_mut().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("the command");
    // It starts the command first.
    comes_true(TIMEOUT, || fields(supervisor.id(), "Seccomp") == ["2"]);
    is_confined(supervisor.id(), at_most(&[]));
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", supervisor.id())).expect("children");
    let own = capabilities(std::process::id(), "CapEff")[0];
    let free = |pid: &&str| capabilities(pid.parse().expect("a pid"), "CapEff").iter().all(|set| *set == own);
    assert_eq!(children.split_ascii_whitespace().filter(free).count(), 1, "init keeps root's capabilities");
    drop(supervisor.stdin.take());
    assert!(supervisor.wait().expect("its end").success());
}

/// `list` shows what the kernel says of the process, not what the process claims.
#[test]
fn list_shows_how_a_server_is_confined() {
    require!(Need::Root, Need::Fuse);
    let cgroup = everywhere();
    let view = view_of(&cgroup);
    // It's known only a moment after it's mounted.
    let end = Instant::now() + TIMEOUT;
    let own = loop {
        let output = run_to_end(Command::new(PROGRAM).args(["list", "--json"]), TIMEOUT);
        let views: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        match views.into_iter().find(|found| found["pid"] == view.server()) {
            Some(own) => break own,
            None => assert!(Instant::now() < end, "the view isn't listed"),
        }
    };
    let confinement = &own["confinement"];
    assert_eq!(confinement["no_new_privs"], true, "{confinement}");
    assert_eq!(confinement["seccomp"], "filter", "{confinement}");
    assert_eq!(confinement["namespaces"], serde_json::json!(["ipc", "net", "uts"]), "{confinement}");
    let words = |name: &str| -> Vec<String> {
        let words = confinement[name].as_array().unwrap_or_else(|| panic!("{confinement}"));
        words.iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
    };
    let effective = capabilities(view.server(), "CapBnd")[0];
    let expected: Vec<&str> =
        ENOUGH.iter().filter(|(_, bit)| effective & 1 << bit != 0).map(|(name, _)| *name).collect();
    assert_eq!(words("bounding"), expected);
    assert_eq!(words("capabilities"), expected);
}

/// The calls that a server never makes aren't there for whoever takes it over: tried by a process that has what a server has.
#[test]
fn helpers_of_a_confined_server_still_do_their_work() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let cgroup = TestCgroup::new(&["unified"]);
    let view = view_of(&cgroup);
    let container =
        Container::start(ContainerOptions { cgroups: vec![cgroup.dir("unified")], ..ContainerOptions::default() });
    let procs = view.hierarchy(&cgroup.hierarchies()[0]).join(cgroup.name()).join("cgroup.procs");
    let root = format!("/proc/{}/root", container.init());
    // The container's own numbers: its process 1 is 1.
    let mut command = Command::new("nsenter");
    command.args(["--target", &container.init().to_string(), "--pid", "cat"]).arg(&procs);
    let output = run_to_end(&mut command, TIMEOUT);
    let numbers = String::from_utf8_lossy(&output.stdout);
    assert!(numbers.lines().any(|line| line == "1"), "{numbers} ({root})");
    assert!(kill(Pid::from_raw(view.server() as i32), None::<Signal>).is_ok());
}

/// Memory that is the views' own, by the accounts of a cgroup that the server is in.
#[test]
fn a_view_holds_no_copy_of_the_program() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy("pids"));
    let (home, shown) = (TestCgroup::new(&["memory"]), TestCgroup::new(&["pids"]));
    let folder = tempfile::tempdir().expect("a directory");
    let directory = folder.path().join("view");
    fs::create_dir(&directory).expect("a mount point");
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec {PROGRAM} mount -f --cgroup pids={} {}",
        home.dir("memory").display(),
        shown.path(),
        directory.display()
    );
    // In the background, it would leave the caller's cgroups.
    let mut command = Command::new("sh").args(["-c", &script]).spawn().expect("sh");
    wait_until("the view", || ViewProcesses::of_live(PROGRAM, command.id()).is_some());
    let statistics = fs::read_to_string(home.dir("memory").join("memory.stat")).expect("statistics");
    let shmem = statistics.lines().find_map(|line| line.strip_prefix("shmem ")?.parse::<u64>().ok());
    let members = fs::read_to_string(home.dir("memory").join("cgroup.procs")).expect("members");
    let ended = run_to_end(Command::new(PROGRAM).arg("umount").arg(&directory), TIMEOUT);
    assert!(ended.status.success(), "{ended:?}");
    assert!(command.wait().expect("its end").success());
    assert!(members.lines().count() >= 1, "the server is there");
    let shmem = shmem.expect("shmem");
    assert!(shmem < 256 * 1024, "{shmem} bytes of shared memory for one view");
}

fn processors(pid: u32) -> Vec<String> {
    fields(pid, "Cpus_allowed_list")
}

/// A process on each processor looks into the view, so that workers would follow them.
fn use_everywhere(view: &View) {
    let script = "for i in $(seq 300); do cat \"$1\"/*/cgroup.procs > /dev/null 2>&1; ls \"$1\"/* > /dev/null; done";
    let busy = |processor: usize| {
        let mut command = Command::new("taskset");
        command.args(["-c", &processor.to_string(), "sh", "-c", script, "sh"]).arg(view.dir());
        command.spawn().expect("taskset")
    };
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // More than processors, so that there's none to spare.
    let users: Vec<_> = (0..2 * count).map(|number| busy(number % count)).collect();
    for mut user in users {
        assert!(user.wait().expect("its end").success());
    }
}

#[test]
fn an_administrators_affinity_is_kept() {
    require!(Need::Root, Need::Fuse, Need::Program("taskset"));
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if count < 2 {
        eprintln!("skipped: needs two processors");
        return;
    }
    let cgroup = everywhere();
    let view = view_of(&cgroup);
    // All of its workers have been tied, to this processor and to that.
    use_everywhere(&view);
    for wanted in ["0", "1"] {
        let set = Command::new("taskset").args(["-a", "-c", "-p", wanted, &view.server().to_string()]).output();
        assert!(set.expect("taskset").status.success());
        use_everywhere(&view);
        let found = processors(view.server());
        assert!(found.iter().all(|list| list == wanted), "{wanted}: {found:?}");
    }
    let all = format!("0-{}", count - 1);
    let set = Command::new("taskset").args(["-a", "-c", "-p", &all, &view.server().to_string()]).output();
    assert!(set.expect("taskset").status.success());
    // One of its threads alone.
    let tasks = fs::read_dir(format!("/proc/{}/task", view.server())).expect("threads").flatten();
    let worker =
        |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "fuser-0\n");
    let task = tasks.filter(worker).map(|task| task.file_name().into_string().expect("a number")).next();
    let task = task.expect("a worker");
    use_everywhere(&view);
    let list = || {
        let status = fs::read_to_string(format!("/proc/{}/task/{task}/status", view.server())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.expect("a list").trim().to_owned()
    };
    // Whoever has tied itself there just now isn't told apart.
    let holds = || {
        let wanted = if list() == "1" { "0" } else { "1" };
        let set = Command::new("taskset").args(["-c", "-p", wanted, &task]).output();
        assert!(set.expect("taskset").status.success());
        use_everywhere(&view);
        list() == wanted
    };
    assert!((0..5).any(|_| holds()), "{}", list());
}
