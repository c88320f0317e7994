//! `limits`: shows the effective limits of a process, which cgroup sets each, and what programs would read.

mod human;
mod print;
mod snapshot;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::exit::CliResult;
use super::probed_process::process_to_probe;
use crate::message::say;
use snapshot::{Ended, Snapshot};

/// How often the table is made anew unless `--watch` says otherwise, in seconds.
const DEFAULT_INTERVAL: &str = "2";

/// The shortest and the longest interval, in seconds.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.1..=3600.0;

/// Moves a terminal's cursor to the top and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print JSON; with --watch, an object a line
    #[arg(long)]
    json: bool,
    /// Look again every SECONDS (2 if none are given), until the process ends. Write the TARGET before it
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = DEFAULT_INTERVAL, value_parser = interval)]
    watch: Option<Duration>,
    /// A process or a container, as for 'attach', or a directory on which a view is mounted [default: the calling process]
    #[arg(value_name = "TARGET")]
    target: Option<PathBuf>,
}

/// Parses `--watch`.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| INTERVALS.contains(seconds));
    let seconds: f64 = seconds.ok_or_else(|| {
        format!("'{text}' isn't a number of seconds from 0.1 to 3600; a TARGET stands before --watch")
    })?;
    Ok(Duration::from_secs_f64(seconds))
}

pub(super) fn run(options: &Options) -> CliResult {
    let (target, _) = process_to_probe(options.target.as_deref())?;
    let mut now = Snapshot::take(&target).map_err(|ended| ended.into_error(target.pid))?;
    let mut out = io::stdout().lock();
    let Some(interval) = options.watch else {
        write(&mut out, &now, options.json)?;
        return Ok(ExitCode::SUCCESS);
    };
    let clears = !options.json && out.is_terminal();
    let mut is_first = true;
    loop {
        if clears {
            write!(out, "{CLEAR}")?;
        } else if !options.json && !is_first {
            writeln!(out)?;
        }
        write(&mut out, &now, options.json)?;
        out.flush()?;
        is_first = false;
        thread::sleep(interval);
        now = match Snapshot::take(&target) {
            Ok(next) => next.since(&now),
            Err(Ended::Process) => {
                say(format_args!("process {} has ended", target.pid));
                return Ok(ExitCode::SUCCESS);
            }
            Err(other) => return Err(other.into_error(target.pid)),
        };
    }
}

fn write(out: &mut impl Write, snapshot: &Snapshot, as_json: bool) -> io::Result<()> {
    if as_json { writeln!(out, "{}", super::json::text(&snapshot.as_json())) } else { print::all(out, snapshot) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        assert_eq!((interval("2"), interval("0.5")), (Ok(Duration::from_secs(2)), Ok(Duration::from_millis(500))));
        for wrong in ["0", "-1", "nan", "inf", "4711", "docker:web", ""] {
            assert!(interval(wrong).is_err_and(|why| why.contains("before --watch")), "{wrong}");
        }
    }
}
