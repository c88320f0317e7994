//! `upgrade`: has live views served by the program that runs this.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::exit::{CliResult, exit_code_of};
use super::{json, selected_view};
use crate::cgroup::escaped;
use crate::container::target::HELP_WITH_DIRECTORY;
use crate::error::Error;
use crate::message::say;
use crate::server::handover::offer::offer;
use crate::server::registry;
use crate::server::registry::record::Record;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// All live views
    #[arg(long, conflicts_with = "target")]
    all: bool,
    /// Print JSON: an array with an object for each view
    #[arg(long)]
    json: bool,
    #[arg(value_name = "TARGET", help = HELP_WITH_DIRECTORY, required_unless_present = "all")]
    target: Option<PathBuf>,
}

pub(super) fn run(options: &Options) -> CliResult {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::not_permitted("'upgrade' changes the processes of views").advise("run it as root"));
    }
    let views = match &options.target {
        Some(target) => vec![selected_view::live_record(target)?],
        None => registry::live_records().map_err(|error| Error::system("can't read the list of live views", error))?,
    };
    let mut out = io::stdout().lock();
    let (mut listed, mut failed) = (Vec::new(), None);
    if views.is_empty() {
        say("there are no live views");
    }
    for view in views {
        let outcome = offer(&view);
        if let Err(error) = &outcome {
            say(error.message());
            failed = failed.or(Some(error.kind()));
        }
        if options.json {
            listed.push(json!({
                "directory": view.directory.shown(), "directory_escaped": view.directory.escaped(), "target": view.target,
                "former_version": view.status.version,
                "version": outcome.is_ok().then_some(env!("VCGROUPFS_VERSION")),
                "error": outcome.err().map(|error| error.to_string()),
            }));
        } else if outcome.is_ok() {
            writeln!(out, "{}", described(&view))?;
        }
    }
    if options.json {
        writeln!(out, "{}", json::text(&listed.into()))?;
    }
    Ok(failed.map_or(ExitCode::SUCCESS, |kind| ExitCode::from(exit_code_of(kind))))
}

/// Says what has changed.
fn described(view: &Record) -> String {
    let (directory, target) = (view.directory.printed(), escaped(&view.target));
    let (now, before) = (env!("VCGROUPFS_VERSION"), view.status.version.as_deref().unwrap_or("an unknown version"));
    format!("{directory} ({target}) is served by vcgroupfs {now} now, and was by {}", escaped(before))
}
