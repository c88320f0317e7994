//! `explain`: predicts whether an operation would succeed, and why. It uses the filesystem's code, without a mount.

mod kernel;
mod last;
mod operation;
mod remedy;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::exit::CliResult;
use super::json;
use super::offline::offline;
use super::options::ViewOptions;
use super::options::{parse_pid, word_of};
use super::selected_view::{self, SelectedView};
use crate::container::target;
use crate::error::Error;
use nix::errno::Errno;
use operation::Operation;

use crate::cgroup::{CgroupPath, escaped};
use crate::fs::explain::Explanation;
use crate::host::HostCgroups;

/// The help of the arguments.
static WORDS: LazyLock<String> = LazyLock::new(|| {
    let operations: Vec<String> = Operation::value_variants().iter().map(word_of).collect();
    let target = target::HELP_OF_VIEWS;
    format!(
        "[TARGET] OP PATH. TARGET: {target}. OP: {}. PATH: a path in the view, with or without the directory on which the view is mounted",
        operations.join(", ")
    )
});

#[derive(Debug, Args)]
#[command(
    override_usage = "vcgroupfs explain [OPTIONS] [TARGET] OP PATH\n       vcgroupfs explain TARGET --last [N] [--json]"
)]
pub(super) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// With 'migrate', also check where this process is now (a pid of the host)
    #[arg(long, value_name = "PID", value_parser = parse_pid)]
    process: Option<i32>,
    /// The user and group that try it, by the container's numbers [default: the container's root with a TARGET; without, permissions don't
    /// count]
    #[arg(long = "as", value_name = "UID[:GID]")]
    who: Option<kernel::UserSpec>,
    /// Print the N latest rejections of TARGET's live view, each with what to change [default: all that are kept, 256 at most]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "256", value_parser = parse_count)]
    #[arg(conflicts_with_all = ["process", "who"])]
    last: Option<usize>,
    #[arg(value_name = "PATH", num_args = 1.., required = true, help = WORDS.as_str())]
    words: Vec<PathBuf>,
    #[command(flatten)]
    view: ViewOptions,
}

/// Reads how many rejections are asked for.
fn parse_count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("'{text}' isn't a number of rejections: TARGET stands before --last"))
}

pub(super) fn run(options: &Options) -> CliResult {
    if let Some(count) = options.last {
        return match options.words.as_slice() {
            [target] if !options.view.is_named() => last::run(target, count, options.json),
            _ => Err(Error::usage("'explain --last' takes one TARGET and nothing else")
                .advise("see 'vcgroupfs explain --help'")),
        };
    }
    let (target, rest) = selected_view::split_target(&options.words, &options.view, 3);
    let [operation, path] = rest else {
        let what = match (options.view.is_named(), rest.len()) {
            (_, 0 | 1) => "'explain' needs an operation and a path",
            (true, _) => "'explain' takes no TARGET with --pid or --cgroup, but an operation and a path",
            (false, _) => "'explain' takes one TARGET, one operation and one path",
        };
        return Err(Error::usage(what).advise("see 'vcgroupfs explain --help'"));
    };
    let operation = operation.to_str().and_then(|word| Operation::from_str(word, false).ok()).ok_or_else(|| {
        let all: Vec<String> = Operation::value_variants().iter().map(word_of).collect();
        Error::usage(format!("'{}' isn't an operation", escaped(operation)))
            .advise(format!("use one of {}", all.join(", ")))
    })?;
    check_process(operation, options.process)?;
    let selected = selected_view::find(target, &options.view)?;
    let path = selected.path_in_view(path)?;
    let told = selected.description();
    let explanation = ask(selected, operation, &path, options)?;
    print(options.json, (&word_of(&operation), &path), told.as_deref(), &explanation)?;
    Ok(ExitCode::SUCCESS)
}

