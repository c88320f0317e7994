//! Limits that the host has set hold for what the container makes below them.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::probe::names::*;
use testkit::{
    Caller, Container, ContainerOptions, Need, TestCgroup, View, ViewOptions, hierarchy, require, run_to_end,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vcgroupfs");

/// The lists of devices are the host's to write at the boundary, and everywhere unless `devices` is delegated.
#[test]
fn device_lists_are_writable_only_below_the_boundary_and_only_delegated() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("devices"));
    for (policy, delegated, below) in
        [("delegate", &["devices"][..], "ok"), ("delegate", &[], "EACCES"), ("strict", &[], "EACCES")]
    {
        let cgroup = TestCgroup::new(&["devices"]);
        let home = cgroup.child("devices", "home");
        let options = ViewOptions::new().cgroup(&cgroup).shape("rooted").policy(policy);
        let view = View::mount(Path::new(PROGRAM), &options.delegate_controllers(delegated));
        let container = Container::start(ContainerOptions { cgroups: vec![home], ..ContainerOptions::default() });
        let mut session = container.session(Caller::Root);
        session.set("CG", view.hierarchy(&hierarchy("devices").expect("a required hierarchy")).display());
        for list in ["devices.allow", "devices.deny"] {
            let name = format!("{policy} {delegated:?} {list}");
            let boundary = session.run(&write_file(&format!("$CG/{list}"), "c 240:4 r"));
            assert_eq!(boundary.brief(), "EACCES", "{name} at the boundary");
            let inside = session.run(&write_file(&format!("$CG/home/{list}"), "c 240:4 r"));
            assert_eq!(inside.brief(), below, "{name} below it");
            // What mode bits say.
            let bits = |path: &str| {
                let found = std::fs::metadata(view.hierarchy(&hierarchy("devices").expect("devices")).join(path));
                std::os::unix::fs::PermissionsExt::mode(&found.expect("a file").permissions()) & 0o222
            };
            assert_eq!(bits(list), 0, "{name} at the boundary");
            assert_eq!(bits(&format!("home/{list}")), if below == "ok" { 0o200 } else { 0 }, "{name} below it");
        }
        drop((session, container, view));
    }
}

/// A file that is a block device.
struct LoopDevice {
    device: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(8 << 20).expect("its length");
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output().expect("losetup");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let device = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
        assert!(fs::metadata(&device).expect("a device").file_type().is_block_device());
        Self { device, _file: file }
    }

    /// Its number, as limits have it.
    fn number(&self) -> String {
        let name = self.device.file_name().expect("a name");
        let number = fs::read_to_string(Path::new("/sys/block").join(name).join("dev")).expect("its number");
        number.trim().to_owned()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = run_to_end(Command::new("losetup").arg("--detach").arg(&self.device), Duration::from_secs(10));
    }
}

/// How long a process of the container takes to read from the device, past every cache. Its first operation may fail.
fn time_to_read(container: &Container, device: &LoopDevice, first: &str) -> Duration {
    let script = format!(
        "{first}\nexec dd if={} of=/dev/null bs=256k count=4 iflag=direct 2>/dev/null",
        device.device.display()
    );
    let start = Instant::now();
    let status = container.command(Caller::Root).args(["sh", "-c", &script]).status().expect("dd");
    assert!(status.success(), "{status}");
    start.elapsed()
}

