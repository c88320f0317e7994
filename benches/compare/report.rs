//! The tables, and the same as JSON.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::{Value, json};

use super::args::Plan;
use super::host::Programs;
use super::process::TICKS_PER_SECOND;
use super::resources::Resources;
use super::rounds::{Cell, Samples, Table, quartiles};
use super::subject::{Kind, Missing};

const LABEL_WIDTH: usize = 20;
const COLUMN_WIDTH: usize = 20;
/// Fewer ticks of processor time than this say nothing.
const ENOUGH_TICKS: u64 = 5;

#[derive(Debug)]
pub(crate) struct Report {
    rounds: u32,
    /// Whether the processor time can be more than a few ticks.
    long_enough: bool,
    system: Vec<(&'static str, String)>,
    pub(crate) tables: Vec<Table>,
    pub(crate) resources: Option<Resources>,
    pub(crate) faults: Vec<String>,
}

/// Numbered remarks below a table.
#[derive(Debug, Default)]
struct Footnotes(Vec<String>);

impl Footnotes {
    fn mark(&mut self, text: &str) -> String {
        let position = self.0.iter().position(|other| other == text).unwrap_or_else(|| {
            self.0.push(text.to_owned());
            self.0.len() - 1
        });
        format!("[{}]", position + 1)
    }

