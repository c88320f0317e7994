//! What a judgement says.

use serde::Serialize;

use super::reading::{Quantity, Taken};

/// Where a row's knowledge is from.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Source {
    /// The repository.
    pub(crate) repository: &'static str,
    /// The files in it, or how it was measured.
    pub(crate) files: &'static str,
    /// Which version was read: a tag, a branch, or the beginning of a commit.
    pub(crate) version: &'static str,
    /// When, as YYYY-MM.
    pub(crate) read: &'static str,
}

/// Whether a client takes what it sees for a cgroup tree, and gets what it wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Recognition {
    Yes,
    /// It finds the tree, but something that it does with it fails.
    Partly,
    /// It takes what it sees for its limits, and they are others.
    Wrong,
    No,
}

/// What one kind of client makes of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) client: &'static str,
    pub(crate) recognised: Recognition,
    /// What it looks at, and what it finds there.
    pub(crate) why: String,
    /// What to change.
    pub(crate) advice: Option<String>,
    /// The numbers that it takes, each beside what holds; empty for clients that take none.
    pub(crate) numbers: Vec<Number>,
    /// Where the knowledge of the client is from.
    pub(crate) source: Option<Source>,
}

/// A number that a client takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Number {
    pub(crate) quantity: Quantity,
    #[serde(flatten)]
    pub(crate) taken: Taken,
    /// What it would take if it knew the effective limit; `None` if that isn't known. The inner one: there's no limit.
    pub(crate) expected: Option<Option<u64>>,
    /// What it would take without the view; `None` if that can't be told.
    pub(crate) natively: Option<Option<u64>>,
    pub(crate) verdict: NumberVerdict,
    /// Whether it doesn't find a file that would be there without a view.
    #[serde(skip)]
    pub(crate) is_lost: bool,
}

/// What is to be said of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NumberVerdict {
    /// It's what holds.
    Ok,
    /// It isn't what holds, but what the client would take without a view as well: its own limitation.
    Native,
    Wrong,
    /// What holds isn't known.
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

    /// With something to know besides.
    pub(crate) fn and(mut self, note: &str) -> Self {
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
    /// Something will go wrong for some.
    Warning,
    /// Good to know.
    Note,
}

/// What concerns all clients.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct General {
    /// A word for scripts.
    pub(crate) finding: &'static str,
    pub(crate) level: Level,
    pub(crate) what: String,
    pub(crate) advice: Option<String>,
}
