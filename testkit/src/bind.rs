//! Bind mounts that end with the test.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A bind mount in the calling process' mount namespace. It's unmounted when this is dropped.
#[derive(Debug)]
pub struct Bind(PathBuf);

impl Bind {
    /// Binds a directory onto another one.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn new(from: &Path, onto: PathBuf) -> Self {
        mount(Some(from), &onto, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("a bind mount");
        Self(onto)
    }

    /// The mount point.
    pub fn point(&self) -> &Path {
        &self.0
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        // If it fails, the removal of the cgroup that it lies on fails loudly.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