    fn missing(&mut self, missing: &Missing) -> String {
        match missing {
            Missing::NotInstalled => missing.to_string(),
            Missing::NotAvailable(reason) | Missing::Failed(reason) => {
                format!("{missing} {}", self.mark(reason))
            }
            Missing::Cannot(reason) => format!("{missing} {}", self.mark(reason)),
        }
    }
}

/// Three digits, or so.
fn number(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// The server's processor time in microseconds per operation, where the clock's ticks can tell it.
fn server_micros(samples: &Samples) -> Option<f64> {
    (samples.server_ticks >= ENOUGH_TICKS).then(|| micros(samples.server_ticks, samples.operations))
}

fn micros(ticks: u64, operations: u64) -> f64 {
    ticks as f64 * 1e6 / TICKS_PER_SECOND / operations.max(1) as f64
}

fn ratio(cells: &[Cell], samples: &Samples) -> Option<f64> {
    let kernel = cells.first()?.as_ref().ok()?;
    Some(samples.median() / kernel.median())
}

impl Report {
    pub(crate) fn new(plan: &Plan, programs: &Programs) -> Self {
        let version = |program: &Option<super::host::Program>| {
            program.as_ref().map_or_else(|| Missing::NotInstalled.to_string(), |program| program.version.clone())
        };
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let system = vec![
            ("kernel", release.trim().to_owned()),
            ("vcgroupfs", programs.vcgroupfs.version.clone()),
            ("lxcfs", version(&programs.lxcfs)),
            ("bindfs", version(&programs.bindfs)),
            ("cpus", cpus.to_string()),
        ];
        Self {
            rounds: plan.rounds,
            long_enough: plan.slice.is_some(),
            system,
            tables: Vec::new(),
            resources: None,
            faults: Vec::new(),
        }
    }

    /// Why the run as a whole has failed.
    pub(crate) fn errors(&self, require_all: bool) -> Vec<String> {
        let mut missing: Vec<&Missing> = Vec::new();
        let mut faults: Vec<&String> = self.faults.iter().collect();
        for table in &self.tables {
            missing.extend(table.rows.iter().flat_map(|(_, cells)| cells).filter_map(|cell| cell.as_ref().err()));
            faults.extend(&table.faults);
        }
        if let Some(resources) = &self.resources {
            missing.extend(resources.memory.iter().flat_map(|(_, cells)| cells).filter_map(|cell| cell.as_ref().err()));
            missing.extend(resources.growth.iter().filter_map(|cell| cell.as_ref().err()));
            missing.extend(resources.kills.iter().filter_map(|cell| cell.as_ref().err()));
            faults.extend(&resources.faults);
        }
        let mut errors: Vec<String> = missing
            .into_iter()
            .filter(|missing| missing.is_error(require_all))
            .map(|missing| match missing {
                Missing::NotAvailable(reason) => format!("not available: {reason}"),
                Missing::Failed(reason) => reason.clone(),
                other => format!("a program is {other}, and VCGROUPFS_REQUIRE=all is set"),
            })
            .chain(faults.into_iter().cloned())
            .collect();
        errors.sort();
        errors.dedup();
        errors
    }

    pub(crate) fn print_text(&self) -> Result<()> {
        let mut out = io::stdout().lock();
        let system: Vec<_> = self.system.iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(out, "{}", system.join(", "))?;
        for table in &self.tables {
            self.print_table(&mut out, table)?;
        }
        if let Some(resources) = &self.resources {
            print_memory(&mut out, resources)?;
            print_growth(&mut out, resources)?;
            print_kills(&mut out, resources)?;
        }
        Ok(())
    }

    fn print_table(&self, out: &mut impl Write, table: &Table) -> Result<()> {
        let mut notes = Footnotes::default();
        let title = table.hierarchy.title();
        let rounds = self.rounds;
        heading(
            out,
            &format!("{title}: microseconds per operation, median of {rounds} rounds; x: ratio to the kernel"),
            table.kinds,
        )?;
        for (row, cells) in &table.rows {
            line(
                out,
                row.name,
                cells.iter().enumerate().map(|(index, cell)| match cell {
                    Ok(samples) => {
                        let mark = samples.remark.as_ref().map_or_else(String::new, |remark| {
                            let kind = table.kinds.get(index).map_or("", |kind| kind.name());
                            format!(" {}", notes.mark(&format!("{kind}: {remark}")))
                        });
                        let value = number(samples.median());
                        match ratio(cells, samples).filter(|_| index > 0) {
                            Some(ratio) => format!("{value}{:>7}x{mark}", number(ratio)),
                            None => format!("{value}{mark}"),
                        }
                    }
                    Err(missing) => notes.missing(missing),
                }),
            )?;
        }
        footnotes(out, &notes)?;
        if !self.long_enough {
            return Ok(());
        }
        if table.kinds.contains(&Kind::Before) {
            print_change(out, title, table)?;
        }
        let mut notes = Footnotes::default();
        heading(
            out,
            &format!("{title}: the server's processor time, microseconds per operation (user + system)"),
            table.kinds,
        )?;
        for (row, cells) in &table.rows {
            line(
                out,
                row.name,
                cells.iter().enumerate().map(|(index, cell)| match cell {
                    Ok(_) if index == 0 => "-".to_owned(),
                    Ok(samples) => server_micros(samples)
                        .map_or_else(|| format!("< {}", number(micros(ENOUGH_TICKS, samples.operations))), number),
                    Err(missing) => notes.missing(missing),
                }),
            )?;
        }
        footnotes(out, &notes)
    }

    pub(crate) fn print_json(&self) -> Result<()> {
        let tables: Vec<_> = self.tables.iter().map(table_json).collect();
        let system: serde_json::Map<_, _> =
            self.system.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let report = json!({
            "version": 1,
            "system": system,
            "rounds": self.rounds,
            "hierarchies": tables,
            "resources": self.resources.as_ref().map(resources_json),
            "faults": self.faults,
        });
        writeln!(io::stdout().lock(), "{report}")?;
        Ok(())
    }
}

/// What a change has made of it.
fn print_change(out: &mut impl Write, title: &str, table: &Table) -> Result<()> {
    writeln!(out, "\n{title}: time after a change / before it, of each round: lower quartile, median, upper quartile")?;
    for (row, cells) in &table.rows {
        let of = |kind| {
            let column = table.kinds.iter().position(|own| *own == kind)?;
            Some(&cells.get(column)?.as_ref().ok()?.micros)
        };
        let (Some(after), Some(before)) = (of(Kind::Vcgroupfs), of(Kind::Before)) else { continue };
        let ratios: Vec<f64> = after.iter().zip(before).map(|(after, before)| after / before).collect();
        line(out, row.name, quartiles(&ratios).into_iter().map(|ratio| format!("{ratio:.3}")))?;
    }
    Ok(())
}

fn heading(out: &mut impl Write, title: &str, kinds: &[Kind]) -> Result<()> {
    writeln!(out, "\n{title}")?;
    line(out, "", kinds.iter().map(|kind| kind.name().to_owned()))
}

fn line(out: &mut impl Write, label: &str, cells: impl Iterator<Item = String>) -> Result<()> {
    write!(out, "{label:<LABEL_WIDTH$}")?;
    for cell in cells {
        write!(out, " {cell:>COLUMN_WIDTH$}")?;
    }
    writeln!(out)?;
    Ok(())
}

fn footnotes(out: &mut impl Write, notes: &Footnotes) -> Result<()> {
    for (index, note) in notes.0.iter().enumerate() {
        writeln!(out, "[{}] {}", index + 1, note.replace('\n', " | "))?;
    }
    Ok(())
}

fn print_memory(out: &mut impl Write, resources: &Resources) -> Result<()> {
    let mut notes = Footnotes::default();
    heading(out, "idle servers: MiB resident / proportional (processes)", resources.kinds)?;
    for (count, cells) in &resources.memory {
        let label = format!("{count} view{}", if *count == 1 { "" } else { "s" });
        let mib = |kib: u64| number(kib as f64 / 1024.0);
        let cells = cells.iter().zip(resources.kinds).map(|(cell, &kind)| match cell {
            Ok(memory) => {
                let mark = if kind == Kind::Lxcfs && *count > 1 {
                    format!(" {}", notes.mark("lxcfs: one server, whatever the number of containers"))
                } else {
                    String::new()
                };
                format!("{} / {} ({}){mark}", mib(memory.rss_kib), mib(memory.pss_kib), memory.processes)
            }
            Err(missing) => notes.missing(missing),
        });
        line(out, &label, cells)?;
    }
    footnotes(out, &notes)
}

fn print_growth(out: &mut impl Write, resources: &Resources) -> Result<()> {
    let Some(points) = resources.growth.iter().find_map(|cell| Some(&cell.as_ref().ok()?.points)) else {
        return Ok(());
    };
    let mut notes = Footnotes::default();
    heading(out, "growth of a server: KiB resident, open descriptors", resources.kinds)?;
    for (index, point) in points.iter().enumerate() {
        let cells = resources.growth.iter().map(|cell| match cell {
            Ok(growth) => growth
                .points
                .get(index)
                .map_or_else(String::new, |point| format!("{}, {}", point.rss_kib, point.descriptors)),
            Err(missing) => notes.missing(missing),
        });
        line(out, &format!("after {}", point.operations), cells)?;
    }
    footnotes(out, &notes)
}

fn print_kills(out: &mut impl Write, resources: &Resources) -> Result<()> {
    if resources.kills.is_empty() {
        return Ok(());
    }
    let mut notes = Footnotes::default();
    heading(out, "a server is killed: milliseconds until the next one answers", resources.kinds)?;
    for (label, part) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
        let cells = resources.kills.iter().map(|cell| match cell {
            Ok(gaps) => number(gaps.quantile(part)),
            Err(missing) => notes.missing(missing),
        });
        line(out, label, cells)?;
    }
    footnotes(out, &notes)
}

fn missing_json(missing: &Missing) -> Value {
    let (state, reason) = match missing {
        Missing::NotInstalled => ("not_installed", None),
        Missing::NotAvailable(reason) => ("not_available", Some(reason.as_str())),
        Missing::Cannot(reason) => ("cannot", Some(*reason)),
        Missing::Failed(reason) => ("failed", Some(reason.as_str())),
    };
    json!({ "missing": state, "reason": reason })
}

fn by_subject(kinds: &[Kind], cells: impl Iterator<Item = Value>) -> Value {
    Value::Object(kinds.iter().map(|kind| kind.name().to_owned()).zip(cells).collect())
}

fn table_json(table: &Table) -> Value {
    let rows: Vec<_> = table
        .rows
        .iter()
        .map(|(row, cells)| {
            let subjects = by_subject(
                table.kinds,
                cells.iter().map(|cell| match cell {
                    Ok(samples) => json!({
                        "median_us": samples.median(),
                        "ratio": ratio(cells, samples),
                        "server_cpu_us": server_micros(samples),
                        "operations": samples.operations,
                        "rounds_us": samples.micros,
                        "remark": samples.remark,
                    }),
                    Err(missing) => missing_json(missing),
                }),
            );
            json!({ "row": row.name, "subjects": subjects })
        })
        .collect();
    json!({ "hierarchy": table.hierarchy.title(), "rows": rows, "faults": table.faults })
}

fn resources_json(resources: &Resources) -> Value {
    let memory: Vec<_> = resources
        .memory
        .iter()
        .map(|(count, cells)| {
            let cells = cells.iter().map(|cell| cell.as_ref().map_or_else(missing_json, |memory| json!(memory)));
            json!({ "views": count, "subjects": by_subject(resources.kinds, cells) })
        })
        .collect();
    let growth = resources.growth.iter().map(|cell| cell.as_ref().map_or_else(missing_json, |growth| json!(growth)));
    let kills = resources.kills.iter().map(|cell| cell.as_ref().map_or_else(missing_json, |gaps| json!(gaps)));
    json!({
        "memory": memory,
        "growth": by_subject(resources.kinds, growth),
        "kills": by_subject(resources.kinds, kills),
        "faults": resources.faults,
    })
}
