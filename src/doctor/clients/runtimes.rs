//! Container runtimes.

use crate::cgroup::CgroupPath;
use crate::doctor::advice::{MOUNT, NAMESPACE, STACK, describe_missing, remedy_for};
use crate::doctor::facts::{DOCKER, Facts, FsType, ProbeOutcome, ROOT, UNIFIED, join, join_below, point};
use crate::doctor::finding::{Finding, Recognition};

const READ_ONLY: &str = "containers in it take controllers that are delegated (--policy delegate --delegate-controllers); \
                         or start them without cgroups ('podman run --cgroups=disabled', 'runc --rootless=true')";

const NO_DEVICES: &str = "delegate 'devices' (--policy delegate --delegate-controllers), and leave it CAP_SYS_ADMIN: then it may below its own \
                          cgroup; or start containers with 'runc --rootless=true', or without cgroups ('podman run --cgroups=disabled')";

/// runc copies CPUs and nodes to new cpusets only up to the first directory that isn't of type cgroup
/// (`cpusetEnsureParent`); crun never does.
const EMPTY_CPUSETS: &str =
    "cpusets that it makes stay empty and take no process (ENOSPC), unless cgroup.clone_children is 1 in its own";

/// A v1 controller that mountinfo lists, and the target's own cgroup there.
struct FoundController {
    controller: String,
    own: Option<String>,
}

/// Finds the v1 controllers as libcontainer does: at the default path if that is of type cgroup, else by mountinfo.
fn controllers(facts: &Facts) -> (Vec<FoundController>, Vec<String>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for controller in facts.v1_controllers() {
        let path = facts.own_path(controller);
        let usual = format!("{ROOT}/{controller}");
        let own = if facts.type_of(&usual) == FsType::Cgroup && facts.line(controller).is_none() {
            path.map(|path| join(&usual, path))
        } else if let Some(line) = facts.line(controller) {
            path.and_then(|path| join_below(line, path))
        } else {
            missing.push(controller.to_owned());
            continue;
        };
        found.push(FoundController { controller: controller.to_owned(), own });
    }
    (found, missing)
}

/// libcontainer, on v1: it reads mountinfo, finds its own cgroup by removing the mount's root from the path, and then
/// uses files in the cgroups that it makes there.
fn libcontainer_v1(client: &'static str, facts: &Facts) -> Finding {
    let (found, missing) = controllers(facts);
    if found.is_empty() {
        let why =
            format!("{ROOT} {}, so v1; but mountinfo has no 'cgroup' line with a controller", facts.type_of(ROOT));
        return Finding::no(client, why, if facts.views().next().is_some() { STACK } else { MOUNT });
    }
    let why = format!("mountinfo has 'cgroup' lines for {} controllers", found.len());
    let lost: Vec<&FoundController> =
        found.iter().filter(|one| one.own.as_ref().is_none_or(|own| !facts.exists(own))).collect();
    if let Some(first) = lost.first() {
        let place = first.own.as_ref().map_or_else(
            || format!("the own cgroup isn't below the root that mountinfo has for {}", first.controller),
            |own| describe_missing(facts, own),
        );
        let advice = first
            .own
            .as_ref()
            .map_or("bind the root of the real hierarchy, not another cgroup", |own| remedy_for(facts, own));
        let why = format!("{why}, but for {} of them {place}", lost.len());
        let finding = Finding::no(client, why, advice);
        return if lost.len() == found.len() {
            finding
        } else {
            Finding { recognised: Recognition::Partly, ..finding }
        };
    }
    if !facts.process.openat2
        && let Some(own) =
            found.iter().filter_map(|one| one.own.as_ref()).find(|own| facts.type_of(own) == FsType::Fuse)
    {
        let why = format!(
            "{why}; but without openat2 (Linux 5.6) it refuses files on FUSE, as in {own} ('not a cgroup file')"
        );
        return Finding::no(client, why, "it takes Linux 5.6");
    }
    if !missing.is_empty() {
        let why = format!("{why}, none for {}", missing.join(", "));
        return Finding::partly(client, why, "mount the missing hierarchies too");
    }
    let own_in = |word: &str| found.iter().find(|one| one.controller == word).and_then(|one| one.own.as_deref());
    let rejected = found.iter().find(|one| one.own.as_ref().is_some_and(|own| !facts.is_writable(own)));
    let devices = own_in("devices").map(|own| format!("{own}/devices.allow"));
    let finding = match (rejected, devices) {
        (Some(FoundController { controller, own: Some(own) }), _) => {
            let why = format!("{why}; but it may not make cgroups in {own} ({controller})");
            Finding::partly(client, why, READ_ONLY)
        }
        // A view shows the device list of the own cgroup read-only, but those of new cgroups below are writable.
        (_, Some(list))
            if facts.exists(&list)
                && !facts.is_writable(&list)
                && facts.delegates("devices")
                && facts.process.may_mount =>
        {
            Finding::yes(
                client,
                format!("{why}; 'devices' is delegated, so it may set devices.allow in the cgroups that it makes"),
            )
        }
        (_, Some(list)) if facts.exists(&list) && !facts.is_writable(&list) => {
            let why = format!(
                "{why}; but it sets devices.allow in each cgroup that it makes, which takes 'devices' delegated, and \
                 CAP_SYS_ADMIN or a user namespace; its own, {list}, stays the host's"
            );
            Finding::partly(client, why, NO_DEVICES)
        }
        _ => Finding::yes(client, why),
    };
    if own_in("cpuset").is_some_and(|own| facts.type_of(own) == FsType::Fuse) {
        finding.with_note(EMPTY_CPUSETS)
    } else {
        finding
    }
}

