//! `explain TARGET --last`: the latest rejections of a live view.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::Value;

use super::advice::advice;
use super::operation::Operation;
use crate::activity::{Event, RequestKind};
use crate::cgroup::shell_word;
use crate::cli::exit::CliResult;
use crate::cli::options::word_of;
use crate::cli::{event, json, selected_view, utc};
use crate::message::say;
use crate::policy::Rule;
use crate::server::activity::ViewActivity;
use crate::server::registry::record::Record;

/// Prints the last `count` rejections of the live view of a TARGET, the newest at the end.
pub(super) fn run(target: &Path, count: usize, as_json: bool) -> CliResult {
    let view = selected_view::live_record(target)?;
    let mut rejections = ViewActivity::of(&view, false)?.reader.rejections();
    rejections.drain(..rejections.len().saturating_sub(count));
    let mut out = io::stdout().lock();
    if as_json {
        let all: Vec<Value> = rejections.iter().map(|rejection| described(rejection, &view, target)).collect();
        writeln!(out, "{}", json::text(&all.into()))?;
    } else if rejections.is_empty() {
        say("the view has rejected nothing yet");
    }
    for rejection in rejections.iter().filter(|_| !as_json) {
        print(&mut out, rejection, &view, target)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn described(rejection: &Event, view: &Record, target: &Path) -> Value {
    let mut fields = event::as_json(rejection);
    fields.insert("reason".to_owned(), rejection.rule.map(Rule::reason).into());
    fields.insert("change".to_owned(), rejection.rule.map(advice).into());
    fields.insert("explain".to_owned(), command(rejection, view, target).into());
    fields.into()
}

fn print(out: &mut impl Write, rejection: &Event, view: &Record, target: &Path) -> io::Result<()> {
    let (time, operation, path) =
        (utc::date_and_time(rejection.time), event::operation(rejection), event::path(rejection));
    let errno = event::errno(rejection).unwrap_or_default();
    let rule = rejection.rule.map_or("a rule that this program doesn't know", |rule| rule.name());
    writeln!(out, "{time} {operation} {path} = {errno} ({rule})")?;
    writeln!(out, "  process  {} {}, user {}", rejection.pid, event::command(rejection), rejection.uid)?;
    if let Some(rule) = rejection.rule {
        writeln!(out, "  reason   {}", rule.reason())?;
        writeln!(out, "  change   {}", advice(rule))?;
    }
    match command(rejection, view, target) {
        Some(command) => writeln!(out, "  explain  {command}"),
        None => Ok(()),
    }
}

/// The command that explains a rejection again; `None` if the path isn't known as a whole.
fn command(rejection: &Event, view: &Record, target: &Path) -> Option<String> {
    let operation = word_of(&asked(rejection)?);
    if rejection.is_cut || rejection.path.is_empty() {
        return None;
    }
    // In a mount for all callers each process sees its own view.
    let target = if view.per_caller { rejection.pid.to_string() } else { shell_word(target) };
    Some(format!("vcgroupfs explain {target} {operation} {}", shell_word(OsStr::from_bytes(&rejection.path))))
}

/// The operation of `explain` that is about the same.
fn asked(rejection: &Event) -> Option<Operation> {
    if let Some(Rule::SourceOutside | Rule::CommonAncestor | Rule::AnothersProcess) = rejection.rule {
        return Some(Operation::Migrate);
    }
    match rejection.kind? {
        RequestKind::Removexattr => Some(Operation::Setxattr),
        RequestKind::Getattr | RequestKind::Getxattr | RequestKind::Listxattr => Some(Operation::Lookup),
        RequestKind::Readdir | RequestKind::Opendir | RequestKind::Poll => Some(Operation::Read),
        kind => Operation::from_str(kind.purpose(), false).ok(),
    }
}
