//! The trial of a program that has taken a view over: it has to come up in time, or the one before takes over again.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::records::descriptor;
use crate::server::control::{Answer, Client};
use crate::server::handover::TRIAL_LIMIT;
use crate::server::handover::fallback::Fallback;

/// How long a live server's program is tried if nobody asks.
const QUIET: Duration = Duration::from_millis(200);

/// How often a live server is looked at meanwhile.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What is kept until a program has proved itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// The program before it.
    #[serde(with = "descriptor")]
    program: OwnedFd,
    /// The version of the state that both read.
    version: u32,
    /// Who waits for the outcome.
    client: Client,
    #[serde(skip)]
    fallback: Option<Fallback>,
    #[serde(skip, default = "end")]
    end: Instant,
    /// When a server said that it's live, and how many requests had begun by then.
    #[serde(skip)]
    live: Option<(Instant, u64)>,
}

fn end() -> Instant {
    Instant::now() + TRIAL_LIMIT
}

impl Trial {
    pub(crate) fn new(program: OwnedFd, version: u32, client: Client) -> Self {
        Self { program, version, client, fallback: None, end: end(), live: None }
    }

    /// Lets the fallback take over if this process ends.
    pub(crate) fn secure(&mut self, fallback: Fallback) {
        self.fallback = Some(fallback);
    }

    /// The program before it.
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// The numbers of its descriptors.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let pipe = self.fallback.as_ref().map(|fallback| fallback.as_fd().as_raw_fd());
        [self.program.as_raw_fd(), self.client.as_fd().as_raw_fd()].into_iter().chain(pipe).collect()
    }

    /// How long the program still may take.
    pub(crate) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// The version of the state that the program before it reads.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// A server is live, and so many requests have begun.
    pub(crate) fn note_live(&mut self, requests: u64) {
        self.live.get_or_insert((Instant::now(), requests));
    }

    /// The live server has ended.
    pub(crate) fn note_end(&mut self) {
        self.live = None;
    }

    /// Whether the program has proved itself: its server has answered what came first, or nobody has asked for a while.
    /// `waiting` requests were begun and aren't answered.
    pub(crate) fn is_passed(&self, requests: u64, waiting: usize) -> bool {
        self.live.is_some_and(|(since, before)| since.elapsed() >= QUIET || requests > before && waiting == 0)
    }

    /// How long until that may change.
    pub(crate) fn pause(&self) -> Duration {
        if self.live.is_some() { POLL_INTERVAL } else { self.left() }
    }

    /// The program has come up.
    pub(crate) fn succeed(self) {
        self.fallback.into_iter().for_each(Fallback::release);
        self.client.answer(&Answer::Done);
    }

    /// The program has failed. Returns the one before it.
    pub(crate) fn fail(self, reason: &str) -> OwnedFd {
        self.fallback.into_iter().for_each(Fallback::release);
        self.client.answer(&Answer::Failed(reason.to_owned()));
        self.program
    }
}
