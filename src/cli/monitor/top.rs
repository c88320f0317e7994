//! `--top`: a table of the busiest views, as systemd-cgtop has it for cgroups.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::followed::{Followed, FollowedViews};
use super::screen::{Line, Screen};
use super::stop::StopSignals;
use super::summary::microseconds_each;
use crate::activity::RequestKind;
use crate::activity::counters::Counted;
use crate::cgroup::escaped;
use crate::cli::exit::CliResult;
use crate::cli::resident::resident_memory;
use crate::cli::utc;

/// How often the table changes.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the table is sorted by. The key `s` takes the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Requests,
    Rejected,
    Busy,
}

impl Order {
    const ALL: [Self; 3] = [Self::Requests, Self::Rejected, Self::Busy];

    fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Rejected => "rejections",
            Self::Busy => "time",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|order| *order == self).unwrap_or_default();
        Self::ALL.get(at + 1).copied().unwrap_or(Self::Requests)
    }
}

/// A view in the table.
#[derive(Clone, Debug)]
struct Row {
    container: String,
    /// What has come since the last table, of all kinds together.
    counted: Counted,
    /// The kind that took longest.
    longest: Option<RequestKind>,
    /// How long ago the last table was.
    passed: Duration,
    open_files: u64,
    /// In bytes.
    memory: Option<u64>,
}

/// What was counted of a view, and when.
type Snapshot = (Instant, Vec<(RequestKind, Counted)>);

