//! The backing cgroupfs. Every object is reached from an open directory, by its kernfs id or by single names, and
//! never through a symlink or onto another filesystem.

mod credentials;
mod event_control;
mod events;
mod files;
mod migrations;
mod mutations;
mod processes;
mod readiness;
mod tree;
mod writes;
mod xattrs;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::boundary_namespace::Boundary;
use super::dir_fd_cache::Key;
use super::hierarchies::walk;
use super::hierarchies::{HostCgroups, HostHierarchy};
use super::opening::by_id;
use super::shared::SharedHost;
use crate::agents::AgentPool;
use crate::fs::SysResult;
use crate::fs::inode::{Node, Object};
use crate::records::Records;
use crate::view::View;

/// The host's cgroupfs and processes behind a view.
#[derive(Debug)]
pub struct KernelHost {
    view: Arc<View>,
    shared: Arc<SharedHost>,
    boundary: Option<Arc<Boundary>>,
}

impl KernelHost {
    /// The host behind `view`, whose hierarchies are those of `cgroups`, in that order. Without agents nothing can be asked about the
    /// processes of another pid namespace.
    ///
    /// # Errors
    /// When the server's own namespaces can't be read.
    pub fn new(
        view: Arc<View>,
        cgroups: HostCgroups,
        agents: Option<AgentPool>,
        records: &Arc<Records>,
    ) -> std::io::Result<Self> {
        let host = Self::sharing(view, Arc::new(SharedHost::new(cgroups, agents, true, records)?));
        if let Some(boundary) = &host.boundary {
            boundary.keep_in(records);
            boundary.attempt();
        }
        Ok(host)
    }

    /// The host behind one of several views.
    pub fn sharing(view: Arc<View>, shared: Arc<SharedHost>) -> Self {
        let boundary = Boundary::of(&view, &shared);
        Self { view, shared, boundary }
    }

    fn hierarchy(&self, node: &Node) -> SysResult<&HostHierarchy> {
        let index = node.position().hierarchy.ok_or(Errno::ENOENT)?;
        self.shared.cgroups.hierarchies.get(index).ok_or(Errno::ENOENT)
    }

    /// Returns a descriptor (`O_PATH`) of a node's backing object. A directory's may have been open for a while: if
    /// the directory was removed since, its attributes can still be read.
    fn object(&self, node: &Node) -> SysResult<Arc<OwnedFd>> {
        let Some(key) = held_as(node) else {
            return self.open_object(node).map(Arc::new);
        };
        if let Some(object) = self.shared.dir_fds.get(key) {
            return Ok(object);
        }
        let object = Arc::new(self.open_object(node)?);
        self.shared.dir_fds.hold(key, &object);
        if node.is_forgotten() || node.may_be_gone() {
            // The directory may have been released just before, and now be cached again.
            self.shared.dir_fds.release(key);
        }
        Ok(object)
    }

    fn open_object(&self, node: &Node) -> SysResult<OwnedFd> {
        let hierarchy = self.hierarchy(node)?;
        if hierarchy.has_handles() && node.inode() != 0 {
            return by_id(hierarchy.root(), node.inode(), libc::O_PATH);
        }
        let (_, path) = node.backing_path(&self.view).ok_or(Errno::ENOENT)?;
        let object = walk(hierarchy, &path)?;
        // The path may now lead to another cgroup of the same name.
        if node.inode() != 0 && fstat(&object)?.st_ino != node.inode() {
            return Err(Errno::ENOENT);
        }
        Ok(object)
    }
}

/// Returns the key under which a node's object is held open, if it's a directory.
fn held_as(node: &Node) -> Option<Key> {
    let is_known = *node.object() == Object::Directory && node.inode() != 0;
    is_known.then_some((node.position().hierarchy?, node.inode()))
}
