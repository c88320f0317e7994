//! Containment of processes: a container migrates its own, by its own numbers, and nobody else's by any.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use testkit::probe::names::*;
use testkit::probe::{Op, Outcome};
use testkit::{
    Caller, Container, ContainerOptions, MAPPED_ROOT, OWNER, Programs, Session, TestCgroup, View, ViewOptions,
    chown_tree, controller, each_sort,
};

/// How long numbers are written while processes come and go.
const STORM_DURATION: Duration = Duration::from_secs(4);

/// A container with a view of its cgroup, and a cgroup of the host beside it.
struct Scene {
    container: Container,
    view: View,
    ours: TestCgroup,
    hosts: TestCgroup,
}

impl Scene {
    fn new(legacy: bool, user_namespace: bool) -> Self {
        let (ours, hosts) = (TestCgroup::new(each_sort()), TestCgroup::new(each_sort()));
        let homes = ours.children("home");
        ours.children("a");
        hosts.children("a");
        if user_namespace {
            for &selector in each_sort() {
                chown_tree(&ours.dir(selector), MAPPED_ROOT);
            }
        }
        let options = ViewOptions::new()
            .cgroup(&ours)
            .shape("rooted")
            .policy("delegate")
            .delegate_controllers(&[controller()])
            .legacy(legacy);
        let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
        let container =
            Container::start(ContainerOptions { cgroups: homes, user_namespace, ..ContainerOptions::default() });
        Self { container, view, ours, hosts }
    }

    /// The directory of a hierarchy in the container.
    fn seen(&self, selector: &str) -> PathBuf {
        self.view.hierarchy(&testkit::hierarchy(selector).expect("a required hierarchy"))
    }

    fn session(&self, caller: Caller, selector: &str) -> Session {
        let mut session = self.container.session(caller);
        self.prepare(&mut session, selector);
        session
    }

    fn prepare(&self, session: &mut Session, selector: &str) {
        session.set("CG", self.seen(selector).display());
        session.set("BARE", self.ours.dir(selector).display());
        session.set("HOSTS", self.hosts.dir(selector).display());
    }
}

/// Sleeping processes of the host, in cgroups of its own. They end with this.
struct Sleepers(Vec<Child>);

impl Sleepers {
    fn start(count: usize, cgroups: &[PathBuf]) -> Self {
        let start = || {
            Command::new(&Programs::find().probe)
                .arg("--join")
                .args(cgroups)
                .args([Path::new("--"), &Programs::find().probe, Path::new("--sleep")])
                .stdin(Stdio::null())
                .spawn()
                .expect("a sleeping process")
        };
        let sleepers = Self((0..count).map(|_| start()).collect());
        for pid in sleepers.pids() {
            wait_until(|| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0--sleep\0")));
        }
        sleepers
    }

    fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended; then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[track_caller]
fn wait_until(condition: impl FnMut() -> bool) {
    testkit::wait_until("it doesn't happen", condition);
}

/// The cgroup of a process in a hierarchy, as the host sees it.
fn membership_of(pid: u32, selector: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let key = if selector == "unified" { "" } else { selector };
    let path = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        (fields.next()? == key).then(|| fields.next())?
    });
    path.unwrap_or_else(|| panic!("process {pid} isn't in {selector}:\n{text}")).to_string()
}

fn lists(selector: &str) -> &'static [&'static str] {
    if selector == "unified" { &["cgroup.procs"] } else { &["cgroup.procs", "tasks"] }
}

macro_rules! on_both_kernels {
    ($($name:ident)+) => {
        $(mod $name {
            use testkit::{Need, require};

            #[test]
            fn as_is() {
                crate::required!();
                super::$name(false);
            }

            #[test]
            fn on_an_old_kernel() {
                crate::required!();
                require!(Need::LegacySyscalls);
                super::$name(true);
            }
        })+
    };
}

macro_rules! required {
    () => {
        require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::Hierarchy("name=systemd"));
    };
}
use required;

on_both_kernels! {
    host_processes_cannot_be_migrated
    host_processes_cannot_be_hit_by_chance
    own_processes_can_be_migrated
    a_joined_process_cannot_be_pulled_in
    nobody_is_pushed_out
    strangers_migrate_nobody
    lists_show_own_numbers
    zero_is_the_writer
}

