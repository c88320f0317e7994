//! How a keeper sees that its server has ended.
//!
//! A killed process ends only when each of its threads does, and one that waits for a device may never. So a thread of
//! the server does nothing but wait, and alone holds the end of a pipe, in a descriptor table of its own. It ends at
//! once. It isn't the first thread: `/proc/self/fd` shows the first one's table, and the server uses that.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::channel;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{pipe2, read, write};

use super::link::{self, News};
use crate::error::Error;
use crate::server::logging;
use crate::sys;

/// The exit status of a server that panicked.
const PANICKED: i32 = 101;

/// A pipe that ends with a server.
#[derive(Debug)]
pub(super) struct Life {
    ends: OwnedFd,
    /// Closed once the server has its own.
    lives: Option<OwnedFd>,
}

impl Life {
    pub(super) fn new() -> Result<Self, Errno> {
        let (ends, lives) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&ends, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { ends, lives: Some(lives) })
    }

    /// Whether the server has ended. To be called when there's something to read.
    pub(super) fn has_ended(&mut self) -> bool {
        match read(&self.ends, &mut [0]) {
            Ok(0) => true,
            // The server's thread has taken its end.
            Ok(_) => {
                self.lives = None;
                false
            }
            Err(_) => false,
        }
    }
}

impl AsFd for Life {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ends.as_fd()
    }
}

/// Serves in this process, which was just forked, and ends it.
pub(super) fn serve(life: Life, link: OwnedFd, serve: impl FnOnce() -> Result<(), Error>) -> ! {
    let _ = nix::sys::prctl::set_name(c"vcgroupfs");
    // Ended helpers and agents need no attention.
    let _ = sys::process::set_disposition(Signal::SIGCHLD, true);
    link::connect(link);
    hold(life);
    let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve));
    let status = match served {
        Ok(Ok(())) => {
            link::tell(&News::Ended);
            0
        }
        Ok(Err(error)) => {
            link::tell(&News::Failed(error));
            1
        }
        Err(_) => PANICKED,
    };
    logging::finish();
    std::process::exit(status)
}

/// Starts the thread that holds this process' end of the pipe. Without it, the keeper sees the end by the signal alone.
fn hold(life: Life) {
    // The numbers are the keeper's: it closes them.
    let life = ManuallyDrop::new(life);
    let (ready, is_ready) = channel::<()>();
    let started = thread::Builder::new().name("life".to_owned()).stack_size(64 * 1024).spawn(move || {
        let held = life.lives.as_ref().and_then(|lives| sys::descriptors::take_files([lives.as_fd()]).ok());
        if let Some([lives]) = &held {
            let _ = write(lives, &[0]);
        }
        drop(ready);
        loop {
            thread::park();
        }
    });
    if started.is_ok() {
        // Until then this thread has copies of all descriptors, so what is closed elsewhere stays open.
        let _ = is_ready.recv();
    }
}
