//! Readiness of open backing files.

use super::KernelHost;
use crate::fs::host::{HostReadiness, Ready};
use crate::fs::{HandleId, SysResult};
use crate::host::backing_file::BackingFile;
use crate::host::readiness;

impl HostReadiness for KernelHost {
    fn poll(&self, file: &BackingFile) -> SysResult<u16> {
        readiness::state(&file.fd)
    }

    fn wake_when_ready(&self, file: &BackingFile, handle: HandleId) -> SysResult<()> {
        self.shared.ready_files.arm(&file.fd, handle)
    }

    fn stop_waking(&self, file: &BackingFile) {
        self.shared.ready_files.disarm(&file.fd);
    }

    fn wait_for_ready(&self) -> Option<Vec<Ready>> {
        self.shared.ready_files.wait()
    }

    fn stop_waiting_for_ready(&self) {
        self.shared.ready_files.stop();
    }
}
