//! `monitor`: the requests of live views as they come.

mod followed;
mod line;
mod screen;
mod stop;
mod summary;
mod top;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use self::followed::{Followed, FollowedViews};
use self::screen::Screen;
use self::stop::StopSignals;
use super::exit::CliResult;
use super::selected_view;
use crate::activity::counters::Counted;
use crate::activity::{Event, RequestKind};
use crate::container::target::HELP_WITH_DIRECTORY;
use crate::error::Error;

/// How long to wait for more requests. A server that is asked all the time fills its ring in a fraction of a second.
const PAUSE: Duration = Duration::from_millis(50);
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// From how many requests at once on a server is busy.
const BUSY: usize = 256;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only requests that a rule of the view rejects
    #[arg(long)]
    rejected: bool,
    /// Only these operations: lookup, open, write, mkdir ... (several with commas)
    #[arg(long = "op", value_name = "OP", value_delimiter = ',', value_parser = operations(), hide_possible_values = true)]
    operations: Vec<RequestKind>,
    /// Print no requests, but how many there were of each operation and how long they took, at the end
    #[arg(long)]
    summary: bool,
    /// Show a table of the busiest views on the whole screen, until 'q' is pressed
    #[arg(long, conflicts_with_all = ["rejected", "operations", "summary", "json"])]
    top: bool,
    /// Print JSON: an object for each request, or one for the summary
    #[arg(long)]
    json: bool,
    #[arg(value_name = "TARGET", help = HELP_WITH_DIRECTORY)]
    target: Option<PathBuf>,
}

fn operations() -> impl TypedValueParser<Value = RequestKind> {
    let names = PossibleValuesParser::new(RequestKind::ALL.map(RequestKind::name));
    // What isn't a name was refused before.
    names.map(|name| RequestKind::from_name(&name).unwrap_or(RequestKind::Lookup))
}

impl Options {
    /// Whether a request is to be shown.
    fn shows(&self, request: &Event) -> bool {
        (!self.rejected || request.rule.is_some()) && request.kind.is_none_or(|kind| self.shows_kind(kind))
    }

    fn shows_kind(&self, kind: RequestKind) -> bool {
        self.operations.is_empty() || self.operations.contains(&kind)
    }
}

pub(super) fn run(options: &Options) -> CliResult {
    if options.top {
        Screen::check()?;
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::not_permitted("'monitor' shows what containers do").advise("run it as root"));
    }
    let target = options.target.as_deref().map(selected_view::live_record).transpose()?;
    let stop = StopSignals::new()?;
    let mut views = FollowedViews::begin(target, !options.summary && !options.top)?;
    if options.top {
        top::run(&mut views, &stop)
    } else if options.summary {
        summarise(options, &mut views, &stop)
    } else {
        print_requests(options, &mut views, &stop)
    }
}

/// Prints requests until a signal comes, or the TARGET's view ends.
fn print_requests(options: &Options, views: &mut FollowedViews, stop: &StopSignals) -> CliResult {
    let mut out = BufWriter::new(io::stdout().lock());
    loop {
        let mut requests = Vec::new();
        for (index, view) in views.views.iter_mut().enumerate() {
            requests.extend(view.take().into_iter().map(|request| (index, request)));
        }
        for view in &mut views.views {
            let missed = view.take_missed();
            if missed > 0 {
                line::print_missed(&mut out, &view.record, missed, options.json)?;
            }
        }
        requests.sort_by_key(|(_, request)| request.time);
        let pause = if requests.len() < BUSY { PAUSE } else { BUSY_PAUSE };
        for (index, request) in requests.iter().filter(|(_, request)| options.shows(request)) {
            if let Some(view) = views.views.get(*index) {
                line::print(&mut out, &view.record, request, options.json)?;
            }
        }
        out.flush()?;
        if stop.wait(pause)? || !views.refresh()? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Waits for a signal, or for the end of the TARGET's view, and says what there was.
fn summarise(options: &Options, views: &mut FollowedViews, stop: &StopSignals) -> CliResult {
    let begin = Instant::now();
    while views.refresh()? && !stop.wait(PAUSE)? {}
    let all = views.views.iter().chain(&views.ended).flat_map(Followed::counted);
    let shown = |counted: &Counted| !options.rejected || counted.rejected > 0;
    let kinds = summary::sum(all.filter(|(kind, counted)| options.shows_kind(*kind) && shown(counted)));
    summary::print(&mut io::stdout().lock(), &kinds, begin.elapsed(), options.json)?;
    Ok(ExitCode::SUCCESS)
}
