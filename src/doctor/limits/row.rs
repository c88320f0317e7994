//! A row of the report: one resource, over all cgroups of a process up to the root.

use serde::Serialize;

use super::amount::{Amount, Parsed, Unit};
use super::cgroup::{Cgroup, Content};

/// A limit and the cgroup that sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Limit<T> {
    pub(crate) value: T,
    /// `HIERARCHY:PATH/FILE`.
    pub(crate) by: String,
}

/// A resource that cgroups limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Resource {
    CpuTime,
    Cpus,
    Memory,
    /// `memory.high` of v2: above it processes are throttled and memory is reclaimed, but nobody is killed.
    MemoryHigh,
    /// Memory and swap together, which v1 limits.
    MemoryAndSwap,
    Swap,
    Pids,
    Io,
    Hugetlb,
}

/// How often something happened in a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// `throttled`, `throttled_us`, `hit_limit`, `oom` or `oom_kill`.
    pub(crate) event: &'static str,
    pub(crate) count: u64,
    /// `HIERARCHY:PATH` of the cgroup that counted it.
    pub(crate) cgroup: String,
}

/// What a cgroup's file says about its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It has a limit.
    Limited,
    /// It has none.
    Unlimited,
    /// It has no such file: the root, or a cgroup without the controller.
    Absent,
    /// The cgroup can't be seen from here.
    Hidden,
    Unreadable,
    /// The file has a text of another form.
    Malformed,
}

/// One cgroup's part in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Level {
    /// `HIERARCHY:PATH`.
    pub(crate) cgroup: String,
    /// The name of the file with the limit.
    pub(crate) file: String,
    pub(crate) state: State,
    pub(crate) limit: Option<Amount>,
    /// Whether its limit applies to the process.
    pub(crate) binds: bool,
    pub(crate) used: Option<u64>,
    pub(crate) events: Vec<Event>,
}

impl Level {
    /// `HIERARCHY:PATH/FILE`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.cgroup.trim_end_matches('/'), self.file)
    }
}

/// One resource of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    pub(crate) resource: Resource,
    /// The device and operation, or the size of huge pages.
    pub(crate) part: Option<String>,
    pub(crate) unit: Unit,
    /// The limit of the process' own cgroup.
    pub(crate) own: Option<Amount>,
    /// The tightest limit that applies; `None` if there's none.
    pub(crate) effective: Option<Limit<Amount>>,
    /// What the process' own cgroup uses, of CPU time in microseconds since it was made.
    pub(crate) used: Option<u64>,
    /// How much more it can use at most until the first limit is hit. `by` is the cgroup with that limit, which others
    /// may use up as well.
    pub(crate) left: Option<Limit<u64>>,
    /// The events of the own cgroup and of the one that sets the effective limit.
    pub(crate) events: Vec<Event>,
    /// The cgroups from the own one up to the root.
    pub(crate) levels: Vec<Level>,
    /// What can't be told, or doesn't go without saying.
    pub(crate) notes: Vec<String>,
}

/// The note of a row whose cgroups aren't known.
pub(crate) const NO_CGROUP: &str =
    "no hierarchy with this controller, or the process' cgroup in it can't be named from here";

/// Where a number of events stands: the file, its key, and the event's name.
pub(crate) type EventFile<'a> = (&'a str, Option<&'a str>, &'static str);

/// How to read one resource in each cgroup.
pub(crate) struct Source<'a> {
    pub(crate) resource: Resource,
    pub(crate) part: Option<String>,
    pub(crate) unit: Unit,
    /// The file with the limit.
    pub(crate) file: &'a str,
    /// Parses its content.
    pub(crate) parse: &'a dyn Fn(&Cgroup<'_>, &str) -> Parsed,
    /// The file with the usage.
    pub(crate) used: Option<&'a str>,
    pub(crate) events: &'a [EventFile<'a>],
    /// How many cgroups, from the own one on, have limits that apply to the process.
    pub(crate) binding: usize,
}

impl Row {
    /// A row about which nothing is known.
    pub(crate) fn unknown(resource: Resource, unit: Unit, note: impl Into<String>) -> Self {
        Self {
            resource,
            part: None,
            unit,
            own: None,
            effective: None,
            used: None,
            left: None,
            events: Vec::new(),
            levels: Vec::new(),
            notes: vec![note.into()],
        }
    }

