//! `vcgroupfs-legacy-kernel COMMAND...` runs COMMAND as on Linux 3.10: without the system calls that came later
//! (`vcgroupfs-legacy-syscalls`), and with the cgroup v1 of that time ([`vcgroupfs_testkit::legacy`]).
//!
//! A supervisor, which isn't a child of COMMAND's, answers for as long as any process is left that COMMAND has started.

use std::io::{Error, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use vcgroupfs_testkit::legacy::{Listener, submit, supervise};

/// What it's called with to start the supervisor, and to be it. The socket is its standard input.
const START: &str = "--start-supervisor";
const SUPERVISE: &str = "--supervise";

fn itself(word: &str, socket: OwnedFd) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(word).stdin(socket).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn received(socket: &OwnedFd) -> Result<Listener, Error> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let file = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    file.map(Listener::from).ok_or_else(|| Error::other("no listener came"))
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().ok_or("usage: vcgroupfs-legacy-kernel COMMAND...")?;
    if program == START {
        itself(SUPERVISE, std::io::stdin().as_fd().try_clone_to_owned()?).spawn()?;
        return Ok(());
    }
    if program == SUPERVISE {
        let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
        return Ok(supervise(&received(&socket)?)?);
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    if !itself(START, theirs).status()?.success() {
        return Err("can't start the supervisor".into());
    }
    // It executes the command.
    let filter = std::env::current_exe()?.with_file_name("vcgroupfs-legacy-syscalls");
    let listener = submit()?;
    let files = [listener.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(&ours, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    drop((ours, listener));
    Err(format!("{}: {}", filter.display(), Command::new(&filter).arg(&program).args(arguments).exec()).into())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vcgroupfs-legacy-kernel: {error}");
            ExitCode::from(127)
        }
    }
}
