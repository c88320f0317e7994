//! Makes a [`View`] from a user's request.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::hierarchies::HostCgroups;
use super::interface_file::read_file;
use super::proc::procfs;
use crate::cgroup::mounts::begin_at_own;
use crate::cgroup::{
    CgroupPath, ControllerSet, HierarchyClass, HierarchyKind, Membership, parse_memberships, parse_mountinfo,
};
use crate::policy::{Policy, Rules};
use crate::view::{AncestorLimits, Shape, View, ViewHierarchy};

/// A view as requested by a user.
#[derive(Clone, Debug, Default)]
pub struct ViewSpec {
    /// The process whose current cgroups are the delegated subtrees.
    pub pid: Option<i32>,
    /// The delegated subtrees: in the named hierarchy, or in each where such a cgroup exists. They take precedence
    /// over `pid`.
    pub cgroups: Vec<(Option<String>, CgroupPath)>,
    /// The shape; by default the one that fits the process' cgroup namespace and mounts.
    pub shape: Option<Shape>,
    /// The future root directory of `pid`, until the process enters it.
    pub new_root: Option<PathBuf>,
    /// Whether a runtime mounts the process' own cgroups there, now or later.
    pub mounts_own_cgroups: bool,
    /// The policy of the view.
    pub policy: Policy,
    /// v1 controllers to delegate.
    pub delegate_controllers: ControllerSet,
    /// Names at the top of each hierarchy that lead into the delegated subtree.
    pub aliases: Vec<String>,
    /// Whether limits of ancestors are shown.
    pub ancestor_limits: AncestorLimits,
}

/// The reason that a view is impossible.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Neither a process nor a cgroup is named.
    #[error("say whose view it is: --pid PID, or --cgroup [HIERARCHY=]PATH")]
    NoTarget,
    /// No process has this id.
    #[error("there is no process {0}")]
    NoProcess(i32),
    /// The process' cgroups can't be read.
    #[error("can't read the cgroups of process {0}")]
    Memberships(i32, #[source] io::Error),
    /// No hierarchy of that name.
    #[error("no hierarchy '{name}' is mounted here; there are: {known}")]
    NoHierarchy {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// The cgroup doesn't exist.
    #[error("there is no cgroup {path} in {place}")]
    NoCgroup {
        /// The path of the cgroup.
        path: CgroupPath,
        /// The hierarchy, or "any hierarchy".
        place: String,
    },
    /// The path names a file.
    #[error("{path} in {hierarchy} is a file, not a cgroup: name the cgroup's directory")]
    NotADirectory {
        /// The path of the cgroup.
        path: CgroupPath,
        /// The name of the hierarchy.
        hierarchy: String,
    },
    /// The path can't be opened.
    #[error("can't open cgroup {path} in {hierarchy}")]
    Open {
        /// The path of the cgroup.
        path: CgroupPath,
        /// The name of the hierarchy.
        hierarchy: String,
        /// The errno that the kernel gave.
        errno: Errno,
    },
    /// The root of a hierarchy was asked for.
    #[error("the root of a hierarchy can't be delegated: name a cgroup below it")]
    Root,
    /// The same hierarchy was named twice.
    #[error("--cgroup names the hierarchy {0} twice: name one cgroup in it")]
    NamedTwice(String),
    /// An alias in a shape that has none.
    #[error("--alias isn't for shape full, which shows what the host has there")]
    Alias,
    /// Something is to be hidden in a shape that shows everything.
    #[error("--hide-ancestor-limits isn't for shape full, which shows what the host has")]
    NothingHidden,
}

impl PlanError {
    /// Whether the command line is at fault, and not the state of the host.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoTarget
                | Self::NoHierarchy { .. }
                | Self::Root
                | Self::NamedTwice(_)
                | Self::Alias
                | Self::NothingHidden
        )
    }
}

/// The cgroup below the container's own into which systemd migrates itself as a container's PID 1.
const INIT_SCOPE: &str = "init.scope";

/// Makes the view.
///
/// # Errors
/// See [`PlanError`].
pub fn plan(host: &HostCgroups, spec: &ViewSpec) -> Result<View, PlanError> {
    if spec.pid.is_none() && spec.cgroups.is_empty() {
        return Err(PlanError::NoTarget);
    }
    plan_recorded(host, spec)
}

