//! The server's side of mount-helper's `attach` and `detach`, which work in a container's mount namespace.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mount_helper::attach::MountTask;
use mount_helper::attach::message::{MountRequest, REPORT_LEN, Report};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::HelperImage;
use super::connection::{deadline_in, wait_readable};
use crate::sys::{seqpacket, spawn};

pub use mount_helper::attach::flags::MountFlags;
pub use mount_helper::attach::layout::{
    HierarchyMount, Layout, MOUNT_SOURCE, SentinelSource, SentinelSpec, StackSpec, Underlay, VIEW_FSTYPE,
};
pub use mount_helper::attach::message::Location;
pub use mount_helper::attach::mounts::MountSite;
pub use mount_helper::attach::step::{AttachStep, StepError};

/// How long the helper may take for each answer. A filesystem of the container may delay it.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// The reason that a helper hasn't done its task. The container's mounts are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum AttachHelperError {
    /// The server couldn't start it.
    #[error("can't start the mount-helper: {0}")]
    Start(#[from] Errno),
    /// The helper didn't answer in time, or sent no valid report.
    #[error("the mount-helper doesn't answer ({0}): does a filesystem in the container hang?")]
    NoReply(Errno),
    /// A step of the helper failed.
    #[error("{}: {errno}", describe(*.step))]
    Failed {
        /// The step.
        step: AttachStep,
        /// Its errno.
        errno: Errno,
    },
}

/// Describes a failed step to a user.
fn describe(step: AttachStep) -> &'static str {
    match step {
        AttachStep::Close
        | AttachStep::Check
        | AttachStep::Lifeline
        | AttachStep::Privileges
        | AttachStep::MountRequest => "the mount-helper failed",
        AttachStep::Find => "can't find /sys/fs/cgroup in the container",
        AttachStep::Enter => "can't join the container's mount namespace",
        AttachStep::Move => "can't move the mounts into the container",
        AttachStep::Tmpfs => "can't mount a tmpfs",
        AttachStep::Fill => "can't make directories in the tmpfs",
        AttachStep::View => "can't mount the view",
        AttachStep::Underlay => "can't mount a real hierarchy beneath the view",
        AttachStep::Overlay => "can't mount the view over a real hierarchy",
        AttachStep::Seal => "can't make the tmpfs read-only",
        AttachStep::Unmount => "can't unmount the view in the container",
    }
}

/// A helper that has located `/sys/fs/cgroup` in a container, and waits for its request. Dropping this ends the helper.
#[derive(Debug)]
pub struct AttachHelper {
    helper: Helper,
}

impl AttachHelper {
    /// Starts a helper for the container with this mount namespace and root directory. `liveness_pipe` is the writing
    /// end of a pipe, which stays open until the helper has ended.
    ///
    /// # Errors
    /// See [`AttachHelperError`].
    pub fn locate(
        image: BorrowedFd<'_>,
        namespace: BorrowedFd<'_>,
        root: BorrowedFd<'_>,
        liveness_pipe: BorrowedFd<'_>,
    ) -> Result<(Self, Location), AttachHelperError> {
        let helper = Helper::start(image, MountTask::Attach, namespace, root, Some(liveness_pipe))?;
        match helper.report()? {
            Report::Location(found) => Ok((Self { helper }, found)),
            _ => Err(AttachHelperError::NoReply(Errno::EPROTO)),
        }
    }

    /// Asks the helper to move a detached mount, with all that is mounted below it, to the site.
    ///
    /// # Errors
    /// See [`AttachHelperError`]. Nothing is moved then.
    pub fn move_to_site(self, mount: BorrowedFd<'_>) -> Result<(), AttachHelperError> {
        self.helper.request(&MountRequest::Move, mount)?;
        self.helper.done()
    }

