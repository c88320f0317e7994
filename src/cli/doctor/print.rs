//! Prints everything as text: all findings, and all programs.

use std::io::{self, Write};

use super::answer::Answer;
use crate::cgroup::escaped;
use crate::doctor::facts::{Facts, ROOT, point};
use crate::doctor::finding::{Finding, Recognition, Remedy, list};
use crate::doctor::general;
use crate::doctor::limits::Limits;

/// Prints the process, its limits, the number of verdicts, the findings for all programs, and then each program.
pub(super) fn all(out: &mut impl Write, answer: Answer<'_>) -> io::Result<()> {
    let facts = answer.facts;
    writeln!(out, "process    {} ({})", answer.pid, escaped(&facts.process.command))?;
    let setup = general::setup(facts).map_or_else(|| "none".to_owned(), |setup| setup.to_string());
    writeln!(out, "setup      {setup}, {ROOT} {}", facts.type_of(ROOT))?;
    let namespace = match facts.process.cgroup_namespace {
        Some(true) => "its own",
        Some(false) => "the host's",
        None => "this kernel has none",
    };
    writeln!(out, "cgroup ns  {namespace}")?;
    let views: Vec<String> = facts.views().map(point).collect();
    writeln!(out, "views      {}", if views.is_empty() { "none".to_owned() } else { escaped(list(&views)) })?;
    writeln!(out, "limits     {}", limits(answer.limits))?;
    writeln!(out, "clients    {}", counts(answer.clients))?;
    writeln!(out)?;
    for finding in answer.findings() {
        writeln!(out, "{:<7}  {}", word(&finding.level), escaped(&finding.what))?;
        advise(out, finding.advice.as_deref(), &finding.commands, 9)?;
    }
    writeln!(out)?;
    let clients: Vec<&Finding> = answer.selected().collect();
    let width = clients.iter().map(|finding| finding.client.len()).max().unwrap_or(0);
    for finding in clients {
        let verdict = if finding.recognised == Recognition::Yes && !finding.numbers.is_empty() {
            "ok".to_owned()
        } else {
            word(&finding.recognised)
        };
        writeln!(out, "{:<width$}  {verdict:<6}  {}", finding.client, escaped(&finding.why))?;
        advise(out, finding.advice.as_deref(), &[], width + 10)?;
    }
    Ok(())
}

/// The effective limits, each with the file that sets it.
pub(super) fn limits(limits: Option<&Limits>) -> String {
    let Some(limits) = limits else { return "unknown: the host's hierarchies aren't seen from here".to_owned() };
    let mut all = Vec::new();
    match &limits.quota {
        Some(limit) => {
            let (quota, period) = limit.value;
            let hundredths = quota.saturating_mul(100) / period.max(1);
            all.push(format!(
                "{}.{:02} CPUs of {} ({})",
                hundredths / 100,
                hundredths % 100,
                limits.cpus,
                escaped(&limit.by)
            ));
        }
        None => all.push(format!("{} CPUs", limits.cpus)),
    }
    all.extend(limits.memory.as_ref().map(|limit| format!("{} bytes ({})", limit.value, escaped(&limit.by))));
    all.extend(limits.pids.as_ref().map(|limit| format!("{} processes ({})", limit.value, escaped(&limit.by))));
    all.join(", ")
}

/// The number of programs with each verdict.
fn counts(clients: &[Finding]) -> String {
    let words = [Recognition::Yes, Recognition::Partly, Recognition::Wrong, Recognition::No];
    let counts =
        words.map(|verdict| (clients.iter().filter(|finding| finding.recognised == verdict).count(), word(&verdict)));
    let counts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    counts.join(", ")
}

fn advise(out: &mut impl Write, advice: Option<&str>, commands: &[Remedy], indent: usize) -> io::Result<()> {
    if let Some(advice) = advice {
        writeln!(out, "{:indent$}-> {}", "", escaped(advice))?;
    }
    commands.iter().try_for_each(|remedy| writeln!(out, "{:indent$}{}: {}", "", remedy.label(), remedy.command))
}

/// The word that JSON has for a value.
pub(super) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The type of `/sys/fs/cgroup`, as a word.
pub(super) fn root(facts: &Facts) -> String {
    let said = facts.type_of(ROOT).to_string();
    said.strip_prefix("is ").unwrap_or(&said).to_lowercase()
}
