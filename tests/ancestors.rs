//! A container sees the limits of the cgroups above its own, which apply to it, and nothing else of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::probe::Op;
use testkit::probe::names::*;
use testkit::{Caller, Container, ContainerOptions, Hierarchy, Need, TestCgroup, View, ViewOptions, require};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vcgroupfs");

/// A file of an ancestor, in its hierarchy, what a test writes to it on the host, and what it reads then.
const SET: [(&str, &str, &str, &str); 4] = [
    ("memory", "memory.limit_in_bytes", "67108864", "67108864\n"),
    ("cpu", "cpu.cfs_quota_us", "150000", "150000\n"),
    ("cpu", "cpu.cfs_period_us", "100000", "100000\n"),
    ("pids", "pids.max", "4711", "4711\n"),
];

/// The other files that an ancestor shows, by hierarchy.
const SHOWN: [(&str, &[&str]); 5] = [
    ("memory", &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]),
    ("cpu", &["cpu.cfs_period_us", "cpu.cfs_quota_us"]),
    ("cpuset", &["cpuset.cpus", "cpuset.effective_cpus", "cpuset.effective_mems", "cpuset.mems"]),
    ("pids", &["pids.max"]),
    ("unified", &["cgroup.controllers", "cgroup.subtree_control", "cgroup.type"]),
];

/// The additional files of a hierarchy's root, from which Docker derives what it can limit (`sysinfo`).
const PROBED: [(&str, &[&str]); 3] = [
    (
        "memory",
        &[
            "memory.kmem.limit_in_bytes",
            "memory.kmem.tcp.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            "memory.swappiness",
        ],
    ),
    ("cpu", &["cpu.rt_period_us", "cpu.rt_runtime_us", "cpu.shares"]),
    (
        "blkio",
        &[
            "blkio.throttle.read_bps_device",
            "blkio.throttle.read_iops_device",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.write_iops_device",
            "blkio.weight",
            "blkio.weight_device",
        ],
    ),
];

const HIERARCHIES: [&str; 8] = ["memory", "cpu", "cpuset", "pids", "blkio", "devices", "name=systemd", "unified"];

macro_rules! require_all {
    () => {
        require!(Need::Root, Need::Fuse);
        for selector in HIERARCHIES {
            require!(Need::Hierarchy(selector));
        }
    };
}

/// A cgroup, a container's in it, and another one's; the first has limits.
struct Scene {
    cgroup: TestCgroup,
}

impl Scene {
    fn new() -> Self {
        let cgroup = TestCgroup::new(&HIERARCHIES);
        for selector in HIERARCHIES {
            cgroup.child(selector, "own");
            cgroup.child(selector, "other");
        }
        for (selector, file, value, _) in SET {
            fs::write(cgroup.dir(selector).join(file), value).expect(file);
        }
        Self { cgroup }
    }

    fn options(&self) -> ViewOptions {
        let mut options = ViewOptions::new().shape("host-path");
        for hierarchy in self.cgroup.hierarchies() {
            options = options.option("--cgroup", &format!("{}={}/own", hierarchy.selector(), self.cgroup.path()));
        }
        options
    }

    fn mount(&self, options: &ViewOptions) -> View {
        View::mount(Path::new(PROGRAM), options)
    }
}

fn found(selector: &str) -> Hierarchy {
    testkit::hierarchy(selector).expect("a hierarchy that was required")
}

/// The files in a directory, without those that have another name than `.`-separated ones of cgroups.
fn files(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())).flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Those of the host's files that are in a table.
fn shown(table: &[(&str, &[&str])], selector: &str, host: &Path) -> BTreeSet<String> {
    let names = table.iter().filter(|(hierarchy, _)| *hierarchy == selector).flat_map(|(_, names)| names.iter());
    let exist = names.filter(|name| host.join(name).exists());
    exist.map(|name| (*name).to_owned()).chain(huge_pages(selector, host)).collect()
}

/// Limits of huge pages, whose names have sizes in them.
fn huge_pages(selector: &str, host: &Path) -> BTreeSet<String> {
    let is_limit = |name: &String| name.starts_with("hugetlb.") && name.ends_with(".max");
    if selector == "unified" { files(host).into_iter().filter(is_limit).collect() } else { BTreeSet::new() }
}

/// The directory of an ancestor and the root of its hierarchy, on the host and in a view.
fn places(scene: &Scene, top: &Path, selector: &str) -> [(PathBuf, PathBuf); 2] {
    let hierarchy = found(selector);
    let shown = hierarchy.in_view(top);
    let name = scene.cgroup.name();
    [(hierarchy.mountpoint.join(name), shown.join(name)), (hierarchy.mountpoint.clone(), shown)]
}

