//! The processes of the host in memory.

use nix::errno::Errno;

use super::fake::FakeHost;
use super::held::{FakeFile, root_credentials};
use crate::cgroup::CgroupPath;
use crate::cgroup::membership::CgroupLocation;
use crate::fs::host::CallerProcess;
use crate::fs::host::{
    Caller, Claim, ControlFile, Credentials, HostCredentials, HostEventControl, HostFiles, HostMigrations,
    HostProcesses, MigrationChecks, Owner, ProcessFacts, WriterCredentials,
};
use crate::fs::inode::Node;
use crate::fs::{Attributes, SysResult};

/// A fake process has no descriptors.
pub(super) enum NoClaim {}

impl Claim for NoClaim {
    fn control(&self) -> ControlFile {
        match *self {}
    }
}

impl HostCredentials for FakeHost {
    fn credentials(&self, caller: &Caller) -> SysResult<Credentials> {
        let known = self.state.lock().credentials.get(&caller.tid).cloned();
        let owner = Owner { uid: caller.uid, gid: caller.gid };
        Ok(known.unwrap_or_else(|| Credentials { owner, ..root_credentials() }))
    }

    fn writer(&self, caller: &Caller) -> SysResult<WriterCredentials> {
        let Credentials { owner, capabilities, permitted, id_maps, .. } = self.credentials(caller)?;
        Ok(WriterCredentials { owner, capabilities: if id_maps.is_none() { capabilities } else { 0 }, permitted })
    }

    fn process(&self, caller: &Caller) -> CallerProcess {
        CallerProcess { pid: caller.tid, command: "caller".to_owned() }
    }
}

impl HostProcesses for FakeHost {
    type Process = i32;
    /// The caller that they belong to.
    type PidNs = i32;

    fn caller_pid_ns(&self, caller: &Caller) -> SysResult<i32> {
        Ok(caller.tid)
    }

    fn needs_agent(_: &i32) -> bool {
        false
    }

    fn read_members(&self, numbers: &i32, file: &FakeFile, offset: u64, buffer: &mut [u8]) -> SysResult<usize> {
        self.record("read_members", (file.hierarchy, file.inode), numbers.to_string(), false)?;
        self.read(file, offset, buffer)
    }

    fn shows_openers_numbers(&self, _: &FakeFile) -> bool {
        false
    }

    fn pin_caller(&self, caller: &Caller) -> SysResult<i32> {
        self.record("pin_caller", (0, 1), caller.tid.to_string(), false)?;
        self.state.lock().processes.contains_key(&caller.tid).then_some(caller.tid).ok_or(Errno::ESRCH)
    }

    fn pin(&self, _: &i32, number: i32) -> SysResult<i32> {
        self.record("pin", (0, 1), number.to_string(), false)?;
        self.state.lock().processes.contains_key(&number).then_some(number).ok_or(Errno::ESRCH)
    }

    fn facts(&self, process: &i32) -> SysResult<ProcessFacts> {
        self.record("facts", (0, 1), process.to_string(), false)?;
        let state = self.state.lock();
        let known = state.processes.get(process).ok_or(Errno::ESRCH)?;
        Ok(ProcessFacts { users: known.users, permitted: known.permitted })
    }

    fn is_in_own_user_namespace(&self, process: &i32) -> bool {
        self.state.lock().processes.get(process).is_none_or(|known| known.users[0] < 100_000)
    }

    fn is_held(&self, process: &i32) -> bool {
        self.state.lock().processes.contains_key(process)
    }

    fn is_caller(&self, process: &i32, caller: &Caller) -> bool {
        *process == caller.tid
    }

    fn thread_locations(
        &self,
        process: &mut i32,
        hierarchy: usize,
        whole_process: bool,
    ) -> SysResult<Vec<CgroupLocation>> {
        self.record("places", (hierarchy, 1), format!("{process} whole={whole_process}"), false)?;
        let state = self.state.lock();
        let found =
            state.processes.get(process).and_then(|process| process.places.get(&hierarchy)).ok_or(Errno::ESRCH)?;
        let shown = found.iter().take(if whole_process { usize::MAX } else { 1 });
        let place = |path: &Option<&str>| match path {
            Some(path) => CgroupLocation::At(CgroupPath::parse(path).unwrap()),
            None => CgroupLocation::OutsideNamespace,
        };
        Ok(shown.map(place).collect())
    }
}

impl HostMigrations for FakeHost {
    type MonitoredMigration = ();

    fn checks_both_ends(&self, _: &FakeFile) -> bool {
        self.state.lock().checks_both_ends
    }

    fn is_opened_inside(&self, _: &FakeFile) -> bool {
        false
    }

    fn open_checked(&self, _: &FakeFile, _: &Node, _: &Credentials) -> Option<FakeFile> {
        None
    }

    fn asks_about_scheduling(&self, hierarchy: usize) -> bool {
        self.view.hierarchies[hierarchy].kind.controllers().is_some_and(|controllers| controllers.contains("memory"))
    }

    fn asks_for_administrators(&self, _: usize) -> bool {
        false
    }

    fn procs_attributes(&self, hierarchy: usize, cgroup: &CgroupPath) -> SysResult<Attributes> {
        self.record("procs_attributes", (hierarchy, 1), cgroup.to_string(), false)?;
        let state = self.state.lock();
        let inode = state.find(hierarchy, &format!("{cgroup}/cgroup.procs")).ok_or(Errno::ENOENT)?;
        Ok(state.trees[hierarchy][&inode].attributes)
    }

    fn migrate_caller(&self, caller: &Caller, file: &FakeFile, _: MigrationChecks, _: &i32) -> SysResult<bool> {
        assert!(file.mode.write, "a migration through a file that was opened for reading");
        self.record("migrate", (file.hierarchy, file.inode), format!("caller {}", caller.tid), true)?;
        if self.is_gone(file) { Err(Errno::ENODEV) } else { self.is_still_there() }
    }

    fn migrate(
        &self,
        _: &Caller,
        _: &i32,
        file: &FakeFile,
        number: i32,
        checks: MigrationChecks,
        _: &i32,
    ) -> SysResult<bool> {
        assert!(file.mode.write, "a migration through a file that was opened for reading");
        self.record("migrate", (file.hierarchy, file.inode), format!("{number} nice={:?}", checks.nice), true)?;
        if self.is_gone(file) { Err(Errno::ENODEV) } else { self.is_still_there() }
    }

    fn monitor_migration(&self, file: &Node) -> Option<()> {
        self.record("monitor_migration", self.object(file).ok()?, "", false).ok()
    }

    fn finish_migration(&self, (): (), process: i32) {
        self.state.lock().settled.push(process);
    }
}

impl HostEventControl for FakeHost {
    type EventClaim<'a> = NoClaim;

    fn claim_event(&self, _caller: &Caller, _file: &FakeFile, _eventfd: u32, _control: u32) -> SysResult<NoClaim> {
        Err(Errno::EBADF)
    }

    fn register_event(&self, claim: NoClaim, _control: &FakeFile, _arguments: &[u8]) -> SysResult<()> {
        match claim {}
    }
}
