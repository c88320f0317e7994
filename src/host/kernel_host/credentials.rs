//! The rights of callers.

use super::KernelHost;
use crate::fs::SysResult;
use crate::fs::host::{Caller, Credentials, HostCredentials, WriterCredentials};

impl HostCredentials for KernelHost {
    fn credentials(&self, caller: &Caller) -> SysResult<Credentials> {
        self.shared.processes.credentials(caller)
    }

    fn writer(&self, caller: &Caller) -> SysResult<WriterCredentials> {
        self.shared.processes.writer(caller)
    }

    fn process_id(&self, caller: &Caller) -> i32 {
        self.shared.processes.process_id(caller)
    }
}
