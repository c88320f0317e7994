//! The mount namespace of the command, and the view in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use nix::unistd::{chdir, chroot, fchdir};

use crate::agents::attach::Layout;
use crate::cgroup::Setup;
use crate::container::DIRECTORY;
use crate::container::covered::CoveredMounts;
use crate::container::lock::ContainerLock;
use crate::container::stack::{UnderlaySource, stack_spec};
use crate::container::staging::{build_in_place, clear_mount_point, enter_own_namespace};
use crate::container::unified;
use crate::error::Error;
use crate::fuse::{Connection, detached_mount};
use crate::host::HostCgroups;
use crate::provision::prepared::PreparedContainer;
use crate::provision::sentinel::remove_leftovers;
use crate::view::{Shape, View};

const CGROUPFS: [FsType; 2] = [CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC];

/// The mount namespace and the root directory from which the supervisor comes, and to which its server returns.
#[derive(Debug)]
pub(super) struct Origin {
    namespace: File,
    root: File,
    /// The path of the working directory, if it has one.
    directory: Option<PathBuf>,
    /// The number of the command's mount namespace.
    pub(super) inside: u64,
}

impl Origin {
    /// Enters a new mount namespace, which is the command's.
    pub(super) fn leave_for_new_namespace() -> Result<Self, Error> {
        let failed = |error| Error::system("can't look at this command's mount namespace", error);
        let namespace = || File::open("/proc/self/ns/mnt").map_err(failed);
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let root = File::options().read(true).custom_flags(flags).open("/").map_err(failed)?;
        let directory = std::env::current_dir().ok();
        let origin = namespace()?;
        enter_own_namespace()?;
        let inside = fstat(namespace()?).map_err(|errno| failed(errno.into()))?.st_ino;
        Ok(Self { namespace: origin, root, directory, inside })
    }

    /// Changes the working directory if it's in the host's cgroups, where it would stay although the view is mounted
    /// over it. The new one has the same path in the view, or is the root.
    pub(super) fn leave_cgroups(&self) -> Result<(), Error> {
        let is_the_hosts = match &self.directory {
            Some(directory) => directory.starts_with(DIRECTORY),
            None => statfs(".").is_ok_and(|found| CGROUPFS.contains(&found.filesystem_type())),
        };
        if !is_the_hosts {
            return Ok(());
        }
        let changed = self.directory.as_deref().map_or(Err(Errno::ENOENT), chdir);
        changed.or_else(|_| chdir("/")).map_err(|errno| Error::system("can't leave the host's cgroups", errno.into()))
    }

    /// Returns to the original namespace. The working directory is then its root.
    pub(super) fn return_to(&self) -> io::Result<()> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        fchdir(&self.root)?;
        Ok(chroot(".")?)
    }
}

/// How the view is mounted for the command.
#[derive(Debug)]
pub(super) enum CommandView {
    /// In a stack of mounts as in `attach`, so that programs recognise it.
    Attached(Layout),
    /// The view alone, so that it makes every rejection itself, with a reason in its log.
    Bare,
}

impl CommandView {
    /// Prepares the command's cgroups for a stack. The caller holds the lock until the server's record is published.
    pub(super) fn stack(
        host: &HostCgroups,
        view: &View,
        namespace: u64,
        prepared: &mut PreparedContainer,
    ) -> Result<(Self, Option<ContainerLock>), Error> {
        if host.setup != Setup::Unified {
            prepared.prepare(host, view)?;
            let spec = stack_spec(host, view, UnderlaySource::Binds, &CoveredMounts::default())?;
            return Ok((Self::Attached(Layout::Stack(spec)), None));
        }
        let own = view.hierarchies.first().and_then(|hierarchy| hierarchy.delegated.as_ref());
        let Some(own) = own.filter(|_| view.shape == Shape::HostPath && view.aliases.is_empty()) else {
            let what = "on a unified host --stack can't be used with another shape than host-path, or with --alias";
            return Err(Error::unsupported(what).because("what programs recognise there is a real cgroup"));
        };
        let lock = ContainerLock::acquire(namespace)?;
        let (layout, _) = unified::layout(
            host,
            &lock,
            namespace,
            own,
            UnderlaySource::Binds,
            CoveredMounts::default().sentinel(),
            prepared,
        )?;
        Ok((Self::Attached(layout), Some(lock)))
    }

    /// Mounts the view in this namespace, in place of the host's cgroups. `mounted` gets a descriptor of the view's
    /// root, if there is one, and returns when the view is served.
    pub(super) fn mount(
        &self,
        connection: Connection,
        mounted: impl FnOnce(Option<BorrowedFd<'_>>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let tell = |view: &Path| match detached_mount(view) {
            Ok(root) => mounted(Some(root.as_fd())),
            Err(error) => {
                tracing::warn!(%error, "no way to the view's mount: inotify reports only what is done through the view");
                mounted(None)
            }
        };
        match self {
            Self::Attached(layout) => build_in_place(layout, &connection, |view| {
                // Old kernels need the path.
                tell(&std::fs::read_link(format!("/proc/self/fd/{}", view.as_raw_fd()))?)
            }),
            Self::Bare => {
                clear_mount_point()?;
                connection.mount(Path::new(DIRECTORY))?;
                // From here on only the server holds the connection, so the connection ends with the server.
                drop(connection);
                tell(Path::new(DIRECTORY))
            }
        }
    }

    /// Removes the sentinel of a server that was killed.
    pub(super) fn remove_sentinel(&self, origin: &Origin) {
        if matches!(self, Self::Attached(Layout::Sentinel(_)))
            && let Ok(lock) = ContainerLock::acquire(origin.inside)
        {
            remove_leftovers(&lock, origin.inside);
        }
    }
}