/// The container tries the number that a process has on the host, and numbers that no process has in the container.
fn host_processes_cannot_be_migrated(legacy: bool) {
    let scene = Scene::new(legacy, false);
    for &selector in each_sort() {
        let sleepers = Sleepers::start(5, &[scene.hosts.dir(selector).join("a")]);
        let mut session = scene.session(Caller::Root, selector);
        let own: Vec<u32> = fs::read_to_string(scene.ours.dir(selector).join("home/cgroup.procs"))
            .expect("the list of the container's processes")
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        let mut numbers = sleepers.pids();
        numbers.extend([std::process::id(), scene.container.init(), 30_000, 32_767]);
        numbers.extend(own.iter().filter(|pid| **pid > 1000));
        for number in numbers {
            for file in lists(selector) {
                let outcome = session.run(&write_file(&format!("$CG/a/{file}"), &number.to_string()));
                assert_eq!(outcome.errno(), Some("ESRCH"), "{selector} {file} {number}: {outcome:?}");
            }
        }
        for pid in sleepers.pids() {
            assert_eq!(membership_of(pid, selector), format!("{}/a", scene.hosts.path()));
        }
        // The control: by the number that the kernel takes in the host's pid namespace, the same write works.
        fs::write(scene.ours.dir(selector).join("a/cgroup.procs"), sleepers.pids()[0].to_string())
            .expect("a migration");
        assert_eq!(membership_of(sleepers.pids()[0], selector), format!("{}/a", scene.ours.path()));
    }
}

/// Numbers are written without pause, while processes come and go in the container and on the host: no host process is ever hit.
fn host_processes_cannot_be_hit_by_chance(legacy: bool) {
    let scene = Scene::new(legacy, false);
    let selector = controller();
    let home = scene.hosts.dir(selector).join("a");
    let sleepers = Sleepers::start(50, std::slice::from_ref(&home));
    let mut storms = Sleepers(Vec::new());
    storms.0.push(
        Command::new(&Programs::find().probe)
            .arg("--join")
            .args([&home, Path::new("--"), &Programs::find().probe, Path::new("--storm")])
            .spawn()
            .expect("a storm on the host"),
    );
    storms.0.push(
        scene
            .container
            .command(Caller::Root)
            .args([scene.container.probe(), Path::new("--storm")])
            .spawn()
            .expect("a storm in the container"),
    );
    let end = Instant::now() + STORM_DURATION;
    let (hits, misses) = thread::scope(|scope| {
        let scene = &scene;
        let writer = |first: u32| {
            let mut session = scene.session(Caller::Root, selector);
            move || {
                let (mut hits, mut misses) = (0, 0);
                let mut number = first;
                // On a busy machine there are few in that time.
                while Instant::now() < end || (misses <= 100 && Instant::now() < end + testkit::TIMEOUT) {
                    number = if number > first + 4000 { first } else { number + 1 };
                    match session.run(&write_file("$CG/a/cgroup.procs", &number.to_string())) {
                        Outcome::Ok(_) => hits += 1,
                        Outcome::Err { errno, .. } if errno == "ESRCH" => misses += 1,
                        // A process that the container sees, but that isn't in the subtree: one that the view put there.
                        Outcome::Err { errno, .. } if errno == "EACCES" => {}
                        other => panic!("{number}: {other:?} {}", scene.view.log()),
                    }
                }
                (hits, misses)
            }
        };
        let threads = [scope.spawn(writer(2)), scope.spawn(writer(sleepers.pids()[0].saturating_sub(100)))];
        threads.map(|thread| thread.join().expect("a writer")).iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    });
    assert!(misses > 100, "only {misses} numbers of nobody were tried");
    assert!(hits > 0, "no process of the container was ever hit: the storm wasn't seen");
    for pid in sleepers.pids() {
        assert_eq!(membership_of(pid, selector), format!("{}/a", scene.hosts.path()), "process {pid}");
    }
    let storm = storms.0[0].id();
    assert_eq!(membership_of(storm, selector), format!("{}/a", scene.hosts.path()), "the storm on the host");
}