    /// Asks the helper to make this layout at the site. It calls `mounted` once the connection is mounted. From then on the server has to
    /// serve it.
    ///
    /// # Errors
    /// See [`AttachHelperError`]. All is unmounted then, unless the helper was too slow.
    pub fn build_at_site(
        self,
        layout: &Layout,
        device: BorrowedFd<'_>,
        mounted: impl FnOnce(),
    ) -> Result<(), AttachHelperError> {
        self.helper.request(&MountRequest::Build(layout.clone()), device)?;
        match self.helper.report()? {
            Report::Mounted => mounted(),
            _ => return Err(AttachHelperError::NoReply(Errno::EPROTO)),
        }
        self.helper.done()
    }
}

/// Unmounts the mount on component `depth` of `/sys/fs/cgroup` in a container, if it's the mount with this id, on
/// this device.
///
/// # Errors
/// See [`AttachHelperError`].
pub fn detach(
    image: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    depth: usize,
    device: (u32, u32),
    mount: u32,
) -> Result<(), AttachHelperError> {
    let (major, minor) = device;
    let task = MountTask::Detach { depth, device: (major.into(), minor.into()), mount: mount.into() };
    Helper::start(image, task, namespace, root, None)?.done()
}

/// A running helper.
#[derive(Debug)]
struct Helper {
    socket: OwnedFd,
    /// Closing this makes the kernel send SIGKILL to the helper.
    _lifeline: OwnedFd,
}

impl Helper {
    fn start(
        image: BorrowedFd<'_>,
        task: MountTask,
        namespace: BorrowedFd<'_>,
        root: BorrowedFd<'_>,
        liveness_pipe: Option<BorrowedFd<'_>>,
    ) -> Result<Self, AttachHelperError> {
        let (socket, theirs) = seqpacket::seqpacket_pair()?;
        let (lifeline, server_lifeline) = pipe2(OFlag::O_CLOEXEC)?;
        let proc = File::open("/proc").map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        let words = task.words().into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
        let words = words.map_err(|_| Errno::EINVAL)?;
        let arguments: Vec<&CStr> =
            std::iter::once(mount_helper::PROGRAM_NAME).chain(words.iter().map(CString::as_c_str)).collect();
        let mut files = vec![theirs.as_fd(), lifeline.as_fd(), namespace, root, proc.as_fd()];
        files.extend(liveness_pipe);
        spawn::spawn_image(image, &arguments, &files)?;
        Ok(Self { socket, _lifeline: server_lifeline })
    }

    fn request(&self, order: &MountRequest, file: BorrowedFd<'_>) -> Result<(), AttachHelperError> {
        seqpacket::send(self.socket.as_fd(), [&order.encode()], &[file]).map_err(AttachHelperError::NoReply)
    }

    fn report(&self) -> Result<Report, AttachHelperError> {
        let mut message = [0; REPORT_LEN];
        wait_readable(self.socket.as_fd(), deadline_in(REPLY_TIMEOUT)).map_err(AttachHelperError::NoReply)?;
        let received =
            seqpacket::receive(self.socket.as_fd(), &mut message, &mut []).map_err(AttachHelperError::NoReply)?;
        let bytes = received.and_then(|len| message.get(..len)).unwrap_or_default();
        match Report::decode(bytes) {
            Ok(Report::Failed { step, errno }) => {
                Err(AttachHelperError::Failed { step, errno: Errno::from_raw(errno) })
            }
            Ok(report) => Ok(report),
            Err(_) => Err(AttachHelperError::NoReply(Errno::EPROTO)),
        }
    }

    fn done(&self) -> Result<(), AttachHelperError> {
        match self.report()? {
            Report::Done => Ok(()),
            _ => Err(AttachHelperError::NoReply(Errno::EPROTO)),
        }
    }
}