/// Fails if `--process` doesn't apply to the operation, or names no process.
fn check_process(operation: Operation, process: Option<i32>) -> Result<(), Error> {
    let Some(pid) = process else { return Ok(()) };
    if operation != Operation::Migrate {
        let what = format!("--process can't be used with {}", word_of(&operation));
        return Err(Error::usage(what).because("only 'migrate' is about a process"));
    }
    if std::fs::exists(format!("/proc/{pid}")).unwrap_or(true) {
        return Ok(());
    }
    Err(Error::failed(format!("there is no process {pid}")))
}

/// Answers in the kernel's order: whether the path exists, the kernel's own checks, the view.
fn ask(
    mut selected: SelectedView,
    operation: Operation,
    path: &CgroupPath,
    options: &Options,
) -> Result<Explanation, Error> {
    let caller = kernel::Caller::find(&selected, options.who)?;
    let removed = selected.removed_boundaries();
    if !removed.is_empty() {
        let what = format!(
            "the delegated subtree in {} was removed and made again since the view was made",
            removed.join(", ")
        );
        let how = "the view doesn't show the new one: 'vcgroupfs detach' it, and 'attach' it again";
        return Ok(Explanation::kernel(Errno::ENOENT, &format!("{what}; {how}")));
    }
    let (host, view) = (std::mem::take(&mut selected.host.hierarchies), selected.view.clone());
    let fs = offline(HostCgroups { setup: selected.host.setup, hierarchies: host }, view)?;
    let mut explanation = fs.explain(path.components(), operation.into(), options.process);
    if let (Some(Errno::ENOENT), "kernel") = (explanation.errno, explanation.rule)
        && let Some((controller, cgroup)) = fs.missing_controller(path.components())
    {
        let above = cgroup.parent().unwrap_or_else(CgroupPath::root);
        let how = format!("enable it in cgroup.subtree_control of {above}, and first in those above that lack it");
        explanation.reason = format!("{controller} isn't in cgroup.controllers of {cgroup}: {how}");
    }
    let mut on_path = fs.objects_along(path.components());
    let mut path = path.clone();
    // A migration into a directory is a write to its list.
    if operation == Operation::Migrate
        && let Ok(list) = path.join("cgroup.procs")
    {
        let to_list = fs.objects_along(list.components());
        if to_list.len() > list.depth() {
            (path, on_path) = (list, to_list);
        }
    }
    if let Some(refused) = kernel::refusal(&selected, operation, &path, explanation.errno, &on_path, caller.as_ref()) {
        explanation = Explanation { backing: explanation.backing, ..refused };
    }
    Ok(explanation)
}

fn print(
    as_json: bool,
    (operation, path): (&str, &CgroupPath),
    view: Option<&str>,
    explanation: &Explanation,
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let backing = explanation.backing.as_ref().map(|(kind, path)| format!("{kind}:{path}"));
    let errno = explanation.errno.map(|errno| format!("{errno:?}"));
    if as_json {
        let backing = explanation.backing.as_ref().map(|(kind, path)| {
            let mut text = OsString::from(format!("{kind}:"));
            text.push(path.to_os_string());
            json::name(text)
        });
        let answer = json!({
            "operation": operation, "path": json::name(path.to_os_string()), "host": backing, "allowed": explanation.allowed,
            "verdict": explanation.verdict(), "errno": errno, "rule": explanation.rule, "reason": explanation.reason, "whose": view,
        });
        return writeln!(out, "{}", json::text(&answer));
    }
    if let Some(view) = view {
        writeln!(out, "view       {}", escaped(view))?;
    }
    writeln!(out, "operation  {operation}")?;
    writeln!(out, "path       {path}")?;
    writeln!(out, "host       {}", escaped(backing.as_deref().unwrap_or("-")))?;
    writeln!(out, "verdict    {}", explanation.verdict())?;
    writeln!(out, "errno      {}", errno.as_deref().unwrap_or("-"))?;
    writeln!(out, "rule       {}", explanation.rule)?;
    writeln!(out, "reason     {}", escaped(&explanation.reason))
}
