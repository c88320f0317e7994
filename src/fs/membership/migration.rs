//! Migrations: a write to `cgroup.procs`, `cgroup.threads` or `tasks`.
//!
//! The kernel translates the number in the caller's pid namespace, so it can only name a process that the container
//! sees. This module checks that both ends lie in the delegated subtree. It also checks the kernel's rules about
//! users by the opener's credentials: a kernel before Linux 5.16 would judge by the writer's, and the writer is the
//! agent (CVE-2021-4197). A newer kernel checks again under its own locks, since the backing file was opened with the
//! opener's credentials.

use nix::errno::Errno;

use crate::cgroup::file::MembershipFile;
use crate::cgroup::membership::CgroupLocation;
use crate::cgroup::{CgroupPath, HierarchyKind};
use crate::fs::host::{Credentials, MigrationChecks};
use crate::fs::membership::pid_arg::{FormProbe, PidArg, parse};
use crate::fs::ops::file::WRITE_BYTES_MAX;
use crate::fs::ops::handles::OpenFile;
use crate::fs::{Caller, CgroupFs, FsError, FsResult, Host};
use crate::policy::{MigrationEnds, Rule, Verdict, decide_migration};
use crate::sys::capability::CAP_SYS_NICE;

/// How often a process is looked up again if others migrate it between check and write.
const ATTEMPTS_MAX: usize = 100;

/// A number that the kernel never accepts: it returns `ENODEV` if the cgroup is gone, else `EINVAL`.
const INVALID_PID: &[u8] = b"-1";

