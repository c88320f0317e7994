//! The server's own cgroup. It's outside every cgroup that a served container can freeze, kill, or limit through a
//! file that it may write. A server inside would stop together with the processes that wait for its answers.

use nix::errno::Errno;

use super::hierarchies::HostCgroups;
use super::interface_file::write_file;
use crate::cgroup::{CgroupPath, HierarchyClass, Membership, parse_memberships};
use crate::policy::Policy;
use crate::view::View;

/// The server can't leave a delegated subtree.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server would run inside the delegated subtree {path} of hierarchy {hierarchy}, where the container could stop it ({errno}): \
     start vcgroupfs from a process outside that cgroup"
)]
pub struct ServerInsideSubtree {
    path: CgroupPath,
    hierarchy: String,
    errno: Errno,
}

/// Migrates the calling process above every delegated subtree in which its view could stop it.
///
/// # Errors
/// When no cgroup above accepts it.
pub fn leave_delegated_subtrees(host: &HostCgroups, view: &View) -> Result<(), ServerInsideSubtree> {
    let own = parse_memberships(&std::fs::read("/proc/self/cgroup").unwrap_or_default());
    for (index, hierarchy) in view.hierarchies.iter().enumerate() {
        let can_stop = match hierarchy.kind.class() {
            HierarchyClass::Unified => true,
            HierarchyClass::V1Controllers => view.rules.policy == Policy::Delegate,
            HierarchyClass::V1Named => false,
        };
        let place = own.iter().find(|membership| membership.kind == hierarchy.kind).and_then(|own| own.location.path());
        let (true, Some(delegated), Some(place)) = (can_stop, &hierarchy.delegated, place) else { continue };
        if place.is_within(delegated) {
            leave(host, index, delegated).map_err(|errno| ServerInsideSubtree {
                path: delegated.clone(),
                hierarchy: hierarchy.kind.to_string(),
                errno,
            })?;
        }
    }
    Ok(())
}

/// Migrates the calling process out of the cgroups of the program that started it, to the root of each hierarchy,
/// where possible. It stays in the cgroup of `scope`, a unit of systemd's, and where systemd has put it because the
/// unit has no cgroup of its own there.
pub fn leave_callers_cgroups(host: &HostCgroups, scope: Option<&str>) {
    let own = parse_memberships(&std::fs::read("/proc/self/cgroup").unwrap_or_default());
    for (index, hierarchy) in host.hierarchies.iter().enumerate() {
        let place = own.iter().find(|membership| membership.kind == hierarchy.kind).and_then(|own| own.location.path());
        if place.is_some_and(|place| place.is_root() || scope.is_some_and(|scope| is_place_of(place, scope, &own))) {
            continue;
        }
        if let Err(errno) = enter(host, index, &CgroupPath::root(), std::process::id() as i32) {
            tracing::debug!(%errno, hierarchy = %hierarchy.kind, "the server stays in its cgroup");
        }
    }
}

/// Whether a unit's process belongs here: in the unit's cgroup, or above it.
fn is_place_of(place: &CgroupPath, unit: &str, memberships: &[Membership]) -> bool {
    let own = memberships.iter().filter_map(|own| own.location.path());
    own.filter(|path| path.name().is_some_and(|name| name == unit)).any(|path| path.is_within(place))
}

/// Migrates this process to the nearest ancestor that accepts it. On v2 a cgroup with enabled controllers doesn't,
/// but the root does.
fn leave(host: &HostCgroups, hierarchy: usize, delegated: &CgroupPath) -> Result<(), Errno> {
    let mut refused = Errno::ENOENT;
    let mut above = delegated.parent();
    while let Some(path) = above {
        match enter(host, hierarchy, &path, std::process::id() as i32) {
            Ok(()) => return Ok(()),
            Err(errno) => refused = errno,
        }
        above = path.parent();
    }
    Err(refused)
}

/// Migrates a process into a cgroup.
///
/// # Errors
/// Those of open(2) and write(2) on `cgroup.procs`.
pub fn enter(host: &HostCgroups, hierarchy: usize, path: &CgroupPath, process: i32) -> Result<(), Errno> {
    let directory = host.open_cgroup(hierarchy, path)?;
    write_file(&directory, "cgroup.procs", process.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_process_belongs_into_its_cgroup_and_above() {
        let text = b"9:cpuset:/user\n4:memory:/system.slice/demo.scope\n3:devices:/system.slice\n1:name=systemd:/system.slice/demo.scope\n0::/\n";
        let memberships = parse_memberships(text);
        let stays = |path: &str| is_place_of(&CgroupPath::parse(path).unwrap(), "demo.scope", &memberships);
        assert!(stays("/system.slice/demo.scope") && stays("/system.slice") && stays("/"));
        assert!(!stays("/user") && !stays("/system.slice/demo.scope/x") && !stays("/system.slice/other.scope"));
        assert!(!is_place_of(&CgroupPath::root(), "gone.scope", &memberships));
    }
}
