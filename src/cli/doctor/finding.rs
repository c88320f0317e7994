//! What a judgement says.

use serde::Serialize;

/// Whether a client takes what it sees for a cgroup tree, and gets what it wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Recognised {
    Yes,
    /// It finds the tree, but something that it does with it fails.
    Partly,
    No,
}

/// What one kind of client makes of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) client: &'static str,
    pub(super) recognised: Recognised,
    /// What it looks at, and what it finds there.
    pub(super) why: String,
    /// What to change.
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn yes(client: &'static str, why: impl Into<String>) -> Self {
        Self { client, recognised: Recognised::Yes, why: why.into(), advice: None }
    }

    pub(super) fn partly(client: &'static str, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { recognised: Recognised::Partly, ..Self::no(client, why, advice) }
    }

    pub(super) fn no(client: &'static str, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { client, recognised: Recognised::No, why: why.into(), advice: Some(advice.into()) }
    }

    /// With something to know besides.
    pub(super) fn and(mut self, note: &str) -> Self {
        self.why.push_str("; ");
        self.why.push_str(note);
        self
    }
}

/// How much a general finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Something is broken.
    Problem,
    /// Something will go wrong for some.
    Warning,
    /// Good to know.
    Note,
}

/// What concerns all clients.
#[derive(Clone, Debug, Serialize)]
pub(super) struct General {
    /// A word for scripts.
    pub(super) finding: &'static str,
    pub(super) level: Level,
    pub(super) what: String,
    pub(super) advice: Option<String>,
}
