//! Operations that may wait for a device, or for memory.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use testkit::probe::names::*;
use testkit::{
    Caller, Container, ContainerOptions, Need, TIMEOUT, TestCgroup, View, ViewOptions, hierarchy, require, run_to_end,
};

use super::scene::{Scene, program, wait_until};

/// More than the server serves requests at once.
const WRITERS: usize = 6;

/// How many devices this process has made.
static DEVICES: AtomicU32 = AtomicU32::new(0);

fn run(program: &str, arguments: &[&str]) -> String {
    let output = run_to_end(Command::new(program).args(arguments), TIMEOUT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("a path of this test's own")
}

/// A loop device that doesn't answer: its file is on a filesystem that is frozen, and a write to it waits.
struct Silent {
    /// Of the loop device.
    number: u32,
    loops: Vec<String>,
    folder: TempDir,
    write: Option<Child>,
    frozen: bool,
}

impl Silent {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("vcgroupfs-device-").tempdir().expect("a temporary directory");
        let number = std::process::id() + 100_000 * DEVICES.fetch_add(1, Ordering::Relaxed);
        let mut silent = Self { number, loops: Vec::new(), folder, write: None, frozen: false };
        let (image, mounted) = (silent.folder.path().join("image"), silent.mounted());
        fs::File::create(&image).and_then(|image| image.set_len(64 << 20)).expect("an image");
        fs::create_dir(&mounted).expect("a mount point");
        run("mkfs.ext4", &["-q", path_text(&image)]);
        silent.loops.push(run("losetup", &["--find", "--show", path_text(&image)]));
        run("mount", &[&silent.loops[0], path_text(&mounted)]);
        let inner = mounted.join("inner");
        fs::File::create(&inner).and_then(|inner| inner.set_len(16 << 20)).expect("an image");
        // A device that never was: the queue of one is frozen for its first limit alone.
        let device = format!("/dev/loop{}", silent.number);
        run("losetup", &[&device, path_text(&inner)]);
        silent.loops.push(device);
        run("fsfreeze", &["--freeze", path_text(&mounted)]);
        silent.frozen = true;
        let output = format!("of={}", silent.loops[1]);
        let mut write = Command::new("dd");
        write.args(["if=/dev/zero", &output, "bs=4096", "count=1", "oflag=direct"]).stderr(Stdio::null());
        let write = write.spawn().expect("dd");
        let stat = format!("/proc/{}/stat", write.id());
        silent.write = Some(write);
        wait_until("a write that waits", || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") D ")));
        silent
    }

    fn mounted(&self) -> std::path::PathBuf {
        self.folder.path().join("mounted")
    }

    /// Its numbers, as the kernel reads them.
    fn numbers(&self) -> String {
        let name = self.loops[1].trim_start_matches("/dev/");
        fs::read_to_string(format!("/sys/block/{name}/dev")).expect("a block device").trim().to_owned()
    }

    fn answer(&mut self) {
        if std::mem::take(&mut self.frozen) {
            run("fsfreeze", &["--unfreeze", path_text(&self.mounted())]);
        }
        if let Some(mut write) = self.write.take() {
            write.wait().expect("the end of dd");
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.answer();
        let detach = |device: &String| drop(run_to_end(Command::new("losetup").args(["--detach", device]), TIMEOUT));
        self.loops.get(1).into_iter().for_each(detach);
        // LOOP_CTL_REMOVE of linux/loop.h.
        let remove = format!("open(F, '+<', '/dev/loop-control'); ioctl(F, 0x4C81, {} + 0)", self.number);
        let _ = run_to_end(Command::new("perl").args(["-e", &remove]), TIMEOUT);
        // What fails here shows by what is left.
        let _ = run_to_end(Command::new("umount").arg(self.mounted()), TIMEOUT);
        self.loops.first().into_iter().for_each(detach);
    }
}

