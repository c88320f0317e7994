//! Operations by io_uring, each by a worker: a thread that the kernel makes in the probe, and keeps for the next one.

use std::cell::RefCell;
use std::ffi::CString;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};
use nix::errno::Errno;
use nix::libc::{AT_FDCWD, O_CLOEXEC, O_RDONLY, O_WRONLY};
use serde_json::Value;

use super::files::keep;
use super::op::Op;
use super::state::{Answer, Failure, State};

thread_local! {
    static RING: RefCell<Option<IoUring>> = const { RefCell::new(None) };
}

/// Performs an operation by io_uring; `None` if it isn't one.
pub(super) fn execute(state: &Arc<State>, op: &Op) -> Option<Answer> {
    Some(match op {
        Op::StartRing => start(),
        Op::OpenByRing { path, fd } => {
            state.expand(path).and_then(|path| open(&path, O_WRONLY)).map(|file| keep(state, fd, file))
        }
        _ => return None,
    })
}

fn start() -> Answer {
    let ring = IoUring::new(2)?;
    RING.set(Some(ring));
    open("/", O_RDONLY).map(|_| Value::Null)
}

#[allow(unsafe_code, reason = "the kernel reads the path by itself, and gives a bare number back")]
fn open(path: &str, flags: i32) -> Result<OwnedFd, Failure> {
    let path = CString::new(path).map_err(|error| Failure::Script(error.to_string()))?;
    let entry = opcode::OpenAt::new(types::Fd(AT_FDCWD), path.as_ptr()).flags(flags | O_CLOEXEC).build();
    RING.with_borrow_mut(|ring| {
        let ring = ring.as_mut().ok_or_else(|| Failure::Script("no ring was started".into()))?;
        // SAFETY: the path lives until the answer has come.
        unsafe { ring.submission().push(&entry.flags(squeue::Flags::ASYNC)) }
            .map_err(|error| Failure::Script(error.to_string()))?;
        // Whatever the kernel does with the path has ended once there's an answer, or never begins if it took nothing.
        ring.submit_and_wait(1)?;
        let answer = ring.completion().next().ok_or_else(|| Failure::Script("no answer".into()))?.result();
        if answer < 0 {
            return Err(Errno::from_raw(-answer).into());
        }
        // SAFETY: the kernel has just opened it, for us.
        Ok(unsafe { OwnedFd::from_raw_fd(answer) })
    })
}
