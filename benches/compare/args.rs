//! The command line of the benchmark.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Compares the kernel's cgroupfs, vcgroupfs, lxcfs and bindfs in one run.
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub(crate) struct Args {
    /// Rounds; in each, every row is measured once on every subject
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,

    /// How long one row is measured on one subject in one round, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30)]
    pub(crate) slice: u64,

    /// Operations over which the growth of the servers is observed; 0 leaves that part out
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub(crate) operations: u64,

    /// Numbers of views at which the memory of the servers is measured
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 10, 100])]
    pub(crate) views: Vec<usize>,

    /// How many servers are killed to measure for how long callers wait; 0 leaves that part out
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) kills: usize,

    /// Measure only the rows whose name contains this; can be given several times
    #[arg(long = "row", value_name = "PART")]
    pub(crate) rows: Vec<String>,

    /// Smoke test: does every row work on every subject? Times mean nothing
    #[arg(long)]
    pub(crate) quick: bool,

    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,

    /// Have vcgroupfs read files by itself, as it has to before Linux 6.9
    #[arg(long)]
    pub(crate) no_passthrough: bool,

    /// The vcgroupfs program, instead of the one that was built with the benchmark
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,

    /// Another vcgroupfs program as it was before a change: only the kernel and these two are measured, and compared round by round
    #[arg(long, value_name = "FILE")]
    pub(crate) before: Option<PathBuf>,

    /// Passed by `cargo bench`; without it (as `cargo test --all-targets` runs it) the smoke test is run
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// What the arguments come down to.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    /// `None`: one repetition per slice, whatever it takes.
    pub(crate) slice: Option<Duration>,
    /// Parts of the names of the rows; none: all rows.
    pub(crate) rows: Vec<String>,
    pub(crate) operations: u64,
    pub(crate) views: Vec<usize>,
    pub(crate) kills: usize,
    /// How long servers are left alone before their memory is read.
    pub(crate) idle: Duration,
}

impl Plan {
    /// Whether a row is to be measured.
    pub(crate) fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|part| row.contains(part.as_str()))
    }
}

impl Args {
    pub(crate) fn plan(&self) -> Plan {
        if self.quick || !self.bench {
            return Plan {
                rounds: 1,
                slice: None,
                rows: self.rows.clone(),
                operations: self.operations.min(2000),
                views: vec![1, 2],
                kills: self.kills.min(2),
                idle: Duration::from_millis(100),
            };
        }
        let mut views = self.views.clone();
        views.retain(|count| *count > 0);
        views.sort_unstable();
        views.dedup();
        Plan {
            rounds: self.rounds,
            slice: Some(Duration::from_millis(self.slice.max(1))),
            rows: self.rows.clone(),
            operations: self.operations,
            views,
            kills: self.kills,
            idle: Duration::from_secs(2),
        }
    }
}

/// Whether what is missing is an error: `VCGROUPFS_REQUIRE=all`, as for the tests.
pub(crate) fn require_all() -> bool {
    std::env::var_os("VCGROUPFS_REQUIRE").is_some_and(|value| value == "all")
}
