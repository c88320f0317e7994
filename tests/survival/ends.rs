//! The ways in which the processes of a view end.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use testkit::probe::names::*;
use testkit::{Killer, Programs, ViewOptions, ViewProcesses, Way, comes_true, end_of, is_over, servers_of, wait_until};

use crate::live_view::LiveView;
use crate::scene::{Configuration, Scene};
use crate::single::Single;

/// After this time somebody counts as hung.
const HANG_TIMEOUT: Duration = Duration::from_secs(20);

/// So many failures within a minute are too many.
const FAILURES: usize = 6;

/// Each way in which a server can end, in the middle of everything.
#[test]
fn callers_notice_no_end_of_a_server() {
    require_survival!();
    let mut scene = Scene::new(Configuration::Mounted { passthrough: true });
    let mut killer = Killer::new(scene.keepers().expect("a keeper"), 1);
    for (round, way) in Way::ALL.into_iter().enumerate() {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let work = scope.spawn(|| crate::load::work(&mut scene.pairs, round as u64, 1, &stop));
            let killed = killer.attack(0, way);
            stop.store(true, Ordering::Release);
            assert_eq!(work.join().expect("the load"), Vec::<String>::new(), "{way:?} {}", killer.told());
            killed.expect("another server");
        });
        scene.views[0].when_live();
    }
    scene.end();
}

/// Users of a view in a cgroup of it, who end when nobody serves it any more.
struct Users(Vec<Child>);

impl Users {
    fn start(single: &Single) -> Self {
        let dir = single.view.dir().join("unified/cg");
        let start = |number: usize| {
            let mut command = Command::new(&Programs::find().probe);
            command.args(["--churn", &number.to_string()]).current_dir(&dir).stdin(Stdio::null());
            command.spawn().expect("a user")
        };
        let users = Self((0..4).map(start).collect());
        wait_until("the users are at work", || {
            fs::read_dir(single.view.real()).is_ok_and(|dir| dir.flatten().any(|entry| entry.path().is_dir()))
        });
        users
    }

    /// Waits until all have noticed that the view is gone.
    #[track_caller]
    fn end(&mut self) {
        for user in &mut self.0 {
            let status = end_of(user, HANG_TIMEOUT);
            assert!(status.is_some_and(|status| status.success()), "a user waits, or got a wrong error: {status:?}");
        }
    }

    #[track_caller]
    fn all_run(&mut self) {
        assert!(self.0.iter_mut().all(|user| user.try_wait().is_ok_and(|status| status.is_none())), "a user has ended");
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        for user in &mut self.0 {
            let _ = user.kill();
            let _ = user.wait();
        }
    }
}

/// Whoever comes gets an error, and doesn't wait.
#[track_caller]
fn is_unserved(single: &Single) {
    let listed = fs::read_dir(single.view.dir()).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let error = listed.expect_err("nobody serves it");
    assert!(matches!(error.raw_os_error(), Some(nix::libc::ENOTCONN | nix::libc::ECONNABORTED)), "{error}");
}

#[test]
fn nobody_waits_when_keeper_and_server_are_killed() {
    require_survival!();
    for keeper_first in [true, false] {
        let single = Single::new("unified", ViewOptions::new());
        let mut users = Users::start(&single);
        let processes = single.view.live().when_live();
        let keeper = processes.keeper.expect("a keeper");
        let order = if keeper_first { [keeper, processes.server] } else { [processes.server, keeper] };
        for process in order {
            kill(process, Signal::SIGKILL).expect("a signal");
        }
        users.end();
        is_unserved(&single);
        wait_until("the end of all", || is_over(keeper) && is_over(processes.server));
        assert!(!single.view.live().is_alive(), "{:?}", single.view.live().listed());
    }
}

