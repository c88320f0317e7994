//! Prints a snapshot as a table of at most 100 columns.

use std::io::{self, Write};

use super::human::{NONE, amount, bytes, cpus, duration, quantity};
use super::snapshot::Snapshot;
use crate::cgroup::escaped;
use crate::cli::text::wrap;
use crate::doctor::client_numbers::ClientNumber;
use crate::doctor::limits::{Amount, Resource, Row, State, Unit, count_of_list};
use crate::doctor::reading::Quantity;

/// The width of the whole, in columns. A terminal of 80 cuts nothing but long paths.
const COLUMNS: usize = 100;

/// The width of the texts below the table.
const TEXT_COLUMNS: usize = 80;

/// The width of a column with an amount.
const AMOUNT: usize = 10;

/// The width of the names of resources: at least this, and at most that of a long device's name.
const LABEL: std::ops::RangeInclusive<usize> = 12..=24;

pub(super) fn all(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    header(out, snapshot)?;
    let rows = shown(&snapshot.rows);
    let labels: Vec<String> = rows.iter().map(label).collect();
    let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let width = width.clamp(*LABEL.start(), *LABEL.end());
    let cells = |cells: [&str; 4]| cells.map(|cell| format!("{cell:<AMOUNT$}")).join(" ");
    writeln!(out, "\n{:<width$} {} SET BY", "RESOURCE", cells(["OWN", "EFFECTIVE", "USED", "LEFT"]))?;
    for (row, label) in rows.iter().zip(&labels) {
        let amounts = amounts(row, snapshot.cpus_used);
        let line = format!("{:<width$} {} ", shorten(label, width), cells(amounts.each_ref().map(String::as_str)));
        let by = shorten(&set_by(row), COLUMNS.saturating_sub(line.chars().count()));
        writeln!(out, "{}", format!("{line}{by}").trim_end())?;
        for event in events(row) {
            writeln!(out, "{:<width$} {}", "", shorten(&event, COLUMNS.saturating_sub(width + 1)))?;
        }
    }
    notes(out, snapshot)?;
    clients(out, snapshot)
}

fn header(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    writeln!(out, "process    {} ({})", snapshot.pid, escaped(&snapshot.command))?;
    let setup = snapshot.setup.map_or_else(|| "none".to_owned(), |setup| setup.to_string());
    let namespace = match snapshot.cgroup_namespace {
        Some(true) => "its own cgroup namespace",
        Some(false) => "the host's cgroup namespace",
        None => "cgroup namespace unknown",
    };
    writeln!(out, "setup      {setup}, {namespace}")?;
    let machine = &snapshot.machine;
    let swap = if machine.swap == 0 { "no swap".to_owned() } else { format!("{} of swap", bytes(machine.swap)) };
    writeln!(out, "machine    {}, {}, {swap}", cpus(count_of_list(&machine.online)), bytes(machine.memory))
}

/// The rows without those parts of I/O and huge pages that nobody limits; one of these stays.
fn shown(rows: &[Row]) -> Vec<Row> {
    let mut shown: Vec<Row> = Vec::new();
    let is_limited = |row: &Row| row.effective.is_some() || row.own.is_some();
    for row in rows {
        let has_parts = matches!(row.resource, Resource::Io | Resource::Hugetlb);
        let is_rest = has_parts && !is_limited(row);
        if is_rest && rows.iter().any(|other| other.resource == row.resource && is_limited(other)) {
            continue;
        }
        if is_rest && shown.iter().any(|other| other.resource == row.resource) {
            continue;
        }
        let part = row.part.clone().filter(|_| !is_rest);
        let used = row.used.filter(|_| !is_rest);
        shown.push(Row { part, used, ..row.clone() });
    }
    shown
}

fn label(row: &Row) -> String {
    let word = match row.resource {
        Resource::CpuTime => "CPU time",
        Resource::Cpus => "CPUs",
        Resource::Memory => "memory",
        Resource::MemoryHigh => "memory high",
        Resource::MemoryAndSwap => "memory+swap",
        Resource::Swap => "swap",
        Resource::Pids => "pids",
        Resource::Io => "io",
        Resource::Hugetlb => "hugetlb",
    };
    row.part.as_ref().map_or_else(|| word.to_owned(), |part| format!("{word} {}", device_named(part)))
}