/// Makes the view of a live server again. A container in the root of every hierarchy has no delegated subtree, so the
/// request may name none.
///
/// # Errors
/// See [`PlanError`].
pub fn plan_recorded(host: &HostCgroups, spec: &ViewSpec) -> Result<View, PlanError> {
    let mut delegated = match spec.pid {
        Some(pid) => memberships_of(host, pid)?,
        None => vec![None; host.hierarchies.len()],
    };
    check_named_once(host, &spec.cgroups)?;
    for (hierarchy, path) in &spec.cgroups {
        let index = hierarchy.as_ref().map(|name| find(host, name)).transpose()?;
        if path.is_root() {
            return Err(PlanError::Root);
        }
        match index {
            Some(index) => {
                check_cgroup(host, index, path)?;
                set(&mut delegated, index, path);
            }
            None => everywhere(host, path, &mut delegated)?,
        }
    }
    let shape = match (spec.shape, spec.pid) {
        (Some(shape), _) => shape,
        (None, Some(pid)) if begins_at_own(host, spec, pid, &delegated) => Shape::Rooted,
        (None, _) => Shape::HostPath,
    };
    if !spec.aliases.is_empty() && shape == Shape::Full {
        return Err(PlanError::Alias);
    }
    if spec.ancestor_limits == AncestorLimits::Hidden && shape == Shape::Full {
        return Err(PlanError::NothingHidden);
    }
    let aliases = spec.aliases.iter().map(std::ffi::OsString::from).collect();
    let rules = rules(host, spec.policy, &spec.delegate_controllers);
    Ok(View { aliases, ancestor_limits: spec.ancestor_limits, ..view(host, shape, rules, delegated) })
}

/// Whether a process finds its own cgroups at the roots of its hierarchies: by a cgroup namespace, or because most of
/// them are mounted from there. The view then begins there, too: clients take the path below a mount's root for the
/// path of the cgroup.
fn begins_at_own(host: &HostCgroups, spec: &ViewSpec, pid: i32, delegated: &[Option<CgroupPath>]) -> bool {
    if matches!(procfs::same_namespace(pid, "cgroup"), Ok(false)) {
        return true;
    }
    let mounts = parse_mountinfo(&std::fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default());
    let own = host.hierarchies.iter().zip(delegated);
    let own = own.filter_map(|(hierarchy, own)| Some((&hierarchy.kind, own.as_ref()?)));
    // Once the process has entered its root, no mount has that path any more.
    let is_there = |root: &&PathBuf| mounts.iter().any(|mount| mount.mount_point == root.as_os_str());
    match spec.new_root.as_ref().filter(is_there) {
        Some(root) => begin_at_own(&mounts, root, own).unwrap_or(spec.mounts_own_cgroups),
        None => begin_at_own(&mounts, Path::new("/"), own).unwrap_or(false),
    }
}

/// The rules of a mount for all callers.
pub fn rules_for_all(host: &HostCgroups, policy: Policy, controllers: &ControllerSet) -> Rules {
    // A control file is known by its node id. In such a mount that is the mount's own id, which no container's filesystem
    // knows.
    Rules { fetches_descriptors: false, ..rules(host, policy, controllers) }
}

fn rules(host: &HostCgroups, policy: Policy, controllers: &ControllerSet) -> Rules {
    Rules {
        policy,
        delegate_controllers: controllers.expanded(&v1_controllers(host)),
        delegatable: delegatable(),
        // Unknown until the boundary is known.
        memory_is_hierarchical: false,
        fetches_descriptors: crate::sys::pidfd::can_fetch(),
    }
}

/// Makes a view of these subtrees, one for each hierarchy.
pub(super) fn view(host: &HostCgroups, shape: Shape, rules: Rules, delegated: Vec<Option<CgroupPath>>) -> View {
    let rules = Rules { memory_is_hierarchical: memory_is_hierarchical(host, &delegated), ..rules };
    let hierarchies = host.hierarchies.iter().zip(delegated).map(|(hierarchy, delegated)| ViewHierarchy {
        kind: hierarchy.kind.clone(),
        directory: hierarchy.directory.clone(),
        links: hierarchy.links.clone(),
        delegated: delegated.filter(|path| !path.is_root()),
    });
    let ancestor_limits = AncestorLimits::default();
    View { setup: host.setup, shape, rules, ancestor_limits, hierarchies: hierarchies.collect(), aliases: Vec::new() }
}

/// Whether the boundary's limit applies to memory cgroups below it. Since Linux 5.11 it always does; a kernel without
/// the file has no choice.
fn memory_is_hierarchical(host: &HostCgroups, delegated: &[Option<CgroupPath>]) -> bool {
    let has_memory =
        |kind: &HierarchyKind| kind.controllers().is_some_and(|controllers| controllers.contains("memory"));
    let Some(index) = host.hierarchies.iter().position(|hierarchy| has_memory(&hierarchy.kind)) else { return false };
    let Some(Some(boundary)) = delegated.get(index) else { return false };
    let read = |directory: OwnedFd| read_file(&directory, "memory.use_hierarchy");
    match host.open_cgroup(index, boundary).map_err(io::Error::from).and_then(read) {
        Ok(text) => text.trim() == "1",
        Err(error) => error.kind() == io::ErrorKind::NotFound && host.open_cgroup(index, boundary).is_ok(),
    }
}

/// Returns the files that the kernel lets a delegatee write at the boundary.
fn delegatable() -> std::collections::BTreeSet<String> {
    match std::fs::read_to_string("/sys/kernel/cgroup/delegate") {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        Err(_) => Rules::default_delegatable(),
    }
}

