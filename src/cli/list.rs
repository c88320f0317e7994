//! `list`: lists the views, live and failed.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::cgroup::escaped;
use crate::cli::exit::CliResult;
use crate::cli::json;
use crate::cli::text::{COLUMNS, wrap};
use crate::cli::view_state::{details, remedy};
use crate::container::failed_view::views;
use crate::error::Error;
use crate::server::confined::Confinement;
use crate::server::own_scope;
use crate::server::registry::record::{EscapedName, Record};
use crate::server::registry::status::ServerState;

/// The columns by which details are indented.
const INDENT: usize = 8;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print JSON: an array with an object for each view
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> CliResult {
    let found = views().map_err(|error| Error::system("can't read the list of views", error))?;
    let mut views = [found.live, found.failed].concat();
    views.sort_by_key(|view| (view.since, view.pid));
    let mut out = io::stdout().lock();
    if options.json {
        let views: Vec<Value> = views.iter().map(as_json).collect();
        writeln!(out, "{}", json::text(&views.into()))?;
    } else if views.is_empty() {
        let _ = writeln!(io::stderr(), "no views");
    } else {
        print(&mut out, &views)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The server's process id, if there's a server.
fn server(view: &Record) -> Option<u32> {
    Some(view.status.server).filter(|server| *server != 0 && view.status.state != ServerState::Failed)
}

/// A view as JSON.
pub(super) fn as_json(view: &Record) -> Value {
    let delegated: serde_json::Map<_, _> =
        view.delegated.iter().map(|(kind, path)| (kind.clone(), path.shown().into())).collect();
    let aliases: Vec<String> = view.aliases.iter().map(EscapedName::shown).collect();
    json!({
        "pid": server(view), "version": view.status.version, "keeper": view.status.keeper, "state": view.status.state.word(),
        "restarts": view.status.restarts, "last_restart": view.status.last_restart, "reason": view.status.reason,
        "directory": view.directory.shown(), "directory_escaped": view.directory.escaped(), "target": view.target,
        "shape": view.shape, "policy": view.policy, "delegated": delegated, "since": view.since,
        "per_caller": view.per_caller, "container": view.container.as_ref().map(|container| container.pid),
        "aliases": aliases, "delegate_controllers": view.delegate_controllers,
        "hides_ancestor_limits": view.hides_ancestor_limits, "options": view.options,
        "unit": server(view).and_then(|_| own_scope::unit_of(view.pid)),
        "confinement": server(view).map(Confinement::of),
    })
}

/// Prints a line for each view, and more lines where its state needs them.
fn print(out: &mut impl Write, views: &[Record]) -> io::Result<()> {
    let width = views.iter().map(|view| view.directory.printed().chars().count()).chain([9]).max().unwrap_or(9);
    writeln!(out, "{:<7} {:<width$} {:<9} {:<8} {:<8} FOR", "SERVER", "DIRECTORY", "SHAPE", "POLICY", "STATE")?;
    for view in views {
        let server = server(view).map_or_else(|| "-".to_owned(), |server| server.to_string());
        let (directory, state, target) = (view.directory.printed(), view.status.state.word(), escaped(&view.target));
        writeln!(out, "{server:<7} {directory:<width$} {:<9} {:<8} {state:<8} {target}", view.shape, view.policy)?;
        let mut more = details(view).unwrap_or_default();
        if view.status.state == ServerState::Failed
            && let Some(command) = remedy(view)
        {
            more = format!("{more}; '{command}' makes it work again");
        }
        wrap(&more, COLUMNS - INDENT).iter().try_for_each(|line| writeln!(out, "{:INDENT$}{line}", ""))?;
    }
    Ok(())
}
