//! The only part of vcgroupfs that enters a container's namespaces.
//!
//! It has five commands. `agent` becomes a [pid-namespace agent](agent). `event` [registers an event](events) and
//! enters no namespace. `boundary` [makes a cgroup namespace](boundary) at a delegation boundary. `attach` and
//! `detach` [mount a view](attach) in a container and unmount it. Only the server starts the program, never a user.
//! All its input is inherited descriptors and a closed set of words on its command line. README.md states its threat
//! model.
//!
//! The library has two callers: the `vcgroupfs` binary, which acts as this program when it is started under the name
//! [`PROGRAM_NAME`], and the server, which speaks [`request`] and confines itself with [`confinement`].
//!
//! The library has two callers: the `vcgroupfs` binary, which acts as this program when it is started
//! under the name [`PROGRAM_NAME`], and the server, which speaks [`request`] and confines itself with [`confinement`].
// As in vcgroupfs itself, nothing may panic.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![deny(clippy::unreachable, clippy::unimplemented, clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(not(test), deny(clippy::disallowed_macros, clippy::string_slice))]

pub mod agent;
pub mod attach;
pub mod boundary;
mod check;
pub mod clock;
pub mod confinement;
pub mod events;
mod privileges;
pub mod request;
mod seccomp;
mod serve;

use std::ffi::{CStr, OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// `argv[0]` under which the `vcgroupfs` binary acts as this program.
pub const PROGRAM_NAME: &CStr = c"vcgroupfs-mount-helper";

/// Whether a program that was started with this `argv[0]` has to act as the mount-helper.
#[must_use]
pub fn is_helper_name(argv0: Option<&OsStr>) -> bool {
    argv0
        .and_then(|name| Path::new(name).file_name())
        .is_some_and(|base| base.as_encoded_bytes() == PROGRAM_NAME.to_bytes())
}

/// Runs the mount-helper; `args` includes `argv[0]`. Must be called before the process opened a
/// descriptor or started a thread of its own.
///
/// Exit status: 0 when the request was carried out, 1 when it failed (the reason was sent to the
/// server), 2 when the command line isn't one that the server writes.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Option<Vec<String>> = args.skip(1).map(|word| word.into_string().ok()).collect();
    let words = words.unwrap_or_default();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["agent", rest @ ..] => {
            let words = rest.strip_prefix(&[agent::ADMINISTRATOR]);
            match agent::Namespaces::from_words(words.unwrap_or(rest).iter().copied()) {
                Some(namespaces) => agent::start(&namespaces, words.is_some()),
                None => usage(),
            }
        }
        ["event"] => events::start(),
        ["boundary", word] => match boundary::Purpose::from_word(word) {
            Some(purpose) => boundary::start(purpose),
            None => usage(),
        },
        words => match attach::MountTask::from_words(words.iter().copied()) {
            Some(task) => attach::start(task),
            None => usage(),
        },
    }
}

fn usage() -> ExitCode {
    // Standard error may be closed.
    let _ =
        writeln!(std::io::stderr(), "vcgroupfs-mount-helper: started by the vcgroupfs server; not a command for users");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::is_helper_name;
    use std::ffi::OsStr;

    #[test]
    fn helper_is_known_by_its_name_alone() {
        for name in ["vcgroupfs-mount-helper", "/x/vcgroupfs-mount-helper"] {
            assert!(is_helper_name(Some(OsStr::new(name))), "{name}");
        }
        for name in ["", "vcgroupfs", "vcgroupfs-mount-helper/x", "avcgroupfs-mount-helper"] {
            assert!(!is_helper_name(Some(OsStr::new(name))), "{name}");
        }
        assert!(!is_helper_name(None));
    }
}
