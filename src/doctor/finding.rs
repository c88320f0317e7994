//! The findings about programs, and about the container as a whole.

use serde::Serialize;

use super::reading::{LimitValue, Quantity};

/// The source of the knowledge about a program.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Source {
    /// The repository.
    pub(crate) repository: &'static str,
    /// The files in the repository, or how it was measured.
    pub(crate) files: &'static str,
    /// The version: a tag, a branch, or the beginning of a commit.
    pub(crate) version: &'static str,
    /// When it was read or measured, as YYYY-MM.
    pub(crate) read: &'static str,
}

/// Whether a program recognises a cgroup tree, and can work with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Recognition {
    Yes,
    /// The program recognises the tree, but some of its operations there fail.
    Partly,
    /// The program reads limits, but not the effective ones.
    Wrong,
    No,
}

/// The finding about one kind of program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) client: &'static str,
    pub(crate) recognised: Recognition,
    /// The program's checks and their results.
    pub(crate) why: String,
    /// The remedy.
    pub(crate) advice: Option<String>,
    /// The numbers that it takes, each with the effective limit. Empty for programs that take none.
    pub(crate) numbers: Vec<Number>,
    /// The source of the knowledge about the program.
    pub(crate) source: Option<Source>,
}

/// A number that a program takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Number {
    pub(crate) quantity: Quantity,
    #[serde(flatten)]
    pub(crate) taken: LimitValue,
    /// What it would take if it knew the effective limit; `None` if that isn't known, `Some(None)` for no limit.
    pub(crate) expected: Option<Option<u64>>,
    /// What it would take without the view; `None` if that isn't known.
    pub(crate) natively: Option<Option<u64>>,
    pub(crate) verdict: NumberVerdict,
    /// Whether it misses a file that would exist without the view.
    #[serde(skip)]
    pub(crate) is_lost: bool,
}

/// The verdict about a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NumberVerdict {
    /// The program takes the effective limit.
    Ok,
    /// The program doesn't take the effective limit, but would take the same number without a view.
    #[serde(rename = "native")]
    NativeFiles,
    Wrong,
    /// The effective limit isn't known.
    Unknown,
}

impl Finding {
    pub(crate) fn yes(client: &'static str, why: impl Into<String>) -> Self {
        Self { client, recognised: Recognition::Yes, why: why.into(), advice: None, numbers: Vec::new(), source: None }
    }

    pub(crate) fn partly(client: &'static str, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { recognised: Recognition::Partly, ..Self::no(client, why, advice) }
    }

    pub(crate) fn no(client: &'static str, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            client,
            recognised: Recognition::No,
            why: why.into(),
            advice: Some(advice.into()),
            numbers: Vec::new(),
            source: None,
        }
    }

    pub(crate) fn wrong(client: &'static str, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { recognised: Recognition::Wrong, ..Self::no(client, why, advice) }
    }

    /// Adds a note.
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        self.why.push_str("; ");
        self.why.push_str(note);
        self
    }
}

/// How much a general finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Something is broken.
    Problem,
    /// Something will go wrong for some programs.
    Warning,
    /// Good to know.
    Note,
}

/// A finding that concerns all programs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct General {
    /// Its name, for scripts.
    pub(crate) finding: &'static str,
    pub(crate) level: Level,
    pub(crate) what: String,
    pub(crate) advice: Option<String>,
    /// The commands that mend it, in this order.
    pub(crate) commands: Vec<Remedy>,
}

impl General {
    /// Adds the commands that mend it.
    pub(crate) fn with_commands(self, commands: impl IntoIterator<Item = Remedy>) -> Self {
        Self { commands: commands.into_iter().collect(), ..self }
    }
}

/// Makes a finding without commands.
pub(crate) fn general(finding: &'static str, level: Level, what: impl Into<String>, advice: Option<&str>) -> General {
    General { finding, level, what: what.into(), advice: advice.map(str::to_owned), commands: Vec::new() }
}

/// Lists the first three items, and how many more there are.
pub(crate) fn list<T: AsRef<str>>(items: &[T]) -> String {
    let first: Vec<&str> = items.iter().take(3).map(AsRef::as_ref).collect();
    let more = items.len().saturating_sub(first.len());
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

/// A command that mends something. It can be typed as it's printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Remedy {
    /// Where to type it. A program of the container's must not run with the rights of the host's root.
    #[serde(rename = "where")]
    pub(crate) place: Place,
    /// A line for a POSIX shell, in printable ASCII.
    pub(crate) command: String,
}

/// Where a command is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    Host,
    Container,
}

impl Remedy {
    /// A command for root of the host.
    pub(crate) fn on_host(command: impl Into<String>) -> Self {
        Self { place: Place::Host, command: command.into() }
    }

    /// A command for root of the container.
    pub(crate) fn in_container(command: impl Into<String>) -> Self {
        Self { place: Place::Container, command: command.into() }
    }

    /// The word in front of the command.
    pub(crate) fn label(&self) -> &'static str {
        match self.place {
            Place::Host => "run",
            Place::Container => "run in the container",
        }
    }
}