#[test]
fn limits_of_ancestors_are_shown_and_nothing_else() {
    require_all!();
    let scene = Scene::new();
    for options in [scene.options(), scene.options().flag("--no-passthrough"), scene.options().legacy(true)] {
        let view = scene.mount(&options);
        for selector in HIERARCHIES {
            let [(host, ancestor), (host_root, root)] = places(&scene, &view.dir(), selector);
            let limits = shown(&SHOWN, selector, &host);
            assert_eq!(files(&ancestor), limits, "{selector}");
            let mut all = shown(&SHOWN, selector, &host_root);
            all.extend(shown(&PROBED, selector, &host_root));
            assert_eq!(files(&root), all, "{selector}");
            for (directory, real, names) in [(&ancestor, &host, limits), (&root, &host_root, all)] {
                for name in names {
                    let seen = fs::metadata(directory.join(&name)).expect("a file");
                    assert_eq!(seen.permissions().mode() & 0o7777, 0o444, "{selector} {name}");
                    assert_eq!(seen.ino(), fs::metadata(real.join(&name)).expect("a file").ino());
                    let read = |path: &Path| fs::read_to_string(path.join(&name)).map_err(|error| error.raw_os_error());
                    assert_eq!(read(directory), read(real), "{selector} {name}");
                }
            }
            for hidden in ["memory.usage_in_bytes", "memory.stat", "cpu.stat", "cgroup.procs", "tasks", "pids.current"]
            {
                assert!(!ancestor.join(hidden).exists(), "{selector} {hidden}");
            }
        }
        for (selector, file, _, value) in SET {
            let [(_, ancestor), _] = places(&scene, &view.dir(), selector);
            assert_eq!(fs::read_to_string(ancestor.join(file)).expect(file), value, "{file}");
        }
    }
}

/// The server is root, and so is who asks: only the rules are in the way.
#[test]
fn limits_of_ancestors_are_never_written() {
    require_all!();
    let scene = Scene::new();
    for policy in ["strict", "delegate"] {
        let options = scene.options().policy(policy);
        let options = if policy == "delegate" { options.delegate_controllers(&["all"]) } else { options };
        let view = scene.mount(&options);
        let container = Container::start(ContainerOptions::default());
        let mut session = container.session(Caller::Root);
        for (selector, file, value, content) in SET {
            let both = places(&scene, &view.dir(), selector);
            for (host, directory) in both.into_iter().filter(|(host, _)| host.join(file).exists()) {
                let path = directory.join(file);
                session.set("F", path.display());
                let before = fs::read(host.join(file)).expect("a file");
                for op in [
                    write_file("$F", value),
                    open("f", "$F", &["O_RDWR"]),
                    open("f", "$F", &["O_WRONLY", "O_TRUNC"]),
                    Op::Truncate { path: "$F".into(), len: 0 },
                    chmod("$F", 0o666),
                    chown("$F", 12345),
                    Op::Utimens { path: "$F".into(), sec: None },
                    Op::Access { path: "$F".into(), mode: "w".into() },
                ] {
                    // The kernel lets root override modes when it's only asked (access(2)).
                    let asked = matches!(op, Op::Access { .. });
                    let errno = session.run(&op).errno().map(str::to_owned);
                    assert!(errno.as_deref() == Some("EACCES") || asked, "{policy} {file} {op:?}: {errno:?}");
                }
                assert_eq!(fs::read(host.join(file)).expect("a file"), before);
            }
            let real = scene.cgroup.dir(selector).join(file);
            assert_eq!(fs::read_to_string(&real).expect("a file"), content);
            assert_eq!(fs::metadata(&real).expect("a file").permissions().mode() & 0o7777, 0o644);
        }
    }
}

/// The next read shows the host's change, also through a file that was open before.
#[test]
fn limits_of_ancestors_are_those_of_the_moment() {
    require_all!();
    let scene = Scene::new();
    let view = scene.mount(&scene.options());
    let [(host, ancestor), _] = places(&scene, &view.dir(), "pids");
    let open = fs::File::open(ancestor.join("pids.max")).expect("a file");
    for value in ["10", "max", "123"] {
        fs::write(host.join("pids.max"), value).expect("a limit");
        let mut content = [0; 16];
        let length = nix::sys::uio::pread(&open, &mut content, 0).expect("a read");
        assert_eq!(std::str::from_utf8(&content[..length]), Ok(&*format!("{value}\n")));
        assert_eq!(fs::read_to_string(ancestor.join("pids.max")).expect("a file"), format!("{value}\n"));
    }
}

