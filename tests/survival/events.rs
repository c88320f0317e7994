//! Events that somebody waits for while a server ends, or that come while there's none.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use testkit::probe::Op;
use testkit::probe::names::*;
use testkit::{Need, Programs, TIMEOUT, ViewOptions, comes_true, require, run_to_end, wait_in_kernel};

use crate::single::{Single, Subject};
use crate::steps::EVENT_TIMEOUT;

const UNIFIED: &str = "unified";

/// How long an event may take that comes by itself.
const TRIGGER_TIMEOUT: u32 = 40_000;

/// Adds a process to a cgroup, or takes it out, on the host's side.
fn migrate(process: u32, to: &Path) {
    fs::write(to.join("cgroup.procs"), process.to_string()).expect("a migration by the host");
}

/// A cgroup `$CG/a` whose events the caller has read, and which the host can populate.
fn prepare(subject: &mut Subject) {
    for op in [mkdir("$CG/a"), open("e", "$CG/a/cgroup.events", &["O_RDONLY"]), pread("e", 100, 0)] {
        subject.session().expect(&op);
    }
}

/// A process that the host migrates.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let mut command = Command::new(&Programs::find().probe);
        Self(command.arg("--sleep").stdin(Stdio::null()).spawn().expect("a sleeping process"))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_poller_that_sleeps_is_woken_by_a_later_event() {
    require_survival!();
    for options in [ViewOptions::new(), ViewOptions::new().flag("--no-passthrough")] {
        let mut single = Single::new(UNIFIED, options);
        let process = Sleeper::start();
        prepare(&mut single.view);
        single.view.session().expect(&Op::Epoll { fd: "q".into() });
        single.view.session().expect(&Op::EpollAddPri { epoll: "q".into(), fd: "e".into() });
        let (into, home) = (single.view.real().join("a"), single.view.cgroup.dir(UNIFIED).join("home"));
        for (round, wait) in
            [poll_pri("e", EVENT_TIMEOUT), epoll_wait("q", EVENT_TIMEOUT)].into_iter().cycle().take(4).enumerate()
        {
            let waits = [wait, pread("e", 100, 0)];
            single.view.session().begin(&waits);
            wait_in_kernel(single.view.session().pid(), &["poll"]);
            let to = if round % 2 == 0 { &into } else { &home };
            if round < 2 {
                single.view.restart();
                migrate(process.0.id(), to);
            } else {
                // Nobody is there to see it.
                single.view.while_dead(|| migrate(process.0.id(), to));
            }
            let seen = single.view.session().finish(&waits);
            let populated = if round % 2 == 0 { "populated 1" } else { "populated 0" };
            assert!(format!("{:?}", seen[0]).contains("PRI"), "round {round}: {seen:?}");
            assert!(seen[1].text().is_some_and(|text| text.contains(populated)), "round {round}: {seen:?}");
        }
    }
}

/// Nobody is woken for nothing, again and again: a file that was read says nothing until something happens.
#[test]
fn a_file_that_was_read_is_not_ready_after_a_restart() {
    require_survival!();
    let mut single = Single::new(UNIFIED, ViewOptions::new());
    prepare(&mut single.view);
    single.view.restart();
    // Once is allowed: the next server can't know whether it missed something.
    let first = single.view.session().expect(&poll_pri("e", 0));
    single.view.session().expect(&pread("e", 100, 0));
    let second = single.view.session().expect(&poll_pri("e", 0));
    assert_eq!(second.to_string(), "[]", "first {first}");
}

#[test]
fn a_watcher_is_told_of_what_the_host_does_meanwhile() {
    require_survival!();
    for selector in ["name=systemd", UNIFIED] {
        let mut single = Single::new(selector, ViewOptions::new());
        let process = Sleeper::start();
        single.view.session().expect(&mkdir("$CG/a"));
        let events = ["CREATE", "DELETE", "MODIFY", "DELETE_SELF"].map(str::to_owned).to_vec();
        single.view.session().expect(&Op::Inotify { fd: "w".into() });
        let watch = |path: &str| Op::InotifyAdd { inotify: "w".into(), path: path.into(), events: events.clone() };
        single.view.session().expect(&watch("$CG"));
        let mut awaited = vec!["1 CREATE|ISDIR new"];
        if selector == UNIFIED {
            single.view.session().expect(&watch("$CG/a/cgroup.events"));
            awaited.push("2 MODIFY ");
        }
        // That it's watched, the server has been told.
        let real = single.view.real();
        single.view.while_dead(|| {
            fs::create_dir(real.join("new")).expect("mkdir by the host");
            migrate(process.0.id(), &real.join("a"));
        });
        let mut seen = Vec::new();
        let has_all = comes_true(Duration::from_secs(20), || {
            let some = single.view.session().expect(&Op::InotifyRead { inotify: "w".into(), count: 1, ms: 100 });
            seen.extend(some.as_array().into_iter().flatten().filter_map(|event| event.as_str().map(str::to_owned)));
            awaited.iter().all(|event| seen.iter().any(|found| found == event))
        });
        assert!(has_all, "{selector}: {awaited:?} of {seen:?}");
        let created = seen.iter().filter(|event| event.contains("CREATE")).count();
        assert_eq!(created, 1, "{selector}: {seen:?}");
        // What was there before is seen as it is now.
        assert!(single.view.run(&stat("$CG/new")).is_ok());
        single.view.while_dead(|| fs::remove_dir(real.join("new")).expect("rmdir by the host"));
        let gone = single.view.session().expect(&Op::InotifyRead { inotify: "w".into(), count: 1, ms: EVENT_TIMEOUT });
        assert!(gone.to_string().contains("1 DELETE|ISDIR new"), "{selector}: {gone}");
        assert_eq!(single.view.run(&stat("$CG/new")).errno(), Some("ENOENT"));
    }
}

