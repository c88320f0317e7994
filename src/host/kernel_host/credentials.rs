//! The rights of callers.

use super::KernelHost;
use crate::fs::SysResult;
use crate::fs::host::{Caller, CallerProcess, Credentials, HostCredentials, WriterCredentials};
use crate::host::proc::{caller_process, last_caller};

impl HostCredentials for KernelHost {
    fn credentials(&self, caller: &Caller) -> SysResult<Credentials> {
        self.shared.credentials.credentials(caller)
    }

    fn writer(&self, caller: &Caller) -> SysResult<WriterCredentials> {
        self.shared.credentials.writer(caller)
    }

    fn process(&self, caller: &Caller) -> CallerProcess {
        caller_process::of(caller.tid)
    }

    fn forget_last_caller() {
        last_caller::forget();
    }
}
