//! Attaching on a unified host, where a real cgroup2 has to be on `/sys/fs/cgroup`.

use std::os::fd::OwnedFd;

use crate::agents::attach::{Layout, MountFlags};
use crate::cgroup::CgroupPath;
use crate::container::handle::ContainerHandle;
use crate::container::lock::ContainerLock;
use crate::container::stack::UnderlaySource;
use crate::error::Error;
use crate::host::{HostCgroups, same_namespace};
use crate::provision::prepared::PreparedContainer;
use crate::provision::sentinel::SentinelCgroup;
use crate::view::{Shape, View};

/// The note of `attach` for these hosts: otherwise users would only learn it when a program fails.
pub(crate) const UNIFIED_NOTE: &str = "on a unified host systemd and programs that only read recognise the view; runc, crun, Docker \
                               and podman in the container need a kernel cgroup namespace instead (see 'vcgroupfs doctor')";

/// Returns the container's own cgroup.
///
/// # Errors
/// If programs couldn't find it. They join the mount point, which has to be of type cgroup2, and the path in
/// `/proc/self/cgroup`.
pub(crate) fn own_cgroup<'a>(
    container: &ContainerHandle,
    view: &'a View,
    label: &str,
) -> Result<&'a CgroupPath, Error> {
    let has_namespace = !same_namespace(container.pid(), "cgroup")
        .map_err(|error| Error::system(format!("can't look at the cgroup namespace of {label}"), error))?;
    if has_namespace {
        let cause =
            "there programs recognise nothing but a real cgroup2 on /sys/fs/cgroup, which shows the container the same";
        return Err(Error::unsupported(format!("{label} has a cgroup namespace of its own, on a unified host"))
            .because(cause)
            .advise("mount that in the container: 'mount -t cgroup2 cgroup2 /sys/fs/cgroup'"));
    }
    let cause = "programs recognise cgroups there by a real cgroup2 on /sys/fs/cgroup";
    if view.shape != Shape::HostPath {
        let what = format!("--shape {} can't be attached on a unified host", view.shape.word());
        return Err(Error::unsupported(what).because(cause).advise("use --shape host-path"));
    }
    if !view.aliases.is_empty() {
        return Err(Error::unsupported("--alias isn't possible on a unified host")
            .because(cause)
            .advise("leave it out"));
    }
    let own = view.hierarchies.first().and_then(|hierarchy| hierarchy.delegated.as_ref());
    own.ok_or_else(|| {
        Error::failed(format!("{label} is in the host's root cgroup"))
            .because("the view shows a subtree, and that has none")
            .advise("'--place NAME' makes a cgroup and migrates the container's processes there")
    })
}

/// Makes the sentinel for the container whose mount namespace has this number. Returns the mounts to make there, and
/// the cgroup namespace in which to mount the sentinel if it can't be bound.
pub(crate) fn layout(
    host: &HostCgroups,
    lock: &ContainerLock,
    namespace: u64,
    own: &CgroupPath,
    source: UnderlaySource,
    flags: MountFlags,
    prepared: &mut PreparedContainer,
) -> Result<(Layout, Option<OwnedFd>), Error> {
    let sentinel = SentinelCgroup::make(host, lock, namespace, own, source == UnderlaySource::Mounts)?;
    let sentinel = prepared.keep_sentinel(sentinel);
    let namespace =
        sentinel.namespace().map_err(|error| Error::system("can't share the sentinel's namespace", error))?;
    Ok((sentinel.layout(host, flags)?, namespace))
}
