//! `doctor`: says what programs in a container recognise of its cgroups, which limits they read, and what to change.
//!
//! A child joins the process' namespaces and collects facts (`probe::enter`, `probe::child`). Everything else judges
//! these facts ([`crate::doctor`]) and does no I/O, except for reading the host's files (`probe::host`), which have
//! the effective limits.

mod print;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::exit::CliResult;
use super::probed_process::process_to_probe;
use super::view_state;
use crate::container::failed_view::{Views, views};
use crate::doctor::facts::{ServerFacts, point};
use crate::doctor::general::{self, findings};
use crate::doctor::probe::host::{self, HostView};
use crate::doctor::probe::parent::probe;
use crate::doctor::probe::target::ProbeTarget;
use crate::doctor::verdict::{self, judge};
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
    let target = process_to_probe(options.target.as_deref())?;
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