/// A part of a row, with the name of the device instead of its number.
fn device_named(part: &str) -> String {
    let (first, rest) = part.split_once(' ').unwrap_or((part, ""));
    let link = std::fs::read_link(format!("/sys/dev/block/{first}"));
    let name = link.ok().and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    format!("{} {rest}", name.as_deref().map_or_else(|| escaped(first), escaped)).trim_end().to_owned()
}

/// The own limit, the effective one, the usage, and what is left.
fn amounts(row: &Row, cpus_used: Option<f64>) -> [String; 4] {
    let is_read = |state| !matches!(state, State::Hidden | State::Unreadable | State::Malformed);
    let or = |limit: Option<&Amount>, is_known: bool| match limit {
        Some(limit) => amount(limit, row.unit),
        None if row.has_no_cgroup() => "-".to_owned(),
        None => if is_known { NONE } else { "?" }.to_owned(),
    };
    let own = or(row.own.as_ref(), row.levels.first().is_none_or(|own| is_read(own.state)));
    let effective = or(row.effective.as_ref().map(|limit| &limit.value), !row.is_incomplete());
    let used = match (row.resource, cpus_used) {
        (Resource::CpuTime, Some(cpus)) => format!("{cpus:.2} CPUs"),
        _ => row.used.map_or_else(|| "-".to_owned(), |used| quantity(used, row.unit)),
    };
    let left = row.left.as_ref().map_or_else(|| "-".to_owned(), |left| quantity(left.value, row.unit));
    [own, effective, used, left]
}

/// The cgroup that sets the effective limit.
fn set_by(row: &Row) -> String {
    let Some(limit) = &row.effective else { return "-".to_owned() };
    let cgroup = cgroup_of(&limit.by);
    if cgroup == own_cgroup(row) { "its own cgroup".to_owned() } else { path_of(cgroup) }
}

fn own_cgroup(row: &Row) -> &str {
    row.levels.first().map(|own| own.cgroup.as_str()).unwrap_or_default()
}

/// `HIERARCHY:PATH` of `HIERARCHY:PATH/FILE`; a text of another form as it is.
fn cgroup_of(by: &str) -> &str {
    match by.rsplit_once('/') {
        Some((cgroup, _)) if cgroup.contains('/') => cgroup,
        Some((cgroup, file)) => by.get(..by.len() - file.len()).unwrap_or(cgroup),
        None => by,
    }
}

fn path_of(cgroup: &str) -> String {
    cgroup.split_once(":/").map_or_else(|| cgroup.to_owned(), |(_, path)| format!("/{path}"))
}

