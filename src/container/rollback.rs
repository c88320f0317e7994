//! A server's changes in its container, which it undoes when it ends.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use crate::container::handle::ContainerHandle;
use crate::records::descriptor;
use crate::server::status::StatusPipe;

/// The process that owns a cleanup. After a fork two processes have the same value, and only the owner acts.
#[derive(Debug)]
pub(crate) struct CleanupOwner(AtomicU32);

impl CleanupOwner {
    pub(crate) fn nobody() -> Self {
        Self(AtomicU32::new(0))
    }

    pub(crate) fn this_process() -> Self {
        Self(AtomicU32::new(std::process::id()))
    }

    pub(crate) fn disown(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(crate) fn adopt(&self) {
        self.0.store(std::process::id(), Ordering::Relaxed);
    }

    pub(crate) fn is_this_process(&self) -> bool {
        self.0.load(Ordering::Relaxed) == std::process::id()
    }
}

/// A view that is in a container, or may be on its way there. When the process that has adopted it drops this, it
/// unmounts the view: all of it, or the part that a killed helper has left. Other processes do nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rollback {
    #[serde(skip, default = "CleanupOwner::nobody")]
    owner: CleanupOwner,
    container: Arc<ContainerHandle>,
    #[serde(with = "descriptor")]
    program: OwnedFd,
    /// Closed, or written to, when the command has finished with the container and its helper has ended.
    committed: StatusPipe,
}

impl Rollback {
    /// Makes a rollback that no process has adopted yet.
    pub(crate) fn new(container: Arc<ContainerHandle>, program: OwnedFd, committed: StatusPipe) -> Self {
        Self { owner: CleanupOwner::nobody(), container, program, committed }
    }

    /// Makes the calling process the owner.
    pub(crate) fn adopt(&self) {
        self.owner.adopt();
    }

    /// Leaves it to other processes.
    pub(crate) fn disown(&self) {
        self.owner.disown();
    }

    /// Unmounts the view with another mount-helper: that of the program which has taken the server over.
    pub(crate) fn use_program(&mut self, program: OwnedFd) {
        self.program = program;
    }
}

impl Drop for Rollback {
    fn drop(&mut self) {
        if self.owner.is_this_process() {
            self.committed.wait_until_told();
            self.container.detach_if_attached(self.program.as_fd());
        }
    }
}
