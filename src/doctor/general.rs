//! Findings that concern all programs: whether there's a view, whether it answers, what it lacks, and who could
//! unmount it.

use super::advice::STACK;
use super::facts::{Facts, FsType, ProbeOutcome, ROOT, VIEW, directories, errno, is_in_root, join, point};
use super::finding::{General, Level, Remedy, general, list};
use super::situation;
use crate::cgroup::{HierarchyKind, Membership, MountEntry, Setup, shell_word};

/// All findings, the worst first.
pub(crate) fn findings(facts: &Facts) -> Vec<General> {
    let mut all: Vec<General> = broken(facts);
    let covered = covered(facts);
    let is_covered = covered.is_some();
    all.extend([no_tree(facts), missing(facts), own_cgroup(facts), covered].into_iter().flatten());
    all.extend(situation::findings(facts));
    all.extend([restarted(facts), without_keeper(facts)].into_iter().flatten());
    let has_view = facts.views().next().is_some();
    if has_view {
        let more = [unmountable, writable_root, without_stack, uncovered, on_v2];
        all.extend(more.iter().filter_map(|look| look(facts)));
        all.push(general(
            "fuse-limits",
            Level::Note,
            "statfs and mountinfo say FUSE of a view; its directories' descriptors don't serve CLONE_INTO_CGROUP, perf, or \
             attaching BPF programs, so systemd's DeviceAllow= and IPAddressDeny= are silently not enforced on a v2 view",
            None,
        ));
    } else if !is_covered {
        all.push(general(
            "no-view",
            Level::Note,
            "no view of vcgroupfs is mounted here: this is the kernel's own",
            None,
        ));
    }
    if facts.process.cgroup_namespace == Some(false) && has_view {
        let what = "no cgroup namespace: /proc/self/cgroup shows the host's paths, which have to resolve in the view";
        all.push(general("no-cgroup-namespace", Level::Note, what, None));
    }
    all.sort_by_key(|finding| finding.level as u8);
    all
}

/// FUSE mounts whose server has ended, or doesn't answer.
fn broken(facts: &Facts) -> Vec<General> {
    let is_fuse = |mount: &&MountEntry| mount.fstype.starts_with("fuse") && is_in_root(mount);
    let mut found = Vec::new();
    let (mut dead, mut hung) = (Vec::new(), Vec::new());
    for point in facts.mounts.iter().filter(is_fuse).map(point) {
        match facts.at(&point) {
            ProbeOutcome::Failed(libc::ENOTCONN | libc::ECONNABORTED) => dead.push(point),
            ProbeOutcome::Silent => hung.push(point),
            _ => {}
        };
    }
    if !dead.is_empty() {
        let why = facts.server.failure.as_deref().unwrap_or("its server has ended");
        let what = format!("dead view on {}: {why}, and everything there fails with ENOTCONN", list(&dead));
        let advice = match &facts.server.remedy {
            Some(command) => format!("'{command}' makes it work again, with the options that it had"),
            None => {
                "'vcgroupfs detach' and 'attach' again, or unmount it ('umount' in there) and mount a new one".into()
            }
        };
        let command = facts.server.remedy.clone().map(Remedy::on_host);
        found.push(general("dead-view", Level::Problem, what, Some(&advice)).with_commands(command));
    }
    if !hung.is_empty() {
        let what = format!("the filesystem on {} doesn't answer: processes that use it hang", list(&hung));
        let advice = "see what its server does; ending the server makes it a dead view, which can be unmounted";
        found.push(general("hung-view", Level::Problem, what, Some(advice)));
    }
    found
}

/// Finds that the server was started again.
fn restarted(facts: &Facts) -> Option<General> {
    let what = format!("the view's server was {}", facts.server.restarts.as_ref()?);
    let advice = "'journalctl -t vcgroupfs' says why it ended; if nobody has killed it, please report that";
    Some(general("server-restarted", Level::Warning, what, Some(advice)))
}

/// Finds that nothing would start the server again.
fn without_keeper(facts: &Facts) -> Option<General> {
    let what = "the keeper of the view's server was killed: if the server ends, nothing starts it again";
    let advice = "'vcgroupfs detach' and 'attach' again when the container can do without the view for a moment";
    facts.server.has_lost_keeper.then(|| general("keeper-lost", Level::Warning, what, Some(advice)))
}

