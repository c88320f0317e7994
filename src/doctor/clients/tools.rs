//! Small tools and scripts.

use crate::doctor::advice::{MOUNT, NAMESPACE, STACK};
use crate::doctor::facts::{Facts, FsType, ROOT, point};
use crate::doctor::finding::Finding;

/// It reads the lines of `/proc/mounts` of type cgroup or cgroup2; version 3 also checks the mount points with
/// statfs.
pub(crate) fn libcgroup(facts: &Facts) -> Finding {
    let client = "libcgroup";
    let lines: Vec<_> = facts.mounts.iter().filter(|mount| mount.hierarchy().is_some()).collect();
    if lines.is_empty() {
        let why = "/proc/mounts has no line of type cgroup or cgroup2 ('Cgroup is not mounted')";
        return Finding::no(client, why, if facts.views().next().is_some() { STACK } else { MOUNT });
    }
    let why = format!("/proc/mounts has {} lines of type cgroup or cgroup2", lines.len());
    match lines.iter().map(|line| point(line)).find(|point| facts.type_of(point) == FsType::Fuse) {
        Some(point) => {
            Finding::yes(client, why).with_note(&format!("since version 3 setup_mode is unknown, for {point} is FUSE"))
        }
        None => Finding::yes(client, why),
    }
}

/// `[ -f /sys/fs/cgroup/cgroup.controllers ]`, as in run-java.sh and many other scripts: v2 or v1.
pub(crate) fn shell(facts: &Facts) -> Finding {
    let client = "shell scripts";
    let file = format!("{ROOT}/cgroup.controllers");
    if facts.exists(&file) {
        return Finding::yes(client, format!("{file} is there, so v2"));
    }
    let v1 = facts.v1_controllers().find(|word| facts.exists(&format!("{ROOT}/{word}")));
    match v1 {
        Some(word) => Finding::yes(client, format!("{file} isn't there, so v1; {ROOT}/{word} is")),
        None => Finding::no(
            client,
            format!("neither {file} nor a controller's directory is there"),
            if facts.is_v2() { NAMESPACE } else { MOUNT },
        ),
    }
}
