//! The descriptor store of the service manager: what it keeps for the next main process, if the keeper ends with its server.
//!
//! It has what the keeper would hand over: once the view is live, the state and the descriptors that servers start with,
//! and at a restart of the unit those that callers have open, too. The next main process puts the former back at the same
//! numbers, and takes the view over like another program.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;

use serde_json::Value;

use crate::error::Error;
use crate::records::{Records, descriptor};
use crate::server::handover::document;
use crate::server::handover::stored::{OPEN, START, STATE, Stored};
use crate::server::registry::options::RecordedOptions;
use crate::server::registry::record::Record;
use crate::server::service_manager::ServiceManager;
use crate::sys::descriptors::{close_all, copy_to, duplicate, duplicate_above, inherited};

/// The first descriptor that a manager passes on (sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// What the manager has kept for this process.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) state: OwnedFd,
    /// The numbers of the descriptors that the state names.
    pub(crate) start: Vec<RawFd>,
    /// By their former numbers, those that callers have open.
    pub(crate) open: HashMap<RawFd, RawFd>,
    /// The names of all.
    pub(crate) stored: Stored,
}

impl Kept {
    /// Whether it's a view on this directory that was made with these options, and that this program can take over. Where
    /// the log goes doesn't matter.
    pub(crate) fn is_of(&self, directory: &Path, options: &RecordedOptions) -> bool {
        let document: Result<Value, Error> = document::read(self.state.as_fd());
        let document = document.ok().filter(|document| {
            let is_whole = descriptor::numbers(document).iter().all(|number| self.start.contains(number));
            // Those of another version may have another format. Trying again and again wouldn't help.
            let records = document.get("records").map(descriptor::numbers).unwrap_or_default();
            let records =
                records.first().and_then(|number| duplicate(*number).ok()).map(|file| Records::open(file, None));
            is_whole && records.is_some_and(|records| records.is_ok())
        });
        let record = document.and_then(|document| document.pointer("/served/server/registration").cloned());
        let record = record.and_then(|record| serde_json::from_value::<Record>(record).ok());
        record.is_some_and(|record| {
            let without_log =
                |options: &RecordedOptions| RecordedOptions { log: Default::default(), ..options.clone() };
            record.directory.as_ref() == directory
                && record.options.as_ref().map(without_log) == Some(without_log(options))
        })
    }

    /// Closes everything, here and in the manager, so that the connection ends.
    pub(crate) fn end(mut self, manager: &ServiceManager) {
        close_all(self.start.drain(..).chain(self.open.drain().map(|(_, number)| number)));
        self.stored.clear(manager);
    }
}

/// Takes over what the manager has kept for this process. `None` if that's nothing. To be called once, and first.
///
/// # Errors
/// If it isn't all there; then it's closed.
pub(crate) fn take() -> io::Result<Option<Kept>> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let count: RawFd = variable("LISTEN_FDS").parse().unwrap_or(0);
    if variable("LISTEN_PID") != std::process::id().to_string() || count <= 0 {
        return Ok(None);
    }
    let names: Vec<String> = variable("LISTEN_FDNAMES").split(':').map(str::to_owned).collect();
    let numbers: Vec<Option<RawFd>> = names.iter().map(|name| number_in(name)).collect();
    // Above all numbers that are to be used.
    let above = numbers.iter().flatten().copied().max().unwrap_or(0).max(FIRST + count) + 1;
    let received: Vec<Option<OwnedFd>> = (FIRST..FIRST + count).map(inherited).collect();
    let moved = received.iter().map(|file| file.as_ref().map(|file| duplicate_above(file.as_fd(), above)).transpose());
    let moved: Vec<Option<OwnedFd>> = moved.collect::<Result<_, _>>()?;
    drop(received);
    let (mut state, mut start, mut open) = (None, Vec::new(), HashMap::new());
    for ((name, number), file) in names.iter().zip(numbers).zip(moved) {
        let Some(file) = file else { continue };
        match number {
            None if name == STATE => state = Some(file),
            Some(number) if name.starts_with(START) && duplicate(number).is_err() => {
                copy_to(file.as_raw_fd(), number)?;
                start.push(number);
            }
            Some(number) if name.starts_with(OPEN) => drop(open.insert(number, file.into_raw_fd())),
            _ => {}
        }
    }
    let Some(state) = state else { return Ok(None) };
    Ok(Some(Kept { state, start, open, stored: Stored(names) }))
}

fn number_in(name: &str) -> Option<RawFd> {
    name.strip_prefix(START).or_else(|| name.strip_prefix(OPEN))?.parse().ok()
}