    /// Reads a resource in all cgroups, which begin with the own one.
    pub(crate) fn read(cgroups: &[Cgroup<'_>], source: &Source<'_>) -> Self {
        let levels = cgroups.iter().enumerate().map(|(index, cgroup)| level(cgroup, source, index < source.binding));
        let levels: Vec<Level> = levels.collect();
        let mut effective: Option<(Limit<Amount>, usize)> = None;
        let mut left: Option<Limit<u64>> = None;
        for (index, level) in levels.iter().enumerate().filter(|(_, level)| level.binds) {
            let Some(limit) = &level.limit else { continue };
            let by = level.name();
            if effective.as_ref().is_none_or(|(now, _)| limit.is_tighter_than(&now.value)) {
                effective = Some((Limit { value: limit.clone(), by: by.clone() }, index));
            }
            let more = limit.number().zip(level.used).map(|(limit, used)| limit.saturating_sub(used));
            if let Some(value) = more
                && left.as_ref().is_none_or(|now| value < now.value)
            {
                left = Some(Limit { value, by });
            }
        }
        let setter = effective.as_ref().map_or(0, |(_, index)| *index);
        let counting = [Some(0), Some(setter).filter(|setter| *setter != 0)];
        let events = counting.into_iter().flatten().filter_map(|index| levels.get(index));
        Self {
            resource: source.resource,
            part: source.part.clone(),
            unit: source.unit,
            own: levels.first().and_then(|own| own.limit.clone()),
            effective: effective.map(|(limit, _)| limit),
            used: levels.first().and_then(|own| own.used),
            left,
            events: events.flat_map(|level| level.events.clone()).collect(),
            notes: notes(&levels),
            levels,
        }
    }

    /// Whether the process is in no hierarchy that could limit this.
    pub(crate) fn has_no_cgroup(&self) -> bool {
        self.notes.iter().any(|note| note == NO_CGROUP)
    }

    /// Whether a cgroup's part couldn't be read.
    pub(crate) fn is_incomplete(&self) -> bool {
        let is_unknown = |level: &Level| matches!(level.state, State::Hidden | State::Unreadable | State::Malformed);
        self.levels.iter().any(is_unknown)
    }
}

fn level(cgroup: &Cgroup<'_>, source: &Source<'_>, binds: bool) -> Level {
    let content = cgroup.content(source.file);
    let parsed = content.text().map(|text| (source.parse)(cgroup, text));
    let (state, limit) = match (content, parsed) {
        (_, Some(Some(Some(limit)))) => (State::Limited, Some(limit)),
        (_, Some(Some(None))) => (State::Unlimited, None),
        (_, Some(None)) => (State::Malformed, None),
        (Content::Unreadable, _) => (State::Unreadable, None),
        _ if cgroup.is_seen() => (State::Absent, None),
        _ => (State::Hidden, None),
    };
    let event = |(file, key, event): &EventFile<'_>| {
        Some(Event { event, count: cgroup.number(file, *key)?, cgroup: cgroup.name() })
    };
    Level {
        cgroup: cgroup.name(),
        file: source.file.to_owned(),
        state,
        limit,
        binds,
        used: source.used.and_then(|file| cgroup.number(file, None)),
        events: source.events.iter().filter_map(event).collect(),
    }
}

/// Says which cgroups couldn't be read, and which don't count.
fn notes(levels: &[Level]) -> Vec<String> {
    let mut notes = Vec::new();
    let mut of = |state: State, what: &str| {
        let names: Vec<&str> =
            levels.iter().filter(|level| level.state == state).map(|level| level.cgroup.as_str()).collect();
        if let [first, more @ ..] = names.as_slice() {
            let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            notes.push(format!("{first}{more}: {what}, so a limit there isn't counted"));
        }
    };
    of(State::Hidden, "can't be seen from here");
    of(State::Unreadable, "the limit can't be read");
    of(State::Malformed, "the limit has another form than expected");
    if levels.iter().any(|level| !level.binds && level.limit.is_some()) {
        notes.push("limits of ancestors don't apply to cgroups below them here".to_owned());
    }
    notes
}