/// A line for each cgroup in which something happened.
fn events(row: &Row) -> Vec<String> {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for event in row.events.iter().filter(|event| event.count > 0) {
        let text = match event.event {
            "throttled_us" => format!("for {}", duration(event.count)),
            "throttled" => format!("throttled {}", times(event.count)),
            "hit_limit" => format!("hit the limit {}", times(event.count)),
            "oom" => format!("out of memory {}", times(event.count)),
            _ => format!(
                "OOM killed {}",
                if event.count == 1 { "1 process".to_owned() } else { format!("{} processes", event.count) }
            ),
        };
        match lines.iter_mut().find(|(cgroup, _)| *cgroup == event.cgroup) {
            Some((_, texts)) => texts.push(text),
            None => lines.push((event.cgroup.clone(), vec![text])),
        }
    }
    let line = |(cgroup, texts): (String, Vec<String>)| {
        let at = if cgroup == own_cgroup(row) { String::new() } else { format!(", in {}", path_of(&cgroup)) };
        format!("{}{at}", texts.join(", ").replace(", for ", " for "))
    };
    lines.into_iter().map(line).collect()
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// Shortens a text in the middle.
fn shorten(text: &str, columns: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= columns {
        return text.to_owned();
    }
    let kept = columns.saturating_sub(3);
    let (head, tail) = (kept / 2, kept - kept / 2);
    let (first, last) = (letters.iter().take(head), letters.iter().skip(letters.len() - tail));
    first.collect::<String>() + "..." + &last.collect::<String>()
}

/// What the table doesn't say, once, with the resources that it's about.
fn notes(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    let mut all: Vec<(&str, Vec<String>)> = Vec::new();
    for row in &snapshot.rows {
        for note in &row.notes {
            let label = label(&Row { part: None, ..row.clone() });
            match all.iter_mut().find(|(text, _)| text == note) {
                Some((_, labels)) if labels.contains(&label) => {}
                Some((_, labels)) => labels.push(label),
                None => all.push((note, vec![label])),
            }
        }
    }
    let notes = all.into_iter().map(|(note, labels)| format!("{}: {note}", labels.join(", ")));
    let notes: Vec<String> = snapshot.blind_spot.map(str::to_owned).into_iter().chain(notes).collect();
    if !notes.is_empty() {
        writeln!(out)?;
    }
    for note in notes {
        block(out, "note  ", &escaped(&note))?;
    }
    Ok(())
}

/// The programs, grouped by the number that they take, and then what to do, by the numbers behind the marks.
fn clients(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    writeln!(out)?;
    let numbers = match &snapshot.clients {
        Ok(numbers) => numbers,
        Err(why) => return block(out, "", &format!("what programs would read isn't known: {}", escaped(why))),
    };
    writeln!(out, "what programs would read; ! marks another number than the effective one")?;
    let mut groups: Vec<(&ClientNumber, Vec<&str>)> = Vec::new();
    for number in numbers {
        let key = |number: &ClientNumber| (number.quantity, number.value, number.differs, number.remedy);
        match groups.iter_mut().find(|(first, _)| key(first) == key(number)) {
            Some((_, clients)) => clients.push(number.client),
            None => groups.push((number, vec![number.client])),
        }
    }
    groups.sort_by_key(|(number, _)| (number.quantity, number.differs));
    let mut before = None;
    let mut remedies: Vec<&str> = Vec::new();
    for (number, clients) in groups {
        let (word, unit) = match number.quantity {
            Quantity::Cpus => ("CPUs", Unit::Cpus),
            Quantity::Memory => ("memory", Unit::Bytes),
            Quantity::Pids => ("pids", Unit::Processes),
        };
        let word = if before.replace(number.quantity) == Some(number.quantity) { "" } else { word };
        let mark = number.remedy.filter(|_| number.differs).map_or_else(String::new, |remedy| {
            let known = remedies.iter().position(|one| *one == remedy);
            let index = known.unwrap_or_else(|| {
                remedies.push(remedy);
                remedies.len() - 1
            });
            format!("!{}", index + 1)
        });
        let value = number.value.map_or_else(|| NONE.to_owned(), |value| quantity(value, unit));
        block(out, &format!("{word:<7} {mark:<2} {value:<10} "), &escaped(clients.join(", ")))?;
    }
    for (index, remedy) in remedies.into_iter().enumerate() {
        let mark = format!("!{}", index + 1);
        block(out, &format!("{:<7} {mark:<2} ", ""), &escaped(remedy))?;
    }
    Ok(())
}

/// Writes a text behind a word, wrapped, with the further lines indented as far.
fn block(out: &mut impl Write, start: &str, text: &str) -> io::Result<()> {
    let indent = start.chars().count();
    for (index, line) in wrap(text, TEXT_COLUMNS.saturating_sub(indent)).into_iter().enumerate() {
        let start = if index == 0 { start } else { "" };
        writeln!(out, "{start:<indent$}{line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cgroups() {
        for (by, cgroup, path) in [
            ("cpu:/a/b/cpu.max", "cpu:/a/b", "/a/b"),
            ("cpu:/cpu.max", "cpu:/", "/"),
            ("name=x:/a/f", "name=x:/a", "/a"),
            ("sched_setaffinity", "sched_setaffinity", "sched_setaffinity"),
        ] {
            assert_eq!((cgroup_of(by), path_of(cgroup_of(by))), (cgroup, path.to_owned()));
        }
    }

    #[test]
    fn long_texts_are_shortened_in_the_middle() {
        assert_eq!(shorten("abcdefgh", 8), "abcdefgh");
        assert_eq!(shorten("abcdefghi", 8), "ab...ghi");
        assert_eq!((shorten("äöüß", 4), shorten("äöüßx", 3)), ("äöüß".to_owned(), "...".to_owned()));
    }
}
