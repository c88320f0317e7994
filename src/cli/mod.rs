//! The command line: one file or folder per verb. A verb parses its options, calls the modules below, and prints.

mod attach;
mod detach;
mod doctor;
mod event;
mod exit;
mod explain;
mod former_options;
mod json;
mod limits;
mod list;
mod map;
mod metrics;
mod monitor;
mod mount;
mod offline;
mod options;
mod probed_process;
mod resident;
mod resume;
mod run;
mod selected_view;
mod text;
mod tree;
mod umount;
mod upgrade;
mod utc;
mod view_path;
mod view_state;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::server::{handover, logging};
use crate::sys;

const EXIT_STATUS: &str =
    "Exit status: 0 ok, 1 failed, 2 usage, 3 not supported here, 4 not permitted. 'run' exits as its command did.";

/// A virtual cgroupfs for containers: it shows a container its own cgroups and rejects writes outside them.
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
    /// Serve a view on a directory
    ///
    /// The server stays in the background, until the view is unmounted or it gets SIGTERM.
    #[command(after_help = "Example: vcgroupfs mount --pid 4711 /run/view")]
    Mount(mount::Options),
    /// Unmount a view from a directory
    #[command(after_help = "Example: vcgroupfs umount /run/view")]
    Umount(umount::Options),
    /// Run a command in new cgroups, with a view on /sys/fs/cgroup
    ///
    /// The command gets a pid namespace, a mount namespace, and a cgroup in each hierarchy.
    #[command(after_help = "Example: vcgroupfs run -- bash")]
    #[command(mut_arg("pid", |arg| arg.help(run::NO_PID).long_help(None)))]
    Run(run::Options),
    /// Mount a view on /sys/fs/cgroup of a running container
    #[command(after_help = "Example: vcgroupfs attach docker:web")]
    #[command(mut_arg("pid", |arg| arg.help(attach::NO_PID).long_help(None)))]
    Attach(attach::Options),
    /// Take an attached view away, so that what it covered shows again
    #[command(after_help = "Example: vcgroupfs detach docker:web")]
    Detach(detach::Options),
    /// List the live views
    #[command(after_help = "Example: vcgroupfs list --json")]
    List(list::Options),
    /// Have live views served by this program, without a failed operation
    ///
    /// Callers wait for some milliseconds, and notice nothing. If this program can't take a view over, or doesn't come up
    /// within ten seconds, the program before it goes on.
    #[command(after_help = "Example: vcgroupfs upgrade --all")]
    Upgrade(upgrade::Options),
    /// Take over a view in the process of the program before
    #[command(name = handover::VERB, hide = true)]
    Resume(resume::Options),
    /// Predict whether an operation in a view would succeed, and say why
    #[command(after_help = "Example: vcgroupfs explain docker:web write /sys/fs/cgroup/memory/memory.limit_in_bytes")]
    Explain(explain::Options),
    /// Show the requests of live views as they come
    ///
    /// It ends with Ctrl-C, or when the TARGET's view ends. What the kernel answers by itself isn't a request.
    #[command(after_help = "Example: vcgroupfs monitor --rejected docker:web")]
    Monitor(monitor::Options),
    /// Print the counters of all views, for Prometheus
    #[command(after_help = "Example: vcgroupfs metrics > /var/lib/node_exporter/vcgroupfs.prom")]
    Metrics(metrics::Options),
    /// Show a view as a tree, with what is writable and what is hidden
    #[command(after_help = "Example: vcgroupfs tree docker:web")]
    Tree(tree::Options),
    /// Translate a path between the host and a view, both ways
    #[command(after_help = "Example: vcgroupfs map docker:web /sys/fs/cgroup/memory/job")]
    Map(map::Options),
    /// Show the effective limits of a process, which cgroup sets each, and what programs would read
    #[command(after_help = "Example: vcgroupfs limits docker:web --watch")]
    Limits(limits::Options),
    /// Say what programs in a container recognise of its cgroups, which limits they read, and what to change
    #[command(after_help = "Example: vcgroupfs doctor docker:web")]
    Doctor(doctor::Options),
}

/// The definition of the command line, for man pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command that the program's arguments name.
pub fn main() -> ExitCode {
    logging::log_panics();
    sys::process::map_large_blocks();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let words: Vec<OsString> = std::env::args_os().skip(1).collect();
            return exit::report_usage(&error, given_verb(&words).as_deref(), &words);
        }
    };
    let log = &arguments.logging;
    let outcome = log.start().and_then(|()| match arguments.verb {
        Verb::Mount(options) => mount::run(options, log),
        Verb::Run(options) => run::run(options, log),
        Verb::Attach(options) => attach::run(options, log),
        Verb::Umount(options) => umount::run(&options),
        Verb::Detach(options) => detach::run(&options),
        Verb::List(options) => list::run(&options),
        Verb::Upgrade(options) => upgrade::run(&options),
        Verb::Resume(options) => resume::run(options, log),
        Verb::Explain(options) => explain::run(&options),
        Verb::Metrics(options) => metrics::run(&options),
        Verb::Monitor(options) => monitor::run(&options),
        Verb::Tree(options) => tree::run(&options),
        Verb::Map(options) => map::run(&options),
        Verb::Limits(options) => limits::run(&options),
        Verb::Doctor(options) => doctor::run(&options),
    });
    let code = outcome.unwrap_or_else(|error| exit::report(&error));
    logging::finish();
    code
}

/// The verb among the program's arguments: the first word that is neither an option nor an option's value.
fn given_verb(words: &[OsString]) -> Option<String> {
    let command = Arguments::command();
    let takes_value = |word: &str| {
        let has_name = |argument: &&clap::Arg| argument.get_long() == word.strip_prefix("--");
        word.starts_with("--")
            && command.get_arguments().find(has_name).is_some_and(|argument| argument.get_action().takes_values())
    };
    let mut words = words.iter().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        if takes_value(&word) {
            words.next();
        } else if !word.starts_with('-') {
            return command.find_subcommand(&*word).map(|verb| verb.get_name().to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verb_is_no_value_of_an_option() {
        for (line, verb) in [
            ("mount --bogus", Some("mount")),
            ("--log-level run mount --bogus", Some("mount")),
            ("--log-level=run mount", Some("mount")),
            ("--log-file list", None),
            ("--bogus tree", Some("tree")),
            ("nosuch list", None),
            ("", None),
        ] {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(given_verb(&words).as_deref(), verb, "{line}");
        }
    }
}