impl HelperImage {
    /// Returns another descriptor of the program, for a process that starts helpers elsewhere.
    ///
    /// # Errors
    /// EMFILE.
    pub fn share_program(&self) -> std::io::Result<OwnedFd> {
        self.program().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(pattern: &str) -> impl Strategy<Value = CString> + use<> {
        let strategy = proptest::string::string_regex(pattern).expect("a pattern");
        strategy.prop_map(|text| CString::new(text).expect("no NUL"))
    }

    const NAME: &str = "[a-z][a-z,.@-]{0,8}";

    fn hierarchy() -> impl Strategy<Value = HierarchyMount> {
        let mount = (word("(name=)?[a-z]{1,8}(,[a-z]{1,8}){0,2}"), word("([a-z]{1,8}(/[a-z]{1,8}){0,3})?"));
        let mount = mount.prop_map(|(options, below)| Underlay::Mount { options, below });
        let underlay = prop_oneof![Just(Underlay::None), mount];
        (word(NAME), underlay, any::<bool>(), flags()).prop_map(|(directory, underlay, read_only, flags)| {
            HierarchyMount { directory, underlay, read_only, flags }
        })
    }

    fn flags() -> impl Strategy<Value = MountFlags> {
        "(nosuid|nodev|noexec|noatime|nodiratime|relatime|,){0,8}"
            .prop_map(|options| MountFlags::from_options(&options))
    }

    fn layout() -> impl Strategy<Value = Layout> {
        let links = proptest::collection::vec((word(NAME), word(NAME)), 0..4);
        let stack = (proptest::collection::vec(hierarchy(), 0..6), links, flags())
            .prop_map(|(hierarchies, links, flags)| Layout::Stack(StackSpec { flags, hierarchies, links }));
        let shown = word("[a-z.@-]{0,3}[a-z](/[a-z.@-]{0,3}[a-z]){0,4}");
        let files = proptest::collection::vec(word("cgroup[.][a-z.]{1,12}"), 0..3);
        let own = word("[a-z.@-]{0,3}[a-z](/[a-z.@-]{0,3}[a-z]){0,4}");
        let sentinel = (shown, own, files, flags()).prop_map(|(shown, own, files, flags)| {
            Layout::Sentinel(SentinelSpec { underlay: SentinelSource::Namespace, shown, own, flags, files })
        });
        prop_oneof![stack, sentinel]
    }

    /// Whether a path could lead out of its starting directory.
    fn climbs(path: &CStr) -> bool {
        let path = path.to_bytes();
        path.starts_with(b"/") || path.split(|byte| *byte == b'/').any(|name| name == b"..")
    }

    fn paths(layout: &Layout) -> Vec<&CStr> {
        match layout {
            Layout::Sentinel(sentinel) => {
                std::iter::once(&sentinel.shown).chain(&sentinel.files).map(CString::as_c_str).collect()
            }
            Layout::Stack(spec) => {
                let below = |hierarchy: &'_ HierarchyMount| match &hierarchy.underlay {
                    Underlay::Mount { below, .. } => Some(below.clone()),
                    _ => None,
                };
                assert!(!spec.hierarchies.iter().filter_map(below).any(|below| climbs(&below)));
                let links = spec.links.iter().flat_map(|(name, target)| [name, target]);
                let directories = spec.hierarchies.iter().map(|hierarchy| &hierarchy.directory);
                directories.chain(links).map(CString::as_c_str).collect()
            }
        }
    }

    proptest! {
        #[test]
        fn an_order_arrives_as_it_was_given(layout in layout()) {
            let order = MountRequest::Build(layout);
            prop_assert_eq!(MountRequest::decode(&order.encode()), Ok(order));
        }

        /// Whatever happens to an order on its way, the helper refuses it or stays in place.
        #[test]
        fn a_spoilt_order_does_no_harm(layout in layout(), spoilt in proptest::collection::vec((any::<usize>(), prop_oneof![
            Just(b'/'), Just(b'.'), Just(0), Just(b'='), any::<u8>()
        ]), 1..6)) {
            let mut bytes = MountRequest::Build(layout).encode();
            for (at, byte) in spoilt {
                let length = bytes.len();
                bytes[at % length] = byte;
            }
            if let Ok(MountRequest::Build(layout)) = MountRequest::decode(&bytes) {
                prop_assert!(!paths(&layout).into_iter().any(climbs), "{:?}", layout);
            }
        }
    }
}
