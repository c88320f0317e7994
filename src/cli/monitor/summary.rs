//! How many requests there were of each kind, and how long they took, as `strace -c` shows it.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use crate::activity::RequestKind;
use crate::activity::counters::Counted;
use crate::cli::json;

/// Adds up what was counted of each kind.
pub(super) fn sum(all: impl Iterator<Item = (RequestKind, Counted)>) -> Vec<(RequestKind, Counted)> {
    let mut sums: Vec<(RequestKind, Counted)> = RequestKind::ALL.map(|kind| (kind, Counted::default())).into();
    for (kind, counted) in all {
        if let Some((_, sum)) = sums.iter_mut().find(|(own, _)| *own == kind) {
            sum.all += counted.all;
            sum.rejected += counted.rejected;
            sum.failed += counted.failed;
            sum.time += counted.time;
        }
    }
    sums.retain(|(_, sum)| sum.all > 0);
    sums.sort_by_key(|(kind, sum)| (std::cmp::Reverse(sum.time), *kind));
    sums
}

/// Prints a line for each kind, those that took longest in all first.
pub(super) fn print(
    out: &mut impl Write,
    kinds: &[(RequestKind, Counted)],
    passed: Duration,
    as_json: bool,
) -> io::Result<()> {
    if as_json {
        let operations: Vec<_> = kinds.iter().map(|(kind, counted)| as_json_object(*kind, counted)).collect();
        return writeln!(out, "{}", json::text(&json!({ "seconds": passed.as_secs_f64(), "operations": operations })));
    }
    let all: Duration = kinds.iter().map(|(_, counted)| counted.time).sum();
    writeln!(out, "% time     seconds  us/request   requests  rejected    failed operation")?;
    writeln!(out, "------ ----------- ----------- ---------- --------- --------- ----------------")?;
    let mut total = Counted { time: all, ..Counted::default() };
    for (kind, counted) in kinds {
        let share = 100.0 * counted.time.as_secs_f64() / all.as_secs_f64().max(f64::MIN_POSITIVE);
        row(out, share, counted, kind.name())?;
        total.all += counted.all;
        total.rejected += counted.rejected;
        total.failed += counted.failed;
    }
    writeln!(out, "------ ----------- ----------- ---------- --------- --------- ----------------")?;
    row(out, 100.0, &total, "total")?;
    writeln!(out, "in {:.1} seconds", passed.as_secs_f64())
}

fn row(out: &mut impl Write, share: f64, counted: &Counted, name: &str) -> io::Result<()> {
    let (seconds, each) = (counted.time.as_secs_f64(), microseconds_each(counted));
    let Counted { all, rejected, failed, .. } = counted;
    writeln!(out, "{share:>6.2} {seconds:>11.6} {each:>11.1} {all:>10} {rejected:>9} {failed:>9} {name}")
}

/// How long a request took on average.
pub(super) fn microseconds_each(counted: &Counted) -> f64 {
    if counted.all == 0 { 0.0 } else { counted.time.as_secs_f64() * 1e6 / counted.all as f64 }
}

fn as_json_object(kind: RequestKind, counted: &Counted) -> serde_json::Value {
    json!({
        "operation": kind.name(), "requests": counted.all, "rejected": counted.rejected, "failed": counted.failed,
        "seconds": counted.time.as_secs_f64(), "microseconds_each": microseconds_each(counted),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_come_first() {
        let of = |all, time| Counted {
            all,
            rejected: 1,
            failed: 2,
            time: Duration::from_micros(time),
            ..Counted::default()
        };
        let counted =
            [(RequestKind::Mkdir, of(4, 30)), (RequestKind::Lookup, of(5, 60)), (RequestKind::Mkdir, of(6, 10))];
        let sums = sum(counted.into_iter().chain([(RequestKind::Rmdir, Counted::default())]));
        assert_eq!(
            sums.iter().map(|(kind, sum)| (*kind, sum.all)).collect::<Vec<_>>(),
            [(RequestKind::Lookup, 5), (RequestKind::Mkdir, 10)]
        );
        let mut text = Vec::new();
        print(&mut text, &sums, Duration::from_secs(2), false).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(" 60.00    0.000060        12.0          5         1         2 lookup\n"), "{text}");
        assert!(
            text.contains("100.00    0.000100         6.7         15         3         6 total\nin 2.0 seconds\n"),
            "{text}"
        );
        print(&mut Vec::new(), &[], Duration::ZERO, false).unwrap();
    }
}
