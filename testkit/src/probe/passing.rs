//! Operations on descriptors: eventfds, and passing them between processes.

use std::fs::Permissions;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde_json::Value;

use super::files::keep;
use super::op::Op;
use super::state::{Answer, Failure, State};

/// How long to wait for a posted descriptor.
const POST_TIMEOUT: Duration = Duration::from_secs(10);

/// Performs an operation on descriptors; `None` if it isn't one.
pub(super) fn execute(state: &Arc<State>, op: &Op) -> Option<Answer> {
    Some(match op {
        Op::Eventfd { fd } => new_eventfd().map(|made| keep(state, fd, made)),
        Op::Mailbox { path, fd } => mailbox(state, path, fd),
        Op::Post { fd, path } => post(state, fd, path),
        Op::Fetch { mailbox, fd } => fetch(state, mailbox, fd),
        Op::WriteWithOwnDescriptors { to, data } => write_with_own_descriptors(state, to, data),
        _ => return None,
    })
}

fn new_eventfd() -> Result<OwnedFd, Failure> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn mailbox(state: &State, path: &str, fd: &str) -> Answer {
    let path = state.expand(path)?;
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(POST_TIMEOUT))?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    Ok(keep(state, fd, socket.into()))
}

fn post(state: &State, fd: &str, path: &str) -> Answer {
    let file = state.fd(fd)?;
    let socket = UnixDatagram::unbound()?;
    socket.connect(state.expand(path)?)?;
    let files = [std::os::fd::AsFd::as_fd(&*file)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(&socket, &[IoSlice::new(b"x")], &mut control, SendFlags::empty())?;
    Ok(Value::Null)
}

fn fetch(state: &State, mailbox: &str, fd: &str) -> Answer {
    let socket = state.fd(mailbox)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&*socket, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut files) = message {
            let file = files.next().ok_or_else(|| Failure::Script("nothing was posted".into()))?;
            return Ok(keep(state, fd, file));
        }
    }
    Err(Failure::Script("no descriptor was posted".into()))
}

fn write_with_own_descriptors(state: &Arc<State>, to: &str, data: &str) -> Answer {
    let (to, data, state) = (state.fd(to)?, data.to_owned(), Arc::clone(state));
    let write = move || -> Answer {
        unshare(CloneFlags::CLONE_FILES)?;
        let own = new_eventfd()?;
        state.define("OWN", own.as_raw_fd());
        Ok(rustix::io::write(&*to, state.expand(&data)?.as_bytes()).map(|count| serde_json::json!(count))?)
    };
    thread::spawn(write).join().map_err(|_| Failure::Script("the thread panicked".into()))?
}
