//! Readiness of open backing files.

use super::RealHost;
use crate::fs::host::{HostReadiness, Ready};
use crate::fs::{Answer, HandleId};
use crate::host::file::BackingFile;
use crate::host::ready;

impl HostReadiness for RealHost {
    fn poll(&self, file: &BackingFile) -> Answer<u16> {
        ready::state(&file.fd)
    }

    fn wake_when_ready(&self, file: &BackingFile, handle: HandleId) -> Answer<()> {
        self.shared.ready.arm(&file.fd, handle)
    }

    fn stop_waking(&self, file: &BackingFile) {
        self.shared.ready.disarm(&file.fd);
    }

    fn wait_for_ready(&self) -> Option<Vec<Ready>> {
        self.shared.ready.wait()
    }

    fn stop_waiting_for_ready(&self) {
        self.shared.ready.stop();
    }
}