/// Eight processes write at once, and each knows its own children.
fn own_processes_can_be_migrated(legacy: bool) {
    for user_namespace in [false, true] {
        let scene = Scene::new(legacy, user_namespace);
        for &selector in each_sort() {
            thread::scope(|scope| {
                for number in 0..8 {
                    let scene = &scene;
                    scope.spawn(move || {
                        let mut session = scene.session(Caller::Root, selector);
                        let dir = format!("$CG/own-{number}");
                        session.expect(&mkdir(&dir));
                        session.expect(&spawn("C"));
                        session.expect(&spawn("D"));
                        let mut threads = Vec::new();
                        for (name, child) in [("T", "$C"), ("U", "$D")] {
                            threads.push(session.expect(&thread(name)));
                            for _ in 0..8 {
                                session.expect(&on(name, write_file(&format!("{dir}/cgroup.procs"), child)));
                                let there = session.expect(&membership(child));
                                assert_eq!(there[selector], format!("{}/own-{number}", scene.ours.path()));
                                session.expect(&on(name, write_file("$CG/home/cgroup.procs", child)));
                                let back = session.expect(&membership(child));
                                assert_eq!(back[selector], format!("{}/home", scene.ours.path()));
                            }
                        }
                        assert_ne!(threads[0], threads[1]);
                        session.expect(&rmdir(&dir));
                    });
                }
            });
        }
    }
}

/// A process of the host that joined the container's pid namespace has a number there, but isn't in the delegated subtree.
fn a_joined_process_cannot_be_pulled_in(legacy: bool) {
    let scene = Scene::new(legacy, false);
    for &selector in each_sort() {
        let home = scene.hosts.dir(selector).join("a");
        let mut joined = scene.container.session_in(Caller::Root, std::slice::from_ref(&home));
        scene.prepare(&mut joined, selector);
        let pid = joined.expect(&spawn("J"));
        let mut session = scene.session(Caller::Root, selector);
        for file in lists(selector) {
            let outcome = session.run(&write_file(&format!("$CG/a/{file}"), &pid.to_string()));
            assert_eq!(outcome.errno(), Some("EACCES"), "{selector} {file}: {outcome:?}");
            // Nor by itself.
            let outcome = joined.run(&write_file(&format!("$CG/a/{file}"), "0"));
            assert_eq!(outcome.errno(), Some("EACCES"), "{selector} {file} 0: {outcome:?}");
        }
        let there = joined.expect(&membership("$J"));
        assert_eq!(there[selector], format!("{}/a", scene.hosts.path()));
        // The control: the kernel does it.
        session.expect(&write_file("$BARE/a/cgroup.procs", &pid.to_string()));
        assert_eq!(joined.expect(&membership("$J"))[selector], format!("{}/a", scene.ours.path()));
        // Now it's inside, and can be migrated.
        session.expect(&write_file("$CG/home/cgroup.procs", &pid.to_string()));
        assert_eq!(joined.expect(&membership("$J"))[selector], format!("{}/home", scene.ours.path()));
    }
}

/// In a view that shows everything, a process of the container can't be migrated out of its subtree.
fn nobody_is_pushed_out(legacy: bool) {
    let (ours, hosts) = (TestCgroup::new(each_sort()), TestCgroup::new(each_sort()));
    let homes = ours.children("home");
    let options = ViewOptions::new()
        .cgroup(&ours)
        .shape("full")
        .policy("delegate")
        .delegate_controllers(&[controller()])
        .legacy(legacy);
    let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
    let container = Container::start(ContainerOptions { cgroups: homes, ..ContainerOptions::default() });
    for &selector in each_sort() {
        let mut session = container.session(Caller::Root);
        let root = view.hierarchy(&testkit::hierarchy(selector).expect("a required hierarchy"));
        session.set("ROOT", root.display());
        session.set("HOSTS", root.join(hosts.name()).display());
        session.set("OURS", root.join(ours.name()).display());
        session.set("BARE", hosts.dir(selector).display());
        session.expect(&spawn("C"));
        for file in lists(selector) {
            for dir in ["$HOSTS", "$ROOT"] {
                for number in ["$C", "0"] {
                    let outcome = session.run(&write_file(&format!("{dir}/{file}"), number));
                    assert_eq!(outcome.errno(), Some("EACCES"), "{selector} {dir}/{file} {number}: {outcome:?}");
                }
            }
        }
        assert_eq!(session.expect(&membership("$C"))[selector], format!("{}/home", ours.path()));
        session.expect(&write_file("$OURS/cgroup.procs", "$C"));
        assert_eq!(session.expect(&membership("$C"))[selector], ours.path());
        session.expect(&write_file("$BARE/cgroup.procs", "$C"));
        assert_eq!(session.expect(&membership("$C"))[selector], hosts.path());
    }
}

