//! The server's own cgroup. It's outside every cgroup that a served container can freeze, kill, or limit through a
//! file that it may write. A server inside would stop together with the processes that wait for its answers.

use nix::errno::Errno;

use super::hierarchies::HostCgroups;
use super::interface_file::write_file;
use crate::cgroup::{CgroupPath, HierarchyClass, parse_memberships};
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

/// Migrates the calling process to the root of each hierarchy, where possible.
pub fn move_to_roots(host: &HostCgroups) {
    for index in 0..host.hierarchies.len() {
        if let Err(errno) = enter(host, index, &CgroupPath::root(), std::process::id() as i32) {
            tracing::debug!(%errno, hierarchy = index, "the server stays in its cgroup");
        }
    }
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
