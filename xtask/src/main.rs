//! `cargo xtask TASK...`: what contributors and CI run on vcgroupfs. It needs nothing but cargo; what else a task would like to have, and what isn't there,
//! is skipped, and said to be.

mod tasks;

use std::fmt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use tasks::TASKS;

/// What a task ends with, if it hasn't failed.
enum Done {
    /// It was done.
    Passed,
    /// It wasn't done, for this reason.
    Skipped(String),
}

/// What a task fails with.
#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(to)
    }
}

type Outcome = Result<Done, Failed>;

/// A task by its name.
struct Task {
    name: &'static str,
    what: &'static str,
    /// Whether it's a part of `check`.
    is_checked: bool,
    /// Whether it takes the rest of the command line.
    takes_rest: bool,
    run: fn(&[String]) -> Outcome,
}

/// Runs a command, which has to succeed.
fn run(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Ok(Done::Passed),
        Ok(status) => Err(Failed(format!("{}: {status}", shown(command)))),
        Err(error) => Err(Failed(format!("{}: can't be run: {error}", shown(command)))),
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(std::ffi::OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn help() -> String {
    let mut text = String::from("usage: cargo xtask TASK...\n\n  check      what needs no root: ");
    let checked: Vec<&str> = TASKS.iter().filter(|task| task.is_checked).map(|task| task.name).collect();
    text.push_str(&checked.join(", "));
    text.push('\n');
    for task in TASKS {
        text.push_str(&format!("  {:<10} {}\n", task.name, task.what));
    }
    text
}

/// The tasks of a command line, and the arguments that go to the last one.
fn chosen(words: &[String]) -> Result<Vec<(&'static Task, Vec<String>)>, Failed> {
    let mut chosen: Vec<(&Task, Vec<String>)> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "check" {
            chosen.extend(TASKS.iter().filter(|task| task.is_checked).map(|task| (task, Vec::new())));
            continue;
        }
        let task = TASKS.iter().find(|task| task.name == word);
        let task = task.ok_or_else(|| Failed(format!("there is no task '{word}'\n\n{}", help())))?;
        let rest = if task.takes_rest { words.by_ref().cloned().collect() } else { Vec::new() };
        chosen.push((task, rest));
    }
    Ok(chosen)
}

fn work() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() || words.iter().any(|word| word == "--help" || word == "-h") {
        print!("{}", help());
        return Ok(());
    }
    let mut skipped = Vec::new();
    for (task, rest) in chosen(&words)? {
        println!("-- {}", task.name);
        let begun = Instant::now();
        match (task.run)(&rest).map_err(|failed| Failed(format!("{}: {failed}", task.name)))? {
            Done::Passed => println!("-- {} passed ({} s)", task.name, begun.elapsed().as_secs()),
            Done::Skipped(why) => skipped.push(format!("-- {} SKIPPED: {why}", task.name)),
        }
    }
    // Last, so that they are seen.
    for line in skipped {
        println!("{line}");
    }
    Ok(())
}

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("xtask: {failed}");
            ExitCode::FAILURE
        }
    }
}