/// Neither others nor themselves, where nothing is theirs; and an owner on v1 only his own.
fn strangers_migrate_nobody(legacy: bool) {
    let scene = Scene::new(legacy, false);
    for &selector in each_sort() {
        chown_tree(&scene.ours.dir(selector), OWNER);
        // A view keeps what it has seen until the host's event arrives.
        let list = scene.seen(selector).join("a/cgroup.procs");
        wait_until(|| fs::metadata(&list).is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == OWNER));
        let mut root = scene.session(Caller::Root, selector);
        let mut owner = scene.session(Caller::Owner, selector);
        let mut stranger = scene.session(Caller::Stranger, selector);
        let roots = root.expect(&spawn("C")).to_string();
        let owners = owner.expect(&spawn("C")).to_string();
        stranger.expect(&spawn("C"));
        for number in ["$C", "0", roots.as_str(), owners.as_str()] {
            let outcome = stranger.run(&write_file("$CG/a/cgroup.procs", number));
            assert_eq!(outcome.errno(), Some("EACCES"), "{selector} {number}: {outcome:?}");
            assert_eq!(outcome, stranger.run(&write_file("$BARE/a/cgroup.procs", number)), "the kernel says the same");
        }
        let natively = owner.run(&write_file("$BARE/a/cgroup.procs", &roots));
        root.expect(&write_file("$BARE/home/cgroup.procs", &roots));
        let outcome = owner.run(&write_file("$CG/a/cgroup.procs", &roots));
        assert_eq!(outcome, natively, "{selector}: the owner migrates root's process");
        if selector != "unified" {
            assert_eq!(outcome.errno(), Some("EACCES"), "{selector}: {outcome:?}");
        }
        owner.expect(&write_file("$CG/a/cgroup.procs", "$C"));
        root.expect(&write_file("$CG/home/cgroup.procs", &owners));
    }
}

/// v1 skips processes that the reader can't see, v2 shows them as 0.
fn lists_show_own_numbers(legacy: bool) {
    let scene = Scene::new(legacy, false);
    for &selector in each_sort() {
        let _sleepers = Sleepers::start(3, &[scene.ours.dir(selector).join("a")]);
        let mut session = scene.session(Caller::Root, selector);
        let mut own = [session.expect(&spawn("C")).to_string(), session.expect(&spawn("D")).to_string()];
        own.sort_by_key(|number| number.parse::<u32>().ok());
        session.expect(&write_file("$CG/a/cgroup.procs", "$C"));
        session.expect(&write_file("$CG/a/cgroup.procs", "$D"));
        for file in ["cgroup.procs", if selector == "unified" { "cgroup.threads" } else { "tasks" }] {
            let seen = session.run(&read_file(&format!("$CG/a/{file}")));
            assert_eq!(
                seen,
                session.run(&read_file(&format!("$BARE/a/{file}"))),
                "{selector} {file}: as the kernel shows it"
            );
            let mut lines: Vec<&str> = seen.text().expect("a list").lines().collect();
            lines.sort_by_key(|number| number.parse::<u32>().ok());
            let invisible: &[&str] = if selector == "unified" { &["0"; 3] } else { &[] };
            assert_eq!(lines, [invisible, &own.each_ref().map(String::as_str)].concat(), "{selector} {file}");
            // The reader counts, not the opener's parent or the server: on the host there are five.
            let hosts = fs::read_to_string(scene.seen(selector).join("a").join(file)).expect("the list on the host");
            let bare = fs::read_to_string(scene.ours.dir(selector).join("a").join(file)).expect("the list on the host");
            assert_eq!(hosts, bare, "{selector} {file} read on the host");
            assert_eq!(hosts.lines().filter(|line| *line != "0").count(), 5, "{selector} {file}");
        }
    }
}

/// `0` is the thread or the process that writes, whoever opened.
fn zero_is_the_writer(legacy: bool) {
    let scene = Scene::new(legacy, false);
    for &selector in each_sort() {
        let mut session = scene.session(Caller::Root, selector);
        let path = |below: &str| format!("{}{below}", scene.ours.path());
        session.expect(&thread("T"));
        session.expect(&open("f", "$CG/a/cgroup.procs", &["O_WRONLY"]));
        session.expect(&on("T", write("f", "0")));
        assert_eq!(session.expect(&membership("$PID"))[selector], path("/a"));
        session.expect(&write_file("$CG/home/cgroup.procs", "0"));
        if selector != "unified" {
            session.expect(&open("g", "$CG/a/tasks", &["O_WRONLY"]));
            session.expect(&on("T", write("g", "0")));
            assert_eq!(session.expect(&membership("$PID"))[selector], path("/home"));
            assert_eq!(session.expect(&on("T", Op::ThreadMembership))[selector], path("/a"));
        }
    }
}
