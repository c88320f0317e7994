//! `doctor`: says what programs in a container recognise of its cgroups, which limits they read, and what to change.
//!
//! A child joins the process' namespaces and collects facts (`probe::enter`, `probe::child`). Everything else judges
//! these facts ([`crate::doctor`]) and does no I/O, except for reading the host's files (`probe::host`), which have
//! the effective limits.

mod print;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::exit::CliResult;
use crate::container::target::resolve;
use crate::doctor::facts::point;
use crate::doctor::general::{self, findings};
use crate::doctor::probe::host::{self, HostView};
use crate::doctor::probe::parent::probe;
use crate::doctor::probe::target::ProbeTarget;
use crate::doctor::verdict::{self, judge};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A process or a container, as for 'attach' [default: the calling process]
    #[arg(value_name = "TARGET")]
    target: Option<String>,
}

pub(super) fn run(options: &Options) -> CliResult {
    let named = options.target.as_deref().map(resolve).transpose()?;
    let target = ProbeTarget::open(named.as_ref().map(|named| named.pid))?;
    named.as_ref().map_or(Ok(()), |named| named.confirm())?;
    let mut facts = probe(&target)?;
    facts.rules = host::rules(&target);
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