/// A keeper that was killed can't start a server any more; until that is needed, nothing is missing.
#[test]
fn a_view_is_served_without_its_keeper() {
    require_survival!();
    let mut single = Single::new("unified", ViewOptions::new());
    let mut users = Users::start(&single);
    let ViewProcesses { keeper, server } = single.view.live().when_live();
    let keeper = keeper.expect("a keeper");
    kill(keeper, Signal::SIGKILL).expect("a signal");
    wait_until("the keeper's end", || is_over(keeper));
    single.expect(&[
        mkdir("$CG/x"),
        open("f", "$CG/x/cgroup.max.depth", &["O_RDWR"]),
        write("f", "3"),
        pread("f", 9, 0),
    ]);
    single.expect(&[spawn("C0"), write_file("$CG/x/cgroup.procs", "$C0"), membership("$C0")]);
    users.all_run();
    kill(server, Signal::SIGKILL).expect("a signal");
    users.end();
    for op in [mkdir("$CG/y"), write("f", "4"), read_file("$CG/x/cgroup.events")] {
        assert_eq!(single.view.run(&op).errno(), Some("ENOTCONN"), "{op:?}");
    }
}

/// A server that ends again and again, by what callers ask of it perhaps, is given up: they get errors, and don't wait.
#[test]
fn a_keeper_gives_up() {
    require_survival!();
    let mut single = Single::with("unified", ViewOptions::new());
    let mut users = Users::start(&single);
    let live = single.view.live();
    let keeper = live.when_live().keeper.expect("a keeper");
    let mut killed = Vec::new();
    let has_given_up = comes_true(Duration::from_secs(120), || {
        for server in servers_of(keeper) {
            if !killed.contains(&server) && !is_over(server) {
                kill(server, Signal::SIGKILL).expect("a signal");
                killed.push(server);
            }
        }
        live.text("state").is_none_or(|state| state == "failed")
    });
    assert!(has_given_up, "{killed:?}");
    assert_eq!(killed.len(), FAILURES, "{killed:?}");
    users.end();
    is_unserved(&single);
    assert_eq!(live.text("state").as_deref(), Some("failed"));
    assert!(live.text("reason").is_some_and(|reason| !reason.is_empty()), "{:?}", live.listed());
    single.view.end_callers();
    drop(users);
    live.end();
    assert!(live.listed().is_none());
    wait_until("the keeper's end", || is_over(keeper));
}

/// Fewer failures are forgiven, and `list` counts them.
#[test]
fn restarts_are_counted() {
    require_survival!();
    let mut single = Single::with("unified", ViewOptions::new());
    let live: LiveView = single.view.live();
    let before = live.when_live();
    assert_eq!((live.restarts(), live.text("state").as_deref()), (0, Some("live")));
    for number in 1..FAILURES as u64 {
        single.view.restart();
        assert_eq!(live.restarts(), number);
        let now = live.when_live();
        assert_eq!(now.keeper, before.keeper, "the keeper stays");
        assert_ne!(now.server, before.server);
        single.expect(&[mkdir("$CG/x"), rmdir("$CG/x")]);
    }
    // Whoever ends the view doesn't start a server by that.
    let processes = live.when_live();
    single.view.end_callers();
    live.end();
    for process in processes.keeper.into_iter().chain([processes.server]) {
        wait_until("the end of all", || is_over(process));
    }
}

/// The server is told to end, and so is what keeps it.
#[test]
fn a_signal_still_ends_a_view() {
    require_survival!();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for to_keeper in [true, false] {
            let mut single = Single::new("unified", ViewOptions::new());
            let processes = single.view.live().when_live();
            let keeper = processes.keeper.expect("a keeper");
            single.view.restart();
            single.view.end_callers();
            let server = single.view.live().when_live().server;
            kill(if to_keeper { keeper } else { server }, signal).expect("a signal");
            wait_until("the end of all", || is_over(keeper) && is_over(server));
            assert!(!single.view.live().is_alive());
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
            assert!(!mounts.contains(single.view.dir().to_str().expect("a path")), "{signal} to keeper: {to_keeper}");
        }
    }
}
