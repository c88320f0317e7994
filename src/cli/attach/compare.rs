//! Compares the limits that programs read before and after a view is attached, or would be (`--dry-run`).

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

use crate::cgroup::escaped;
use crate::cli::exit::CliResult;
use crate::container::handle::ContainerHandle;
use crate::doctor::compare::{Change, compare};
use crate::doctor::facts::Facts;
use crate::doctor::probe::parent::probe;
use crate::doctor::probe::target::ProbeTarget;
use crate::message::say;

/// Finds out what programs in a container see now. `None` if that isn't possible; then there's nothing to compare.
pub(super) fn probe_target(target: &ProbeTarget) -> Option<Facts> {
    match probe(target) {
        Ok(facts) => Some(facts),
        Err(error) => {
            tracing::debug!(%error, "nobody could look at what clients read");
            None
        }
    }
}

/// Finds out what programs see, through the process of a container.
pub(super) fn probe_container(container: &ContainerHandle) -> Option<Facts> {
    probe_target(&ProbeTarget::open(Some(container.pid())).ok()?)
}

/// Returns the changes between two probes, with a remedy.
pub(super) fn changes(before: &Facts, after: &Facts, is_chosen: bool) -> Vec<Change> {
    // The default shape was already the best for most programs.
    let remedy = if is_chosen {
        "'attach' without --shape, which chooses by what the container has mounted ('detach' first)"
    } else {
        "tell the client its limits by its own options, or see 'vcgroupfs doctor'"
    };
    compare(before, after, remedy)
}

/// Warns of each program that reads another limit than before. Programs that found nothing before don't count.
pub(super) fn warn(before: &Facts, after: &Facts, is_chosen: bool) {
    let changes = changes(before, after, is_chosen);
    let lost: Vec<&Change> = changes.iter().filter(|change| change.remedy.is_some()).collect();
    for of_one in lost.chunk_by(|one, next| one.client == next.client) {
        let Some(Change { client, remedy: Some(remedy), .. }) = of_one.first() else { continue };
        let all = |value: fn(&Change) -> Option<u64>| {
            of_one.iter().map(|change| change.quantity.of(value(change))).collect::<Vec<_>>().join(", ")
        };
        let (was, is) = (all(|change| change.before), all(|change| change.after));
        say(format_args!("{client} reads another limit than before: {is}; not {was}; {remedy}"));
    }
}

/// Prints the comparison.
pub(super) fn print(label: &str, view: &str, changes: &[Change], as_json: bool) -> CliResult {
    let mut out = io::stdout().lock();
    if as_json {
        let answer = json!({ "target": label, "view": view, "changes": changes });
        writeln!(out, "{}", crate::cli::json::text(&answer))?;
        return Ok(ExitCode::SUCCESS);
    }
    let different: Vec<&Change> = changes.iter().filter(|change| change.differs).collect();
    writeln!(out, "{} would get a view: {view}", escaped(label))?;
    writeln!(out, "{} of {} numbers that clients read stay the same", changes.len() - different.len(), changes.len())?;
    let width = different.iter().map(|change| change.client.len()).max().unwrap_or(0);
    for change in different {
        let [before, after] = [change.before, change.after].map(|value| change.quantity.of(value));
        writeln!(out, "{:<width$}  {before} -> {after}", change.client)?;
        change.remedy.map_or(Ok(()), |remedy| writeln!(out, "{:width$}  -> {remedy}", ""))?;
    }
    Ok(ExitCode::SUCCESS)
}
