//! The paths of a target that are probed.

use std::collections::BTreeSet;

use super::clients::FIXED_PATHS;
use super::facts::{DOCKER, ELOGIND, OPENRC, ROOT, SYSTEMD, UNIFIED, directories, is_in_root, join, join_below, point};
use super::programs;
use crate::cgroup::{Membership, MountEntry};

/// The maximum number of paths that are probed. A container can have any number of mounts.
const MAX_PATHS: usize = 4096;

/// Returns all paths that a model or judgement may query.
pub(crate) fn paths_to_probe(memberships: &[Membership], mounts: &[MountEntry]) -> BTreeSet<String> {
    let mut paths: BTreeSet<String> = [ROOT, UNIFIED, SYSTEMD, ELOGIND, OPENRC].map(str::to_owned).into();
    paths.extend(FIXED_PATHS.map(str::to_owned));
    paths.extend(programs::files().map(str::to_owned));
    let files = ["cgroup.controllers", "cgroup.subtree_control", "memory/memory.limit_in_bytes"];
    paths.extend(files.map(|file| format!("{ROOT}/{file}")));
    let is_relevant = |mount: &&MountEntry| is_in_root(mount) || mount.hierarchy().is_some();
    paths.extend(mounts.iter().filter(is_relevant).map(point));
    for member in memberships {
        let mut bases: BTreeSet<String> = directories(&member.kind).into_iter().collect();
        let lines = mounts.iter().filter(|mount| mount.hierarchy().as_ref() == Some(&member.kind));
        let path = member.location.path();
        for mount in lines {
            bases.insert(point(mount));
            paths.extend(path.and_then(|path| join_below(mount, path)).into_iter().flat_map(with_files));
        }
        for base in bases {
            paths.insert(format!("{base}/{DOCKER}"));
            paths.extend(path.map(|path| join(&base, path)).into_iter().flat_map(with_files));
            paths.extend(with_files(base));
        }
        if paths.len() > MAX_PATHS {
            break;
        }
    }
    paths.into_iter().take(MAX_PATHS).collect()
}

/// A cgroup's directory and the files in it that clients look for.
fn with_files(directory: String) -> Vec<String> {
    let files = ["cgroup.procs", "cgroup.controllers", "memory.limit_in_bytes", "memory.max", "devices.allow"];
    let files = files.map(|file| format!("{directory}/{file}"));
    std::iter::once(directory).chain(files).collect()
}
