//! `metrics`: the counters of all views, for Prometheus.

mod families;
mod samples;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use self::samples::{Labels, Samples};
use super::exit::{CliResult, exit_code_of};
use super::json;
use super::resident::resident_memory;
use crate::activity::counters::{BOUNDS, Outcome};
use crate::activity::{ActivityReader, Number, RequestKind};
use crate::cgroup::escaped;
use crate::container::failed_view::views;
use crate::error::{Error, ErrorKind};
use crate::message::say;
use crate::policy::Rule;
use crate::server::activity::ViewActivity;
use crate::server::registry::record::Record;
use crate::server::registry::status::ServerState;

/// How the results of requests are called.
const RESULTS: [(Outcome, &str); 3] =
    [(Outcome::Done, "done"), (Outcome::Rejected, "rejected"), (Outcome::Failed, "failed")];

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print JSON: an array with an object for each sample
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> CliResult {
    let found = views().map_err(|error| Error::system("can't read the list of views", error))?;
    let (mut samples, mut failed) = (Samples::default(), None);
    for view in found.live.iter().chain(&found.failed) {
        add_view(&mut samples, view);
        let activity = match view.status.state {
            ServerState::Failed => None,
            _ => Some(ViewActivity::of(view, false)),
        };
        let is_readable = u8::from(matches!(activity, Some(Ok(_))));
        samples.add(families::READABLE, labels(view), is_readable);
        match activity {
            Some(Ok(activity)) => add_activity(&mut samples, view, &activity.reader),
            Some(Err(error)) => {
                say(error.message());
                // One that can't be watched at all doesn't make the others fail.
                failed = failed.or(Some(error.kind()).filter(|kind| *kind != ErrorKind::Unsupported));
            }
            None => {}
        }
    }
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(out, "{}", json::text(&samples.as_json()))?;
    } else {
        samples.print(&mut out)?;
    }
    Ok(failed.map_or(ExitCode::SUCCESS, |kind| ExitCode::from(exit_code_of(kind))))
}

/// What tells a view from others. The process is there because several views can have the same names.
fn labels(view: &Record) -> Labels {
    vec![("target", escaped(&view.target)), ("directory", view.directory.printed()), ("process", view.pid.to_string())]
}

fn with(view: &Record, label: &'static str, value: impl Into<String>) -> Labels {
    labels(view).into_iter().chain([(label, value.into())]).collect()
}

/// Adds what is known of every view.
fn add_view(samples: &mut Samples, view: &Record) {
    let status = &view.status;
    let is_up = status.state == ServerState::Live;
    let about = [
        ("shape", view.shape.as_str()),
        ("policy", view.policy.as_str()),
        ("state", status.state.word()),
        ("version", status.version.as_deref().unwrap_or_default()),
    ];
    let about = about.into_iter().map(|(label, value)| (label, escaped(value)));
    samples.add(families::INFO, labels(view).into_iter().chain(about).collect(), 1);
    samples.add(families::UP, labels(view), u8::from(is_up));
    samples.add_count(families::CREATED, labels(view), view.since);
    samples.add(families::RESTARTS, labels(view), status.restarts);
    let server = Some(status.server).filter(|server| is_up && Some(*server) != status.keeper);
    let processes = [("server", server), ("keeper", status.keeper)];
    for (role, memory) in processes.into_iter().filter_map(|(role, pid)| Some((role, resident_memory(pid?)?))) {
        samples.add_count(families::MEMORY, with(view, "role", role), memory);
    }
}

/// Adds what a server counts. What has never happened isn't printed.
fn add_activity(samples: &mut Samples, view: &Record, activity: &ActivityReader) {
    for kind in RequestKind::ALL {
        let counted = activity.counted(kind);
        if counted.all == 0 {
            continue;
        }
        for (outcome, word) in RESULTS {
            let labels = with(view, "operation", kind.name()).into_iter().chain([("result", word.to_owned())]);
            samples.add_count(families::REQUESTS, labels.collect(), counted.of(outcome));
        }
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e9);
        let labels = with(view, "operation", kind.name());
        samples.add_histogram(families::DURATION, &labels, bounds, &counted.by_time, counted.time.as_secs_f64());
    }
    // Two rules have the same name: they are the same to users, and differ in when they apply.
    let mut by_rule: BTreeMap<&str, u64> = BTreeMap::new();
    for rule in Rule::ALL {
        *by_rule.entry(rule.name()).or_default() += activity.rejected_by(rule);
    }
    for (rule, count) in by_rule.into_iter().filter(|(_, count)| *count > 0) {
        samples.add_count(families::REJECTIONS, with(view, "rule", rule), count);
    }
    for (family, number) in [
        (families::LOST_LINES, Number::LostLogLines),
        (families::OPEN_FILES, Number::OpenFiles),
        (families::WATCHES, Number::Watches),
    ] {
        samples.add_count(family, labels(view), activity.number(number));
    }
}
