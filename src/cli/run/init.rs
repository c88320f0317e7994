//! Process 1 of the new pid namespace: mounts `/proc`, starts the command, and reaps orphans.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::ForkResult;

use super::signals;
use crate::cgroup::escaped;
use crate::cli::exit::{EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, EXIT_RUN_FAILED};
use crate::error::describe;
use crate::message::say;
use crate::sys;

/// Runs init, or becomes the command. Never returns.
pub(super) fn run(go: OwnedFd, as_pid1: bool, command: &[OsString]) -> ! {
    let status = match start(go, as_pid1, command) {
        Ok(status) => status,
        Err(message) => {
            say(message);
            EXIT_RUN_FAILED
        }
    };
    std::process::exit(i32::from(status))
}

fn start(go: OwnedFd, as_pid1: bool, command: &[OsString]) -> Result<u8, String> {
    // The supervisor has open directories of the host's cgroupfs, and the command may look into /proc/1/fd.
    sys::descriptors::close_all_but(&[go.as_fd()])
        .map_err(|error| format!("can't close the supervisor's files: {error}"))?;
    // The whole pid namespace ends with the supervisor. If the supervisor was killed before this call, the pipe is
    // closed, too.
    set_pdeathsig(Signal::SIGKILL).map_err(|errno| format!("can't tie init to its supervisor: {errno}"))?;
    let mut told = [0];
    let count = File::from(go).read(&mut told).map_err(|error| format!("can't wait for the supervisor: {error}"))?;
    if count == 0 {
        return Ok(EXIT_RUN_FAILED);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
        .map_err(|errno| format!("can't mount /proc: {errno}"))?;
    if as_pid1 {
        return Ok(execute(command));
    }
    match sys::process::fork().map_err(|error| format!("can't start the command: {error}"))? {
        ForkResult::Child => Ok(execute(command)),
        ForkResult::Parent { child } => {
            let forwarder = signals::SignalForwarder::new().map_err(|failed| failed.to_string())?;
            Ok(forwarder.wait_for(child, None))
        }
    }
}

/// Executes the command. Returns an exit status if that fails.
fn execute(command: &[OsString]) -> u8 {
    let Some((program, arguments)) = command.split_first() else {
        return EXIT_RUN_FAILED;
    };
    signals::unblock();
    let error = Command::new(program).args(arguments).exec();
    // `exec` has restored the default for the command. But the message's reader may be gone.
    let _ = sys::process::set_disposition(Signal::SIGPIPE, true);
    say(format_args!("can't run '{}': {}", escaped(program), describe(&error)));
    if error.kind() == std::io::ErrorKind::NotFound { EXIT_NOT_FOUND } else { EXIT_CANNOT_EXECUTE }
}