#[test]
fn limits_of_ancestors_can_be_hidden() {
    require_all!();
    let scene = Scene::new();
    let view = scene.mount(&scene.options().flag("--hide-ancestor-limits"));
    for selector in HIERARCHIES {
        let core = ["cgroup.controllers", "cgroup.subtree_control", "cgroup.type"].map(str::to_owned);
        for (host, directory) in places(&scene, &view.dir(), selector) {
            let there = core.iter().filter(|name| selector == "unified" && host.join(name).exists()).cloned();
            assert_eq!(files(&directory), there.collect(), "{selector}");
        }
    }
    for (selector, file, ..) in SET {
        let [(_, ancestor), (_, root)] = places(&scene, &view.dir(), selector);
        for directory in [ancestor, root] {
            assert_eq!(
                fs::read(directory.join(file)).expect_err("it's hidden").raw_os_error(),
                Some(nix::libc::ENOENT)
            );
        }
        // The container's own are there.
        let own = found(selector).in_view(&view.dir()).join(scene.cgroup.name()).join("own");
        assert!(own.join(file).exists(), "{selector}");
    }
}

/// In a mount for all callers each container sees the limits above its own cgroup, and no others.
#[test]
fn each_caller_sees_the_limits_above_its_own_cgroup() {
    require_all!();
    let scene = Scene::new();
    for hides in [false, true] {
        let options = ViewOptions::new().flag("--per-caller");
        let options = if hides { options.flag("--hide-ancestor-limits") } else { options };
        let view = scene.mount(&options);
        let stranger = TestCgroup::new(&HIERARCHIES);
        let homes = HIERARCHIES.map(|selector| scene.cgroup.dir(selector).join("own")).to_vec();
        let other = stranger.children("own");
        for (cgroups, below) in [(homes, true), (other, false)] {
            let prepare = format!("mount --bind {} /sys/fs/cgroup", view.dir().display());
            let container = Container::start(ContainerOptions { cgroups, prepare, ..ContainerOptions::default() });
            let mut session = container.session(Caller::Root);
            for (selector, file, value, content) in SET {
                let [(_, ancestor), (_, root)] = places(&scene, Path::new("/sys/fs/cgroup"), selector);
                session.set("A", ancestor.display());
                session.set("R", root.display());
                let read = session.run(&read_file(&format!("$A/{file}")));
                if below && !hides {
                    assert_eq!(read, testkit::probe::Outcome::Ok(content.into()), "{file}");
                } else {
                    assert_eq!(read.errno(), Some("ENOENT"), "{file}");
                }
                let has_one = found(selector).mountpoint.join(file).exists();
                assert_eq!(session.run(&stat(&format!("$R/{file}"))).is_ok(), has_one && !hides, "{file}");
                for path in [format!("$A/{file}"), format!("$R/{file}")] {
                    assert!(!session.run(&write_file(&path, value)).is_ok(), "{path}");
                }
            }
        }
    }
}

#[test]
fn explain_says_why_a_limit_of_an_ancestor_is_not_written() {
    require_all!();
    let scene = Scene::new();
    let cgroup = format!("{}/own", scene.cgroup.path());
    let path =
        format!("{}/pids.max", found("pids").in_view(Path::new("/sys/fs/cgroup")).join(scene.cgroup.name()).display());
    let explain = |options: &[&str], operation: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["explain", "--json", "--cgroup", &cgroup]).args(options).args([operation, &path]);
        let output = command.output().expect("explain");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    assert_eq!(explain(&[], "read")["verdict"], "allowed");
    let write = explain(&[], "write");
    assert_eq!(
        (&write["verdict"], &write["rule"], &write["errno"]),
        (&"rejected".into(), &"outside-subtree".into(), &"EACCES".into())
    );
    let hidden = explain(&["--hide-ancestor-limits"], "read");
    assert_eq!((&hidden["rule"], &hidden["errno"]), (&"hidden".into(), &"ENOENT".into()));
    // A view that shows everything has nothing to hide.
    let full = Command::new(PROGRAM)
        .args(["tree", "--cgroup", &cgroup, "--shape", "full", "--hide-ancestor-limits"])
        .output()
        .expect("tree");
    assert_eq!(full.status.code(), Some(2), "{}", String::from_utf8_lossy(&full.stderr));
}
