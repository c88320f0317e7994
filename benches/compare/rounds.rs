//! The measurement: rows and subjects interleaved in rounds.

use std::time::Duration;

use anyhow::{Result, anyhow};

use super::args::Plan;
use super::guard::{self, CgroupTree};
use super::host::{Hierarchy, Programs};
use super::process;
use super::rows::{ROWS, Row};
use super::site::{self, Site};
use super::subject::{Kind, Missing, Server};

/// So that the calibration ends, whatever the clock says.
const REPETITIONS_MAX: u64 = 1 << 20;

/// One row on one subject.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    /// Microseconds per operation, one for each round.
    pub(crate) micros: Vec<f64>,
    pub(crate) operations: u64,
    /// The server's user and system time over all of them.
    pub(crate) server_ticks: u64,
    /// Where the result isn't the kernel's.
    pub(crate) remark: Option<String>,
}

impl Samples {
    pub(crate) fn median(&self) -> f64 {
        median(&self.micros)
    }
}

/// The lower quartile, the median and the upper quartile.
pub(crate) fn quartiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: usize| sorted.get(sorted.len() * part / 4).copied().unwrap_or(f64::NAN);
    [at(1), median(values), at(3)]
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(low), Some(high)) if sorted.len().is_multiple_of(2) => (low + high) / 2.0,
        (_, Some(value)) => *value,
        _ => f64::NAN,
    }
}

pub(crate) type Cell = Result<Samples, Missing>;

/// The results for one hierarchy: per row, per subject.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) hierarchy: Hierarchy,
    /// The columns.
    pub(crate) kinds: &'static [Kind],
    pub(crate) rows: Vec<(Row, Vec<Cell>)>,
    /// Faults outside the rows: a mount that stays, a server that runs on.
    pub(crate) faults: Vec<String>,
}

/// A subject that serves. The site goes first when dropped: its descriptors would keep the mount busy.
struct Ready {
    site: Site,
    server: Server,
}

fn make_ready(kind: Kind, programs: &Programs, hierarchy: &Hierarchy, base: &CgroupTree) -> Result<Ready, Missing> {
    let path = base.path().join(kind.name());
    let failed = |error: anyhow::Error| Missing::Failed(format!("{}: {error:#}", kind.name()));
    site::populate(&path).map_err(failed)?;
    let label = format!("{}-{}", kind.name(), hierarchy.option());
    let server = Server::start(kind, programs, hierarchy, &path, &label)?;
    let site = Site::open(hierarchy, &path, server.root()).map_err(failed)?;
    Ok(Ready { site, server })
}

/// Measures every row on every subject.
pub(crate) fn measure(plan: &Plan, programs: &Programs, hierarchy: &Hierarchy, base: &CgroupTree) -> Result<Table> {
    let mut subjects: Vec<Result<Ready, Missing>> = Vec::new();
    let kinds = Kind::compared(programs);
    for &kind in kinds {
        guard::step(|| format!("mount {}", kind.name()))?;
        subjects.push(make_ready(kind, programs, hierarchy, base));
    }
    let mut table = Table { hierarchy: hierarchy.clone(), kinds, rows: Vec::new(), faults: Vec::new() };
    let mut repetitions = Vec::new();
    for row in ROWS.iter().filter(|row| plan.wants(row.name)) {
        let mut cells = Vec::new();
        for (&kind, subject) in kinds.iter().zip(&mut subjects) {
            let (cell, count) = match subject {
                Ok(ready) => prepare(plan, row, kind, ready)?,
                Err(missing) => (Err(missing.clone()), 0),
            };
            cells.push(cell);
            repetitions.push(count);
        }
        table.rows.push((*row, cells));
    }
    for round in 0..plan.rounds as usize {
        let mut repetitions = repetitions.chunks(kinds.len());
        for (row, cells) in &mut table.rows {
            let counts = repetitions.next().unwrap_or_default();
            // Another order in each round: nobody always comes after the one that leaves the caches cold.
            for offset in 0..cells.len() {
                let index = (round + offset) % cells.len();
                let (Some(cell), Some(Ok(ready)), Some(kind), Some(count)) =
                    (cells.get_mut(index), subjects.get_mut(index), kinds.get(index), counts.get(index))
                else {
                    continue;
                };
                guard::step(|| format!("{} on {}, round {}", row.name, kind.name(), round + 1))?;
                let Ok(samples) = cell else { continue };
                if let Err(error) = slice(row, ready, *count, samples) {
                    *cell = Err(failure(row, *kind, &error)?);
                }
            }
        }
    }
    for (kind, subject) in kinds.iter().zip(subjects) {
        guard::step(|| format!("umount {}", kind.name()))?;
        let Ok(Ready { site, server }) = subject else {
            continue;
        };
        drop(site);
        if let Err(error) = server.stop() {
            table.faults.push(format!("{}: {error:#}", kind.name()));
        }
    }
    Ok(table)
}

/// A failure of the row, unless it comes from the signal that ends the benchmark.
fn failure(row: &Row, kind: Kind, error: &anyhow::Error) -> Result<Missing> {
    if guard::interrupted() {
        return Err(anyhow!("interrupted"));
    }
    Ok(Missing::Failed(format!("{}: {}: {error:#}", kind.name(), row.name)))
}

/// Checks a row on a subject, and finds out how many repetitions fill a slice.
fn prepare(plan: &Plan, row: &Row, kind: Kind, ready: &mut Ready) -> Result<(Cell, u64)> {
    guard::step(|| format!("{} on {}, check", row.name, kind.name()))?;
    let checked = (row.check)(&mut ready.site).and_then(|remark| Ok((remark, calibrate(plan, row, &mut ready.site)?)));
    Ok(match checked {
        Ok((remark, count)) => (Ok(Samples { remark, ..Samples::default() }), count),
        Err(error) => (Err(failure(row, kind, &error)?), 0),
    })
}

fn calibrate(plan: &Plan, row: &Row, site: &mut Site) -> Result<u64> {
    let Some(wanted) = plan.slice else {
        return Ok(1);
    };
    let mut count = 1;
    loop {
        let taken = (row.run)(site, count)?.max(Duration::from_nanos(100));
        // Half a slice is long enough to tell, and a single long operation needs no second look.
        if taken * 2 >= wanted || count >= REPETITIONS_MAX {
            let count = wanted.as_secs_f64() / taken.as_secs_f64() * count as f64;
            (row.verify)(site)?;
            return Ok((count.round() as u64).clamp(1, REPETITIONS_MAX));
        }
        count *= 2;
    }
}

fn slice(row: &Row, ready: &mut Ready, repetitions: u64, samples: &mut Samples) -> Result<()> {
    // One operation that isn't counted: the others have used the processor's caches since.
    (row.run)(&mut ready.site, 1)?;
    let before = process::cpu_ticks(&ready.server.pids());
    let taken = (row.run)(&mut ready.site, repetitions)?;
    let after = process::cpu_ticks(&ready.server.pids());
    (row.verify)(&mut ready.site)?;
    let operations = repetitions * row.per_repetition;
    samples.micros.push(taken.as_secs_f64() * 1e6 / operations as f64);
    samples.operations += operations;
    samples.server_ticks += after.saturating_sub(before);
    Ok(())
}
