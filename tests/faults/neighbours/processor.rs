//! Processor time: what is asked for over and over takes the server no more than some times what it takes the caller; and whoever has it do costly work
//! all the time waits, while others don't.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use testkit::flood::LISTED_DIRECTORIES;
use testkit::probe::names::*;
use testkit::{Caller, Need, ViewOptions, require};

use super::scene::{COST_FACTOR_MAX, Scene, flood, program, used_by, wait_until};

/// The processor time that a tenant may use before it has to wait, and somewhat more.
const BURST_MAX: Duration = Duration::from_millis(2500);

/// The period over which the server's processor time is measured.
const MEASURED_PERIOD: Duration = Duration::from_secs(1);

/// How many cgroups make a listing too large for a server to keep.
const CGROUPS: usize = 800;

/// How often the caller beside them asks.
const REQUESTS: usize = 600;

/// How many processes a list shows.
const LISTED_PROCESSES: usize = 500;

#[test]
fn repeated_requests_cost_the_server_little() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"));
    for passes_through in [true, false] {
        let options = ViewOptions::new();
        let options = if passes_through { options } else { options.flag("--no-passthrough") };
        let scene = Scene::with(&program(), &["pids"], options);
        let container = scene.container("a");
        let mut listed = scene.session(&container, "pids", "a");
        for _ in 0..LISTED_PROCESSES {
            listed.expect(&spawn("P"));
        }
        let directory = scene.shown("pids", "a");
        for kind in ["absent", "xattrs", "attributes", "members", "make-and-list"] {
            let before = used_by(scene.view.server());
            let own = flood(&container, kind, &directory, 2000);
            let servers = used_by(scene.view.server()) - before;
            assert!(servers < own * COST_FACTOR_MAX, "{kind}: the server took {servers:?}, its caller {own:?}");
        }
    }
}

#[test]
fn a_tenant_that_makes_the_server_work_all_the_time_waits_and_others_do_not() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let scene = Scene::new(&["pids", "unified"]);
    let containers = [scene.container("a"), scene.container("b")];
    scene.cgroup.child("pids", "a/many");
    for number in 0..LISTED_DIRECTORIES {
        let large = scene.cgroup.child("pids", &format!("a/many/{number}"));
        for cgroup in 0..CGROUPS {
            fs::create_dir(large.join(cgroup.to_string())).expect("a cgroup");
        }
    }
    let mut neighbour = scene.session(&containers[1], "unified", "b");
    let mut own = scene.session(&containers[0], "unified", "a");
    let server = scene.view.server();
    let used = || used_by(server);
    let before = used();
    let mut command = containers[0].command(Caller::Root);
    command.arg(containers[0].probe()).args(["--flood", "list-beside"]).arg(scene.shown("pids", "a/many"));
    let mut attacker = command.arg(u64::MAX.to_string()).stdin(Stdio::null()).spawn().expect("a probe");
    wait_until("a tenant that has used what it may", || used() - before > BURST_MAX);
    // An eighth is paid for, and there's what costs so little that it isn't.
    wait_until("a tenant that waits", || {
        let (before, began) = (used(), Instant::now());
        thread::sleep(MEASURED_PERIOD);
        used() - before < began.elapsed() * 2 / 5
    });
    neighbour.expect(&mkdir("$OWN/job"));
    neighbour.expect(&spawn("P"));
    neighbour.expect(&write_file("$OWN/job/cgroup.procs", "$P"));
    neighbour.expect(&readdir("$OWN/job"));
    // What costs little doesn't wait.
    own.expect(&mkdir("$OWN/job"));
    assert!(attacker.try_wait().expect("its state").is_none(), "nobody asks any more");
    attacker.kill().and_then(|()| attacker.wait()).expect("the end of the probe");
}

/// Programs that fill the processor on which they run.
struct Hogs(Vec<Child>);

impl Hogs {
    /// Starts so many that no processor seems idle, by the number of what runs.
    fn start() -> Self {
        let processors = thread::available_parallelism().expect("the own processors").get();
        let start = |_| Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        Self((0..=processors).map(|number| start(number).expect("a shell")).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill().and_then(|()| hog.wait());
        }
    }
}

#[test]
fn a_tenant_that_fills_a_processor_keeps_the_server_off_no_other_one() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"));
    let scene = Scene::new(&["pids"]);
    let container = scene.container("a");
    let directory = scene.shown("pids", "a");
    let all = sched_getaffinity(Pid::from_raw(0)).expect("the own processors");
    let mut one = CpuSet::new();
    let first = (0..CpuSet::count()).find(|number| all.is_set(*number).unwrap_or(false)).expect("a processor");
    one.set(first).expect("a processor");
    let hogs = Hogs::start();
    // What this thread starts stays on the processor, too.
    sched_setaffinity(Pid::from_raw(0), &one).expect("one processor");
    for hog in &hogs.0 {
        sched_setaffinity(Pid::from_raw(hog.id() as i32), &one).expect("one processor");
    }
    flood(&container, "absent", &directory, REQUESTS);
    let tasks = fs::read_dir(format!("/proc/{}/task", scene.view.server())).expect("the server's threads");
    let threads: Vec<i32> = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
    let allowed = |thread: i32| sched_getaffinity(Pid::from_raw(thread)).expect("a thread's processors");
    let server = allowed(scene.view.server() as i32);
    let elsewhere: Vec<&i32> = threads.iter().filter(|thread| allowed(**thread) != server).collect();
    drop(hogs);
    assert!(threads.len() > 4 && elsewhere.is_empty(), "{elsewhere:?} of {threads:?}");
}