/// What a caller has seen isn't shown to him any more when it was changed while nobody could tell him.
#[test]
fn nothing_stale_is_shown_after_a_restart() {
    require_survival!();
    for selector in ["name=systemd", UNIFIED] {
        let mut single = Single::new(selector, ViewOptions::new());
        for op in
            [mkdir("$CG/a"), mkdir("$CG/b"), readdir("$CG"), stat("$CG/a"), stat("$CG/c"), stat("$CG/a/cgroup.procs")]
        {
            single.view.run(&op);
        }
        let real = single.view.real();
        single.view.while_dead(|| {
            fs::remove_dir(real.join("a")).expect("rmdir by the host");
            fs::create_dir(real.join("c")).expect("mkdir by the host");
            fs::remove_dir(real.join("b")).expect("rmdir by the host");
            fs::create_dir(real.join("b")).expect("mkdir by the host");
        });
        let settled = Op::Settle { path: "$CG".into(), real: real.display().to_string() };
        assert_eq!(single.view.session().expect(&settled), true, "{selector}");
        assert_eq!(single.view.run(&stat("$CG/a")).errno(), Some("ENOENT"), "{selector}");
        assert!(single.view.run(&read_file("$CG/c/cgroup.procs")).is_ok(), "{selector}");
        // Another one of the same name.
        let same = Op::SameInode { a: "$CG/b".into(), b: real.join("b").display().to_string() };
        assert_eq!(single.view.session().expect(&same), true, "{selector}");
        single.view.session().expect(&mkdir("$CG/b/x"));
        assert!(real.join("b/x").is_dir());
    }
}

/// The host makes and removes a cgroup at another moment of the restart each time.
#[test]
fn a_watcher_is_told_of_what_the_host_does_at_any_moment() {
    require_survival!();
    for selector in ["name=systemd", UNIFIED] {
        let mut single = Single::new(selector, ViewOptions::new());
        let real = single.view.real();
        for round in 0..rounds() {
            let name = format!("h{round}");
            watch(&mut single.view);
            let server = single.view.kill();
            // The time is what the test varies.
            thread::sleep(Duration::from_millis(5 * round));
            fs::create_dir(real.join(&name)).expect("mkdir by the host");
            let made = single.view.session().expect(&read_events(1, EVENT_TIMEOUT));
            assert_eq!(made, serde_json::json!([format!("1 CREATE|ISDIR {name}")]), "{selector} round {round}");
            assert!(single.view.run(&stat(&format!("$CG/{name}"))).is_ok());
            fs::remove_dir(real.join(&name)).expect("rmdir by the host");
            let removed = single.view.session().expect(&read_events(1, EVENT_TIMEOUT));
            assert_eq!(removed, serde_json::json!([format!("1 DELETE|ISDIR {name}")]), "{selector} round {round}");
            single.view.when_another(server);
            let more = single.view.session().expect(&read_events(1, 0));
            assert_eq!(more, serde_json::json!([]), "{selector} round {round}");
        }
    }
}

