//! `list`: lists the live views.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use crate::cgroup::escaped;
use crate::cli::exit::CliResult;
use crate::cli::json;
use crate::error::Error;
use crate::server::confined::Confinement;
use crate::server::registry;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print JSON: an array with an object for each view
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> CliResult {
    let views = registry::live_records().map_err(|error| Error::system("can't read the list of live views", error))?;
    let mut out = std::io::stdout().lock();
    if options.json {
        let views: Vec<_> = views
            .iter()
            .map(|view| {
                let delegated: serde_json::Map<_, _> =
                    view.delegated.iter().map(|(kind, path)| (kind.clone(), path.shown().into())).collect();
                let aliases: Vec<String> = view.aliases.iter().map(registry::record::EscapedName::shown).collect();
                serde_json::json!({
                    "pid": view.pid, "directory": view.directory.shown(), "directory_escaped": view.directory.escaped(), "target": view.target, "shape": view.shape,
                    "policy": view.policy, "delegated": delegated, "since": view.since, "per_caller": view.per_caller,
                    "container": view.container.as_ref().map(|container| container.pid), "aliases": aliases,
                    "delegate_controllers": view.delegate_controllers, "hides_ancestor_limits": view.hides_ancestor_limits,
                    "confinement": Confinement::of(view.pid),
                })
            })
            .collect();
        writeln!(out, "{}", json::text(&views.into()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if views.is_empty() {
        let _ = writeln!(std::io::stderr(), "no live views");
        return Ok(ExitCode::SUCCESS);
    }
    let width = views.iter().map(|view| view.directory.printed().chars().count()).chain([9]).max().unwrap_or(9);
    writeln!(out, "{:<7} {:<width$} {:<9} {:<8} FOR", "SERVER", "DIRECTORY", "SHAPE", "POLICY")?;
    for view in views {
        let directory = view.directory.printed();
        writeln!(
            out,
            "{:<7} {directory:<width$} {:<9} {:<8} {}",
            view.pid,
            view.shape,
            view.policy,
            escaped(&view.target)
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
