//! Watches of backing directories.

use std::os::fd::AsFd;

use super::{KernelHost, held_as};
use crate::cgroup::file::has_notified_files;
use crate::fs::host::{HostEvents, Report};
use crate::fs::inode::{Node, Watch};

impl HostEvents for KernelHost {
    fn watch(&self, directory: &Node) -> Option<Box<dyn Watch>> {
        let hierarchy = directory.position().hierarchy?;
        let files = has_notified_files(&self.view.hierarchy(hierarchy)?.kind);
        self.shared.watches.as_ref()?.add((hierarchy, directory.inode()), self.object(directory).ok()?.as_fd(), files)
    }

    fn watch_again(&self, directory: &Node, number: i32) -> Option<Box<dyn Watch>> {
        let hierarchy = directory.position().hierarchy?;
        Some(self.shared.watches.as_ref()?.add_again((hierarchy, directory.inode()), number))
    }

    fn changes_left(&self) -> Report {
        self.shared.watches.as_ref().map(|watches| watches.left()).unwrap_or_default()
    }

    fn dealt_with(&self, position: u64) {
        if let Some(watches) = &self.shared.watches {
            watches.dealt_with(position);
        }
    }

    fn forget(&self, node: &Node) {
        if let Some(key) = held_as(node) {
            self.shared.dir_fds.release(key);
        }
    }

    fn wait_for_changes(&self) -> Option<Report> {
        self.shared.watches.as_ref()?.wait()
    }

    fn stop_watching(&self) {
        if let Some(watches) = &self.shared.watches {
            watches.stop();
        }
    }
}
