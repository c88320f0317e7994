//! LXC.

use crate::doctor::advice::{MOUNT, NAMESPACE, STACK};
use crate::doctor::facts::{Facts, FsType, ROOT, directories, point};
use crate::doctor::finding::Finding;

/// cgfsng: each directory in `/sys/fs/cgroup` must itself have the cgroup type, which a view can't have.
pub(crate) fn from_4(facts: &Facts) -> Finding {
    let client = "LXC >= 4";
    if facts.is_v2() {
        return Finding::yes(client, format!("{ROOT} is cgroup2"));
    }
    let is_real = |path: &String| matches!(facts.type_of(path), FsType::Cgroup | FsType::Cgroup2);
    let mut all: Vec<String> = facts.memberships.iter().flat_map(|member| directories(&member.kind)).collect();
    all.retain(|path| path != ROOT && !matches!(facts.type_of(path), FsType::Failed(libc::ENOENT)));
    let real = all.iter().filter(|path| is_real(path)).count();
    match all.iter().find(|path| !is_real(path)) {
        _ if all.is_empty() => Finding::no(client, format!("{ROOT} holds no hierarchy"), MOUNT),
        None => Finding::yes(client, format!("{real} directories of {ROOT} are cgroup or cgroup2 by statfs")),
        Some(odd) => {
            let why = format!("{odd} {}: hierarchies that aren't cgroup by statfs are skipped", facts.type_of(odd));
            let advice = format!("its containers then have no cgroups; if they need them, {NAMESPACE}");
            if real > 0 { Finding::partly(client, why, advice) } else { Finding::no(client, why, advice) }
        }
    }
}

/// It looks for mountinfo lines `cgroup` below `/sys/fs/cgroup/`, or those of lxcfs.
pub(crate) fn version_2(facts: &Facts) -> Finding {
    let client = "LXC 2";
    let below = format!("{ROOT}/");
    let lines = facts.mounts.iter().filter(|mount| matches!(mount.fstype.as_str(), "cgroup" | "fuse.lxcfs"));
    match lines.filter(|mount| point(mount).starts_with(&below)).count() {
        0 if facts.is_v2() => Finding::no(client, "it knows cgroup v1 only", "use a newer LXC"),
        0 => Finding::no(client, format!("mountinfo has no 'cgroup' line below {below}"), STACK),
        count => Finding::yes(client, format!("mountinfo has {count} 'cgroup' lines below {below}")),
    }
}

pub(crate) fn checkconfig(facts: &Facts) -> Finding {
    let client = "lxc-checkconfig";
    let count = facts.mounts.iter().filter(|mount| matches!(mount.fstype.as_str(), "cgroup" | "cgroup2")).count();
    if count == 0 {
        return Finding::no(client, "/proc/self/mounts has no line of type cgroup or cgroup2", STACK);
    }
    Finding::yes(client, format!("/proc/self/mounts has {count} lines of type cgroup or cgroup2"))
}