/// blkio.throttle.* freezes the device's queue, for which it waits for what the device was asked before (`blk_throtl_init`).
#[test]
fn a_device_that_does_not_answer_keeps_only_its_own_container_waiting() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("blkio"), Need::Hierarchy("unified"));
    require!(Need::Program("mkfs.ext4"), Need::Program("losetup"), Need::Program("fsfreeze"), Need::Program("perl"));
    let scene = Scene::new(&["blkio", "unified"]);
    let containers = [scene.container("a"), scene.container("b")];
    for writer in 0..WRITERS {
        scene.cgroup.child("blkio", &format!("a/w{writer}"));
    }
    let mut writers: Vec<_> = (0..WRITERS).map(|_| scene.session(&containers[0], "blkio", "a")).collect();
    let mut neighbour = scene.session(&containers[1], "unified", "b");
    let mut own = scene.session(&containers[0], "unified", "a");
    // Dropped before the sessions and the view, which wait for those that write.
    let mut device = Silent::new();
    let limit = format!("{} 1000000", device.numbers());
    let write = |writer: usize| [write_file(&format!("$OWN/w{writer}/blkio.throttle.write_bps_device"), &limit)];
    for (number, writer) in writers.iter_mut().enumerate() {
        writer.begin(&write(number));
    }
    wait_until("as many that wait as a tenant may have", || {
        scene.thread_states().iter().filter(|state| **state == 'D').count() >= 4
    });
    neighbour.expect(&mkdir("$OWN/job"));
    neighbour.expect(&spawn("P"));
    neighbour.expect(&write_file("$OWN/job/cgroup.procs", "$P"));
    neighbour.expect(&read_file("$OWN/job/cgroup.events"));
    // Even its own container goes on with what doesn't wait.
    own.expect(&read_file("$OWN/cgroup.procs"));
    own.expect(&mkdir("$OWN/job"));
    device.answer();
    for (number, writer) in writers.iter_mut().enumerate() {
        let outcome = writer.finish(&write(number));
        assert!(outcome[0].is_ok(), "{number}: {outcome:?}");
    }
}

/// The names of the server's threads that wait for a device.
fn waiting_threads(view: &View) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", view.server())).expect("the server's threads");
    let stats = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    let waits = |stat: &String| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('D'));
    stats.filter(waits).filter_map(|stat| Some(stat.split_once('(')?.1.rsplit_once(')')?.0.to_owned())).collect()
}

/// In a view of one container a worker does such a write itself. The other workers serve everything else meanwhile, and further writes that wait
/// have threads of their own.
#[test]
fn a_worker_that_waits_for_a_device_is_replaced() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("blkio"), Need::Hierarchy("unified"));
    require!(Need::Program("mkfs.ext4"), Need::Program("losetup"), Need::Program("fsfreeze"), Need::Program("perl"));
    let cgroup = TestCgroup::new(&["blkio", "unified"]);
    let options = ViewOptions::new().cgroup(&cgroup).shape("rooted").policy("delegate");
    let view = View::mount(&program(), &options.delegate_controllers(&["blkio"]));
    let container =
        Container::start(ContainerOptions { cgroups: cgroup.children("home"), ..ContainerOptions::default() });
    for writer in 0..WRITERS {
        cgroup.child("blkio", &format!("w{writer}"));
    }
    let session = |selector| {
        let mut session = container.session(Caller::Root);
        session.set("CG", view.hierarchy(&hierarchy(selector).expect("a required hierarchy")).display());
        session
    };
    let mut writers: Vec<_> = (0..WRITERS).map(|_| session("blkio")).collect();
    let mut other = session("unified");
    // All workers but one stand by.
    for _ in 0..100 {
        other.expect(&read_file("$CG/cgroup.procs"));
    }
    let mut device = Silent::new();
    let limit = format!("{} 1000000", device.numbers());
    let write = |writer: usize| [write_file(&format!("$CG/w{writer}/blkio.throttle.write_bps_device"), &limit)];
    for (number, writer) in writers.iter_mut().enumerate() {
        writer.begin(&write(number));
        wait_until("a write that waits", || waiting_threads(&view).len() > number);
    }
    let threads = waiting_threads(&view);
    let workers = threads.iter().filter(|name| name.starts_with("fuser-")).count();
    let beside = threads.iter().filter(|name| *name == "slow request").count();
    assert_eq!((workers, beside), (1, WRITERS - 1), "{threads:?}");
    other.expect(&mkdir("$CG/job"));
    other.expect(&spawn("P"));
    other.expect(&write_file("$CG/job/cgroup.procs", "$P"));
    for _ in 0..100 {
        other.expect(&read_file("$CG/job/cgroup.events"));
    }
    device.answer();
    for (number, writer) in writers.iter_mut().enumerate() {
        let outcome = writer.finish(&write(number));
        assert!(outcome[0].is_ok(), "{number}: {outcome:?}");
    }
    // The worker is back.
    other.expect(&read_file("$CG/cgroup.procs"));
}

#[test]
fn a_cgroup_that_may_wait_for_memory_is_made_beside_the_workers() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("memory"));
    let scene = Scene::new(&["pids", "memory"]);
    let container = scene.container("a");
    let beside = || testkit::threads_named(scene.view.server(), "slow request");
    let mut pids = scene.session(&container, "pids", "a");
    pids.expect(&mkdir("$OWN/job"));
    assert_eq!(beside(), 0, "it waits for nothing");
    let mut memory = scene.session(&container, "memory", "a");
    memory.expect(&mkdir("$OWN/job"));
    // The thread stays for a moment.
    assert_eq!(beside(), 1);
    let denied = memory.run(&mkdir("$OWN/../other"));
    assert!(!denied.is_ok(), "{denied:?}");
    memory.expect(&rmdir("$OWN/job"));
}
