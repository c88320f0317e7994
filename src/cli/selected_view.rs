//! The view that a question is about: the live one of a TARGET, with its options, or the one that the options describe.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::former_options::renewal;
use super::options::ViewOptions;
use super::view_path;
use crate::cgroup::{CgroupPath, ControllerSet, MountEntry, escaped, parse_mountinfo};
use crate::container::target::{self, ResolvedTarget, Target};
use crate::doctor::facts::ROOT;
use crate::error::Error;
use crate::fuse::FSTYPE;
use crate::host::plan::plan_recorded;
use crate::host::{HostCgroups, ViewSpec, discover};
use crate::message::say;
use crate::policy::Policy;
use crate::server::registry;
use crate::server::registry::boundaries::LostBoundary;
use crate::server::registry::record::Record;
use crate::view::{AncestorLimits, View};

/// The view that a command line selects.
pub(super) struct SelectedView {
    pub(super) host: HostCgroups,
    pub(super) view: View,
    /// The record of its server, if the view is live.
    pub(super) live: Option<Record>,
    /// A process that sees it.
    pub(super) pid: Option<i32>,
    /// The TARGET, if one was given.
    pub(super) label: Option<String>,
}

/// Splits the words of a command line into TARGET and the rest. There's no TARGET if the options select a container.
pub(super) fn split_target<'a>(
    words: &'a [PathBuf],
    options: &ViewOptions,
    most: usize,
) -> (Option<&'a Path>, &'a [PathBuf]) {
    match words.split_first() {
        Some((first, rest)) if !options.is_named() && words.len() >= most => (Some(first), rest),
        _ => (None, words),
    }
}

/// Finds the view of TARGET, or makes the one that the options describe.
pub(super) fn find(target: Option<&Path>, options: &ViewOptions) -> Result<SelectedView, Error> {
    let Some(target) = target else {
        let (host, view) = options.plan()?;
        return Ok(SelectedView { host, view, live: None, pid: options.pid, label: None });
    };
    match target::resolve_target_or_directory(target)? {
        ResolvedTarget::Directory(directory) => {
            let record = record_of_directory(&directory)?;
            let (host, view) = view_of_record(&record, None)?;
            Ok(SelectedView { host, view, live: Some(record), pid: None, label: Some(escaped(target)) })
        }
        ResolvedTarget::Process(target) => {
            let (pid, label) = (Some(target.pid), Some(target.label.clone()));
            if !Path::new(&format!("/proc/{}", target.pid)).exists() {
                return Err(Error::failed(format!("there is no process {}", target.pid)));
            }
            let Some(record) = find_record(&target)? else {
                let (host, view) = ViewOptions { pid, ..options.clone() }.plan()?;
                say(format_args!(
                    "{} has no live view: the answer is for the view that 'attach' would make with these options",
                    target.label
                ));
                return Ok(SelectedView { host, view, live: None, pid, label });
            };
            target.confirm()?;
            let (host, view) = view_of_record(&record, pid)?;
            Ok(SelectedView { host, view, live: Some(record), pid, label })
        }
    }
}

/// Finds the record of the live view of TARGET.
///
/// # Errors
/// If there is none.
pub(super) fn live_record(target: &Path) -> Result<Record, Error> {
    match target::resolve_target_or_directory(target)? {
        ResolvedTarget::Directory(directory) => mounted_on(&directory),
        ResolvedTarget::Process(target) => {
            let record = find_record(&target)?;
            target.confirm()?;
            record.ok_or_else(|| {
                let what = format!("{} has no live view", target.label);
                Error::failed(what).advise("'vcgroupfs list' shows all views")
            })
        }
    }
}

/// Finds the record of the live view that is mounted on a directory.
fn mounted_on(directory: &Path) -> Result<Record, Error> {
    let is_there = |record: &Record| record.container.is_none() && record.directory.as_ref() == directory;
    live_records()?.into_iter().find(is_there).ok_or_else(|| {
        let what = format!("no live view is mounted on {}", escaped(directory));
        Error::failed(what).advise("'vcgroupfs list' shows where views are mounted")
    })
}

/// The same for a view that all see.
///
/// # Errors
/// If there is none, or each process sees its own view there.
pub(super) fn record_of_directory(directory: &Path) -> Result<Record, Error> {
    let record = mounted_on(directory)?;
    if record.per_caller {
        let what = format!("{} has no view that all see", escaped(directory));
        return Err(Error::usage(what)
            .because("each process sees its own view there")
            .advise("name a process or container as TARGET"));
    }
    Ok(record)
}

/// The records of all live views.
fn live_records() -> Result<Vec<Record>, Error> {
    registry::live_records().map_err(|error| Error::system("can't read the list of live views", error))
}

