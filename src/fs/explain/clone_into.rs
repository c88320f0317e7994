//! Predicts clone3(2) with CLONE_INTO_CGROUP.

use std::ffi::OsString;
use std::sync::Arc;

use nix::errno::Errno;

use super::explanation::Explanation;
use crate::cgroup::CgroupPath;
use crate::fs::inode::Node;
use crate::fs::{CgroupFs, Host};

impl<H: Host> CgroupFs<H> {
    /// Predicts the start of a process in a cgroup by clone3(2) with CLONE_INTO_CGROUP (Linux 5.7),
    /// and says what works instead.
    ///
    /// The kernel takes only a descriptor of its own cgroup2 (`cgroup_get_from_file`), whoever has opened it, and
    /// FUSE has no means to stand in for one.
    pub(super) fn judge_clone_into(&self, node: &Arc<Node>, names: &[OsString]) -> Explanation {
        let why = if self.is_unified(node) {
            "the kernel starts a process only in a directory of its own cgroup2, and this one is FUSE's"
        } else {
            "the kernel starts a process only in a directory of its own cgroup2: this one is FUSE's, and cgroup v1 never \
             had that"
        };
        let path = CgroupPath::from_components(names.to_vec());
        let directory = if node.is_directory() { Some(path) } else { path.parent() }.unwrap_or_else(CgroupPath::root);
        let list = directory.to_string();
        let list = format!("{}/cgroup.procs", list.trim_end_matches('/'));
        let instead = self.judge_migration(node, None);
        let instead = if instead.allowed {
            format!("start it without that flag, and have it write 0 to {list} before it executes anything")
        } else {
            format!("writing 0 to {list} after the start is rejected as well: {}", instead.reason)
        };
        Explanation::kernel(Errno::EBADF, &format!("{why}; {instead}"))
    }
}
