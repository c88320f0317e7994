//! Exit codes, and how a verb that fails ends.

use std::process::ExitCode;

use crate::error::{Error, ErrorKind};
use crate::message::say;

/// What a verb ends with.
pub(super) type CliResult = Result<ExitCode, Error>;

/// The exit code that stands for a kind of error: a contract with scripts.
pub(super) fn exit_code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::ReaderGone => 0,
        ErrorKind::Failed => 1,
        ErrorKind::Usage => 2,
        ErrorKind::Unsupported => 3,
        ErrorKind::NotPermitted => 4,
    }
}

/// Prints an error, and turns it into the exit status.
pub(super) fn report(error: &Error) -> ExitCode {
    if error.kind() != ErrorKind::ReaderGone {
        say(error.message());
    }
    ExitCode::from(exit_code_of(error.kind()))
}

/// Prints help, the version, or what is wrong with the command line.
pub(super) fn report_usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NothingAsked;
    if !error.use_stderr() || error.kind() == NothingAsked {
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { exit_code_of(ErrorKind::Usage) } else { 0 });
    }
    // What is wrong and which values there are; the usage that follows is in the help.
    let text = error.render().to_string();
    let lines =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let said = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    report(&Error::usage(format!("{said} (see --help)")))
}

/// Exit statuses of `run` for what isn't the command's own end, as env(1) and chroot(1) have them.
pub(super) const EXIT_RUN_FAILED: u8 = 125;
pub(super) const EXIT_CANNOT_EXECUTE: u8 = 126;
pub(super) const EXIT_NOT_FOUND: u8 = 127;
