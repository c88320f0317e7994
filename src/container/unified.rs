//! What is different on a unified host.

use std::os::fd::OwnedFd;

use crate::agents::attach::{Flags, Layout};
use crate::cgroup::CgroupPath;
use crate::container::handle::Container;
use crate::container::lock::ContainerLock;
use crate::container::stack::UnderlaySource;
use crate::error::Error;
use crate::host::{HostCgroups, same_namespace};
use crate::provision::prepared::PreparedContainer;
use crate::provision::sentinel::SentinelCgroup;
use crate::view::{Shape, View};

/// Said of every view that is attached there, since nothing else does before a client fails.
pub(crate) const UNIFIED_NOTE: &str = "on a unified host systemd and programs that only read recognise the view; runc, crun, Docker \
                               and podman in the container need a kernel cgroup namespace instead (see 'vcgroupfs doctor')";

/// The container's own cgroup. Fails where clients couldn't find it: by mount point and path in `/proc/self/cgroup`, on a mount of type
/// cgroup2.
pub(crate) fn own_cgroup<'a>(container: &Container, view: &'a View, label: &str) -> Result<&'a CgroupPath, Error> {
    let has_namespace = !same_namespace(container.pid(), "cgroup")
        .map_err(|error| Error::system(format!("can't look at the cgroup namespace of {label}"), error))?;
    let unsupported = |what: String| Err(Error::unsupported(what));
    if has_namespace {
        return unsupported(format!(
            "{label} has a cgroup namespace of its own, in which clients on a unified host only recognise a real cgroup2 on \
             /sys/fs/cgroup: mount that in the container ('mount -t cgroup2 cgroup2 /sys/fs/cgroup'), where it shows and \
             contains what a view would"
        ));
    }
    if view.shape != Shape::HostPath {
        return unsupported(
            "on a unified host a view is attached with shape host-path: with others clients wouldn't find a cgroup2 \
             filesystem on /sys/fs/cgroup"
                .to_owned(),
        );
    }
    if !view.aliases.is_empty() {
        return unsupported(
            "--alias has no place on a unified host, where a real cgroup is on /sys/fs/cgroup: leave it out".to_owned(),
        );
    }
    let own = view.hierarchies.first().and_then(|hierarchy| hierarchy.delegated.as_ref());
    own.ok_or_else(|| {
        let what = format!("{label} sits in the host's root cgroup, so there is no subtree to show");
        Error::failed(format!("{what}: --place NAME makes a cgroup and migrates the container's processes there"))
    })
}

/// What is to be made in the container whose mount namespace has this number, and for whoever can only mount it, the cgroup namespace to do that in.
pub(crate) fn layout(
    host: &HostCgroups,
    lock: &ContainerLock,
    namespace: u64,
    own: &CgroupPath,
    source: UnderlaySource,
    flags: Flags,
    prepared: &mut PreparedContainer,
) -> Result<(Layout, Option<OwnedFd>), Error> {
    let sentinel = SentinelCgroup::make(host, lock, namespace, own, source == UnderlaySource::Mounts)?;
    let sentinel = prepared.keep_sentinel(sentinel);
    let namespace =
        sentinel.namespace().map_err(|error| Error::system("can't share the sentinel's namespace", error))?;
    Ok((sentinel.layout(host, flags)?, namespace))
}
