//! `explain`: predicts whether an operation would succeed, and why. It uses the filesystem's code, without a mount.

mod advice;
mod kernel;
mod last;
mod operation;
mod remedy;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::exit::CliResult;
use super::former_options::renewal;
use super::json;
use super::offline::offline;
use super::options::ViewOptions;
use super::options::{parse_pid, word_of};
use super::selected_view::{self, SelectedView};
use crate::container::target;
use crate::error::Error;
use nix::errno::Errno;
use operation::Operation;
use remedy::HostPaths;

use crate::cgroup::{CgroupPath, escaped};
use crate::doctor::finding::Remedy;
use crate::fs::explain::{Explanation, Question, UserCheck};
use crate::host::HostCgroups;
use crate::policy::{self, Rule};

/// The help of the arguments.
static WORDS: LazyLock<String> = LazyLock::new(|| {
    let operations: Vec<String> = Operation::value_variants().iter().map(word_of).collect();
    let target = target::HELP_OF_VIEWS;
    format!(
        "[TARGET] OP PATH, or [TARGET] rename OLD NEW. TARGET: {target}. OP: {}. PATH: a path in the view, with or without the directory on which the view is mounted",
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
    // 'rename OLD NEW' has as many words as a TARGET with another operation.
    let is_bare_rename = options.words.len() == 3 && options.words.first().is_some_and(|word| is_rename(word));
    let most = if is_bare_rename { 4 } else { 3 };
    let (target, rest) = selected_view::split_target(&options.words, &options.view, most);
    let (operation, path, new) = match rest {
        [operation, path] => (operation, path, None),
        [operation, path, new] if is_rename(operation) => (operation, path, Some(new)),
        _ => {
            let what = match (options.view.is_named(), rest.len()) {
                (_, 0 | 1) => "'explain' needs an operation and a path",
                (true, _) => "'explain' takes no TARGET with --pid or --cgroup, but an operation and a path",
                (false, _) => "'explain' takes one TARGET, one operation and one path, or 'rename' and two paths",
            };
            return Err(Error::usage(what).advise("see 'vcgroupfs explain --help'"));
        }
    };
    let operation = operation.to_str().and_then(|word| Operation::from_str(word, false).ok()).ok_or_else(|| {
        let all: Vec<String> = Operation::value_variants().iter().map(word_of).collect();
        Error::usage(format!("'{}' isn't an operation", escaped(operation)))
            .advise(format!("use one of {}", all.join(", ")))
    })?;
    check_process(operation, options.process)?;
    let selected = selected_view::find(target, &options.view)?;
    let path = selected.path_in_view(path)?;
    let new = new.map(|new| selected.path_in_view(new)).transpose()?;
    let told = selected.description();
    let answer = ask(selected, operation, &path, new.as_ref(), options)?;
    print(options.json, (&word_of(&operation), &path, new.as_ref()), told.as_deref(), &answer)?;
    Ok(ExitCode::SUCCESS)
}

fn is_rename(word: &Path) -> bool {
    word.as_os_str() == word_of(&Operation::Rename).as_str()
}

/// An answer, and the commands that mend what it's about.
struct Answer {
    explanation: Explanation,
    remedies: Vec<Remedy>,
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
    new: Option<&CgroupPath>,
    options: &Options,
) -> Result<Answer, Error> {
    let caller = kernel::Caller::find(&selected, options.who)?;
    if let Some(answer) = of_lost_subtree(&selected) {
        return Ok(answer);
    }
    let paths = HostPaths::of(&selected.host);
    let (host, view) = (std::mem::take(&mut selected.host.hierarchies), selected.view.clone());
    let fs = offline(HostCgroups { setup: selected.host.setup, hierarchies: host }, view)?;
    let is_in_container = selected.pid.is_some();
    let lift = |refusal: kernel::Refusal, told: Explanation, path: &CgroupPath| {
        let backing = |depth: usize| {
            let names = path.components().get(..depth)?;
            fs.explain(names, Question::Of(policy::Operation::Read), None).backing
        };
        let remedy = paths.lift(&refusal.cause, caller.as_ref(), told.allowed, is_in_container, backing);
        let explanation = Explanation { backing: told.backing, ..refusal.explanation };
        Answer { explanation, remedies: remedy.into_iter().collect() }
    };
    if let Some(new) = new {
        let told = fs.explain_rename(path.components(), new.components());
        let [old, at_new] = [path, new].map(|path| fs.objects_along(path.components()));
        let ends = [(path, &old), (new, &at_new)];
        return Ok(match kernel::refusal_of_rename(&selected, &told, ends, caller.as_ref()) {
            Some((end, refusal)) => lift(refusal, told.explanation, end),
            None => Answer { explanation: told.explanation, remedies: Vec::new() },
        });
    }
    let mut explanation = fs.explain(path.components(), operation.into(), options.process);
    let mut remedies = Vec::new();
    if let (Some(Errno::ENOENT), "kernel") = (explanation.errno, explanation.rule)
        && let Some((controller, cgroup)) = fs.missing_controller(path.components())
    {
        let above = cgroup.parent().unwrap_or_else(CgroupPath::root);
        let how = format!("enable it in cgroup.subtree_control of {above}, and first in those above that lack it");
        explanation.reason = format!("{controller} isn't in cgroup.controllers of {cgroup}: {how}");
        remedies = paths.enable(&controller, &cgroup);
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
        return Ok(lift(refused, explanation, &path));
    }
    if explanation.rule == Rule::SourceOutside.name() {
        remedies.extend(paths.migrate(&explanation, options.process));
    }
    if let (true, Some(process), Some(caller)) = (explanation.allowed, options.process, &caller)
        && let Some(check) = fs.user_check(path.components(), process).unwrap_or_default()
        && !caller.may_migrate(&check)
    {
        let (rule, more) = match &check {
            UserCheck::OwnsProcess(_) => (Rule::AnothersProcess, String::new()),
            UserCheck::WritesAncestor(ancestor, _) => (Rule::CommonAncestor, format!(" ({ancestor})")),
        };
        let refused = Explanation::of_rule(rule);
        let reason = format!("{}{more}", refused.reason);
        explanation = Explanation { backing: explanation.backing, reason, ..refused };
    }
    Ok(Answer { explanation, remedies })
}

/// Answers for a view whose delegated subtree isn't there any more.
fn of_lost_subtree(selected: &SelectedView) -> Option<Answer> {
    let lost = selected.lost_boundaries();
    let again: Vec<String> = lost.iter().filter(|one| one.is_made_again).map(|one| one.kind.to_string()).collect();
    let gone: Vec<String> = lost.iter().filter(|one| !one.is_made_again).map(|one| one.kind.to_string()).collect();
    let what = |kinds: &[String], what: &str| {
        (!kinds.is_empty())
            .then(|| format!("the delegated subtree in {} was {what} since the view was made", kinds.join(", ")))
    };
    let parts: Vec<String> =
        [what(&again, "removed and made again"), what(&gone, "removed")].into_iter().flatten().collect();
    if parts.is_empty() {
        return None;
    }
    let how = if gone.is_empty() {
        "the view doesn't show the new one: 'vcgroupfs detach' it, and 'attach' it again"
    } else {
        "'vcgroupfs detach' the view, and 'attach' it again, for the cgroups in which the container is now"
    };
    let explanation = Explanation::kernel(Errno::ENOENT, &format!("{}; {how}", parts.join(", ")));
    let renewal = selected.live.as_ref().and_then(|record| renewal(record, !gone.is_empty()));
    Some(Answer { explanation, remedies: renewal.map(Remedy::on_host).into_iter().collect() })
}

fn print(
    as_json: bool,
    (operation, path, new): (&str, &CgroupPath, Option<&CgroupPath>),
    view: Option<&str>,
    Answer { explanation, remedies }: &Answer,
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
            "new_path": new.map(|new| json::name(new.to_os_string())), "commands": remedies,
        });
        return writeln!(out, "{}", json::text(&answer));
    }
    if let Some(view) = view {
        writeln!(out, "view       {}", escaped(view))?;
    }
    writeln!(out, "operation  {operation}")?;
    writeln!(out, "path       {path}")?;
    new.map_or(Ok(()), |new| writeln!(out, "new path   {new}"))?;
    writeln!(out, "host       {}", escaped(backing.as_deref().unwrap_or("-")))?;
    writeln!(out, "verdict    {}", explanation.verdict())?;
    writeln!(out, "errno      {}", errno.as_deref().unwrap_or("-"))?;
    writeln!(out, "rule       {}", explanation.rule)?;
    writeln!(out, "reason     {}", escaped(&explanation.reason))?;
    remedies.iter().try_for_each(|remedy| writeln!(out, "remedy     {}: {}", remedy.label(), remedy.command))
}
