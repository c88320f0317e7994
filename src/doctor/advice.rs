//! Texts that many programs share: why a path can't be used, and what to change.

use super::facts::{Facts, ProbeOutcome, errno};

/// Advice that several findings give.
pub(crate) const STACK: &str = "keep a read-only bind of the real hierarchy mounted beneath the view, at the same mount point, \
                     with a read-only tmpfs on /sys/fs/cgroup";
pub(crate) const NAMESPACE: &str = "give the container a kernel cgroup namespace (Linux 4.6) instead of a view";
pub(crate) const MOUNT: &str = "mount the hierarchy, or a view, in the container";

/// Says why a path can't be used.
pub(crate) fn describe_missing(facts: &Facts, path: &str) -> String {
    match facts.at(path) {
        ProbeOutcome::Found(_) => format!("{path} is there"),
        ProbeOutcome::Failed(libc::ENOENT) => format!("{path} isn't there"),
        ProbeOutcome::Failed(number) => format!("{path} can't be used ({})", errno(*number)),
        ProbeOutcome::Silent => format!("{path} doesn't answer"),
    }
}

/// The remedy for a path that can't be used.
pub(crate) fn remedy_for(facts: &Facts, path: &str) -> &'static str {
    match facts.at(path) {
        ProbeOutcome::Failed(libc::ENOTCONN) => DEAD,
        ProbeOutcome::Silent => "find out why the view's server doesn't answer, or unmount the view",
        ProbeOutcome::Failed(_) if path.ends_with("/systemd") => MOUNT,
        _ => {
            "what is mounted has to go with the paths of /proc/self/cgroup: host-path or an alias without a cgroup \
              namespace, rooted with one"
        }
    }
}

/// The remedy for a view without a server.
pub(crate) const DEAD: &str =
    "the view's server has ended: 'vcgroupfs detach' and 'attach' again, or unmount the view and mount a new one";
