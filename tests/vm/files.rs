//! Reads are the kernel's; writes get what the design's table says, by zone, policy and class of file.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use nix::errno::Errno;
use testkit::{Hierarchy, Need, hierarchies, hierarchy};

use crate::in_a_machine;
use crate::scene::{MODES, Scene, is_v1_controller, names, report, write};

/// Files whose content is another one at every look: only the keys are compared.
fn is_volatile(name: &str) -> bool {
    ["stat", "pressure", "usage", "current", "peak", "numa", "slab", "events", "rstat"]
        .iter()
        .any(|part| name.contains(part))
}

fn keys(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split([' ', '=']).next().unwrap_or_default().to_owned()).collect()
}

fn read(path: &Path) -> Result<String, Option<i32>> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(|error| error.raw_os_error())
}

/// Whether files that the server reads have a size (Linux 6.5).
fn splice_ends_at_size() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(|one: char| !one.is_ascii_digit()).map(|word| word.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(5))
}

/// Names, owners and contents below the boundary.
fn compare_reads(scene: &Scene, shape: &str, policy: &str) -> Vec<String> {
    let view = scene.view(shape, policy);
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        for below in ["", "below"] {
            let (real, seen) = (scene.real(&hierarchy, below), scene.seen(&view, &hierarchy, shape).join(below));
            let (left, right) = (names(&real), names(&seen));
            if left != right {
                found.push(format!("{}: lists {right:?}, not {left:?}", seen.display()));
            }
            for name in &left {
                let (real, seen) = (real.join(name), seen.join(name));
                if real.is_dir() {
                    continue;
                }
                let (left, right) = (read(&real), read(&seen));
                let is_equal = match (&left, &right) {
                    (Ok(left), Ok(right)) if is_volatile(name) => {
                        name.starts_with("cpuacct.usage") || keys(left).len() == keys(right).len()
                    }
                    _ => left == right,
                };
                if !is_equal {
                    found.push(format!("{}: reads {right:?}, not {left:?}", seen.display()));
                }
                let (left, right) = (fs::metadata(&real).expect("stat"), fs::metadata(&seen).expect("stat"));
                // What the server reads has a size of pages, as in sysfs (docs/SEMANTICS.md).
                let is_sized = left.len() == right.len() || splice_ends_at_size() && right.len() % 4096 == 0;
                if !is_sized
                    || (left.ino(), left.uid(), left.gid(), left.nlink())
                        != (right.ino(), right.uid(), right.gid(), right.nlink())
                {
                    found.push(format!("{}: another inode", seen.display()));
                }
            }
        }
    }
    found
}

#[test]
fn reads_are_the_kernels_in_every_shape_and_policy() {
    in_a_machine!();
    let scene = Scene::new();
    let found: Vec<String> = MODES.iter().flat_map(|(shape, policy)| compare_reads(&scene, shape, policy)).collect();
    report(&found);
}

/// The position of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Zone {
    Outside,
    Boundary,
    Below,
}

