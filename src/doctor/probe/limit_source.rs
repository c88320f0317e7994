//! Where the limits of a process are read: on the host, or in a container through what is mounted there.

use std::fs::File;
use std::io::{self, Read};

use nix::fcntl::OFlag;

use crate::cgroup::{CgroupPath, HierarchyKind, Membership, parse_memberships, parse_mountinfo};
use crate::doctor::facts::Facts;
use crate::doctor::limits::{HostFiles, Limits, Machine, Row, report};
use crate::doctor::native::NativeFiles;
use crate::doctor::probe::host::HostView;
use crate::doctor::probe::machine::machine;
use crate::doctor::probe::mounted::MountedFiles;
use crate::doctor::probe::target::{ProbeTarget, is_own_cgroup_namespace};

/// The cgroups of a process and the files in them.
#[derive(Debug)]
pub(crate) struct LimitSource {
    files: Files,
    memberships: Vec<Membership>,
    machine: Machine,
    /// The command name of the process.
    pub(crate) command: String,
    /// Whether the process' cgroup namespace isn't the initial one; `None` if the kernel has no cgroup namespaces.
    pub(crate) cgroup_namespace: Option<bool>,
}

#[derive(Debug)]
enum Files {
    /// The host's hierarchies, or those of this process' cgroup namespace.
    Host {
        view: HostView,
        is_whole: bool,
    },
    Mounted(MountedFiles),
    None,
}

/// Nothing to read.
struct NoFiles;

impl HostFiles for NoFiles {
    fn read(&self, _: &HierarchyKind, _: &CgroupPath, _: &str) -> Option<String> {
        None
    }

    fn exists(&self, _: &HierarchyKind, _: &CgroupPath, _: Option<&str>) -> bool {
        false
    }
}

impl LimitSource {
    /// Looks where a process is now. `is_broken` says that a view here doesn't answer, so that nothing may be read through
    /// this process' mounts.
    ///
    /// # Errors
    /// ESRCH if the process has ended. The error of reading its directory in /proc.
    pub(crate) fn of(target: &ProbeTarget, is_broken: bool) -> io::Result<Self> {
        let status = read(target, "status")?;
        if has_ended(&status) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let namespace = |target: &ProbeTarget| Ok(target.namespace("cgroup")?.map(is_own_cgroup_namespace));
        let own = ProbeTarget::open(None).ok();
        let is_whole = own.as_ref().and_then(|own| namespace(own).ok().flatten()) != Some(true);
        let files = match HostView::of(target) {
            Some(view) => Files::Host { view, is_whole },
            None if is_broken => Files::None,
            None => {
                let mounts = std::fs::read("/proc/self/mountinfo").map(|text| parse_mountinfo(&text));
                mounts.ok().and_then(MountedFiles::of).map_or(Files::None, Files::Mounted)
            }
        };
        Ok(Self {
            files,
            memberships: parse_memberships(&read_bytes(target, "cgroup")?),
            machine: machine(&status),
            command: read(target, "comm")?.trim_end().to_owned(),
            // Of a process of another user this can't be told.
            cgroup_namespace: namespace(target).or_else(ignore_permission)?,
        })
    }

    fn files(&self) -> &dyn HostFiles {
        match &self.files {
            Files::Host { view, .. } => view,
            Files::Mounted(files) => files,
            Files::None => &NoFiles,
        }
    }

    /// The cgroups of the process, as this process' cgroup namespace shows them.
    pub(crate) fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// A row for each resource.
    pub(crate) fn rows(&self) -> Vec<Row> {
        report(self.files(), &self.memberships, &self.machine)
    }

    /// The limits that programs are compared with.
    pub(crate) fn limits(&self, facts: &Facts) -> Limits {
        Limits::of(&self.memberships, self.files(), facts.process.affinity, facts.process.memory)
    }

    /// What the process would read without a view.
    pub(crate) fn native(&self, facts: &Facts) -> Option<NativeFiles<'_>> {
        match &self.files {
            Files::Host { view, .. } => view.native(facts),
            Files::Mounted(_) | Files::None => None,
        }
    }

    /// Why the rows may lack limits, if they may.
    pub(crate) fn blind_spot(&self) -> Option<&'static str> {
        let is_outside = |membership: &Membership| membership.location.path().is_none();
        match self.files {
            _ if self.memberships.iter().any(is_outside) => {
                Some("the process is in a cgroup that can't be named in this cgroup namespace: ask on the host")
            }
            Files::Host { is_whole: true, .. } => None,
            Files::Host { is_whole: false, .. } => {
                Some("limits above the root of this cgroup namespace can't be seen from here: ask on the host")
            }
            Files::Mounted(_) => Some(
                "the host's hierarchies can't be seen from here, so only limits that are mounted or shown here count: ask on \
                 the host",
            ),
            Files::None => Some("no cgroup hierarchy can be read here: ask on the host, or mount one"),
        }
    }
}

fn read_bytes(target: &ProbeTarget, name: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::from(target.open_file(name, OFlag::O_RDONLY)?).read_to_end(&mut text)?;
    Ok(text)
}

fn read(target: &ProbeTarget, name: &str) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read_bytes(target, name)?).into_owned())
}

/// Whether the process is a zombie, by its `status`.
fn has_ended(status: &str) -> bool {
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| matches!(state.trim_start().chars().next(), Some('Z' | 'X')))
}

fn ignore_permission(error: io::Error) -> io::Result<Option<bool>> {
    if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) { Ok(None) } else { Err(error) }
}
