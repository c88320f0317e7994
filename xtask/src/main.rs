//! `cargo xtask TASK...` runs the checks and tests of vcgroupfs, for contributors and for CI. It needs nothing but cargo. A task that would need
//! another program, which isn't installed, is skipped and says so.

mod dist;
mod tasks;

use std::fmt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use tasks::TASKS;

/// How a task ended that hasn't failed.
enum Completion {
    /// The task found nothing wrong.
    Passed,
    /// The task wasn't run, for this reason.
    Skipped(String),
}

/// Why a task failed.
#[derive(Debug)]
struct TaskError(String);

impl fmt::Display for TaskError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(to)
    }
}

type TaskResult = Result<Completion, TaskError>;

/// A task that can be named on the command line.
struct Task {
    name: &'static str,
    description: &'static str,
    /// Whether `check` includes the task.
    is_in_check: bool,
    /// Whether the task takes the rest of the command line as its arguments.
    takes_arguments: bool,
    run: fn(&[String]) -> TaskResult,
}

/// Runs a command and fails unless it succeeds.
fn run(command: &mut Command) -> TaskResult {
    match command.status() {
        Ok(status) if status.success() => Ok(Completion::Passed),
        Ok(status) => Err(TaskError(format!("{}: {status}", command_line(command)))),
        Err(error) => Err(TaskError(format!("{}: can't be run: {error}", command_line(command)))),
    }
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(std::ffi::OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn help() -> String {
    let mut text = String::from("usage: cargo xtask TASK...\n\n  check      all tasks that need no root: ");
    let in_check: Vec<&str> = TASKS.iter().filter(|task| task.is_in_check).map(|task| task.name).collect();
    text.push_str(&in_check.join(", "));
    text.push('\n');
    for task in TASKS {
        text.push_str(&format!("  {:<10} {}\n", task.name, task.description));
    }
    text
}

/// The tasks that a command line names, each with its arguments.
fn parse_tasks(words: &[String]) -> Result<Vec<(&'static Task, Vec<String>)>, TaskError> {
    let mut tasks: Vec<(&Task, Vec<String>)> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "check" {
            tasks.extend(TASKS.iter().filter(|task| task.is_in_check).map(|task| (task, Vec::new())));
            continue;
        }
        let task = TASKS.iter().find(|task| task.name == word);
        let task = task.ok_or_else(|| TaskError(format!("there is no task '{word}'\n\n{}", help())))?;
        let arguments = if task.takes_arguments { words.by_ref().cloned().collect() } else { Vec::new() };
        tasks.push((task, arguments));
    }
    Ok(tasks)
}

fn run_tasks() -> Result<(), TaskError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() || words.iter().any(|word| word == "--help" || word == "-h") {
        print!("{}", help());
        return Ok(());
    }
    let mut skipped = Vec::new();
    for (task, arguments) in parse_tasks(&words)? {
        println!("-- {}", task.name);
        let start = Instant::now();
        match (task.run)(&arguments).map_err(|error| TaskError(format!("{}: {error}", task.name)))? {
            Completion::Passed => println!("-- {} passed ({} s)", task.name, start.elapsed().as_secs()),
            Completion::Skipped(reason) => skipped.push(format!("-- {} SKIPPED: {reason}", task.name)),
        }
    }
    // They are printed last, so that they aren't overlooked.
    for line in skipped {
        println!("{line}");
    }
    Ok(())
}

fn main() -> ExitCode {
    match run_tasks() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
