//! Migrations for a caller, with no more than the caller's capabilities: the kernel checks some of the writer's
//! (`capable`), whoever opened the file.

use std::ffi::OsString;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::KernelHost;
use super::tree::attributes;
use super::writes::write_as;
use crate::agents::{LentCapabilities, PidNamespace};
use crate::cgroup::{CgroupPath, HierarchyKind};
use crate::fs::SysResult;
use crate::fs::host::{
    Caller, Credentials, HostCredentials, HostMigrations, MigrationChecks, OpenMode, WriterCredentials,
};
use crate::fs::inode::{Attributes, Node};
use crate::host::backing_file::BackingFile;
use crate::host::cgroup_namespace::OpenedIn;
use crate::host::errno::errno;
use crate::host::hierarchies::HostHierarchy;
use crate::host::hierarchies::walk;
use crate::host::migration_monitor::{self, MonitoredMigration};
use crate::host::opening::open_flags;
use crate::host::proc::held_process::{HeldProcess, is_single, permitted_by_threads};
use crate::host::proc::processes::PidNs;
use crate::sys::capability::{CAP_SYS_ADMIN, CAP_SYS_NICE};
use crate::sys::credentials::{Rights, assume};
use crate::sys::process::is_first_thread;

impl HostMigrations for KernelHost {
    type MonitoredMigration = MonitoredMigration;

    fn checks_both_ends(&self, file: &BackingFile) -> bool {
        self.boundary.as_ref().is_some_and(|boundary| boundary.is_checked(file.opened_in))
    }

    fn is_opened_inside(&self, file: &BackingFile) -> bool {
        file.opened_in == OpenedIn::Inside
    }

    fn open_checked(&self, file: &BackingFile, node: &Node, opener: &Credentials) -> Option<BackingFile> {
        if file.opened_in != OpenedIn::Around || self.hierarchy(node).ok()?.kind != HierarchyKind::Unified {
            return None;
        }
        let _entered = self.boundary.as_ref()?.enter()?;
        let mode = OpenMode { read: false, write: true, truncate: false };
        let fd = self.open_backing(node, open_flags(mode), true, Some(opener)).ok()?;
        Some(BackingFile::new(fd, OpenedIn::Boundary, None))
    }

    fn asks_about_scheduling(&self, hierarchy: usize) -> bool {
        self.shared.cgroups.hierarchies.get(hierarchy).is_some_and(HostHierarchy::has_cpuset)
    }

    fn asks_for_administrators(&self, hierarchy: usize) -> bool {
        self.shared.cgroups.hierarchies.get(hierarchy).is_some_and(HostHierarchy::has_devices)
    }

    fn procs_attributes(&self, hierarchy: usize, cgroup: &CgroupPath) -> SysResult<Attributes> {
        let hierarchy = self.shared.cgroups.hierarchies.get(hierarchy).ok_or(Errno::ENOENT)?;
        let names: Vec<OsString> = cgroup.components().iter().cloned().chain(["cgroup.procs".into()]).collect();
        Ok(attributes(&fstat(walk(hierarchy, &names)?)?))
    }

    fn migrate_caller(
        &self,
        caller: &Caller,
        file: &BackingFile,
        checks: MigrationChecks,
        process: &HeldProcess,
    ) -> SysResult<bool> {
        self.migrate_caller_by(caller, file, checks, process)
    }

    fn migrate(
        &self,
        caller: &Caller,
        numbers: &PidNs,
        file: &BackingFile,
        number: i32,
        checks: MigrationChecks,
        process: &HeldProcess,
    ) -> SysResult<bool> {
        self.migrate_number(caller, numbers, file, number, checks, process)
    }

    fn monitor_migration(&self, file: &Node) -> Option<MonitoredMigration> {
        migration_monitor::begin(&self.shared, &self.view, file.position().hierarchy?)
    }

    fn finish_migration(&self, monitored: MonitoredMigration, process: HeldProcess) {
        monitored.finish(process);
    }
}

