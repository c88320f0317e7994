//! `doctor`: says what programs in a container recognise of its cgroups, which limits they read, and what to change.
//!
//! A child joins the process' namespaces and collects facts (`probe::enter`, `probe::child`). Another one finds the
//! programs that run there (`probe::processes`). Everything else judges these facts ([`crate::doctor`]) and does no
//! I/O, except for reading the host's files (`probe::host`), which have the effective limits.

mod answer;
mod print;
mod summary;
mod support;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::exit::{CliResult, exit_code_of};
use super::former_options::renewal;
use super::probed_process::process_to_probe;
use super::view_state;
use crate::cgroup::{escaped, shell_word};
use crate::container::failed_view::{Views, views};
use crate::doctor::clients::CLIENTS;
use crate::doctor::facts::{ServerFacts, point};
use crate::doctor::finding::Finding;
use crate::doctor::general::{self, findings};
use crate::doctor::host_facts::HostFacts;
use crate::doctor::probe::host::{self, HostView};
use crate::doctor::probe::parent::probe;
use crate::doctor::probe::processes::processes;
use crate::doctor::probe::target::ProbeTarget;
use crate::doctor::programs::{self, Relevance, relevance};
use crate::doctor::verdict::{self, judge};
use crate::error::{Error, ErrorKind};
use crate::server::registry::record::Record;
use crate::server::registry::status::ServerState;
use answer::{Answer, is_named};

/// The version of the JSON. It grows when a key changes its meaning or goes away.
const JSON_VERSION: u32 = 1;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print JSON, always with all programs unless --client or --only-bad selects some
    #[arg(long)]
    json: bool,
    /// Print all findings and all programs that are known, instead of a summary
    #[arg(long)]
    all: bool,
    /// Judge the programs with this name, or whose name has this part: systemd, jvm, "node.js 20". Several times for several
    #[arg(long = "client", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    clients: Vec<String>,
    /// Leave out what works
    #[arg(long)]
    only_bad: bool,
    /// End with status 1 if there is a problem, or a program that runs there or that --client names doesn't work right
    #[arg(long)]
    check: bool,
    /// Write what a bug report needs to this new file, with mode 0600, instead of printing an answer
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "all", "clients", "only_bad", "check"])]
    support: Option<PathBuf>,
    /// A process or a container, as for 'attach', or a directory on which a view is mounted [default: the calling process]
    #[arg(value_name = "TARGET")]
    target: Option<PathBuf>,
}

pub(super) fn run(options: &Options) -> CliResult {
    let names = named_clients(&options.clients)?;
    let (target, record) = process_to_probe(options.target.as_deref())?;
    let record = record.or_else(|| record_of(&target));
    let mut facts = probe(&target)?;
    let beyond = HostView::of(&target);
    let limits = beyond.as_ref().map(|beyond| beyond.limits(&facts));
    let live = record.as_ref().filter(|record| record.status.state != ServerState::Failed);
    facts.rules = live.map(host::rules);
    facts.server = record.as_ref().map(server_facts).unwrap_or_default();
    let is_lost = facts.rules.as_ref().is_some_and(|rules| !rules.removed.is_empty());
    let is_path = |target: &&PathBuf| crate::container::target::is_path(target);
    let named = options.target.as_ref().filter(|target| !is_path(target)).map(shell_word);
    facts.host = HostFacts {
        pid: target.pid,
        target: named.unwrap_or_else(|| target.pid.to_string()),
        is_container: is_container(&target),
        renewal: live.and_then(|record| renewal(record, is_lost)),
        cgroups: beyond.as_ref().map(|beyond| beyond.cgroups(live)).unwrap_or_default(),
        limits: limits.clone(),
    };
    let native = beyond.as_ref().and_then(|beyond| beyond.native(&facts));
    let clients = judge(&facts, verdict::HostContext { limits: limits.as_ref(), native: native.as_ref() });
    let general = findings(&facts);
    let programs = programs::found(&facts, &processes(&target));
    let answer = Answer {
        pid: target.pid,
        facts: &facts,
        limits: limits.as_ref(),
        general: &general,
        clients: &clients,
        programs: &programs,
        names: &names,
        only_bad: options.only_bad,
    };
    if let Some(file) = &options.support {
        support::write(file, &support::report(answer, as_json(answer), record.as_ref()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(out, "{}", super::json::text(&as_json(answer)))?;
    } else if options.all {
        print::all(&mut out, answer)?;
    } else {
        summary::lines(answer).iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    let is_bad = options.check && !answer.is_healthy();
    Ok(if is_bad { ExitCode::from(exit_code_of(ErrorKind::Failed)) } else { ExitCode::SUCCESS })
}

/// The names of `--client` in lower case.
///
/// # Errors
/// If no client has one of them.
fn named_clients(names: &[String]) -> Result<Vec<String>, Error> {
    let names: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
    for name in &names {
        let one = std::slice::from_ref(name);
        if !CLIENTS.iter().any(|client| is_named(client.name, one)) {
            let what = format!("no program that doctor knows has '{}' in its name", escaped(name));
            return Err(Error::usage(what).advise("'vcgroupfs doctor --all' lists all of them"));
        }
    }
    Ok(names)
}

/// A client in JSON.
#[derive(Debug, Serialize)]
struct ClientJson<'a> {
    #[serde(flatten)]
    client: &'a Finding,
    /// Whether it runs in the container, or is installed there.
    relevance: Option<Relevance>,
}

fn as_json<'a>(answer: Answer<'a>) -> Value {
    let views: Vec<String> = answer.facts.views().map(point).collect();
    let of = |client: &'a Finding| ClientJson { client, relevance: relevance(answer.programs, client.client) };
    let clients: Vec<ClientJson<'_>> = answer.selected().map(of).collect();
    json!({
        "version": JSON_VERSION, "pid": answer.pid, "command": answer.facts.process.command,
        "setup": general::setup(answer.facts), "root": print::root(answer.facts),
        "cgroup_namespace": answer.facts.process.cgroup_namespace, "limits": answer.limits, "views": views,
        "clients": clients, "findings": answer.findings().collect::<Vec<_>>(), "programs": answer.programs,
        "healthy": answer.is_healthy(),
    })
}

/// What the record of a view says of the processes that serve it.
fn server_facts(record: &Record) -> ServerFacts {
    let is_failed = record.status.state == ServerState::Failed;
    ServerFacts {
        failure: view_state::details(record).filter(|_| is_failed),
        remedy: view_state::remedy(record).filter(|_| is_failed),
        restarts: view_state::restarts(record).filter(|_| !is_failed),
        has_lost_keeper: !is_failed && view_state::has_lost_keeper(record),
    }
}

/// Whether a process has a mount namespace of its own.
fn is_container(target: &ProbeTarget) -> bool {
    let own = ProbeTarget::open(None).ok().and_then(|own| own.namespace("mnt").ok().flatten());
    let namespace = target.namespace("mnt").ok().flatten();
    namespace.is_some() && namespace != own
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
