//! The server's side of registering an event: it starts a helper for each registration, and limits the number of
//! helpers.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use mount_helper::events::ClaimedControl;
use mount_helper::events::{Claim, REPLY_LEN, Reply};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::unistd::pipe2;
use parking_lot::Mutex;

use super::HelperImage;
use super::connection::{deadline_in, errno, wait_readable};
use crate::limit::LogLimiter;
use crate::sys::{pidfd, seqpacket, spawn};

/// How long a helper may take for one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// The most helpers that didn't answer in time and haven't ended although they were killed.
const MAX_STUCK_HELPERS: usize = 4;

/// The most registrations at a time. The kernel charges their memory to the server; without a view it would charge
/// the container. Each registration makes the next one slower.
const MAX_REGISTRATIONS: usize = 1024;

/// Registers events of cgroups for processes of a container. Each registration takes a process of its own (`mount_helper::events` says why).
#[derive(Debug)]
pub struct EventRegistrar {
    image: Arc<HelperImage>,
    /// The registered eventfds, an entry for each registration. The kernel removes an entry once the eventfd is
    /// closed everywhere. Nobody polls this set.
    live: Epoll,
    /// An upper bound of the number of entries.
    count: AtomicUsize,
    /// The killed helpers that haven't ended. A leaf lock.
    stuck: Mutex<Vec<OwnedFd>>,
    log: LogLimiter,
}

/// An eventfd of a container's process, held for its registration. Dropping this releases it.
#[derive(Debug)]
pub struct EventClaim<'a> {
    helper: EventHelper<'a>,
    control: ClaimedControl,
}

/// The process that makes one registration.
#[derive(Debug)]
struct EventHelper<'a> {
    registrar: &'a EventRegistrar,
    socket: OwnedFd,
    /// The lifeline, like an agent's: closing it ends the process.
    _lifeline: OwnedFd,
    process: Option<OwnedFd>,
}

impl EventRegistrar {
    /// Makes a registrar without registrations.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new(image: Arc<HelperImage>) -> std::io::Result<Self> {
        Ok(Self {
            image,
            live: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            count: AtomicUsize::new(0),
            stuck: Mutex::default(),
            log: LogLimiter::default(),
        })
    }

    /// Duplicates the eventfd that thread `tid` has as descriptor `eventfd`, and identifies the file that it has as
    /// `control`.
    ///
    /// # Errors
    /// As the kernel (`memcg_write_event_control`): EBADF if either isn't a descriptor, EINVAL if the first isn't an
    /// eventfd. EACCES if the process' descriptors can't be fetched. ENOMEM if there are too many registrations,
    /// EAGAIN if too many helpers don't end, EIO if there's no answer.
    pub fn claim(
        &self,
        tid: i32,
        eventfd: u32,
        control: u32,
        event_control: BorrowedFd<'_>,
    ) -> Result<EventClaim<'_>, Errno> {
        if self.count_stuck() >= MAX_STUCK_HELPERS {
            return Err(Errno::EAGAIN);
        }
        if self.count_registrations() >= MAX_REGISTRATIONS {
            return Err(Errno::ENOMEM);
        }
        let mut helper = self.start().map_err(|errno| self.failed("start", errno))?;
        match helper.ask(&Claim { tid, eventfd, control }.encode(), event_control)? {
            Reply::Held(control) => Ok(EventClaim { helper, control }),
            Reply::Failed(number) => Err(errno(number)),
            Reply::Done => Err(Errno::EIO),
        }
    }

    fn start(&self) -> Result<EventHelper<'_>, Errno> {
        let (socket, theirs) = seqpacket::seqpacket_pair()?;
        let (lifeline, own_lifeline) = pipe2(OFlag::O_CLOEXEC)?;
        let arguments = [mount_helper::PROGRAM_NAME, c"event"];
        let files = [theirs.as_fd(), lifeline.as_fd(), self.live.0.as_fd()];
        let process = spawn::spawn_image(self.image.program(), &arguments, &files)?;
        // It waits for its request, so the number is still its own. If something has killed it, there's no end to
        // wait for.
        Ok(EventHelper {
            registrar: self,
            socket,
            _lifeline: own_lifeline,
            process: pidfd::open(process.as_raw()).ok(),
        })
    }

    /// Counts the killed helpers that haven't ended.
    fn count_stuck(&self) -> usize {
        let mut ended = Vec::new();
        let mut stuck = self.stuck.lock();
        ended.extend(stuck.extract_if(.., |helper| has_ended(helper)));
        stuck.len()
    }

    /// Returns an upper bound of the number of registrations.
    fn count_registrations(&self) -> usize {
        let count = self.count.load(Ordering::Acquire);
        if count < MAX_REGISTRATIONS {
            return count;
        }
        // A registration in between may or may not be counted: a few more than the limit do no harm.
        let live = entries(&self.live).unwrap_or(count);
        self.count.store(live, Ordering::Release);
        live
    }

    fn failed(&self, step: &str, errno: Errno) -> Errno {
        if let Some(suppressed) = self.log.admit() {
            tracing::warn!(step, %errno, suppressed, "the helper that registers an event failed");
        }
        Errno::EIO
    }
}

impl EventClaim<'_> {
    /// Returns the identity of the control file.
    #[must_use]
    pub fn control(&self) -> ClaimedControl {
        self.control
    }

    /// Registers the event, with the backing control file and the rest of the written text. On return the server
    /// holds nothing of it any more.
    ///
    /// # Errors
    /// The kernel's, and those of [`EventRegistrar::claim`].
    pub fn register(mut self, control: BorrowedFd<'_>, arguments: &[u8]) -> Result<(), Errno> {
        // Count it first. If the registration fails, the next recount corrects the number.
        self.helper.registrar.count.fetch_add(1, Ordering::AcqRel);
        match self.helper.ask(arguments, control)? {
            Reply::Done => Ok(()),
            Reply::Failed(number) => Err(errno(number)),
            Reply::Held(_) => Err(Errno::EIO),
        }
    }
}

impl EventHelper<'_> {
    fn ask(&mut self, message: &[u8], file: BorrowedFd<'_>) -> Result<Reply, Errno> {
        self.try_ask(message, file).map_err(|errno| self.registrar.failed("request", errno))
    }

    fn try_ask(&mut self, message: &[u8], file: BorrowedFd<'_>) -> Result<Reply, Errno> {
        seqpacket::send(self.socket.as_fd(), [message], &[file])?;
        if let Err(errno) = wait_readable(self.socket.as_fd(), deadline_in(STEP_TIMEOUT)) {
            // Dropping this kills the helper, but it may not be able to end.
            self.registrar.stuck.lock().extend(self.process.take());
            return Err(errno);
        }
        let mut reply = [0; REPLY_LEN];
        let received = seqpacket::receive(self.socket.as_fd(), &mut reply, &mut [])?;
        let bytes = received.and_then(|length| reply.get(..length)).unwrap_or_default();
        Reply::decode(bytes).ok_or(Errno::EPROTO)
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut looked_at = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut looked_at, PollTimeout::ZERO) != Ok(0)
}

/// Counts the files in an epoll set (proc_pid_fdinfo(5)).
fn entries(set: &Epoll) -> std::io::Result<usize> {
    let text = std::fs::File::open(format!("/proc/self/fdinfo/{}", set.0.as_raw_fd()))?;
    let mut count = 0;
    for line in BufReader::new(text).lines() {
        count += usize::from(line?.starts_with("tfd:"));
    }
    Ok(count)
}
