//! What `doctor` has found, and which of it is shown.

use crate::doctor::facts::Facts;
use crate::doctor::finding::{Finding, General, Level, Recognition};
use crate::doctor::limits::Limits;
use crate::doctor::programs::{FoundProgram, Relevance, relevance};

/// What `doctor` has found, with the options that choose what is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) pid: i32,
    pub(super) facts: &'a Facts,
    pub(super) limits: Option<&'a Limits>,
    pub(super) general: &'a [General],
    /// All clients.
    pub(super) clients: &'a [Finding],
    pub(super) programs: &'a [FoundProgram],
    /// The names of `--client`, in lower case.
    pub(super) names: &'a [String],
    pub(super) only_bad: bool,
}

/// Whether a client has one of these names, or a part of it.
pub(super) fn is_named(client: &str, names: &[String]) -> bool {
    let client = client.to_lowercase();
    names.iter().any(|name| client.contains(name.as_str()))
}

impl<'a> Answer<'a> {
    /// The clients that the options select.
    pub(super) fn selected(self) -> impl Iterator<Item = &'a Finding> {
        let named =
            self.clients.iter().filter(move |client| self.names.is_empty() || is_named(client.client, self.names));
        named.filter(move |client| !self.only_bad || client.recognised != Recognition::Yes)
    }

    /// Those of the selected clients that matter here: all if they are named, or else those that run here or are
    /// installed.
    pub(super) fn shown(self) -> impl Iterator<Item = (&'a Finding, Option<Relevance>)> {
        let with_relevance = self.selected().map(move |client| (client, relevance(self.programs, client.client)));
        with_relevance.filter(move |(_, relevance)| relevance.is_some() || !self.names.is_empty())
    }

    /// The findings that the options select.
    pub(super) fn findings(self) -> impl Iterator<Item = &'a General> {
        self.general.iter().filter(move |finding| !self.only_bad || finding.level != Level::Note)
    }

    /// How many clients don't work right: of the named ones, or else of those that run here. Of a program of unknown version
    /// all versions must fail.
    pub(super) fn bad_clients(self) -> usize {
        let is_bad = |client: &&Finding| client.recognised != Recognition::Yes;
        if !self.names.is_empty() {
            return self.selected().filter(is_bad).count();
        }
        let running = self.programs.iter().filter(|program| program.pid.is_some());
        let bad = running.map(|program| {
            let rows = self.clients.iter().filter(|client| program.clients.contains(&client.client));
            let count = rows.filter(is_bad).count();
            match program.is_of_unknown_version() {
                true => usize::from(count == program.clients.len()),
                false => count,
            }
        });
        bad.sum()
    }

    /// Whether nothing is wrong with the container's cgroups, nor with the clients that matter.
    pub(super) fn is_healthy(self) -> bool {
        self.bad_clients() == 0 && self.general.iter().all(|finding| finding.level != Level::Problem)
    }
}