/// The result of a write.
type Told = Result<(), (&'static str, i32)>;

const OPEN: Told = Err(("open", Errno::EACCES as i32));
const WRITE: Told = Err(("write", Errno::EPERM as i32));
const HIDDEN: Told = Err(("open", Errno::ENOENT as i32));

/// The design's table for cgroup v2. `cgroup.*` are core files; which ones can be delegated at the boundary, the kernel says.
fn on_v2(policy: &str, zone: Zone, name: &str) -> Told {
    let delegatable = fs::read_to_string("/sys/kernel/cgroup/delegate").expect("the kernel's list");
    let is_delegatable = delegatable.lines().any(|line| line == name);
    let is_core = name.starts_with("cgroup.");
    match (zone, policy) {
        (Zone::Outside, _) => OPEN,
        (Zone::Boundary, "strict") if is_core && is_delegatable => Ok(()),
        (Zone::Boundary, "strict") => OPEN,
        (Zone::Boundary, _) if is_delegatable => Ok(()),
        (Zone::Boundary, _) => WRITE,
        (Zone::Below, "strict") if !is_core => OPEN,
        (Zone::Below, _) => Ok(()),
    }
}

/// The same for v1 controllers; `memory` and `pids` are delegated with `delegate`.
fn on_v1(policy: &str, zone: Zone, name: &str) -> Told {
    let never = ["release_agent", "devices.allow", "devices.deny", "notify_on_release"];
    if name == "cgroup.event_control" && policy == "delegate" && zone != Zone::Outside {
        // What is written names no eventfd. Where the writer's descriptors can't be fetched, the file is read-only.
        return if Need::FetchedDescriptors.is_met() { Err(("write", Errno::EINVAL as i32)) } else { OPEN };
    }
    let is_delegated = name.starts_with("memory.") || name.starts_with("pids.");
    if policy == "delegate" && zone == Zone::Below && is_delegated && !never.contains(&name) { Ok(()) } else { OPEN }
}

/// The same for name=systemd.
fn on_systemd(zone: Zone, name: &str) -> Told {
    if zone != Zone::Outside && name != "release_agent" { Ok(()) } else { OPEN }
}

/// What is shown of a cgroup above the container's with `host-path`: on v2, and in every hierarchy with controllers.
const CORE_ABOVE: [&str; 3] = ["cgroup.controllers", "cgroup.subtree_control", "cgroup.type"];
const LIMITS_ABOVE: [&str; 7] =
    ["memory.max", "memory.high", "cpu.max", "cpuset.cpus", "pids.max", "memory.limit_in_bytes", "cpu.cfs_quota_us"];

const V2_FILES: &[(&str, &str)] = &[
    ("cgroup.max.depth", "max"),
    ("cgroup.max.descendants", "max"),
    ("cgroup.freeze", "0"),
    ("cgroup.subtree_control", ""),
    ("memory.max", "max"),
    ("memory.high", "max"),
    ("memory.oom.group", "0"),
    ("pids.max", "max"),
    ("cpu.max", "max 100000"),
    ("cpu.weight", "100"),
    ("cpuset.cpus", "0"),
];

/// Those that a cgroup has, with what to write. A controller that is enabled has to be an available one.
fn v2_files(dir: &Path) -> Vec<(&'static str, String)> {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).expect("cgroup.controllers");
    let enable = available.split_whitespace().next().map(|name| format!("+{name}")).unwrap_or_default();
    let present = V2_FILES.iter().filter(|(name, _)| dir.join(name).exists());
    present
        .map(|(name, data)| {
            (*name, if *name == "cgroup.subtree_control" { enable.clone() } else { (*data).to_owned() })
        })
        .collect()
}

/// Values that change nothing when they are written.
const V1_FILES: &[(&str, &str, &str)] = &[
    ("memory", "memory.limit_in_bytes", "-1"),
    ("memory", "memory.swappiness", "60"),
    ("memory", "cgroup.event_control", "0 0"),
    ("memory", "notify_on_release", "0"),
    ("pids", "pids.max", "max"),
    ("cpu", "cpu.shares", "1024"),
    ("cpu", "cpu.cfs_quota_us", "-1"),
    ("cpuset", "cpuset.cpu_exclusive", "0"),
    ("devices", "devices.allow", "c 1:3 r"),
    ("devices", "devices.deny", "c 240:3 r"),
    ("blkio", "notify_on_release", "0"),
    ("freezer", "freezer.state", "THAWED"),
    ("net_cls", "net_cls.classid", "0"),
    ("name=systemd", "notify_on_release", "0"),
    ("name=systemd", "cgroup.clone_children", "0"),
];

/// Writes a file of each zone, and compares with the table; also whether its mode tells the truth.
fn compare_writes(scene: &Scene, shape: &str, policy: &str) -> Vec<String> {
    let view = scene.view(shape, policy);
    let mut found = Vec::new();
    let mut check = |hierarchy: &Hierarchy, name: &str, data: &str, rule: &dyn Fn(Zone) -> Told| {
        let boundary = scene.seen(&view, hierarchy, shape);
        for (zone, dir) in [
            (Zone::Outside, boundary.join("..")),
            (Zone::Boundary, boundary.clone()),
            (Zone::Below, boundary.join("below")),
        ] {
            if zone == Zone::Outside && shape == "rooted" {
                continue;
            }
            let is_shown = zone != Zone::Outside
                || shape == "full"
                || CORE_ABOVE.contains(&name) && hierarchy.is_unified()
                || LIMITS_ABOVE.contains(&name);
            let path = dir.join(name);
            let expected = if is_shown { rule(zone) } else { HIDDEN };
            let told = write(&path, data);
            if told != expected {
                found.push(format!("{shape} {policy}: {} gives {told:?}, not {expected:?}", path.display()));
            }
            if let (Ok(shown), true) = (fs::metadata(&path), is_shown)
                && (shown.mode() & 0o222 != 0) != (expected != OPEN)
            {
                found.push(format!("{shape} {policy}: {} has mode {:o}", path.display(), shown.mode()));
            }
        }
    };
    if let Some(unified) = hierarchy("unified") {
        for (name, data) in v2_files(&scene.real(&unified, "below")) {
            check(&unified, name, &data, &|zone| on_v2(policy, zone, name));
        }
    }
    for (selector, name, data) in V1_FILES {
        match hierarchy(selector).filter(|found| !found.is_unified()) {
            Some(found) if *selector == "name=systemd" => check(&found, name, data, &|zone| on_systemd(zone, name)),
            Some(found) => check(&found, name, data, &|zone| on_v1(policy, zone, name)),
            None => {}
        }
    }
    found
}

#[test]
fn writes_get_what_the_table_says() {
    in_a_machine!();
    let scene = Scene::new();
    let found: Vec<String> = MODES.iter().flat_map(|(shape, policy)| compare_writes(&scene, shape, policy)).collect();
    report(&found);
}

/// The kernel rejects nothing of the table above: the same writes on the bare cgroupfs succeed.
#[test]
fn the_kernel_itself_accepts_these_writes() {
    in_a_machine!();
    let scene = Scene::new();
    let mut found = Vec::new();
    let mut check = |hierarchy: &Hierarchy, name: &str, data: &str| {
        let path = scene.real(hierarchy, "below").join(name);
        match write(&path, data) {
            Ok(()) => {}
            // Without numbers of descriptors it's malformed, which is after the permission.
            Err(("write", errno))
                if name == "cgroup.event_control" && errno == Errno::EBADF as i32 || errno == Errno::EINVAL as i32 => {}
            told => found.push(format!("{} gives {told:?}", path.display())),
        }
    };
    if let Some(unified) = hierarchy("unified") {
        for (name, data) in v2_files(&scene.real(&unified, "below")) {
            check(&unified, name, &data);
        }
    }
    for (selector, name, data) in V1_FILES {
        if let Some(found) = hierarchy(selector).filter(|found| !found.is_unified()) {
            check(&found, name, data);
        }
    }
    report(&found);
}

/// `release_agent` is only in the root of a hierarchy.
#[test]
fn v1_the_release_agent_is_never_writable() {
    in_a_machine!();
    let scene = Scene::new();
    for policy in ["strict", "delegate"] {
        let view = scene.view("full", policy);
        for found in hierarchies().iter().filter(|found| !found.is_unified()) {
            let path = view.hierarchy(found).join("release_agent");
            assert_eq!(write(&path, "/bin/true"), OPEN, "{}", path.display());
        }
    }
}

#[test]
fn cgroups_are_made_renamed_and_removed_where_the_policy_says_so() {
    in_a_machine!();
    let scene = Scene::new();
    let mut found = Vec::new();
    for (shape, policy) in MODES {
        let view = scene.view(shape, policy);
        for hierarchy in hierarchies() {
            let (real, seen) = (scene.real(&hierarchy, ""), scene.seen(&view, &hierarchy, shape));
            let is_controller = !hierarchy.is_unified() && hierarchy.selector() != "name=systemd";
            // Whose limits the kernel doesn't apply to what is below.
            let is_flat = |controller: &str| ["blkio", "cpuset", "net_cls", "net_prio"].contains(&controller);
            let is_allowed = !is_controller || policy == "delegate" && !hierarchy.selector().split(',').any(is_flat);
            let mut expect = |what: &str, told: std::io::Result<()>, expected: Option<Errno>| {
                let told = told.err().and_then(|error| error.raw_os_error());
                if told != expected.map(|errno| errno as i32) {
                    let place = hierarchy.selector();
                    found.push(format!("{shape} {policy} {place}: {what} gives {told:?}, not {expected:?}"));
                }
            };
            let denied = (!is_allowed).then_some(Errno::EACCES);
            let make = |path: &Path| fs::DirBuilder::new().mode(0o755).create(path);
            expect("mkdir", make(&seen.join("new")), denied);
            expect("mkdir below", make(&seen.join("below/new")), denied);
            if is_allowed {
                assert!(real.join("new").is_dir() && real.join("below/new").is_dir());
                expect("mkdir again", make(&seen.join("new")), Some(Errno::EEXIST));
                let renamed = match (hierarchy.is_unified(), is_controller) {
                    (true, _) => Some(Errno::EPERM),
                    (false, true) => Some(Errno::EACCES),
                    (false, false) => None,
                };
                expect("rename", fs::rename(seen.join("new"), seen.join("renamed")), renamed);
                let name = if renamed.is_none() { "renamed" } else { "new" };
                expect("rmdir", fs::remove_dir(seen.join(name)), None);
                expect("rmdir below", fs::remove_dir(seen.join("below/new")), None);
                assert!(!real.join(name).exists() && !real.join("below/new").exists());
            }
            if shape != "rooted" {
                let above = seen.join("..");
                expect("mkdir outside", make(&above.join("new")), Some(Errno::EACCES));
                expect("rmdir of the boundary", fs::remove_dir(&seen), Some(Errno::EACCES));
                let hidden = if shape == "full" { Errno::EACCES } else { Errno::ENOENT };
                expect("rmdir of a sibling", fs::remove_dir(above.join("sibling")), Some(hidden));
            }
            if is_v1_controller("memory") && hierarchy.selector() == "memory" {
                expect("creation of a file", fs::File::create_new(seen.join("x")).map(drop), Some(Errno::EACCES));
            }
        }
    }
    report(&found);
}

#[test]
fn siblings_are_hidden() {
    in_a_machine!();
    let scene = Scene::new();
    for (shape, is_shown) in [("host-path", false), ("rooted", false), ("full", true)] {
        let view = scene.view(shape, "delegate");
        for hierarchy in hierarchies() {
            let boundary = scene.seen(&view, &hierarchy, shape);
            if shape == "rooted" {
                for name in ["sibling", scene.cgroup.name()] {
                    let is_listed = names(&boundary).iter().any(|known| known == name);
                    assert!(!is_listed, "{name} in {}", boundary.display());
                }
                // The hidden alias of the container's own path.
                let alias = boundary.join(scene.path().trim_start_matches('/'));
                assert!(alias.join("below").is_dir(), "{}", alias.display());
                assert!(!alias.join("../sibling").exists());
            } else {
                let above = boundary.parent().expect("an ancestor").to_owned();
                assert_eq!(names(&above).contains(&"sibling".to_owned()), is_shown, "{}", above.display());
                assert_eq!(above.join("sibling").exists(), is_shown, "{}", above.display());
                assert_eq!(above.join("sibling/cgroup.procs").exists(), is_shown);
            }
        }
    }
}

/// Enabling a controller makes its files appear in the children, in the view too, and at once.
#[test]
fn v2_enabled_controllers_show_at_once() {
    in_a_machine!();
    let scene = Scene::new();
    let unified = hierarchy("unified").expect("cgroup2");
    let view = scene.view("rooted", "delegate");
    let (real, seen) = (scene.real(&unified, "below"), scene.seen(&view, &unified, "rooted").join("below"));
    fs::create_dir(seen.join("child")).expect("mkdir");
    for (text, is_there) in [("+pids +memory", true), ("-memory", false), ("+memory", true)] {
        let before = names(&seen.join("child"));
        fs::write(seen.join("cgroup.subtree_control"), text).expect("subtree_control");
        let after = names(&seen.join("child"));
        assert_ne!(before, after, "{text}");
        assert_eq!(after.contains(&"memory.max".to_owned()), is_there, "{text}");
        assert_eq!(seen.join("child/memory.max").exists(), is_there, "{text}");
        assert_eq!(after, names(&real.join("child")), "{text}");
    }
    fs::write(seen.join("child/memory.max"), "1048576").expect("memory.max");
    assert_eq!(fs::read_to_string(real.join("child/memory.max")).expect("memory.max"), "1048576\n");
}