impl<H: Host> CgroupFs<H> {
    pub(in crate::fs) fn migrate(
        &self,
        caller: &Caller,
        numbers: Option<&FsResult<H::PidNs>>,
        file: &OpenFile<H>,
        list: MembershipFile,
        data: &[u8],
    ) -> FsResult<usize> {
        if data.len() > WRITE_BYTES_MAX {
            return Err(Errno::E2BIG.into());
        }
        if data.is_empty() {
            return Ok(0);
        }
        if self.records.done_before().is_some() {
            return Ok(data.len());
        }
        let numbers = match numbers {
            Some(Ok(numbers)) => numbers,
            Some(Err(failure)) => return Err(failure.clone()),
            None => return Err(Rule::CallerInvisible.into()),
        };
        let (mut written, probe) = parse(data);
        if let Some(probe) = probe {
            self.ask_about_form(file, &probe)?;
        }
        let process = match written {
            PidArg::Malformed => return Err(self.ask_the_kernel(file, Errno::EINVAL)),
            PidArg::Writer => self.host.pin_caller(caller),
            PidArg::Number(number) => self.host.pin(numbers, number),
        };
        let mut process = match process {
            Ok(process) => process,
            // The kernel reports a removed cgroup before a missing process. The number itself isn't written: a new
            // process could get it.
            Err(Errno::ESRCH) => return Err(self.ask_the_kernel(file, Errno::ESRCH)),
            Err(errno) => return Err(errno.into()),
        };
        let hierarchy = file.node.position().hierarchy;
        let for_administrators = hierarchy.is_some_and(|hierarchy| self.host.asks_for_administrators(hierarchy));
        // The kernel doesn't check a thread that migrates itself, whichever number it writes.
        if for_administrators && matches!(written, PidArg::Number(_)) && self.host.is_caller(&process, caller) {
            written = PidArg::Writer;
        }
        let backing = self.checked(file);
        let monitored =
            if self.host.checks_both_ends(backing) { None } else { self.host.monitor_migration(&file.node) };
        for _ in 0..ATTEMPTS_MAX {
            match self.check_source(file, list, &mut process) {
                Ok(()) => {}
                Err(FsError::Kernel(Errno::ESRCH)) => return Err(self.ask_the_kernel(file, Errno::ESRCH)),
                Err(denied) => match self.ask_the_kernel(file, Errno::EACCES) {
                    gone @ FsError::Kernel(Errno::ENODEV) => return Err(gone),
                    _ => return Err(denied),
                },
            }
            let migrated = match written {
                PidArg::Number(number) => {
                    let nice = self.may_nice(caller, file, &process);
                    let checks = MigrationChecks { nice, for_administrators, ..MigrationChecks::default() };
                    let migrate = || self.host.migrate(caller, numbers, backing, number, checks, &process);
                    self.records.once(|_| migrate().map(usize::from))
                }
                _ => {
                    let of_threads = self.asks_of_threads(file, list);
                    let for_administrators = for_administrators && !list.is_threads();
                    let checks = MigrationChecks { of_threads, for_administrators, ..MigrationChecks::default() };
                    let migrate = || self.host.migrate_caller(caller, backing, checks, &process);
                    self.records.once(|_| migrate().map(usize::from))
                }
            };
            match migrated {
                Ok(1..) => {
                    if let PidArg::Number(number) = written {
                        self.verify(numbers, file, &process, number);
                    }
                    if let Some(monitored) = monitored {
                        self.host.finish_migration(monitored, process);
                    }
                    return Ok(data.len());
                }
                // Somebody else has migrated it since the check.
                Ok(0) => {}
                // It has exited since the check.
                Err(Errno::ESRCH) => return Err(self.ask_the_kernel(file, Errno::ESRCH)),
                // It has left the subtree since the check, or it's outside the opener's own namespace, which begins
                // further below.
                Err(Errno::ENOENT) if self.host.checks_both_ends(backing) => {
                    self.check_source(file, list, &mut process)?;
                    if self.host.is_opened_inside(backing) {
                        return Err(Errno::ENOENT.into());
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        // Others keep migrating it, so its source can't be determined.
        Err(Errno::EAGAIN.into())
    }

    /// Returns the backing file for the migration: if possible, one with which the kernel itself checks both ends.
    /// That may have become possible only after the file was opened.
    fn checked<'a>(&self, file: &'a OpenFile<H>) -> &'a H::File {
        if self.host.checks_both_ends(&file.backing) {
            return &file.backing;
        }
        if let Some(checked) = file.checked.get() {
            return checked;
        }
        let checked = file.opener.as_ref().and_then(|opener| self.host.open_checked(&file.backing, &file.node, opener));
        match checked {
            Some(checked) => {
                if let Some(((descriptor, _), record)) = self.host.recorded(&checked).zip(file.record.as_ref()) {
                    record.set_checked(descriptor);
                }
                file.checked.get_or_init(|| checked)
            }
            None => &file.backing,
        }
    }

    /// Checks the current cgroup of every thread that would be migrated.
    fn check_source(&self, file: &OpenFile<H>, list: MembershipFile, process: &mut H::Process) -> FsResult<()> {
        let position = file.node.position();
        let hierarchy = position.hierarchy.ok_or(Errno::ENODEV)?;
        let nowhere = CgroupPath::root();
        let delegated = self.view.hierarchy(hierarchy).and_then(|hierarchy| hierarchy.delegated.as_ref());
        // Without a delegated subtree nothing is writable, and the zone denies the request.
        let delegated = delegated.unwrap_or(&nowhere);
        for place in self.host.thread_locations(process, hierarchy, !list.is_threads())? {
            let ends = MigrationEnds { delegated, source: place.path(), destination: self.view.zone(position) };
            match decide_migration(&ends) {
                Verdict::Allow(_) => {}
                Verdict::Deny(denial) => return Err(FsError::Denied(denial)),
            }
            self.check_users(file, hierarchy, &place, process)?;
        }
        Ok(())
    }

    /// Checks the kernel's rules about users. v2: the opener must be able to write `cgroup.procs` of the nearest
    /// common ancestor of source and destination (`cgroup_procs_write_permission`). v1: the opener is root or owns
    /// the process (`__cgroup1_procs_write`).
    fn check_users(
        &self,
        file: &OpenFile<H>,
        hierarchy: usize,
        source: &CgroupLocation,
        process: &H::Process,
    ) -> FsResult<()> {
        let (Some(opener), Some(source)) = (&file.opener, source.path()) else {
            return Err(Rule::CommonAncestor.into());
        };
        if self.view.hierarchy(hierarchy).is_some_and(|entry| entry.kind != HierarchyKind::Unified) {
            let uid = opener.owner.uid;
            let own = uid == 0 || self.host.facts(process)?.users.contains(&uid);
            return if own { Ok(()) } else { Err(Rule::AnothersProcess.into()) };
        }
        if opener.overrides_permissions() {
            return Ok(());
        }
        let directory = file.node.parent().and_then(|directory| directory.backing_path(&self.view));
        let destination = CgroupPath::from_components(directory.ok_or(Errno::ENODEV)?.1);
        let procs = self.host.procs_attributes(hierarchy, &source.common_ancestor(&destination))?;
        if opener.may_write(&procs) { Ok(()) } else { Err(Rule::CommonAncestor.into()) }
    }

    /// Whether the kernel checks the right of a process that migrates itself to change the scheduling of its threads,
    /// which have rights of their own.
    fn asks_of_threads(&self, file: &OpenFile<H>, list: MembershipFile) -> bool {
        let hierarchy = file.node.position().hierarchy;
        !list.is_threads() && hierarchy.is_some_and(|hierarchy| self.host.asks_about_scheduling(hierarchy))
    }

    /// Whether the writer may change the process' scheduling, if the kernel checks that (`cap_safe_nice`).
    fn may_nice(&self, writer: &Caller, file: &OpenFile<H>, process: &H::Process) -> Option<bool> {
        let hierarchy = file.node.position().hierarchy?;
        self.host.asks_about_scheduling(hierarchy).then(|| {
            // A capability in a user namespace doesn't apply to a process of the host.
            let counts =
                |writer: &Credentials| writer.id_maps.is_none() || !self.host.is_in_own_user_namespace(process);
            let (Ok(writer), Ok(process)) = (self.host.credentials(writer), self.host.facts(process)) else {
                return false;
            };
            process.permitted & !writer.permitted == 0 || writer.capabilities & CAP_SYS_NICE != 0 && counts(&writer)
        })
    }

    /// Checks whether the kernel accepts a text of this form as a number. Returns its errno otherwise.
    fn ask_about_form(&self, file: &OpenFile<H>, probe: &FormProbe) -> FsResult<()> {
        match (self.host.write_invalid(&file.backing, &probe.text), probe.taken) {
            (Err(errno), Some(taken)) if errno == taken => Ok(()),
            (Err(Errno::ESRCH), Some(_)) | (Ok(_), _) => Err(Errno::EINVAL.into()),
            (Err(errno), _) => Err(errno.into()),
        }
    }

    /// Returns the kernel's errno for a write that it can't accept: `expected` unless the cgroup is gone.
    fn ask_the_kernel(&self, file: &OpenFile<H>, expected: Errno) -> FsError {
        match self.host.write_invalid(&file.backing, INVALID_PID) {
            Err(Errno::EINVAL) | Ok(_) => FsError::Kernel(expected),
            Err(errno) => FsError::Kernel(errno),
        }
    }

    /// Checks after the write that the number still meant the checked process. Between check and write the process
    /// may have exited and another process that the container sees may have got the number. If so, the write can't be
    /// undone, but it must be logged.
    fn verify(&self, numbers: &H::PidNs, file: &OpenFile<H>, process: &H::Process, number: i32) {
        if !self.host.is_held(process) && self.host.pin(numbers, number).is_ok() {
            let path = file.node.view_path();
            tracing::warn!(number, ?path, "a process ended while it was migrated, and another one has its number now");
        }
    }
}
