//! `resume`, which isn't for users: the keeper of a view executes it to hand the view over.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::process::ExitCode;

use clap::Args;

use super::exit::CliResult;
use crate::server::handover::resume::{Arguments, resume};
use crate::server::logging;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The descriptor of the state
    #[arg(long)]
    state: RawFd,
    /// Only report on this descriptor whether the state can be read
    #[arg(long)]
    check: Option<RawFd>,
    /// The process that takes over if this one ends
    #[arg(long)]
    fallback: Option<String>,
    /// Why the program before takes over again
    #[arg(long)]
    back: Option<String>,
    /// The command line that has made the view
    #[arg(last = true)]
    _command: Vec<OsString>,
}

pub(super) fn run(options: Options, log: &logging::Options) -> CliResult {
    let Options { state, check, fallback, back, _command } = options;
    resume(&Arguments { state, check, fallback, back }, log)?;
    Ok(ExitCode::SUCCESS)
}
