//! The files and watches that the fake host returns, counted while they exist, and credentials.

use std::sync::Arc;

use parking_lot::Mutex;

use super::tree::State;
use crate::fs::host::Credentials;
use crate::fs::inode::Watch;
use crate::fs::{OpenMode, Owner};

/// An open file, counted as long as it's open.
#[derive(Debug)]
pub(super) struct FakeFile {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) hierarchy: usize,
    pub(super) inode: u64,
    pub(super) mode: OpenMode,
}

impl Drop for FakeFile {
    fn drop(&mut self) {
        self.state.lock().open -= 1;
    }
}

/// A watch, counted until it's dropped.
#[derive(Debug)]
pub(super) struct FakeWatch {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) at: (usize, u64),
}

impl Watch for FakeWatch {}

impl Drop for FakeWatch {
    fn drop(&mut self) {
        *self.state.lock().watches.entry(self.at).or_default() -= 1;
    }
}

/// All rights on the host.
pub(super) fn root_credentials() -> Credentials {
    Credentials {
        thread: 1,
        owner: Owner { uid: 0, gid: 0 },
        groups: Vec::new(),
        capabilities: u64::MAX,
        permitted: u64::MAX,
        id_maps: None,
    }
}
