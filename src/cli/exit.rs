//! Exit codes, and the messages of verbs that fail.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind as Kind};

use crate::cgroup::{escaped, shell_word};
use crate::error::{Error, ErrorKind};
use crate::message::say;

/// The result of a verb.
pub(super) type CliResult = Result<ExitCode, Error>;

/// The exit code of a kind of error. Scripts rely on it.
pub(super) fn exit_code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::ReaderGone => 0,
        ErrorKind::Failed => 1,
        ErrorKind::Usage => 2,
        ErrorKind::Unsupported => 3,
        ErrorKind::NotPermitted => 4,
    }
}

/// Prints an error, and returns its exit code.
pub(super) fn report(error: &Error) -> ExitCode {
    if error.kind() != ErrorKind::ReaderGone {
        say(error.message());
    }
    ExitCode::from(exit_code_of(error.kind()))
}

/// Prints help, the version, or what is wrong with the command line of a verb.
pub(super) fn report_usage(error: &clap::Error, verb: Option<&str>, words: &[OsString]) -> ExitCode {
    if !error.use_stderr() || error.kind() == Kind::DisplayHelpOnMissingArgumentOrSubcommand {
        return match error.print() {
            _ if error.use_stderr() => ExitCode::from(exit_code_of(ErrorKind::Usage)),
            Ok(()) => ExitCode::SUCCESS,
            Err(failed) => report(&failed.into()),
        };
    }
    if let Some(command) = with_dashes(error, verb, words) {
        return report(&Error::usage("the command of 'run' stands behind '--'").advise(format!("type '{command}'")));
    }
    let help =
        verb.map_or_else(|| "see 'vcgroupfs --help'".to_owned(), |verb| format!("see 'vcgroupfs {verb} --help'"));
    report(&usage_error(error, words).advise(help))
}

/// The command line with `--` before the command of `run`, if that's what is missing.
fn with_dashes(error: &clap::Error, verb: Option<&str>, words: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    let is_it = verb == Some("run") && error.kind() == Kind::UnknownArgument && !argument.starts_with('-');
    let at = words.iter().position(|word| word == argument.as_str()).filter(|_| is_it)?;
    let (before, command) = words.split_at_checked(at)?;
    let quoted = |words: &[OsString]| words.iter().map(shell_word).collect::<Vec<_>>().join(" ");
    Some(format!("vcgroupfs {} -- {}", quoted(before), quoted(command)))
}

/// Describes an error in the command line, which has these words, with the words of the manual.
fn usage_error(error: &clap::Error, words: &[OsString]) -> Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(as_given(text, words)),
        Some(ContextValue::Strings(texts)) => Some(texts.join(" and ")),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg).map(|argument| name_of_argument(&argument)).unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let problem = match error.kind() {
        Kind::MissingRequiredArgument => format!("{argument} is missing"),
        Kind::InvalidSubcommand => {
            format!("there is no command '{}'", text(ContextKind::InvalidSubcommand).unwrap_or_default())
        }
        Kind::UnknownArgument if argument.starts_with('-') => format!("there is no option '{argument}' here"),
        Kind::UnknownArgument => format!("'{argument}' is one argument too many"),
        Kind::ArgumentConflict => {
            let other = text(ContextKind::PriorArg).map(|other| name_of_argument(&other));
            match other.filter(|other| *other != argument) {
                Some(other) => format!("{argument} can't be used with {other}"),
                None => format!("{argument} is given more than once"),
            }
        }
        Kind::InvalidValue if value.is_empty() && lacks_value(&argument, words) => format!("{argument} has no value"),
        Kind::InvalidValue if value.is_empty() => format!("{argument} is empty"),
        Kind::TooManyValues if argument.starts_with('-') => format!("{argument} takes no value"),
        Kind::TooManyValues => format!("'{value}' is one argument too many"),
        Kind::InvalidUtf8 => {
            let word = words.iter().find(|word| word.to_str().is_none()).map(escaped);
            format!("'{}' isn't UTF-8", word.unwrap_or_default())
        }
        Kind::InvalidValue => {
            let valid = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(words)) => words.join(", "),
                _ => String::new(),
            };
            return Error::usage(argument).because(format!("'{value}' isn't one of {valid}"));
        }
        Kind::ValueValidation => {
            let why = std::error::Error::source(error).map_or_else(|| "wrong value".to_owned(), ToString::to_string);
            return Error::usage(argument).because(why);
        }
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    };
    Error::usage(problem)
}

/// Returns clap's text for a word, but with escapes for bytes that aren't UTF-8, which clap replaces.
fn as_given(text: &str, words: &[OsString]) -> String {
    let word = words.iter().find(|word| word.to_str().is_none() && word.to_string_lossy() == text);
    word.map_or_else(|| text.to_owned(), escaped)
}

/// Whether an option stands without a value. clap doesn't tell that from an empty value.
fn lacks_value(option: &str, words: &[OsString]) -> bool {
    let is_empty = words.windows(2).any(|pair| matches!(pair, [name, value] if name == option && value.is_empty()));
    let with_sign = format!("{option}=");
    option.starts_with('-') && !is_empty && !words.iter().any(|word| *word == *with_sign)
}

/// Returns an argument's name as in the manual: `--pid`, `DIR`. clap writes `--pid <PID>`, `<DIR>`, `[TARGET]`,
/// `<PATH>...`.
fn name_of_argument(argument: &str) -> String {
    let names = argument.split(" and ").map(|one| {
        let name = one.split_once(' ').filter(|_| one.starts_with('-')).map_or(one, |(name, _)| name);
        let bare = name.strip_suffix("...").unwrap_or(name);
        let bare = bare.strip_prefix('<').and_then(|bare| bare.strip_suffix('>')).unwrap_or(bare);
        bare.strip_prefix('[').and_then(|bare| bare.strip_suffix(']')).unwrap_or(bare)
    });
    names.collect::<Vec<_>>().join(" and ")
}

/// Exit statuses of `run` where the command hasn't run, as of env(1) and chroot(1).
pub(super) const EXIT_RUN_FAILED: u8 = 125;
pub(super) const EXIT_CANNOT_EXECUTE: u8 = 126;
pub(super) const EXIT_NOT_FOUND: u8 = 127;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_have_the_names_of_the_manual() {
        for (clap, name) in [
            ("--pid <PID>", "--pid"),
            ("--cgroup <[HIERARCHY=]PATH>", "--cgroup"),
            ("<DIR>", "DIR"),
            ("[TARGET]", "TARGET"),
            ("<PATH>...", "PATH"),
            ("--dry-run", "--dry-run"),
            ("<A> and --b <B>", "A and --b"),
        ] {
            assert_eq!(name_of_argument(clap), name);
        }
    }
}