/// The kernel throttles each v1 cgroup as if it stood right below the root, so who can make one and go there has left the host's throttle.
#[test]
fn a_container_cannot_escape_a_throttle_of_the_hosts() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("blkio"), Need::LoopDevice);
    let device = LoopDevice::new();
    let cgroup = TestCgroup::new(&["blkio"]);
    // A MiB takes four seconds.
    let limit = format!("{} {}", device.number(), 256 << 10);
    fs::write(cgroup.dir("blkio").join("blkio.throttle.read_bps_device"), limit).expect("a throttle");
    // One that the host has made there itself.
    cgroup.child("blkio", "found");
    let bare = cgroup.dir("blkio");
    let found = hierarchy("blkio").expect("a required hierarchy");
    for (delegated, stays) in [(&["pids"][..], true), (&["all"], false)] {
        let delegated: Vec<&str> =
            delegated.iter().copied().filter(|name| *name == "all" || hierarchy(name).is_some()).collect();
        let options = ViewOptions::new().cgroup(&cgroup).shape("rooted").policy("delegate");
        let view = View::mount(Path::new(PROGRAM), &options.delegate_controllers(&delegated));
        let options = ContainerOptions { cgroups: vec![bare.clone()], ..ContainerOptions::default() };
        let container = Container::start(options);
        let top = view.hierarchy(&found);
        let throttled = time_to_read(&container, &device, "");
        for (title, escape) in [
            ("mkdir", format!("mkdir {0}/made; echo 0 >{0}/made/cgroup.procs", top.display())),
            ("a cgroup of the host's", format!("echo 0 >{}/found/tasks", top.display())),
        ] {
            let tried = time_to_read(&container, &device, &format!("( {escape} ) 2>/dev/null; {escape} 2>/dev/null"));
            assert_eq!(tried > throttled / 3, stays, "{delegated:?}, {title}: {tried:?}, throttled {throttled:?}");
        }
        let escaped = time_to_read(&container, &device, &format!("echo 0 >{}/found/cgroup.procs", bare.display()));
        assert!(escaped < throttled / 3, "the control: {escaped:?}, throttled {throttled:?}");
        let mut session = container.session(Caller::Root);
        session.set("CG", top.display());
        for op in [mkdir("$CG/new"), write_file("$CG/cgroup.procs", "0"), write_file("$CG/found/tasks", "0")] {
            let outcome = session.run(&op);
            assert_eq!(outcome.brief(), if stays { "EACCES" } else { "ok" }, "{delegated:?} {op:?}");
        }
        let bits = |path: PathBuf| {
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).expect("it's there").permissions()) & 0o222
        };
        for (path, bits_if_delegated) in
            [("", 0o200), ("found", 0o200), ("cgroup.procs", 0o200), ("found/tasks", 0o200)]
        {
            assert_eq!(bits(top.join(path)), if stays { 0 } else { bits_if_delegated }, "{delegated:?} {path}");
        }
        drop((session, container, view));
    }
}

/// `explain` says so, for every hierarchy of this machine. Controllers in the list that have no effect are warned of.
#[test]
fn uninherited_limits_are_explained_and_useless_controllers_warned_of() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("blkio"), Need::Hierarchy("pids"));
    let cgroup = TestCgroup::new(&["blkio", "pids"]);
    let vcgroupfs = |arguments: &[&str]| {
        let ran = Command::new(PROGRAM).args(arguments).output().expect("the program");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
    };
    let view = |verb: &'static str, policy: &'static str, delegated: &'static str| {
        let mut arguments = vec![verb.to_owned(), "--policy".into(), policy.into()];
        if !delegated.is_empty() {
            arguments.extend(["--delegate-controllers".into(), delegated.to_owned()]);
        }
        for selector in ["blkio", "pids"] {
            arguments.extend(["--cgroup".into(), format!("{selector}={}", cgroup.path())]);
        }
        arguments
    };
    let blkio = format!("/blkio{}", cgroup.path());
    for (delegated, selector, operation, path, rule) in [
        ("", "blkio", "mkdir", format!("{blkio}/new"), "limits-not-inherited"),
        ("pids", "blkio", "migrate", blkio.clone(), "limits-not-inherited"),
        ("pids", "blkio", "write", format!("{blkio}/tasks"), "limits-not-inherited"),
        ("blkio", "blkio", "mkdir", format!("{blkio}/new"), "allowed"),
        ("all", "blkio", "migrate", blkio.clone(), "allowed"),
        ("", "pids", "mkdir", format!("/pids{}/new", cgroup.path()), "allowed"),
    ] {
        let mut arguments = view("explain", "delegate", delegated);
        arguments.extend(["--json".into(), operation.to_owned(), path.clone()]);
        let (code, out, err) = vcgroupfs(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}");
        let answer: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(answer["rule"], rule, "{delegated:?} {selector} {operation} {path}: {answer}");
        if rule != "allowed" {
            assert!(answer["reason"].as_str().is_some_and(|reason| reason.contains("'all'")), "{answer}");
        }
    }
    for (policy, delegated, says) in [
        ("strict", "pids", "--policy delegate"),
        ("delegate", "pids,nosuch", "nosuch"),
        ("strict", "all", "--policy delegate"),
        ("delegate", "all", ""),
        ("delegate", "pids", ""),
    ] {
        let verbs = [
            ("explain", &["write", blkio.as_str()][..]),
            ("tree", &[]),
            ("map", &[blkio.as_str()]),
            ("run", &["--name", "vcgroupfs-in-vain", "--", "true"]),
        ];
        for (verb, rest) in verbs {
            let arguments = view(verb, policy, delegated);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(rest.iter().copied()).collect();
            let (code, _, err) = vcgroupfs(&arguments);
            assert_eq!(code, Some(0), "{arguments:?}: {err}");
            assert_eq!(err.is_empty(), says.is_empty(), "{arguments:?}: {err}");
            assert!(err.contains(says), "{arguments:?}: {err}");
        }
    }
}
