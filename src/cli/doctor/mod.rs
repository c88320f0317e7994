//! `doctor`: says what programs in a container recognise of its cgroups, which limits they read, and what to change.
//!
//! A child joins the process' namespaces and collects facts (`probe::enter`, `probe::child`). Everything else judges
//! these facts ([`crate::doctor`]) and does no I/O, except for reading the host's files (`probe::host`), which have
//! the effective limits.

mod print;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::exit::CliResult;
use super::selected_view::record_of_directory;
use super::view_state;
use crate::cgroup::escaped;
use crate::container::failed_view::{Views, failed_view_on, views};
use crate::container::target::{ResolvedTarget, resolve_target_or_directory};
use crate::doctor::facts::{ServerFacts, point};
use crate::doctor::general::{self, findings};
use crate::doctor::probe::host::{self, HostView};
use crate::doctor::probe::parent::probe;
use crate::doctor::probe::target::ProbeTarget;
use crate::doctor::verdict::{self, judge};
use crate::error::Error;
use crate::server::registry::record::Record;
use crate::server::registry::status::ServerState;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A process or a container, as for 'attach', or a directory on which a view is mounted [default: the calling process]
    #[arg(value_name = "TARGET")]
    target: Option<PathBuf>,
}

pub(super) fn run(options: &Options) -> CliResult {
    let target = match options.target.as_deref().map(resolve_target_or_directory).transpose()? {
        None => ProbeTarget::open(None)?,
        Some(ResolvedTarget::Directory(directory)) => process_of_view(&directory)?,
        Some(ResolvedTarget::Process(named)) => {
            let target = ProbeTarget::open(Some(named.pid))?;
            named.confirm()?;
            target
        }
    };
    let mut facts = probe(&target)?;
    facts.rules = host::rules(&target);
    if let Some(record) = record_of(&target) {
        let is_failed = record.status.state == ServerState::Failed;
        facts.server = ServerFacts {
            failure: view_state::details(&record).filter(|_| is_failed),
            remedy: view_state::remedy(&record).filter(|_| is_failed),
            restarts: view_state::restarts(&record).filter(|_| !is_failed),
            has_lost_keeper: !is_failed && view_state::has_lost_keeper(&record),
        };
    }
    let beyond = HostView::of(&target);
    let limits = beyond.as_ref().map(|beyond| beyond.limits(&facts));
    let native = beyond.as_ref().and_then(|beyond| beyond.native(&facts));
    let clients = judge(&facts, verdict::HostContext { limits: limits.as_ref(), native: native.as_ref() });
    let general = findings(&facts);
    let mut out = io::stdout().lock();
    if options.json {
        let views: Vec<String> = facts.views().map(point).collect();
        let answer = json!({
            "pid": target.pid, "command": facts.process.command, "setup": general::setup(&facts),
            "root": print::root(&facts), "cgroup_namespace": facts.process.cgroup_namespace, "limits": limits,
            "views": views, "clients": clients, "findings": general,
        });
        writeln!(out, "{}", super::json::text(&answer))?;
    } else {
        print::all(&mut out, target.pid, &facts, limits.as_ref(), &clients, &general)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The record of the view in a process' mount namespace, live or failed.
fn record_of(target: &ProbeTarget) -> Option<Record> {
    let number = target.namespace("mnt").ok().flatten()?;
    let is_here = |record: &Record| {
        record.run == Some(number) || record.container.as_ref().is_some_and(|inside| inside.namespace == number)
    };
    let Views { live, failed } = views().ok()?;
    live.into_iter().chain(failed).find(is_here)
}

/// Opens the process for which the view on a directory was mounted.
///
/// # Errors
/// If nobody serves the view any more. If the view wasn't mounted for a process, or the process has left the cgroups of the view.
fn process_of_view(directory: &Path) -> Result<ProbeTarget, Error> {
    let name = escaped(directory);
    if let Some(record) = failed_view_on(directory) {
        let why = record.status.reason.unwrap_or_default();
        let remedy = format!("'vcgroupfs mount {name}' makes it work again, with the options that it had");
        return Err(Error::failed(format!("the view on {name} has failed")).because(why).advise(remedy));
    }
    let record = record_of_directory(directory)?;
    let remedy = "name a process or a container as TARGET";
    let Some(pid) = record.process else {
        let what = format!("can't tell which process the view on {name} is for");
        return Err(Error::failed(what).because("it was mounted for cgroups, without --pid").advise(remedy));
    };
    match ProbeTarget::open(Some(pid)) {
        // Another process can have its number by now.
        Ok(target) if host::is_delegated(&record, &target) => Ok(target),
        _ => {
            let what =
                format!("the process {pid}, for which the view on {name} was mounted, isn't in its cgroups any more");
            Err(Error::failed(what).advise(remedy))
        }
    }
}
