//! Registrations of v1 memory events.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::KernelHost;
use crate::agents::{ClaimedControl, EventClaim};
use crate::fs::SysResult;
use crate::fs::host::{Caller, Claim, ControlFile, HostEventControl, Owner};
use crate::host::backing_file::BackingFile;

impl HostEventControl for KernelHost {
    type EventClaim<'a> = EventClaim<'a>;

    fn claim_event(
        &self,
        caller: &Caller,
        event_control: &BackingFile,
        eventfd: u32,
        control: u32,
    ) -> SysResult<EventClaim<'_>> {
        let registrar = self.shared.registrar.as_ref().ok_or(Errno::EACCES)?;
        registrar.claim(caller.tid, eventfd, control, event_control.fd.as_fd())
    }

    fn register_event(&self, claim: EventClaim<'_>, control: &BackingFile, arguments: &[u8]) -> SysResult<()> {
        claim.register(control.fd.as_fd(), arguments)
    }
}

impl Claim for EventClaim<'_> {
    fn control(&self) -> ControlFile {
        let ClaimedControl { node, mode, uid, gid } = self.control();
        ControlFile { node, mode, owner: Owner { uid, gid } }
    }
}
