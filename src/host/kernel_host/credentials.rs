//! The rights of callers.

use super::RealHost;
use crate::fs::Answer;
use crate::fs::host::{Caller, Credentials, HostCredentials, Writer};

impl HostCredentials for RealHost {
    fn credentials(&self, caller: &Caller) -> Answer<Credentials> {
        self.shared.processes.credentials(caller)
    }

    fn writer(&self, caller: &Caller) -> Answer<Writer> {
        self.shared.processes.writer(caller)
    }

    fn process_id(&self, caller: &Caller) -> i32 {
        self.shared.processes.process_id(caller)
    }
}
