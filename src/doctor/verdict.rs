//! The verdicts about clients that take numbers.

use super::advice::{DEAD, MOUNT, STACK, remedy_for};
use super::clients::{CLIENTS, Client, Model};
use super::facts::Facts;
use super::finding::{Finding, Number, NumberVerdict, Recognition};
use super::limits::Limits;
use super::native::NativeFiles;
use super::reading::{Files, LimitReading, LimitValue, Rounding, System};

/// The knowledge besides the facts.
#[derive(Clone, Copy, Default)]
pub(crate) struct HostContext<'a> {
    /// The effective limits; `None` if the host's files can't be read.
    pub(crate) limits: Option<&'a Limits>,
    pub(crate) native: Option<&'a NativeFiles<'a>>,
}

/// Judges every client, those that work with the tree and those that take numbers, in the order of the table.
pub(crate) fn judge(facts: &Facts, beyond: HostContext<'_>) -> Vec<Finding> {
    let system = facts.system();
    let judged = CLIENTS.iter().map(|client| match client.model {
        Model::Works(judgement) => Finding { client: client.name, source: Some(client.source), ..judgement(facts) },
        Model::Reads(model, rounding) => {
            let natively = beyond.native.map(|native| model(native.system(), native));
            reader(facts, client, &model(&system, facts), rounding, beyond.limits, natively.as_ref())
        }
    });
    judged.collect()
}

/// Runs all models, to find out which files they read.
pub(crate) fn readings(system: &System, files: &dyn Files) -> Vec<(&'static Client, LimitReading)> {
    let readings = CLIENTS.iter().filter_map(|client| match client.model {
        Model::Reads(model, _) => Some((client, model(system, files))),
        Model::Works(_) => None,
    });
    readings.collect()
}

fn reader(
    facts: &Facts,
    client: &Client,
    reading: &LimitReading,
    rounding: Rounding,
    limits: Option<&Limits>,
    natively: Option<&LimitReading>,
) -> Finding {
    let is_broken = facts.has_broken_view();
    let mut numbers = Vec::new();
    for (index, (quantity, taken)) in reading.parts().into_iter().enumerate() {
        let Some(taken) = taken else { continue };
        let expected = limits.map(|limits| limits.expected(quantity, rounding));
        let native = natively.and_then(|reading| reading.parts().get(index).copied()?.1.cloned());
        let has_lost = |native: &LimitValue| is_broken && taken.missing.is_some() && native.missing.is_none();
        let is_same = |native: &LimitValue| native.value == taken.value && !has_lost(native);
        let verdict = match expected {
            _ if limits.is_some_and(|all| all.are_met_by(quantity, rounding, taken.value)) => NumberVerdict::Ok,
            None => NumberVerdict::Unknown,
            Some(_) if native.as_ref().is_some_and(is_same) || is_native(taken) => NumberVerdict::NativeFiles,
            Some(_) => NumberVerdict::Wrong,
        };
        // A number that doesn't exist without the view either (the root cgroup has no limits) isn't lost.
        let is_lost = taken.missing.is_some() && native.as_ref().is_none_or(|native| native.missing.is_none());
        let natively = native.map(|native| native.value);
        numbers.push(Number { quantity, taken: taken.clone(), expected, natively, verdict, is_lost });
    }
    let finding = match numbers.iter().find(|number| number.verdict == NumberVerdict::Wrong) {
        Some(number) => wrong(facts, client.name, number, &numbers),
        None => match numbers.iter().find(|number| number.is_lost && number.verdict != NumberVerdict::NativeFiles) {
            Some(number) => lost(facts, client.name, number, &numbers),
            None => right(client.name, &numbers),
        },
    };
    Finding { numbers, source: Some(client.source), ..finding }
}

/// Whether the number comes from the kernel, so that a view changes nothing.
fn is_native(taken: &LimitValue) -> bool {
    taken.from.as_deref().is_some_and(|from| !from.starts_with("/sys/fs/cgroup"))
}

fn values(numbers: &[Number]) -> String {
    numbers.iter().map(|number| number.quantity.of(number.taken.value)).collect::<Vec<_>>().join(", ")
}

