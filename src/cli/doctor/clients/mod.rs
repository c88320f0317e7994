//! How each kind of client decides whether there is a cgroup tree: one function each, from their sources.

mod languages;
mod lxc;
mod runtimes;
mod systemd;
mod tools;

use super::facts::{Answer, Facts, errno};
use super::finding::Finding;

/// What all of them make of it.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    JUDGEMENTS.iter().map(|judgement| judgement(facts)).collect()
}

const JUDGEMENTS: [fn(&Facts) -> Finding; 24] = [
    systemd::up_to_232,
    systemd::from_233_to_235,
    systemd::from_236_to_255,
    systemd::versions_256_and_257,
    systemd::from_258,
    systemd::cgls_and_cgtop,
    runtimes::runc,
    runtimes::containerd,
    runtimes::dockerd,
    runtimes::crun,
    runtimes::podman,
    runtimes::youki,
    lxc::from_4,
    lxc::version_2,
    lxc::checkconfig,
    languages::jvm,
    languages::automaxprocs,
    languages::go,
    languages::dotnet,
    languages::old_node,
    languages::node,
    languages::rust,
    tools::libcgroup,
    tools::shell,
];

/// Advice that several give.
pub(super) const STACK: &str = "keep a read-only bind of the real hierarchy mounted beneath the view, at the same mount point, \
                     with a read-only tmpfs on /sys/fs/cgroup";
pub(super) const NAMESPACE: &str = "give the container a kernel cgroup namespace (Linux 4.6) instead of a view";
const MOUNT: &str = "mount the hierarchy, or a view, in the container";

/// Why a path can't be used, in words.
fn lacking(facts: &Facts, path: &str) -> String {
    match facts.at(path) {
        Answer::Found(_) => format!("{path} is there"),
        Answer::Failed(libc::ENOENT) => format!("{path} isn't there"),
        Answer::Failed(number) => format!("{path} can't be used ({})", errno(*number)),
        Answer::Silent => format!("{path} doesn't answer"),
    }
}

/// What to change about a path that can't be used.
fn mending(facts: &Facts, path: &str) -> &'static str {
    match facts.at(path) {
        Answer::Failed(libc::ENOTCONN) => "the view's server has ended: unmount the view, and mount a new one",
        Answer::Silent => "find out why the view's server doesn't answer, or unmount the view",
        Answer::Failed(_) if path.ends_with("/systemd") => MOUNT,
        _ => {
            "what is mounted has to go with the paths of /proc/self/cgroup: host-path or an alias without a cgroup \
              namespace, rooted with one"
        }
    }
}
