//! What the host has just taken from a caller isn't done for it any more: the kernel itself judges the caller at the moment of the change, not by the
//! attributes that it has kept of the view.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use testkit::{Caller, Container, ContainerOptions, Need, OWNER, TestCgroup, View, ViewOptions, hierarchy, require};

/// How often each test tries. Without the kernel's check one of two tries would fail.
const ROUNDS: usize = 40;

/// How many cgroups can be removed.
const MADE: usize = 3000;

/// For how long the former owner tries on after its right was revoked. Only time can show that nothing happens.
const TRIES_ON: Duration = Duration::from_millis(20);

struct Scene {
    // Dropped in this order: the container has the view among its mounts.
    container: Container,
    view: View,
    cgroup: TestCgroup,
}

impl Scene {
    fn new() -> Self {
        let cgroup = TestCgroup::new(&["pids"]);
        let options =
            ViewOptions::new().cgroup(&cgroup).shape("rooted").policy("delegate").delegate_controllers(&["pids"]);
        let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
        let cgroups = vec![cgroup.child("pids", "home")];
        cgroup.child("pids", "a");
        let container = Container::start(ContainerOptions { cgroups, ..Default::default() });
        Self { container, view, cgroup }
    }

    /// The caller's cgroup on the host.
    fn real(&self) -> PathBuf {
        self.cgroup.dir("pids").join("a")
    }

    fn shown(&self) -> PathBuf {
        self.view.hierarchy(&hierarchy("pids").expect("a required hierarchy")).join("a")
    }

    /// A user of the container's does something over and over, until this is dropped.
    fn flood(&self, kind: &str) -> Flood {
        let mut command = self.container.command(Caller::Owner);
        command.arg(self.container.probe()).args(["--flood", kind]).arg(self.shown()).arg(u64::MAX.to_string());
        Flood(command.stdin(Stdio::null()).spawn().expect("a probe"))
    }
}

struct Flood(Child);

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cgroups_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a test cgroup").flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Gives the directory to a user, and waits until the condition is true.
fn give(real: &Path, to: u32, mut is_true: impl FnMut() -> bool) {
    chown(real, Some(to), Some(to)).expect("chown of a test cgroup");
    let end = std::time::Instant::now() + testkit::TIMEOUT;
    // Without a pause: the next step has to come as soon as the condition is true.
    while !is_true() {
        assert!(std::time::Instant::now() < end, "nothing happens");
        thread::yield_now();
    }
}

/// How many tries changed a cgroup after the host had taken it from its owner.
fn done_after_it_was_taken<T: PartialEq>(
    scene: &Scene,
    kind: &str,
    prepare: impl Fn(&Path),
    look: impl Fn(&Path) -> T,
) -> usize {
    let real = scene.real();
    let each = |_: &usize| {
        prepare(&real);
        let before = look(&real);
        let flood = scene.flood(kind);
        give(&real, OWNER, || look(&real) != before);
        chown(&real, Some(0), Some(0)).expect("chown of a test cgroup");
        let then = look(&real);
        thread::sleep(TRIES_ON);
        let was_done = look(&real) != then;
        drop(flood);
        was_done
    };
    let done = (0..ROUNDS).filter(each).count();
    cgroups_in(&real).iter().for_each(|made| fs::remove_dir(made).expect("rmdir of a cgroup"));
    done
}

#[test]
fn a_former_owner_of_a_directory_makes_and_removes_nothing_there() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"));
    let scene = Scene::new();
    let count = |real: &Path| cgroups_in(real).len();
    let clear = |real: &Path| cgroups_in(real).iter().for_each(|made| fs::remove_dir(made).expect("rmdir"));
    assert_eq!(done_after_it_was_taken(&scene, "make", clear, count), 0, "mkdir, of {ROUNDS}");
    let fill = |real: &Path| {
        let number =
            |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.split('-').next_back()?.parse().ok());
        let last = cgroups_in(real).iter().filter_map(number).max();
        if last.is_none_or(|last: usize| last < MADE - 1) || cgroups_in(real).len() < MADE / 2 {
            (0..MADE).for_each(|number| drop(fs::create_dir(real.join(format!("made-{number}")))));
        }
    };
    assert_eq!(done_after_it_was_taken(&scene, "remove", fill, count), 0, "rmdir, of {ROUNDS}");
}

#[test]
fn a_former_owner_of_a_cgroup_cannot_change_its_mode() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"));
    let scene = Scene::new();
    let mode = |real: &Path| fs::metadata(real).expect("a cgroup").permissions().mode();
    let prepare = |real: &Path| fs::set_permissions(real, Permissions::from_mode(0o755)).expect("chmod");
    assert_eq!(done_after_it_was_taken(&scene, "change-mode", prepare, mode), 0, "of {ROUNDS}");
}
