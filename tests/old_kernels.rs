//! Differences of Linux 3.10's cgroup v1 from later kernels, through a view: on this kernel, and on a stand-in for that one.

use std::fs;
use std::path::Path;

use testkit::probe::names::*;
use testkit::{
    Caller, Container, ContainerOptions, MAPPED_ROOT, Need, Session, TestCgroup, View, ViewOptions, chown_tree,
    controller, require,
};

/// A view that delegates everything, and a container in `home` of what it shows; beside that is `a`.
fn scene(legacy: bool, selectors: &[&str], options: ContainerOptions) -> (View, Container, TestCgroup) {
    let ours = TestCgroup::new(selectors);
    let cgroups = ours.children("home");
    ours.children("a");
    if options.user_namespace {
        selectors.iter().for_each(|selector| chown_tree(&ours.dir(selector), MAPPED_ROOT));
    }
    let view = ViewOptions::new().cgroup(&ours).shape("rooted").policy("delegate").legacy(legacy);
    let view = view.delegate_controllers(&["all"]);
    let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &view);
    (view, Container::start(ContainerOptions { cgroups, ..options }), ours)
}

/// A process in the container, for which `$CG` is where it sees a hierarchy.
fn session(view: &View, container: &Container, caller: Caller, selector: &str) -> Session {
    let mut session = container.session(caller);
    let hierarchy = testkit::hierarchy(selector).expect("a required hierarchy");
    session.set("CG", view.hierarchy(&hierarchy).display());
    session
}

macro_rules! on_both_kernels {
    ($($name:ident)+) => {
        $(mod $name {
            use testkit::{Need, require};

            #[test]
            fn as_is() {
                require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::Hierarchy("name=systemd"));
                super::$name(false);
            }

            #[test]
            fn on_an_old_kernel() {
                require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::Hierarchy("name=systemd"));
                require!(Need::LegacySyscalls);
                super::$name(true);
            }
        })+
    };
}

on_both_kernels! {
    lists_are_of_one_moment
    devices_ask_for_an_administrator
    sequences_are_written_and_read
}

/// What one descriptor shows is a list as it was at one moment, at every offset: on an old kernel when it was opened, on a new one when it was
/// read from the start. And it's the opener's numbers, or the reader's.
fn lists_are_of_one_moment(legacy: bool) {
    let selectors = [controller(), "name=systemd"];
    let (view, container, _ours) = scene(legacy, &selectors, ContainerOptions::default());
    let at_open = legacy || testkit::legacy::is_so_anyway();
    for selector in selectors {
        let mut session = session(&view, &container, Caller::Root, selector);
        for file in ["cgroup.procs", "tasks"] {
            let mut numbers = Vec::new();
            for name in ["A", "B", "C"] {
                numbers.push(session.expect(&spawn(name)).to_string());
                session.expect(&write_file(&format!("$CG/a/{file}"), &format!("${name}")));
            }
            let list = |numbers: &[String]| numbers.iter().map(|number| format!("{number}\n")).collect::<String>();
            let (whole, fewer) = (list(&numbers), list(&numbers[1..]));
            session.expect(&open("before", &format!("$CG/a/{file}"), &["O_RDONLY"]));
            session.expect(&open("both", &format!("$CG/a/{file}"), &["O_RDWR"]));
            assert_eq!(session.expect(&read("before", 2)), whole[..2], "{selector} {file}");
            session.expect(&write_file(&format!("$CG/home/{file}"), "$A"));
            session.expect(&write("both", "$B"));
            assert_eq!(session.expect(&read("before", 100)), whole[2..], "{selector} {file}: the rest");
            assert_eq!(session.expect(&read("before", 100)), "", "{selector} {file}: the end");
            let both = if at_open { &whole } else { &fewer };
            assert_eq!(session.expect(&pread("both", 100, 0)), *both, "{selector} {file}: open for both");
            session.expect(&open("after", &format!("$CG/a/{file}"), &["O_RDONLY"]));
            assert_eq!(session.expect(&read_all("after", 3)), fewer, "{selector} {file}: in small parts");
            for fd in ["before", "both", "after"] {
                session.expect(&close(fd));
            }
            for name in ["B", "C"] {
                session.expect(&write_file(&format!("$CG/home/{file}"), &format!("${name}")));
            }
            for name in ["A", "B", "C"] {
                session.expect(&kill(name));
            }
        }
    }
}