/// Shows the table until `q` is pressed, a signal comes, or the TARGET's view ends.
pub(super) fn run(views: &mut FollowedViews, stop: &StopSignals) -> CliResult {
    let screen = Screen::take()?;
    let (mut order, mut rows) = (Order::Requests, Vec::new());
    let mut before: HashMap<u32, Snapshot> = HashMap::new();
    let mut due = Instant::now();
    while views.refresh()? {
        if due <= Instant::now() {
            rows = views.views.iter().map(|view| row(view, &mut before)).collect();
            due = Instant::now() + INTERVAL;
        }
        sort(&mut rows, order);
        let (columns, lines) = screen.size();
        let mut shown = vec![title(rows.len(), order)];
        shown.extend(table(&rows));
        let shown: Vec<Line> = shown.into_iter().take(lines).map(|line| cut(line, columns)).collect();
        screen.show(&shown)?;
        let [is_stopped, has_keys] = stop.wait_or(screen.input(), due.saturating_duration_since(Instant::now()))?;
        let keys = if has_keys { screen.keys() } else { Some(Vec::new()) };
        let Some(keys) = keys else { break };
        if is_stopped || keys.contains(&b'q') {
            break;
        }
        for _ in keys.iter().filter(|key| **key == b's') {
            order = order.next();
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(view: &Followed, before: &mut HashMap<u32, Snapshot>) -> Row {
    let (now, counted) = (Instant::now(), view.counted());
    let (then, earlier) = before.insert(view.record.pid, (now, counted.clone())).unwrap_or((now, counted.clone()));
    let since: Vec<(RequestKind, Counted)> =
        counted.iter().zip(&earlier).map(|((kind, now), (_, then))| (*kind, now.since(then))).collect();
    let longest = since.iter().max_by_key(|(_, counted)| counted.time).filter(|(_, counted)| counted.all > 0);
    let add = |sum: Counted, (_, more): &(RequestKind, Counted)| Counted {
        all: sum.all + more.all,
        rejected: sum.rejected + more.rejected,
        failed: sum.failed + more.failed,
        time: sum.time + more.time,
        ..sum
    };
    Row {
        container: escaped(&view.record.target),
        counted: since.iter().fold(Counted::default(), add),
        longest: longest.map(|(kind, _)| *kind),
        passed: now - then,
        open_files: view.open_files(),
        memory: resident_memory(view.record.status.server),
    }
}

fn sort(rows: &mut [Row], order: Order) {
    rows.sort_by_cached_key(|row| {
        let counted = &row.counted;
        let key = match order {
            Order::Requests => u128::from(counted.all),
            Order::Rejected => u128::from(counted.rejected),
            Order::Busy => counted.time.as_nanos(),
        };
        (Reverse(key), row.container.clone())
    });
}

fn title(views: usize, order: Order) -> Line {
    let time = utc::time_of_day(std::time::SystemTime::now());
    let time = time.split('.').next().unwrap_or_default();
    Line::Plain(format!("vcgroupfs {time}  {views} views by {}   q quits, s sorts by the next column", order.word()))
}

fn table(rows: &[Row]) -> Vec<Line> {
    let heading = "   REQ/S   REJ/S  FAIL/S  BUSY%  US/REQ  FILES   MEMORY LONGEST      CONTAINER";
    let lines = rows.iter().map(|row| {
        let seconds = row.passed.as_secs_f64();
        let rate = |value: f64| if seconds > 0.0 { value / seconds } else { 0.0 };
        let Counted { all, rejected, failed, time, .. } = row.counted;
        let [all, rejected, failed] = [all, rejected, failed].map(|count| rate(count as f64));
        let (busy, each) = (100.0 * rate(time.as_secs_f64()), microseconds_each(&row.counted));
        let memory = row.memory.map_or_else(|| "-".to_owned(), |bytes| format!("{:.1}M", bytes as f64 / 1_048_576.0));
        let (files, longest, container) = (row.open_files, row.longest.map_or("-", RequestKind::name), &row.container);
        Line::Plain(format!(
            "{all:>8.1} {rejected:>7.1} {failed:>7.1} {busy:>6.1} {each:>7.1} {files:>6} {memory:>8} {longest:<12} {container}"
        ))
    });
    [Line::Heading(heading.to_owned())].into_iter().chain(lines).collect()
}

/// Leaves out what doesn't fit.
fn cut(line: Line, columns: usize) -> Line {
    let shortened = |text: String| text.chars().take(columns).collect();
    match line {
        Line::Plain(text) => Line::Plain(shortened(text)),
        Line::Heading(text) => Line::Heading(shortened(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row_of(container: &str, all: u64, rejected: u64, milliseconds: u64) -> Row {
        let counted = Counted { all, rejected, time: Duration::from_millis(milliseconds), ..Counted::default() };
        let longest = Some(RequestKind::Mkdir).filter(|_| all > 0);
        let (passed, memory) = (Duration::from_secs(2), Some(3 << 20));
        Row { container: container.to_owned(), counted, longest, passed, open_files: 7, memory }
    }

    #[test]
    fn rows_fit_their_heading() {
        let rows = [row_of("docker:web", 100, 4, 500), Row { memory: None, ..row_of("b", 0, 0, 0) }];
        let lines = table(&rows);
        let expected = [
            Line::Heading("   REQ/S   REJ/S  FAIL/S  BUSY%  US/REQ  FILES   MEMORY LONGEST      CONTAINER".to_owned()),
            Line::Plain("    50.0     2.0     0.0   25.0  5000.0      7     3.0M mkdir        docker:web".to_owned()),
            Line::Plain("     0.0     0.0     0.0    0.0     0.0      7        - -            b".to_owned()),
        ];
        assert_eq!(lines, expected);
        assert_eq!(cut(lines[0].clone(), 8), Line::Heading("   REQ/S".to_owned()));
        // Without a table before there's no rate.
        let first = table(&[Row { passed: Duration::ZERO, ..rows[0].clone() }]);
        assert!(matches!(&first[1], Line::Plain(text) if text.starts_with("     0.0     0.0")), "{first:?}");
    }

    #[test]
    fn rows_are_sorted_by_each_order() {
        let mut rows = [row_of("a", 1, 1, 9), row_of("b", 2, 0, 1), row_of("c", 1, 5, 2)];
        let mut order = Order::Requests;
        for expected in ["bac", "cab", "acb", "bac"] {
            sort(&mut rows, order);
            let names: String = rows.iter().map(|row| row.container.as_str()).collect();
            assert_eq!(names, expected, "{order:?}");
            order = order.next();
        }
    }
}