fn sources(numbers: &[Number]) -> String {
    let mut from: Vec<String> = Vec::new();
    for Number { taken, .. } in numbers {
        let missing = taken.missing.iter().map(ToString::to_string);
        from.extend(taken.from.iter().map(|from| format!("by {from}")).chain(missing));
    }
    from.dedup();
    from.join(", ")
}

fn right(client: &'static str, numbers: &[Number]) -> Finding {
    let why = format!("takes {}: {}", values(numbers), sources(numbers));
    let finding = Finding::yes(client, why);
    let natives = numbers.iter().filter(|number| number.verdict == NumberVerdict::NativeFiles);
    let hold: Vec<String> = natives.map(|number| number.quantity.of(number.expected.flatten())).collect();
    if hold.is_empty() {
        finding
    } else {
        finding.with_note(&format!("natively the same, though {} would hold", hold.join(", ")))
    }
}

/// Judges a program whose numbers aren't the effective ones.
fn wrong(facts: &Facts, client: &'static str, number: &Number, numbers: &[Number]) -> Finding {
    let wrong = numbers.iter().filter(|number| number.verdict == NumberVerdict::Wrong);
    let holds = wrong.map(|number| number.quantity.of(number.expected.flatten())).collect::<Vec<_>>().join(", ");
    let what = match &number.taken {
        LimitValue { missing: Some(missing), .. } => missing.clone(),
        LimitValue { from: Some(from), .. } => format!("by {from}"),
        _ => String::new(),
    };
    let why = format!("takes {}: {what}; {holds} would be right", values(numbers));
    Finding::wrong(client, why, remedy(facts, &number.taken))
}

/// Judges a program that misses no limit, or no known one, but wouldn't find one.
fn lost(facts: &Facts, client: &'static str, number: &Number, numbers: &[Number]) -> Finding {
    let missing = number.taken.missing.as_deref().unwrap_or_default();
    let why = format!("takes {}: {missing}, so it would miss a limit", values(numbers));
    let has_others = numbers.iter().any(|number| number.taken.missing.is_none() && !is_native(&number.taken));
    let recognised = if has_others { Recognition::Partly } else { Recognition::No };
    Finding { recognised, ..Finding::no(client, why, remedy(facts, &number.taken)) }
}

/// What to do about a number; `None` if it's the effective one, or if that isn't known.
pub(crate) fn remedy_for_number(facts: &Facts, number: &Number) -> Option<&'static str> {
    match number.verdict {
        NumberVerdict::Ok | NumberVerdict::Unknown => None,
        NumberVerdict::NativeFiles if is_native(&number.taken) => Some(
            "tell the program its limit, for example by an option of its own: it asks how much the machine has, and reads no \
             limit of a cgroup",
        ),
        NumberVerdict::NativeFiles if number.taken.missing.is_none() => Some(
            "set the limit on the cgroup whose file the program reads, too, or tell the program its limit: it doesn't read \
             the one that sets it",
        ),
        NumberVerdict::NativeFiles | NumberVerdict::Wrong => Some(remedy(facts, &number.taken)),
    }
}

fn remedy(facts: &Facts, taken: &LimitValue) -> &'static str {
    let missing = taken.missing.as_deref().unwrap_or_default();
    let has_view = facts.views().next().is_some();
    match &taken.lacks {
        Some(path) if facts.knows(path) => remedy_for(facts, path),
        _ if facts.has_broken_view() => DEAD,
        _ if missing.contains("has no line") && has_view => STACK,
        _ if missing.contains("has no line") => MOUNT,
        _ if missing.contains("/proc/cgroups") => {
            "a kernel without one of memory, cpu, cpuacct and cpuset as v1 controllers gives it no container support; \
             tell it its limits (-XX:ActiveProcessorCount, -Xmx), or use JDK 25"
        }
        _ if has_view => {
            "attach a view of the shape that goes with what was mounted before ('vcgroupfs attach' without --shape), or tell the \
             client its limits"
        }
        _ => "tell the client its limits: it doesn't find them natively either",
    }
}
