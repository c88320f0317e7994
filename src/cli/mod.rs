//! The command line: one file per verb, each printing a table or JSON.

mod attach;
mod detach;
mod doctor;
mod exit;
mod explain;
mod json;
mod list;
mod map;
mod mount;
mod offline;
mod options;
mod run;
mod selected_view;
mod tree;
mod umount;
mod view_path;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::server::logging;

const EXIT_STATUS: &str =
    "Exit status: 0 ok, 1 failed, 2 usage, 3 not supported here, 4 not permitted; run exits as its command did.";

/// A virtual cgroupfs for containers: a namespaced view of the host's cgroup tree that lets through exactly the writes that are safe.
#[derive(Debug, Parser)]
#[command(name = "vcgroupfs", version = env!("VCGROUPFS_VERSION"), after_help = EXIT_STATUS, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    logging: logging::Options,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve a view on DIR; returns when it's live
    Mount(mount::Options),
    /// Take a view away again
    Umount(umount::Options),
    /// Run a command in new pid and mount namespaces, in a cgroup of its own, with the view on /sys/fs/cgroup
    Run(run::Options),
    /// Mount the view on /sys/fs/cgroup of a container that already runs
    Attach(attach::Options),
    /// Take an attached view away again: what was there before shows again
    Detach(detach::Options),
    /// List the live views
    List(list::Options),
    /// Tell what an operation on a path would get, by which rule, and why
    Explain(explain::Options),
    /// Show a view as a tree
    Tree(tree::Options),
    /// Translate between paths of the host and of a view, both ways
    Map(map::Options),
    /// Tell what each kind of client recognises in a process' namespaces, what is wrong, and what to change
    Doctor(doctor::Options),
}

/// Runs the command that the program's arguments name.
pub fn main() -> ExitCode {
    logging::log_panics();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::report_usage(&error, given_verb().as_deref()),
    };
    let log = &arguments.logging;
    let outcome = log.start().and_then(|()| match arguments.verb {
        Verb::Mount(options) => mount::run(options, log),
        Verb::Run(options) => run::run(options, log),
        Verb::Attach(options) => attach::run(options, log),
        Verb::Umount(options) => umount::run(&options),
        Verb::Detach(options) => detach::run(&options),
        Verb::List(options) => list::run(&options),
        Verb::Explain(options) => explain::run(&options),
        Verb::Tree(options) => tree::run(&options),
        Verb::Map(options) => map::run(&options),
        Verb::Doctor(options) => doctor::run(&options),
    });
    let code = outcome.unwrap_or_else(|error| exit::report(&error));
    logging::finish();
    code
}

/// The verb among the program's arguments, if one of them is a verb.
fn given_verb() -> Option<String> {
    let command = Arguments::command();
    std::env::args_os()
        .skip(1)
        .filter_map(|word| word.into_string().ok())
        .find(|word| command.find_subcommand(word).is_some())
}