/// An old kernel asks in devices whoever migrates others for CAP_SYS_ADMIN: who has it, natively or in a container, may through a view, too.
fn devices_ask_for_an_administrator(legacy: bool) {
    require!(Need::Hierarchy("devices"));
    for (user_namespace, host_pids) in [(false, false), (false, true), (true, false)] {
        let options = ContainerOptions { user_namespace, host_pids, ..ContainerOptions::default() };
        let (view, container, _ours) = scene(legacy, &["devices"], options);
        for caller in [Caller::Root, Caller::DockerRoot] {
            let mut session = session(&view, &container, caller, "devices");
            let may = !legacy && !testkit::legacy::is_so_anyway() || caller == Caller::Root && !user_namespace;
            let others = if may { None } else { Some("EPERM") };
            session.expect(&spawn("C"));
            session.expect(&thread("T"));
            for file in ["cgroup.procs", "tasks"] {
                for (dir, number) in [("a", "$C"), ("home", "$C"), ("a", "0"), ("home", "$PID")] {
                    let outcome = session.run(&write_file(&format!("$CG/{dir}/{file}"), number));
                    let expected = if number == "$C" { others } else { None };
                    let what = format!("{caller:?} {file} {number}, user namespace {user_namespace}, host {host_pids}");
                    assert_eq!(outcome.errno(), expected, "{what}: {outcome:?} {}", view.log());
                }
            }
            // Another thread is itself where threads are migrated, and not the first one where a process is.
            for (file, dir, expected) in [("cgroup.procs", "a", others), ("tasks", "a", None), ("tasks", "home", None)]
            {
                let outcome = session.run(&on("T", write_file(&format!("$CG/{dir}/{file}"), "0")));
                assert_eq!(outcome.errno(), expected, "{caller:?} {file} by a thread: {outcome:?}");
            }
        }
    }
}

/// Files that an old kernel can't write at an offset, by descriptors that are open for writing, for both, and for reading meanwhile.
fn sequences_are_written_and_read(legacy: bool) {
    require!(Need::Hierarchy("freezer"), Need::Hierarchy("blkio"));
    let (view, container, ours) = scene(legacy, &["freezer", "blkio"], ContainerOptions::default());
    for (selector, file, values) in [
        ("freezer", "freezer.state", ["FROZEN", "THAWED"]),
        ("blkio", "blkio.throttle.read_bps_device", ["7:0 1000", "7:0 0"]),
    ] {
        let mut session = session(&view, &container, Caller::Root, selector);
        let path = format!("$CG/a/{file}");
        session.expect(&open("r", &path, &["O_RDONLY"]));
        session.expect(&open("rw", &path, &["O_RDWR"]));
        for value in values {
            // There may be no such disk: then the kernel's errno comes, as natively.
            let native =
                fs::write(ours.dir(selector).join("a").join(file), value).err().and_then(|error| error.raw_os_error());
            let outcome = session.run(&write("rw", value));
            assert_eq!(outcome.is_ok(), native.is_none(), "{file} {value}: {outcome:?}, natively {native:?}");
            assert_ne!(outcome.errno(), Some("ESPIPE"), "{file}");
            let outcome = session.run(&write_file(&path, value));
            assert_ne!(outcome.errno(), Some("ESPIPE"), "{file}");
            let text = fs::read_to_string(ours.dir(selector).join("a").join(file)).expect("the file on the host");
            for fd in ["r", "rw"] {
                for (offset, length) in [(0, 100), (2, 100), (0, 3), (0, 100)] {
                    let part = text.get(offset..(offset + length).min(text.len())).unwrap_or_default();
                    let seen = session.expect(&pread(fd, length, offset as u64));
                    assert_eq!(seen, part, "{file} {value}, {length} bytes at {offset} of {fd}");
                }
            }
        }
        let list = if selector == "blkio" { "cgroup.procs" } else { "tasks" };
        session.expect(&open("list", &format!("$CG/a/{list}"), &["O_RDWR"]));
        session.expect(&write("list", "0"));
        session.expect(&write_file(&format!("$CG/home/{list}"), "0"));
    }
}
