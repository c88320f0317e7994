//! Ends the servers of views at random moments.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lifetime::{is_over, servers_of};
use crate::{Random, children_of, found_within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long the next server may take to start, when the last one has ended.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest time between two attacks, in milliseconds.
const PAUSE: usize = 250;

/// In how many kills an attack consists at most.
const MAX_ROW: usize = 5;

/// How many of the servers that were killed last may not have ended yet.
const STILL_ENDING: usize = 64;

/// How a server ends.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// By SIGKILL, like all but one.
    Killed,
    /// Several servers in a row, each as soon as it's there, or while it starts.
    Row,
    /// Stopped for a while before.
    Stopped,
    /// By SIGABRT.
    Aborted,
    /// Together with its agents.
    WithAgents,
}

impl Way {
    /// All ways.
    pub const ALL: [Self; 5] = [Self::Killed, Self::Row, Self::Stopped, Self::Aborted, Self::WithAgents];
}

/// A kill.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    view: usize,
    way: Way,
    server: Pid,
    /// Since the killer began.
    at: Duration,
}

impl fmt::Display for Kill {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { view, way, server, at } = self;
        write!(formatter, "{:.3} s: {way:?} {server} of view {view}", at.as_secs_f64())
    }
}

/// A killer at work. Dropping it ends the work.
#[derive(Debug)]
pub(crate) struct Unrest {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Unrest {
    /// Has the server of one view killed again and again.
    pub(crate) fn start(keeper: Pid) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut killer = Killer::new(vec![keeper], u64::from(keeper.as_raw().cast_unsigned()));
            if let Err(error) = killer.run(usize::MAX, &shared)
                && !shared.load(Ordering::Acquire)
            {
                eprintln!("{error}");
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Unrest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // If it panicked, it has said so.
            let _ = thread.join();
        }
    }
}

/// Ends servers as often as it was told.
#[derive(Debug)]
pub struct Killer {
    random: Random,
    keepers: Vec<Pid>,
    began: Instant,
    kills: Vec<Kill>,
}

impl Killer {
    /// For the views of these keepers.
    pub fn new(keepers: Vec<Pid>, seed: u64) -> Self {
        Self { random: Random::new(seed, 0), keepers, began: Instant::now(), kills: Vec::new() }
    }

    /// Goes on until there were so many kills, or somebody says that it's enough.
    ///
    /// # Errors
    ///
    /// When no other server is started.
    pub fn run(&mut self, count: usize, stop: &AtomicBool) -> Result<(), String> {
        while self.kills.len() < count && !stop.load(Ordering::Acquire) {
            // The time is what the test varies: each attack comes at another moment.
            let pause = self.random.below(PAUSE);
            thread::sleep(Duration::from_millis(pause as u64));
            let view = self.random.below(self.keepers.len());
            let way = match self.random.below(20) {
                0..12 => Way::Killed,
                12..15 => Way::Row,
                15..17 => Way::Stopped,
                17 => Way::Aborted,
                _ => Way::WithAgents,
            };
            self.attack(view, way)?;
        }
        Ok(())
    }

    /// Ends the server of a view, or several in a row.
    ///
    /// # Errors
    ///
    /// When no other server is started.
    pub fn attack(&mut self, view: usize, way: Way) -> Result<(), String> {
        let row = if matches!(way, Way::Row) { 2 + self.random.below(MAX_ROW - 1) } else { 1 };
        for _ in 0..row {
            let server = self.server(view)?;
            if matches!(way, Way::Row) && self.random.percent(50) {
                // The time is what the test varies: how far its start has come.
                thread::sleep(Duration::from_millis(self.random.below(20) as u64));
            }
            self.end(view, way, server);
        }
        Ok(())
    }

    /// The server of a view, when there's another one than those that were killed.
    fn server(&self, view: usize) -> Result<Pid, String> {
        let keeper = self.keepers[view];
        // One that was killed may take longer to end than the next one, which is killed meanwhile. Numbers come back, but
        // not so soon.
        let is_killed = |pid: &Pid| self.kills.iter().rev().take(STILL_ENDING).any(|kill| kill.server == *pid);
        let is_new = |pid: &Pid| !is_killed(pid) && !is_over(*pid);
        let found = found_within(START_TIMEOUT, || servers_of(keeper).into_iter().find(is_new));
        found.ok_or_else(|| {
            let state = fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap_or_default();
            format!("the keeper {keeper} ({}) starts no server after {:?}", state.trim(), self.kills.last())
        })
    }

    fn end(&mut self, view: usize, way: Way, server: Pid) {
        let mut others = Vec::new();
        match way {
            Way::Killed | Way::Row | Way::Aborted => {}
            Way::Stopped => {
                let _ = kill(server, Signal::SIGSTOP);
                // The time is what the test varies.
                thread::sleep(Duration::from_millis(self.random.below(60) as u64));
            }
            Way::WithAgents => others = children_of(server.as_raw().cast_unsigned()),
        }
        let signal = if matches!(way, Way::Aborted) { Signal::SIGABRT } else { Signal::SIGKILL };
        // Before the first system call of a server it may not be one yet; a signal that it handles is for the way that it ends later.
        let _ = kill(server, signal);
        for agent in others {
            let _ = kill(Pid::from_raw(agent.cast_signed()), Signal::SIGKILL);
        }
        self.kills.push(Kill { view, way, server, at: self.began.elapsed() });
    }

    /// How many servers of each view were killed.
    pub fn counts(&self) -> Vec<u64> {
        let of = |view| self.kills.iter().filter(|kill| kill.view == view).count() as u64;
        (0..self.keepers.len()).map(of).collect()
    }

    /// The last kills, a line each.
    pub fn told(&self) -> String {
        let last = self.kills.iter().skip(self.kills.len().saturating_sub(8));
        let lines: Vec<String> = last.map(Kill::to_string).collect();
        format!(
            "{} kills, the last at\n{}\n(now is {:.3} s)",
            self.kills.len(),
            lines.join("\n"),
            self.began.elapsed().as_secs_f64()
        )
    }
}
