//! The rights of callers.

use super::KernelHost;
use crate::fs::SysResult;
use crate::fs::host::{Caller, Credentials, HostCredentials, WriterCredentials};
use crate::host::proc::last_caller;

impl HostCredentials for KernelHost {
    fn credentials(&self, caller: &Caller) -> SysResult<Credentials> {
        self.shared.credentials.credentials(caller)
    }

    fn writer(&self, caller: &Caller) -> SysResult<WriterCredentials> {
        self.shared.credentials.writer(caller)
    }

    fn process_id(&self, caller: &Caller) -> i32 {
        self.shared.credentials.process_id(caller)
    }

    fn forget_last_caller() {
        last_caller::forget();
    }
}