fn memberships_of(host: &HostCgroups, pid: i32) -> Result<Vec<Option<CgroupPath>>, PlanError> {
    let text = std::fs::read(format!("/proc/{pid}/cgroup")).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => PlanError::NoProcess(pid),
        _ => PlanError::Memberships(pid, error),
    })?;
    Ok(container_by(host, &text))
}

/// Returns the container's cgroups, given the memberships of its PID 1.
pub(super) fn container_by(host: &HostCgroups, memberships: &[u8]) -> Vec<Option<CgroupPath>> {
    let memberships = parse_memberships(memberships);
    let of = |kind: &HierarchyKind| memberships.iter().find(|membership| membership.kind == *kind);
    host.hierarchies.iter().map(|hierarchy| of(&hierarchy.kind).and_then(container_of)).collect()
}

/// Returns the container's cgroup, given the membership of its PID 1.
fn container_of(membership: &Membership) -> Option<CgroupPath> {
    let path = membership.location.path()?;
    if path.name().is_some_and(|name| name == INIT_SCOPE) { path.parent() } else { Some(path.clone()) }
}

fn find(host: &HostCgroups, name: &str) -> Result<usize, PlanError> {
    host.hierarchies.iter().position(|hierarchy| hierarchy.kind.matches(name)).ok_or_else(|| {
        let known: Vec<String> = host.hierarchies.iter().map(|hierarchy| hierarchy.kind.to_string()).collect();
        PlanError::NoHierarchy { name: name.to_owned(), known: known.join(" ") }
    })
}

/// Checks that no two words of a command line name the same hierarchy: one of the cgroups would be ignored.
///
/// # Errors
/// [`PlanError::NamedTwice`].
pub fn check_named_once(host: &HostCgroups, named: &[(Option<String>, CgroupPath)]) -> Result<(), PlanError> {
    for hierarchy in &host.hierarchies {
        let matches = |word: &Option<String>| word.as_deref().is_some_and(|word| hierarchy.kind.matches(word));
        if named.iter().filter(|(word, _)| matches(word)).count() > 1 {
            return Err(PlanError::NamedTwice(hierarchy.kind.to_string()));
        }
    }
    Ok(())
}

fn everywhere(host: &HostCgroups, path: &CgroupPath, delegated: &mut [Option<CgroupPath>]) -> Result<(), PlanError> {
    let mut found = false;
    for index in 0..host.hierarchies.len() {
        match check_cgroup(host, index, path) {
            Ok(()) => {
                set(delegated, index, path);
                found = true;
            }
            Err(PlanError::NoCgroup { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if found { Ok(()) } else { Err(PlanError::NoCgroup { path: path.clone(), place: "any hierarchy".to_owned() }) }
}

fn set(delegated: &mut [Option<CgroupPath>], index: usize, path: &CgroupPath) {
    if let Some(slot) = delegated.get_mut(index) {
        *slot = Some(path.clone());
    }
}

fn check_cgroup(host: &HostCgroups, index: usize, path: &CgroupPath) -> Result<(), PlanError> {
    let name = || host.hierarchies.get(index).map(|hierarchy| hierarchy.kind.to_string()).unwrap_or_default();
    match host.open_cgroup(index, path) {
        Ok(_) => Ok(()),
        Err(Errno::ENOENT) => Err(PlanError::NoCgroup { path: path.clone(), place: format!("hierarchy {}", name()) }),
        Err(Errno::ENOTDIR) => Err(PlanError::NotADirectory { path: path.clone(), hierarchy: name() }),
        Err(errno) => Err(PlanError::Open { path: path.clone(), hierarchy: name(), errno }),
    }
}

/// Returns all controllers that are bound to v1 hierarchies.
fn v1_controllers(host: &HostCgroups) -> ControllerSet {
    let v1 = host.hierarchies.iter().filter(|hierarchy| hierarchy.kind.class() == HierarchyClass::V1Controllers);
    let all = v1.filter_map(|hierarchy| hierarchy.kind.controllers()).flat_map(ControllerSet::iter);
    // Sorts the controllers alphabetically.
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Describes the controllers in `--delegate-controllers` that have no effect, a sentence each, with the remedy.
pub fn without_effect(host: &HostCgroups, policy: Policy, asked: &ControllerSet) -> Vec<String> {
    if asked.is_empty() {
        return Vec::new();
    }
    if policy == Policy::Strict {
        return vec![format!(
            "--delegate-controllers {asked} has no effect with --policy strict: add --policy delegate"
        )];
    }
    let known = v1_controllers(host);
    let unknown = asked.iter().filter(|controller| {
        if *controller == ControllerSet::ALL { known.is_empty() } else { !known.contains(controller) }
    });
    let there_are = match known.is_empty() {
        true => "there is none: what cgroup2 has is delegated as cgroup.subtree_control says".to_owned(),
        false => format!("there are: {known}"),
    };
    let say = |name| {
        format!("--delegate-controllers {name} has no effect: no v1 hierarchy here has such a controller; {there_are}")
    };
    unknown.map(say).collect()
}
