//! Whether another program can take a view over: it's asked before anything changes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, alarm};

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
        // A program that says half of something must not stop the keeper.
        fcntl(report.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| failed(errno.into()))?;
        let report = duplicate_above(report.as_fd(), KEEPERS_DESCRIPTORS).map_err(|errno| failed(errno.into()))?;
        match sys::process::fork().map_err(failed)? {
            ForkResult::Parent { child } => {
                Ok(Self { process: child, report: Some(report.into()), end: Instant::now() + LIMIT })
            }
            ForkResult::Child => {
                drop(report);
                // It has all descriptors of the view, and must not outlive the keeper.
                let _ = prctl::set_pdeathsig(Signal::SIGKILL);
                alarm::set(LIMIT.as_secs() as u32 + 1);
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
        // Who waits for it may wait for long: it may hang in the kernel. The keeper reaps it.
        let _ = kill(self.process, Signal::SIGKILL);
    }
}