/// Finds the record of the live view that a process sees.
///
/// # Errors
/// If the caller may not know in which mount namespace the process is, and the view of one could be the process'.
fn find_record(target: &Target) -> Result<Option<Record>, Error> {
    let pid = target.pid;
    let all = live_records()?;
    let namespace = fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|found| found.ino());
    let is_here = |record: &&Record| {
        let inside = record.container.as_ref();
        match namespace {
            // One on the directory where programs look for their cgroups is that of all processes there.
            Ok(number) if record.namespace == Some(number) && inside.is_none() => {
                record.directory.as_ref() == Path::new(ROOT)
            }
            Ok(number) => record.run == Some(number) || inside.is_some_and(|inside| inside.namespace == number),
            Err(_) => inside.is_some_and(|inside| inside.pid == pid),
        }
    };
    if let Some(record) = all.iter().find(is_here) {
        return Ok(Some(record.clone()));
    }
    // Otherwise by the device of a view that was bound into its namespace. Views outside /sys/fs/cgroup aren't for
    // this process.
    let is_its = |mount: &&MountEntry| mount.fstype == FSTYPE && Path::new(&mount.mount_point).starts_with(ROOT);
    let seen: Vec<(u32, u32)> = mounts(pid).iter().filter(is_its).map(|mount| mount.device).collect();
    let bound = all.iter().find(|record| registry::device(record).is_some_and(|device| seen.contains(&device)));
    if let Some(record) = bound {
        return Ok(Some(record.clone()));
    }
    match namespace {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && all.iter().any(is_of_namespace) => {
            let what = format!("can't tell whether {} has a live view", target.label);
            Err(Error::system(what, error).advise("run it as root"))
        }
        _ => Ok(None),
    }
}

/// Whether the view is known by the mount namespace in which it's mounted.
fn is_of_namespace(record: &Record) -> bool {
    record.run.is_some() || record.container.is_some()
}

/// The mounts that a process sees. Empty if it has ended.
pub(super) fn mounts(pid: i32) -> Vec<MountEntry> {
    fs::read(format!("/proc/{pid}/mountinfo")).map(|text| parse_mountinfo(&text)).unwrap_or_default()
}

/// Makes the view that a live server serves to a process.
fn view_of_record(record: &Record, pid: Option<i32>) -> Result<(HostCgroups, View), Error> {
    let host = discover()?;
    let policy = Policy::from_word(&record.policy).unwrap_or_default();
    let cgroups = record
        .delegated
        .iter()
        .filter_map(|(kind, path)| Some((Some(kind.clone()), CgroupPath::parse(path.as_ref().as_os_str()).ok()?)));
    let spec = ViewSpec {
        pid: pid.filter(|_| record.per_caller),
        cgroups: cgroups.collect(),
        shape: record.shape(),
        policy,
        delegate_controllers: ControllerSet::parse(&record.delegate_controllers.join(",")),
        aliases: record.aliases.iter().map(|alias| alias.shown()).collect(),
        ancestor_limits: if record.hides_ancestor_limits { AncestorLimits::Hidden } else { AncestorLimits::Shown },
        ..ViewSpec::default()
    };
    let view = plan_recorded(&host, &spec).map_err(|error| match error {
        crate::host::PlanError::NoCgroup { .. } => {
            let command = renewal(record, true).map(|command| format!(": {command}")).unwrap_or_default();
            Error::failed(error.to_string())
                .because("the cgroup that the view was made for was removed")
                .advise(format!("make the view anew{command}"))
        }
        other => other.into(),
    })?;
    Ok((host, view))
}

impl SelectedView {
    /// Describes the view: whether it's live, and its options.
    pub(super) fn description(&self) -> Option<String> {
        let record = self.live.as_ref();
        match (record, &self.label) {
            (Some(record), _) => {
                Some(format!("live, {}, served by process {}", record.description(), record.status.server))
            }
            (None, Some(label)) => Some(format!("none is live in {label}: by the options")),
            (None, None) => None,
        }
    }

    /// The path in the view that a user means. It may begin with the directory on which the view is mounted.
    pub(super) fn path_in_view(&self, path: &Path) -> Result<CgroupPath, Error> {
        let parsed = view_path::parse_path(path)?;
        let mounted =
            self.live.as_ref().and_then(|record| CgroupPath::parse(record.directory.as_ref().as_os_str()).ok());
        let below = mounted.and_then(|mounted| parsed.relative_to(&mounted));
        Ok(below.unwrap_or_else(|| view_path::without_mount_point(&parsed)))
    }

    /// Returns the delegated subtrees that were removed since the live view was made. A new cgroup may have the name.
    pub(super) fn lost_boundaries(&self) -> Vec<LostBoundary> {
        self.live.as_ref().map(|record| registry::lost_boundaries(&self.host, record)).unwrap_or_default()
    }
}