/// libcontainer and podman, on v2: files are opened below the root with RESOLVE_NO_XDEV.
fn within_one_mount(client: &'static str, facts: &Facts) -> Finding {
    let Some(path) = facts.own_path("unified") else {
        return Finding::no(
            client,
            format!("{ROOT} is cgroup2, but the own cgroup is outside the namespace"),
            NAMESPACE,
        );
    };
    let own = join(ROOT, path);
    let ProbeOutcome::Found(place) = facts.at(&own) else {
        return Finding::no(
            client,
            format!("{ROOT} is cgroup2, but {}", describe_missing(facts, &own)),
            remedy_for(facts, &own),
        );
    };
    if facts.process.openat2 && !place.one_mount {
        let why = format!(
            "{ROOT} is cgroup2, but there's a mount on the way to {own}: openat2 with RESOLVE_NO_XDEV fails with EXDEV"
        );
        return Finding::no(client, why, NAMESPACE);
    }
    if !facts.process.openat2 && facts.type_of(&own) != FsType::Cgroup2 {
        let why = format!("without openat2 (Linux 5.6) it asks for the type of {own}, which {}", facts.type_of(&own));
        return Finding::no(client, why, NAMESPACE);
    }
    if place.writable {
        Finding::yes(client, format!("{ROOT} is cgroup2, and {own} is reached without crossing a mount"))
    } else {
        let why = format!("{ROOT} is cgroup2; but it may not make cgroups in {own}");
        Finding::partly(client, why, "delegate the own cgroup to the container")
    }
}

pub(crate) fn runc(facts: &Facts) -> Finding {
    let client = "runc, kubelet, cadvisor";
    if facts.is_v2() { within_one_mount(client, facts) } else { libcontainer_v1(client, facts) }
}

/// The library only checks whether mountinfo has any line of type `cgroup`.
pub(crate) fn containerd(facts: &Facts) -> Finding {
    let client = "containerd";
    if facts.is_v2() {
        return Finding::yes(client, format!("{ROOT} is cgroup2"));
    }
    let mode = if facts.type_of(UNIFIED) == FsType::Cgroup2 { "hybrid" } else { "legacy" };
    let lines = facts.mounts.iter().filter(|mount| mount.fstype == "cgroup").count();
    if lines > 0 {
        return Finding::yes(client, format!("{mode}: mountinfo has {lines} 'cgroup' lines"));
    }
    let why = format!("{ROOT} {}, so v1; but mountinfo has no 'cgroup' line", facts.type_of(ROOT));
    Finding::no(client, why, if facts.views().next().is_some() { STACK } else { MOUNT })
}

/// dockerd needs `devices`, and makes "/docker" in each hierarchy through runc.
pub(crate) fn dockerd(facts: &Facts) -> Finding {
    let client = "dockerd";
    if !facts.is_v2() && facts.line("devices").is_none() {
        let why = format!(
            "{ROOT} {}, so v1; but mountinfo has no 'cgroup' line with devices ('Devices cgroup isn't mounted')",
            facts.type_of(ROOT)
        );
        return Finding::no(client, why, if facts.views().next().is_some() { STACK } else { MOUNT });
    }
    let runc = if facts.is_v2() { within_one_mount(client, facts) } else { libcontainer_v1(client, facts) };
    if runc.recognised != Recognition::Yes {
        let why = format!("the daemon starts; but containers by runc don't: {}", runc.why);
        return Finding::partly(client, why, runc.advice.unwrap_or_default());
    }
    let word = if facts.is_v2() { "unified" } else { "devices" };
    let base = if facts.is_v2() { ROOT.to_owned() } else { facts.line(word).map(point).unwrap_or_default() };
    let parent = format!("{base}/{DOCKER}");
    let place = if facts.exists(&parent) { &parent } else { &base };
    if facts.is_writable(place) {
        return Finding::yes(client, format!("{}; it may make its default parent {parent}", runc.why));
    }
    let own = facts.own_path(word).map(CgroupPath::to_string).unwrap_or_default();
    let why = format!("{}; but it may not make its default parent {parent}", runc.why);
    Finding::partly(client, why, format!("start containers with --cgroup-parent={}/NAME", own.trim_end_matches('/')))
}