/// Finds that nothing is mounted where programs look for cgroups.
fn no_tree(facts: &Facts) -> Option<General> {
    if let ProbeOutcome::Failed(number) = facts.at(ROOT) {
        let what = format!("{ROOT} can't be used ({}): no client finds anything", errno(*number));
        return Some(general(
            "no-tree",
            Level::Problem,
            what,
            Some("mount sysfs on /sys, and a view or the hierarchies"),
        ));
    }
    let has_any = facts.views().next().is_some() || facts.mounts.iter().any(|mount| mount.hierarchy().is_some());
    let what = "no cgroup hierarchy and no view is mounted here: no client finds anything";
    (!has_any).then(|| general("no-tree", Level::Problem, what, Some("mount a view, or the hierarchies")))
}

/// Hierarchies that `/proc/self/cgroup` names, but that aren't mounted.
fn missing(facts: &Facts) -> Option<General> {
    let is_there = |path: &String| path != ROOT && *facts.at(path) != ProbeOutcome::Failed(libc::ENOENT);
    let missing: Vec<String> = facts
        .memberships
        .iter()
        .filter(|member| facts.line(&member.kind.to_string()).is_none())
        .filter(|member| !directories(&member.kind).iter().any(is_there))
        .filter(|member| !(member.kind == HierarchyKind::Unified && setup(facts) == Some(Setup::Unified)))
        .map(|member| member.kind.to_string())
        .collect();
    if missing.is_empty() || missing.len() == facts.memberships.len() {
        return None;
    }
    let what = format!("/proc/self/cgroup names hierarchies that aren't mounted here: {}", missing.join(", "));
    let mounts_them = facts.process.may_mount && facts.is_writable(ROOT);
    let what = if mounts_them {
        format!("{what}; a systemd in the container would mount the real ones by itself")
    } else {
        what
    };
    let advice = "mount all of them (a view has them all), and make the tmpfs on /sys/fs/cgroup read-only";
    Some(general("missing-hierarchies", if mounts_them { Level::Problem } else { Level::Warning }, what, Some(advice)))
}

/// Finds own cgroups that don't exist at the joined mount point and path.
fn own_cgroup(facts: &Facts) -> Option<General> {
    let covers: Vec<u32> = facts.covers().map(|mount| mount.id).collect();
    let is_covered = |base: &String| facts.mount_of(base).is_some_and(|top| covers.contains(&top.id));
    let has_reason = |member: &&Membership| situation::has_lost_subtree(facts, &member.kind);
    let lost = facts.memberships.iter().filter(|member| !has_reason(member)).filter(|member| {
        let Some(path) = member.location.path() else { return true };
        let mut bases: Vec<String> = directories(&member.kind);
        bases.extend(facts.line(&member.kind.to_string()).map(point));
        // A hierarchy that is missing altogether has its own finding, as has one whose view is covered.
        bases.retain(|base| {
            !is_covered(base) && facts.exists(base) && (base != ROOT || setup(facts) == Some(Setup::Unified))
        });
        !bases.is_empty() && !bases.iter().any(|base| facts.exists(&join(base, path)))
    });
    let lost: Vec<String> = lost.map(|member| member.kind.to_string()).collect();
    if lost.is_empty() {
        return None;
    }
    let what = format!("the path in /proc/self/cgroup leads nowhere below the mount point, in: {}", lost.join(", "));
    let advice = "with a cgroup namespace mount a rooted view, without one a host-path view, of this process' cgroups";
    Some(general("own-cgroup-not-found", Level::Warning, what, Some(advice)))
}

/// Returns the setup that the target's hierarchies form.
pub(crate) fn setup(facts: &Facts) -> Option<Setup> {
    Setup::of(facts.memberships.iter().map(|member| &member.kind))
}

fn unmountable(facts: &Facts) -> Option<General> {
    let what = "the process has CAP_SYS_ADMIN over its mount namespace: it can unmount the view, unless that was mounted \
                before its user namespace was entered, and mount the real hierarchies";
    let advice = "drop the capability, mount the view before a user namespace is entered (that locks it), or filter \
                  mount and umount by seccomp";
    facts.process.may_mount.then(|| general("can-unmount", Level::Warning, what, Some(advice)))
}

