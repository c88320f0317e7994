//! What was read, a row for each container and program.

use std::fmt::Write as _;
use std::io::{self, Write as _};

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) container: String,
    pub(crate) limits: &'static str,
    pub(crate) program: &'static str,
    /// What it reads, as words: `2 CPUs, 314572800 bytes`.
    pub(crate) before: String,
    pub(crate) after: String,
    /// What `doctor` says that it reads, before and after. `None` for what `doctor` has no model of.
    pub(crate) doctor: [Option<String>; 2],
    /// What holds, and what it finds with the view alone.
    pub(crate) finds: Option<&'static str>,
}

impl Row {
    fn cells(&self) -> [&str; 7] {
        [
            &self.container,
            self.limits,
            self.program,
            &self.before,
            &self.after,
            self.doctor[0].as_deref().unwrap_or("-"),
            self.doctor[1].as_deref().unwrap_or("-"),
        ]
    }

    /// What is wrong with it.
    fn fault(&self) -> Option<String> {
        let Self { container, limits, program, before, after, doctor, finds } = self;
        let at = format!("{container}, limits: {limits}, {program}");
        if after != finds.unwrap_or(before) {
            return Some(format!("{at}: {before} before, {after} after"));
        }
        let pairs = doctor.iter().zip([before, after]);
        let (said, read) =
            pairs.filter_map(|(said, read)| Some((said.as_ref()?, read))).find(|(said, read)| said != read)?;
        Some(format!("{at}: {read}, but doctor says {said}"))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

const HEAD: [&str; 7] = ["container", "limits", "program", "before attach", "after", "doctor, before", "doctor, after"];

impl Table {
    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// To stderr at once, which the test harness doesn't hide.
    pub(crate) fn print(&self) {
        let lines: Vec<[&str; 7]> = std::iter::once(HEAD).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(text, "{}", cells.join("  ").trim_end()).expect("text");
        }
        io::stderr().write_all(text.as_bytes()).expect("stderr");
    }

    /// That each program reads the same numbers, and `doctor` knows them.
    pub(crate) fn check(&self) {
        assert!(!self.rows.is_empty(), "no program was asked");
        let faults: Vec<String> = self.rows.iter().filter_map(Row::fault).collect();
        assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    }
}
