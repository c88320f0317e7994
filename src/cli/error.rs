//! Failures as users see them: one line that says what failed, on what, why, and what to do; and the exit code.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::cgroup::escaped;
use crate::fuse::MountError;
use crate::host::PlanError;
use crate::host::discover::DiscoverError;

pub(super) const FAILED: u8 = 1;
pub(super) const USAGE: u8 = 2;
pub(super) const UNSUPPORTED: u8 = 3;
pub(super) const NOT_PERMITTED: u8 = 4;

/// A failure with its exit code.
#[derive(Debug)]
pub(super) struct Failed {
    code: u8,
    message: String,
}

impl Failed {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// From a system call that failed while doing `what`.
    pub(super) fn system(what: impl fmt::Display, error: io::Error) -> Self {
        let code = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => NOT_PERMITTED,
            _ => FAILED,
        };
        Self::new(code, format!("{what}: {error}"))
    }

    pub(super) fn code(&self) -> u8 {
        self.code
    }

    /// Prints it, and turns it into the exit status.
    pub(super) fn report(self) -> ExitCode {
        if self.code != 0 {
            say(&self.message);
        }
        ExitCode::from(self.code)
    }
}

/// Tells the user something on stderr. Where nobody hears it, that's no failure.
pub(super) fn say(message: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "vcgroupfs: {}", escaped(message.to_string()));
}

/// Tells the user what may not be as he means it.
pub(super) fn warn(message: &str) {
    say(format_args!("warning: {message}"));
}

/// Help, the version, or what is wrong with the command line.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NothingAsked;
    if !error.use_stderr() || error.kind() == NothingAsked {
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
    }
    // What is wrong and which values there are; the usage that follows is in the help.
    let text = error.render().to_string();
    let lines =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let said = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    Failed::new(USAGE, format!("{said} (see --help)")).report()
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.message))
    }
}

impl From<DiscoverError> for Failed {
    fn from(error: DiscoverError) -> Self {
        let code =
            if matches!(error, DiscoverError::NoHierarchy | DiscoverError::InView) { UNSUPPORTED } else { FAILED };
        Self::new(code, error.to_string())
    }
}

impl From<PlanError> for Failed {
    fn from(error: PlanError) -> Self {
        let code = match &error {
            _ if error.is_usage() => USAGE,
            PlanError::Open { errno: nix::errno::Errno::EACCES | nix::errno::Errno::EPERM, .. } => NOT_PERMITTED,
            _ => FAILED,
        };
        Self::new(code, error.to_string())
    }
}

impl From<MountError> for Failed {
    fn from(error: MountError) -> Self {
        let source = match &error {
            MountError::Device(source) | MountError::Mount { source, .. } => source.raw_os_error(),
        };
        let (code, advice) = match (&error, source) {
            (MountError::Device(_), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) => (
                UNSUPPORTED,
                "this kernel has no FUSE, or the device isn't there: try 'modprobe fuse', and in a container pass /dev/fuse in",
            ),
            (MountError::Device(_), Some(libc::EPERM | libc::EACCES)) => {
                (NOT_PERMITTED, "run it as root, and in a container allow the device /dev/fuse (char 10:229)")
            }
            (MountError::Mount { .. }, Some(libc::EPERM)) => {
                (NOT_PERMITTED, "mounting takes CAP_SYS_ADMIN: run it as root of the host")
            }
            (MountError::Mount { .. }, Some(libc::ENODEV)) => {
                (UNSUPPORTED, "this kernel has no FUSE: try 'modprobe fuse'")
            }
            _ => (FAILED, ""),
        };
        let message = if advice.is_empty() { error.to_string() } else { format!("{error} ({advice})") };
        Self::new(code, message)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        // Whoever reads the output has gone: that's no failure.
        let code = if error.kind() == io::ErrorKind::BrokenPipe { 0 } else { FAILED };
        Self::new(code, error.to_string())
    }
}
