//! `doctor`: what each kind of client recognises in a process' namespaces, why, and what to change.
//!
//! A child joins the process' namespaces and looks (`enter`, `look`); what it finds are plain facts (`facts`). Everything else is
//! judgement over these (`clients`, `general`) and does no I/O.

mod ask;
mod clients;
mod enter;
mod facts;
mod finding;
mod general;
#[cfg(test)]
mod layouts;
mod look;
mod target;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::Outcome;
use super::target::resolve;
use crate::cgroup::escaped;
use facts::{Facts, ROOT, point};
use finding::{Finding, General};
use target::Target;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A process or a container, as for attach; without it, the calling process
    #[arg(value_name = "TARGET")]
    target: Option<String>,
}

pub(super) fn run(options: &Options) -> Outcome {
    let named = options.target.as_deref().map(resolve).transpose()?;
    let target = Target::open(named.as_ref().map(|named| named.pid))?;
    named.as_ref().map_or(Ok(()), |named| named.confirm())?;
    let facts = ask::ask(&target)?;
    let (clients, general) = (clients::judge(&facts), general::findings(&facts));
    let mut out = io::stdout().lock();
    if options.json {
        let views: Vec<String> = facts.views().map(point).collect();
        let answer = json!({
            "pid": target.pid, "command": facts.process.command, "setup": general::setup(&facts),
            "root": root(&facts), "cgroup_namespace": facts.process.cgroup_namespace,
            "views": views, "clients": clients, "findings": general,
        });
        writeln!(out, "{}", super::json::text(&answer))?;
    } else {
        print(&mut out, target.pid, &facts, &clients, &general)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, pid: i32, facts: &Facts, clients: &[Finding], general: &[General]) -> io::Result<()> {
    writeln!(out, "process    {pid} ({})", escaped(&facts.process.command))?;
    let setup = general::setup(facts).map_or_else(|| "none".to_owned(), |setup| setup.to_string());
    writeln!(out, "setup      {setup}, {ROOT} {}", facts.type_of(ROOT))?;
    let namespace = match facts.process.cgroup_namespace {
        Some(true) => "its own",
        Some(false) => "the host's",
        None => "this kernel has none",
    };
    writeln!(out, "cgroup ns  {namespace}")?;
    let views: Vec<String> = facts.views().map(point).collect();
    writeln!(out, "views      {}", if views.is_empty() { "none".to_owned() } else { escaped(general::list(&views)) })?;
    writeln!(out)?;
    let width = clients.iter().map(|finding| finding.client.len()).max().unwrap_or(0);
    for finding in clients {
        writeln!(out, "{:<width$}  {:<6}  {}", finding.client, word(&finding.recognised), escaped(&finding.why))?;
        advise(out, finding.advice.as_deref(), width + 10)?;
    }
    writeln!(out)?;
    for finding in general {
        writeln!(out, "{:<7}  {}", word(&finding.level), escaped(&finding.what))?;
        advise(out, finding.advice.as_deref(), 9)?;
    }
    Ok(())
}

fn advise(out: &mut impl Write, advice: Option<&str>, indent: usize) -> io::Result<()> {
    advice.map_or(Ok(()), |advice| writeln!(out, "{:indent$}-> {}", "", escaped(advice)))
}

/// The word that JSON has for it.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The type of the root, as a word.
fn root(facts: &Facts) -> String {
    let said = facts.type_of(ROOT).to_string();
    said.strip_prefix("is ").unwrap_or(&said).to_lowercase()
}
