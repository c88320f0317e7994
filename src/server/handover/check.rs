//! Whether another program can take a view over: it's asked before anything changes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};

use crate::error::Error;
use crate::server::handover::execute;
use crate::server::keeper::KEEPERS_DESCRIPTORS;
use crate::server::status::StatusPipe;
use crate::sys;
use crate::sys::descriptors::duplicate_above;

/// How long a program may take to look at the state.
const LIMIT: Duration = Duration::from_secs(10);

/// A program that looks at the state, in a process of its own. That ends with this.
#[derive(Debug)]
pub(crate) struct Check {
    process: Pid,
    report: Option<StatusPipe>,
    end: Instant,
}

impl Check {
    /// Starts it. The calling process must have one thread.
    ///
    /// # Errors
    /// Those of pipe(2) and fork(2).
    pub(crate) fn start(program: BorrowedFd<'_>, state: BorrowedFd<'_>) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::system("can't start the new program", error);
        let (report, tells) = StatusPipe::pair()?;
        let report = duplicate_above(report.as_fd(), KEEPERS_DESCRIPTORS).map_err(|errno| failed(errno.into()))?;
        match sys::process::fork().map_err(failed)? {
            ForkResult::Parent { child } => {
                Ok(Self { process: child, report: Some(report.into()), end: Instant::now() + LIMIT })
            }
            ForkResult::Child => {
                drop(report);
                let number = tells.as_fd().as_raw_fd().to_string();
                let errno = match execute(program, state, &["--check", &number]) {
                    Err(errno) => errno,
                    Ok(never) => match never {},
                };
                tells.failed(&Error::system("can't execute the new program", errno.into()));
                sys::process::exit_now(1)
            }
        }
    }

    /// What it has found, if it has.
    pub(crate) fn outcome(&mut self) -> Option<Result<(), Error>> {
        let report = self.report.as_ref()?;
        let is_told = poll(&mut [PollFd::new(report.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0);
        if is_told {
            return self
                .report
                .take()
                .map(|report| report.wait_or("the new program has ended before it has looked at the state"));
        }
        (self.left() == Duration::ZERO).then(|| Err(Error::failed("the new program hangs")))
    }

    pub(crate) fn process(&self) -> Pid {
        self.process
    }

    /// How long it still may take.
    pub(crate) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Readable once it has told its outcome.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.report.as_ref().map(StatusPipe::as_fd)
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        let _ = kill(self.process, Signal::SIGKILL);
        while waitpid(self.process, None) == Err(Errno::EINTR) {}
    }
}
