//! Monitors that read files at the top, and ignore `/proc/self/cgroup`.

use crate::doctor::advice::{NAMESPACE, describe_missing, remedy_for};
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

/// The files that these programs read: two on v2, two on v1.
pub(crate) const FILES: [&str; 4] = [
    "/sys/fs/cgroup/cpu.stat",
    "/sys/fs/cgroup/memory.current",
    "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    "/sys/fs/cgroup/cpuacct/cpuacct.usage",
];

const ROOTED: &str = "--shape rooted puts the container's own cgroup there (v1)";

pub(crate) fn monitors(facts: &Facts) -> Finding {
    let client = "monitors at fixed paths";
    let [v2, v2_memory, v1, v1_cpu] = FILES;
    let (file, other) = if facts.is_v2() { (v2, v2_memory) } else { (v1, v1_cpu) };
    let Some(present) = [file, other].into_iter().find(|file| facts.exists(file)) else {
        let advice = if facts.is_v2() { NAMESPACE } else { ROOTED };
        let advice = if facts.is_dead(file) { remedy_for(facts, file) } else { advice };
        return Finding::no(client, format!("{}, and they read no other", describe_missing(facts, file)), advice);
    };
    if facts.is_view(present) {
        return Finding::yes(client, format!("{present} is the view's, of the container's own cgroup"));
    }
    let root = facts.mount_of(present).map(|mount| mount.root.to_string_lossy().into_owned()).unwrap_or_default();
    let is_own =
        facts.own_path(if facts.is_v2() { "unified" } else { "memory" }).is_some_and(|path| path.to_string() == root);
    match root.as_str() {
        _ if is_own => Finding::yes(client, format!("{present} is the container's own cgroup's")),
        "/" => Finding::yes(client, format!("{present} is of the whole host, as without a view")),
        // The sentinel of a unified host: a cgroup without processes.
        _ => Finding::wrong(
            client,
            format!("{present} is of an empty cgroup ({root}): it tells of nobody, and looks like an idle container"),
            NAMESPACE,
        ),
    }
}