fn writable_root(facts: &Facts) -> Option<General> {
    let is_open = facts.type_of(ROOT) == FsType::Tmpfs && facts.is_writable(ROOT);
    let what = format!(
        "the tmpfs on {ROOT} is writable: a systemd with CAP_SYS_ADMIN mounts there what it misses, beside the view"
    );
    is_open.then(|| general("writable-tmpfs", Level::Warning, what, Some("remount it read-only")))
}

/// Finds views without a `cgroup` line in mountinfo beneath, at the same mount point or above.
fn without_stack(facts: &Facts) -> Option<General> {
    if setup(facts) == Some(Setup::Unified) {
        return None;
    }
    let lines: Vec<String> = facts.mounts.iter().filter(|mount| mount.hierarchy().is_some()).map(point).collect();
    let is_within = |at: &str, line: &String| {
        at.strip_prefix(line.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let bare: Vec<String> =
        facts.views().map(point).filter(|at| !lines.iter().any(|line| is_within(at, line))).collect();
    let is_plain = bare.iter().any(|at| at == ROOT);
    let what = if bare.is_empty() {
        return None;
    } else if is_plain && lines.is_empty() {
        format!("the view is on {ROOT} itself, without a stack: clients that go by types or by mountinfo see nothing")
    } else if is_plain {
        format!("the view is on {ROOT} itself: systemd, crun, youki and podman find FUSE where they want tmpfs")
    } else {
        format!("view without a stack on {}: clients that go by mountinfo don't see it", list(&bare))
    };
    Some(general("no-stack", Level::Warning, what, Some(STACK)))
}

/// Finds mounts of others that cover a view, or a part of one.
fn covered(facts: &Facts) -> Option<General> {
    let views: Vec<String> = facts.views().map(point).collect();
    let is_on_view = |mount: &&MountEntry| {
        let at = point(mount);
        let is_below = |view: &String| at.strip_prefix(view.as_str()).is_some_and(|rest| rest.starts_with('/'));
        mount.fstype != VIEW && views.iter().any(is_below) && facts.mount_of(&at).is_some_and(|top| top.id == mount.id)
    };
    let mounts: Vec<&MountEntry> = facts.covers().chain(facts.mounts.iter().filter(is_on_view)).collect();
    let all: Vec<String> = mounts.iter().map(|mount| format!("{} ({})", point(mount), mount.fstype)).collect();
    // The last one is on top.
    let unmounts = mounts.iter().rev().map(|mount| {
        let command = format!("umount {}", shell_word(&mount.mount_point));
        if facts.host.is_container { Remedy::in_container(command) } else { Remedy::on_host(command) }
    });
    let commands: Vec<Remedy> = unmounts.collect();
    let what = format!("other mounts cover the view or parts of it, so programs don't see these: {}", list(&all));
    let advice = Some("unmount it, unless that is what you want");
    (!all.is_empty()).then(|| general("covered-view", Level::Warning, what, advice).with_commands(commands))
}

/// Finds views that are mounted on a single cgroup, so that the kernel's hierarchy is visible around them.
fn uncovered(facts: &Facts) -> Option<General> {
    let is_open = |at: &String| {
        let around = at.rsplit_once('/').and_then(|(above, _)| facts.mount_of(above));
        around.is_some_and(|mount| mount.hierarchy().is_some() && mount.root == "/")
    };
    let open: Vec<String> = facts.views().map(point).filter(is_open).collect();
    let what = format!("around the view on {} the kernel's hierarchy shows, with all other cgroups in it", list(&open));
    let advice = "mount a host-path view over the whole hierarchy where clients take that (v1)";
    (!open.is_empty()).then(|| general("siblings-visible", Level::Note, what, Some(advice)))
}

fn on_v2(facts: &Facts) -> Option<General> {
    if setup(facts) != Some(Setup::Unified) {
        return None;
    }
    let what = "on a unified host runc and Docker need a kernel cgroup namespace, not a view";
    let advice = "give a container in which they run a kernel cgroup namespace";
    Some(if facts.is_v2() {
        general("unified-host", Level::Note, what, Some(advice))
    } else {
        let what = format!("{what}; systemd and others want statfs of {ROOT} itself to say cgroup2");
        let advice = format!(
            "{advice}; for the others a real cgroup2 on {ROOT} with the view on the container's own path does, as 'vcgroupfs attach' \
             mounts it"
        );
        general("unified-host", Level::Note, what, Some(&advice))
    })
}