/// What callers do by the view is told once, and by the kernel itself: the next server mustn't take it for the host's.
#[test]
fn a_watcher_is_told_once_of_what_callers_do() {
    require_survival!();
    for selector in ["name=systemd", UNIFIED] {
        let mut single = Single::new(selector, ViewOptions::new());
        for round in 0..rounds() {
            let names = ["a", "b", "c"].map(|name| format!("$CG/{name}{round}"));
            watch(&mut single.view);
            let mut ops: Vec<Op> = names.iter().map(|name| mkdir(name)).collect();
            ops.extend(names.iter().map(|name| rmdir(name)));
            single.view.session().begin(&ops);
            // The time is what the test varies: the server is killed at another moment.
            thread::sleep(Duration::from_micros(300 * round));
            single.view.restart();
            let outcomes = single.view.session().finish(&ops);
            assert!(outcomes.iter().all(testkit::probe::Outcome::is_ok), "{selector} round {round}: {outcomes:?}");
            // Only time can show that no more come.
            let events = single.view.session().expect(&read_events(7, 100));
            let of = |what: &'static str| ["a", "b", "c"].map(move |name| format!("1 {what}|ISDIR {name}{round}"));
            let wanted: Vec<String> = of("CREATE").into_iter().chain(of("DELETE")).collect();
            assert_eq!(events, serde_json::json!(wanted), "{selector} round {round}");
        }
    }
}

/// How often a moment is tried.
fn rounds() -> u64 {
    let text = std::env::var("VCGROUPFS_ROUNDS").ok();
    text.map_or(12, |text| text.parse().expect("VCGROUPFS_ROUNDS"))
}

/// Begins to watch `$CG`, and forgets former watches.
fn watch(subject: &mut Subject) {
    let events = ["CREATE", "DELETE"].map(str::to_owned).to_vec();
    subject.session().expect(&Op::Inotify { fd: "w".into() });
    subject.session().expect(&Op::InotifyAdd { inotify: "w".into(), path: "$CG".into(), events });
}

fn read_events(count: usize, ms: u32) -> Op {
    Op::InotifyRead { inotify: "w".into(), count, ms }
}

#[test]
fn a_trigger_of_pressure_fires_after_a_restart() {
    require_survival!();
    let mut single = Single::new(UNIFIED, ViewOptions::new());
    if !single.kernel.real().join("cpu.pressure").exists() {
        eprintln!("skipped: needs pressure information");
        return;
    }
    single.expect(&[open("p", "$CG/cpu.pressure", &["O_RDWR"]), write("p", "some 150000 2000000")]);
    let again = single.same(&write("p", "some 150000 2000000"));
    assert_eq!(again.errno(), Some("EBUSY"));
    single.same(&poll_pri("p", 0));
    single.view.restart();
    // It's the same trigger.
    assert_eq!(single.same(&write("p", "some 150000 2000000")).errno(), Some("EBUSY"));
    for name in ["B0", "B1", "B2"] {
        single.expect(&[Op::Busy { name: name.into() }, write_file("$CG/cgroup.procs", &format!("${name}"))]);
    }
    let fired = single.same(&poll_pri("p", TRIGGER_TIMEOUT));
    assert!(format!("{fired:?}").contains("PRI"), "{fired:?}");
    // And once more, with a poller who sleeps.
    let waits = [poll_pri("p", TRIGGER_TIMEOUT)];
    single.view.session().begin(&waits);
    single.view.restart();
    assert!(format!("{:?}", single.view.session().finish(&waits)).contains("PRI"));
}

#[test]
fn a_registered_event_comes_after_a_restart() {
    require_survival!();
    require!(Need::Hierarchy("memory"), Need::FetchedDescriptors);
    let options = ViewOptions::new().policy("delegate").delegate_controllers(&["memory"]);
    let mut single = Single::new("memory", options);
    single.expect(&[
        mkdir("$CG/a"),
        open("c", "$CG/a/cgroup.event_control", &["O_WRONLY"]),
        open("u", "$CG/a/memory.usage_in_bytes", &["O_RDONLY"]),
        eventfd("v"),
        eventfd("later"),
        write("c", "$FDV $FDU 8388608"),
    ]);
    single.view.restart();
    // The open files serve for another one.
    single.expect(&[write("c", "$FDLATER $FDU 16777216"), close("c"), close("u")]);
    single.view.restart();
    for subject in [&mut single.kernel, &mut single.view] {
        assert!(use_memory(&subject.real().join("a"), 32), "it doesn't end by itself");
        for event in ["v", "later"] {
            let seen = subject.session().expect(&Op::AwaitPoll { fd: event.into(), event: "IN".into() });
            assert_eq!(seen, true, "{event}");
        }
    }
}

/// A process in the cgroup that uses so many megabytes of memory, and then ends. Whether it ended by itself.
fn use_memory(dir: &Path, megabytes: usize) -> bool {
    let mut command = Command::new(&Programs::find().probe);
    command.arg("--join").arg(dir).args(["--", "dd", "if=/dev/zero", "of=/dev/null", "count=1"]);
    command.arg(format!("bs={megabytes}M")).stdin(Stdio::null()).stderr(Stdio::null());
    run_to_end(&mut command, TIMEOUT).status.success()
}
