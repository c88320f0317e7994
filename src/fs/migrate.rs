//! Migrations: a write to `cgroup.procs`, `cgroup.threads` or `tasks`.
//!
//! The number is translated by the kernel in the caller's pid namespace, so it can only name a process that the container sees. That both
//! ends lie in the delegated subtree is checked here. So are the kernel's rules about users, by the opener's credentials: a kernel before
//! Linux 5.16 would judge by the writer's, which is the agent (CVE-2021-4197). A newer one judges once more under its own locks, since the
//! backing file was opened with the opener's credentials.

use nix::errno::Errno;

use super::file::MAX_WRITE;
use super::handles::OpenFile;
use super::host::Credentials;
use super::number::{self, Written};
use super::{Caller, CgroupFs, Failure, Host, Outcome};
use crate::cgroup::file::MembershipFile;
use crate::cgroup::membership::Place;
use crate::cgroup::{CgroupPath, HierarchyKind};
use crate::policy::{MigrationEnds, Rule, Verdict, decide_migration};

/// `CAP_SYS_NICE`, linux/capability.h.
const CAP_SYS_NICE: u32 = 23;

/// A number that the kernel never takes: what comes back is `ENODEV` if the cgroup is gone, else `EINVAL`.
const NO_NUMBER: &[u8] = b"-1";

impl<H: Host> CgroupFs<H> {
    pub(super) fn migrate(
        &self,
        caller: &Caller,
        numbers: Option<&Outcome<H::Numbers>>,
        file: &OpenFile<H::File>,
        list: MembershipFile,
        data: &[u8],
    ) -> Outcome<usize> {
        if data.len() > MAX_WRITE {
            return Err(Errno::E2BIG.into());
        }
        if data.is_empty() {
            return Ok(0);
        }
        let numbers = match numbers {
            Some(Ok(numbers)) => numbers,
            Some(Err(failure)) => return Err(failure.clone()),
            None => return Err(Rule::CallerInvisible.into()),
        };
        let written = number::parse(data);
        let process = match written {
            Written::Malformed => return Err(self.ask_the_kernel(file, Errno::EINVAL)),
            Written::Writer => self.host.pin_caller(caller),
            Written::Number(number) => self.host.pin(numbers, number),
        };
        let process = match process {
            Ok(process) => process,
            // A removed cgroup comes before a process that doesn't exist. The number itself isn't written: it could come to life.
            Err(Errno::ESRCH) => return Err(self.ask_the_kernel(file, Errno::ESRCH)),
            Err(errno) => return Err(errno.into()),
        };
        match self.check_source(file, list, &process) {
            Ok(()) => {}
            Err(Failure::Kernel(Errno::ESRCH)) => return Err(self.ask_the_kernel(file, Errno::ESRCH)),
            Err(denied) => match self.ask_the_kernel(file, Errno::EACCES) {
                gone @ Failure::Kernel(Errno::ENODEV) => return Err(gone),
                _ => return Err(denied),
            },
        }
        match written {
            Written::Number(number) => {
                let nice = self.may_nice(caller, file, &process);
                // The last look at the process before the write: to check the threads of a large one takes a while, and one that has ended
                // by now leaves its number to others.
                if !self.host.is_held(&process) {
                    return Err(self.ask_the_kernel(file, Errno::ESRCH));
                }
                self.host.migrate(numbers, &file.backing, number, nice)?;
                self.verify(numbers, file, &process, number);
            }
            _ => self.host.migrate_caller(caller, &file.backing, self.asks_of_threads(file, list))?,
        }
        Ok(data.len())
    }

    /// Where every thread that would be migrated is now.
    fn check_source(&self, file: &OpenFile<H::File>, list: MembershipFile, process: &H::Process) -> Outcome<()> {
        let position = file.node.position();
        let hierarchy = position.hierarchy.ok_or(Errno::ENODEV)?;
        let nowhere = CgroupPath::root();
        let delegated = self.view.hierarchy(hierarchy).and_then(|hierarchy| hierarchy.delegated.as_ref());
        // Without a delegated subtree nothing is writable; were it asked all the same, the zone says no.
        let delegated = delegated.unwrap_or(&nowhere);
        for place in self.host.places(process, hierarchy, !list.is_threads())? {
            let ends = MigrationEnds { delegated, source: place.path(), destination: self.view.zone(position) };
            match decide_migration(&ends) {
                Verdict::Allow(_) => {}
                Verdict::Deny(denial) => return Err(Failure::Denied(denial)),
            }
            self.check_users(file, hierarchy, &place, process)?;
        }
        Ok(())
    }

    /// The kernel's rules about users. v2: the opener must be able to write `cgroup.procs` of the nearest common ancestor of source and
    /// destination (`cgroup_procs_write_permission`). v1: it's root, or the process is its own (`__cgroup1_procs_write`).
    fn check_users(
        &self,
        file: &OpenFile<H::File>,
        hierarchy: usize,
        source: &Place,
        process: &H::Process,
    ) -> Outcome<()> {
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
        let directory = file.node.parent().and_then(|directory| self.view.backing_path(directory));
        let destination = CgroupPath::from_components(directory.ok_or(Errno::ENODEV)?.1);
        let procs = self.host.procs_attributes(hierarchy, &source.common_ancestor(&destination))?;
        if opener.may_write(&procs) { Ok(()) } else { Err(Rule::CommonAncestor.into()) }
    }

    /// Whether a process that migrates itself is asked whether it may change the scheduling of its threads, each of which has rights of its own.
    fn asks_of_threads(&self, file: &OpenFile<H::File>, list: MembershipFile) -> bool {
        let hierarchy = file.node.position().hierarchy;
        !list.is_threads() && hierarchy.is_some_and(|hierarchy| self.host.asks_about_scheduling(hierarchy))
    }

    /// Whether the writer may change the process' scheduling, if that is asked (`cap_safe_nice`).
    fn may_nice(&self, writer: &Caller, file: &OpenFile<H::File>, process: &H::Process) -> Option<bool> {
        let hierarchy = file.node.position().hierarchy?;
        self.host.asks_about_scheduling(hierarchy).then(|| {
            // What is a capability in a user namespace doesn't count towards a process of the host's.
            let counts =
                |writer: &Credentials| writer.id_maps.is_none() || !self.host.is_in_own_user_namespace(process);
            let (Ok(writer), Ok(process)) = (self.host.credentials(writer), self.host.facts(process)) else {
                return false;
            };
            process.permitted & !writer.permitted == 0
                || writer.capabilities & (1 << CAP_SYS_NICE) != 0 && counts(&writer)
        })
    }

    /// The kernel's errno for a write that it can't accept, which is `expected` unless the cgroup is gone.
    fn ask_the_kernel(&self, file: &OpenFile<H::File>, expected: Errno) -> Failure {
        match self.host.write_invalid(&file.backing, NO_NUMBER) {
            Err(Errno::EINVAL) | Ok(_) => Failure::Kernel(expected),
            Err(errno) => Failure::Kernel(errno),
        }
    }

    /// Between check and write the process may have ended and its number come to mean another one that the container sees. While the one
    /// that was checked holds its number, it was that one; else there's nothing to undo it by, but it must not stay unseen.
    fn verify(&self, numbers: &H::Numbers, file: &OpenFile<H::File>, process: &H::Process, number: i32) {
        if !self.host.is_held(process) && self.host.pin(numbers, number).is_ok() {
            let path = file.node.view_path();
            tracing::warn!(number, ?path, "a process ended while it was migrated, and another one has its number now");
        }
    }
}