impl KernelHost {
    pub(super) fn migrate_number(
        &self,
        caller: &Caller,
        numbers: &PidNs,
        file: &BackingFile,
        number: i32,
        checks: MigrationChecks,
        process: &HeldProcess,
    ) -> SysResult<bool> {
        let text = number.to_string();
        let by_agent = |namespace: &PidNamespace, admin: bool| {
            let agents = self.shared.processes.agents()?;
            let lent = LentCapabilities { nice: checks.nice == Some(true), admin };
            let seen = process.seen().ok_or(Errno::ESRCH)?;
            let last = (seen.memberships.as_fd(), seen.text.as_slice());
            match agents.migrate(namespace, file.fd.as_fd(), text.as_bytes(), lent, last) {
                Err(Errno::E2BIG) if !seen.is_current()? => Ok(false),
                Err(Errno::E2BIG) => agents.write_with(namespace, file.fd.as_fd(), text.as_bytes(), lent).map(|_| true),
                other => other,
            }
        };
        self.as_administrator_if_need_be(caller, checks, |admin| match numbers {
            // The server has the right, so an agent without it has to write.
            PidNs::Own if checks.nice == Some(false) => by_agent(&PidNamespace::own().map_err(errno)?, admin),
            PidNs::Own => migrate_by(file, text.as_bytes(), process),
            PidNs::Of(namespace) => by_agent(namespace, admin),
        })
    }

    /// Makes the kernel judge a writer without CAP_SYS_ADMIN first, where it may check for that. Only if that is
    /// denied, it judges by the caller's real rights. The closure is told which of the two, and what the calling
    /// thread does in it runs with these rights.
    fn as_administrator_if_need_be<T>(
        &self,
        caller: &Caller,
        checks: MigrationChecks,
        migrate: impl Fn(bool) -> SysResult<T>,
    ) -> SysResult<T> {
        if !checks.for_administrators {
            return migrate(false);
        }
        let capabilities = self.shared.capabilities & !CAP_SYS_ADMIN;
        let lesser = assume(&Rights { uid: 0, gid: 0, groups: &[], capabilities }).map_err(errno)?;
        let migrated = migrate(false);
        drop(lesser);
        let is_administrator = || Ok::<_, Errno>(self.writer(caller)?.capabilities & CAP_SYS_ADMIN != 0);
        if migrated.as_ref().err() == Some(&Errno::EPERM) && is_administrator()? { migrate(true) } else { migrated }
    }

    pub(super) fn migrate_caller_by(
        &self,
        caller: &Caller,
        file: &BackingFile,
        checks: MigrationChecks,
        process: &HeldProcess,
    ) -> SysResult<bool> {
        let number = caller.tid.to_string();
        if checks.of_threads {
            let held = process.directory();
            let writer = self.credentials(caller)?;
            let may = is_single(held)?
                || writer.capabilities & CAP_SYS_NICE != 0
                || permitted_by_threads(held)? & !writer.permitted == 0;
            if !may {
                // The server has the right, so a thread without it has to write.
                let Credentials { owner, permitted, .. } = writer;
                if !process.seen().ok_or(Errno::ESRCH)?.is_current()? {
                    return Ok(false);
                }
                return write_as(&WriterCredentials { owner, capabilities: 0, permitted }, file, number.as_bytes())
                    .map(|_| true);
            }
        }
        // Of a whole process the kernel checks the first thread. Only that one counts as the caller itself.
        let checks =
            MigrationChecks { for_administrators: checks.for_administrators && !is_first_thread(caller.tid), ..checks };
        self.as_administrator_if_need_be(caller, checks, |_| migrate_by(file, number.as_bytes(), process))
    }
}

/// Writes the number of a process if the process is still where it was seen last.
fn migrate_by(file: &BackingFile, number: &[u8], process: &HeldProcess) -> SysResult<bool> {
    if !process.seen().ok_or(Errno::ESRCH)?.is_current()? {
        return Ok(false);
    }
    file.write_once(number).map(|_| true)
}
