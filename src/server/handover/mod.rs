//! An upgrade: the keeper of a view executes another program, which takes over everything that this one holds.
//!
//! ```text
//! vcgroupfs upgrade -> control socket -> keeper
//!   the new program, in a process of its own: can it read the state?      check
//!   the server is killed, as at any other time; callers wait
//!   a fallback is left behind, which has the descriptors too              fallback
//!   the keeper executes the new program, which reads the state            state, resume
//!   and starts a server, which answers within ten seconds                 trial
//!   or the keeper executes the old program again
//! ```
//!
//! The process stays the same, and with it whatever knows it by its number: a service manager, a shell, the command of
//! `run`, its cgroup, and the record's lock.

pub(crate) mod check;
pub(crate) mod document;
pub(crate) mod fallback;
pub(crate) mod offer;
pub(crate) mod point;
pub(crate) mod resume;
pub(crate) mod state;
pub(crate) mod store;
pub(crate) mod stored;
pub(crate) mod trial;

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::fexecve;

use crate::sys;

/// How long a program may take to come up.
pub(crate) const TRIAL_LIMIT: Duration = Duration::from_secs(10);

/// The hidden verb with which a program takes a view over.
pub(crate) const VERB: &str = "resume";

/// Opens the program that runs now, for whoever has to come back to it.
///
/// # Errors
/// Those of open(2).
pub(crate) fn own_program() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).custom_flags(libc::O_PATH).open("/proc/self/exe")?.into())
}

/// Executes a program in this process, so that it takes over what is in `state`. All descriptors stay open. Returns only
/// if that fails.
pub(crate) fn execute(program: BorrowedFd<'_>, state: BorrowedFd<'_>, more: &[&str]) -> Result<Infallible, Errno> {
    let state = state.as_raw_fd().to_string();
    let words: Vec<OsString> = [VERB, "--state", &state].iter().chain(more).map(OsString::from).collect();
    let mut own = std::env::args_os();
    let name = own.next().unwrap_or_default();
    let arguments = [name].into_iter().chain(words).chain(["--".into()]).chain(first_arguments(own.collect()));
    let arguments: Vec<CString> = arguments.filter_map(|word| CString::new(word.into_vec()).ok()).collect();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| CString::new([name.into_vec(), value.into_vec()].join(&b'=')).ok());
    let environment: Vec<CString> = environment.collect();
    sys::descriptors::set_inherited(true).map_err(|_| Errno::EIO)?;
    let failed = fexecve(program.as_fd(), &arguments, &environment);
    let _ = sys::descriptors::set_inherited(false);
    failed
}

/// The arguments of the command that has made the view, so that ps(1) shows them.
fn first_arguments(own: Vec<OsString>) -> Vec<OsString> {
    let is_resumed = own.first().is_some_and(|verb| verb == VERB);
    let end = own.iter().position(|word| word == "--").filter(|_| is_resumed);
    end.map_or(own.clone(), |end| own.into_iter().skip(end + 1).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_command_line_stays() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in ["mount -f /x", "run -- sh -c true"] {
            assert_eq!(first_arguments(words(line)), words(line));
            assert_eq!(first_arguments(words(&format!("resume --state 5 -- {line}"))), words(line));
        }
    }
}