pub(crate) fn crun(facts: &Facts) -> Finding {
    let client = "crun";
    let root = facts.type_of(ROOT);
    match root {
        FsType::Cgroup2 => {
            let control = format!("{ROOT}/cgroup.subtree_control");
            if facts.exists(&control) && !facts.is_writable(&control) {
                let why = format!("{ROOT} is cgroup2, but it opens {control} for writing, which it may not");
                return Finding::partly(
                    client,
                    why,
                    "run it with --cgroup-manager=disabled, or 'podman run --cgroups=disabled'",
                );
            }
            Finding::yes(client, format!("{ROOT} is cgroup2"))
        }
        FsType::Tmpfs if facts.type_of(UNIFIED) == FsType::Cgroup2 => {
            by_directories(client, facts).with_note("in a hybrid setup it refuses a cgroup2 that has controllers")
        }
        FsType::Tmpfs => {
            let finding = by_directories(client, facts).with_note("pausing asks for the type of the freezer's files");
            let cpuset = facts.own_path("cpuset").map(|path| join(&format!("{ROOT}/cpuset"), path));
            let is_view = cpuset.is_some_and(|own| facts.type_of(&own) == FsType::Fuse);
            if is_view { finding.with_note(EMPTY_CPUSETS) } else { finding }
        }
        other => {
            let why = format!("{ROOT} {other}, neither cgroup2 nor tmpfs ('invalid file system type')");
            Finding::no(client, why, tmpfs_or_namespace(facts))
        }
    }
}

/// v1 clients that join `/sys/fs/cgroup`, the controller and the path, without checking types or mounts.
fn by_directories(client: &'static str, facts: &Facts) -> Finding {
    let own = |controller: &&str| Some(join(&format!("{ROOT}/{controller}"), facts.own_path(controller)?));
    let owns: Vec<String> = facts.v1_controllers().collect::<Vec<_>>().iter().filter_map(own).collect();
    let (is_all, lost) = (!owns.iter().any(|own| facts.exists(own)), owns.iter().find(|own| !facts.exists(own)));
    let rejected = owns.iter().find(|own| !facts.is_writable(own));
    match (lost, rejected) {
        _ if owns.is_empty() => Finding::no(client, format!("{ROOT} is tmpfs, without any controller"), MOUNT),
        (Some(lost), _) => {
            let why = format!("{ROOT} is tmpfs, so v1; but {}", describe_missing(facts, lost));
            let finding = Finding::no(client, why, remedy_for(facts, lost));
            if is_all { finding } else { Finding { recognised: Recognition::Partly, ..finding } }
        }
        (None, Some(own)) => {
            Finding::partly(client, format!("{ROOT} is tmpfs, so v1; but it may not make cgroups in {own}"), READ_ONLY)
        }
        (None, None) => Finding::yes(client, format!("{ROOT} is tmpfs, so v1; the controllers' directories are there")),
    }
}

fn tmpfs_or_namespace(facts: &Facts) -> String {
    let has_v1 = facts.v1_controllers().next().is_some();
    if has_v1 {
        "mount a tmpfs on /sys/fs/cgroup, and the view's hierarchies on its directories".to_owned()
    } else {
        NAMESPACE.to_owned()
    }
}

/// containers/common: on v1 without openat2 it refuses files that aren't on a cgroup filesystem.
pub(crate) fn podman(facts: &Facts) -> Finding {
    let client = "podman";
    if facts.is_v2() {
        return within_one_mount(client, facts);
    }
    let root = facts.type_of(ROOT);
    if root != FsType::Tmpfs {
        let why = format!("{ROOT} {root}: it takes that for v1, and doesn't find the controllers as it wants them");
        return Finding::no(client, why, tmpfs_or_namespace(facts));
    }
    let on_fuse = facts.v1_controllers().find(|word| facts.type_of(&format!("{ROOT}/{word}")) == FsType::Fuse);
    match on_fuse {
        Some(word) if !facts.process.openat2 => {
            let why = format!("without openat2 (Linux 5.6) it asks for the type of {ROOT}/{word}, which is FUSE");
            Finding::no(client, why, "it takes Linux 5.6")
        }
        Some(word) => {
            let why = format!(
                "{ROOT} is tmpfs, so v1; {ROOT}/{word} is FUSE, which some of its code refuses, and its runtime may"
            );
            Finding::partly(
                client,
                why,
                format!("'podman run --cgroups=disabled' works; for others {STACK}, and see the runtime"),
            )
        }
        None => by_directories(client, facts),
    }
}

pub(crate) fn youki(facts: &Facts) -> Finding {
    let client = "youki";
    match facts.type_of(ROOT) {
        FsType::Cgroup2 => Finding::yes(client, format!("{ROOT} is cgroup2")),
        FsType::Tmpfs => by_directories(client, facts),
        other => Finding::no(client, format!("{ROOT} {other}, neither cgroup2 nor tmpfs"), tmpfs_or_namespace(facts)),
    }
}
