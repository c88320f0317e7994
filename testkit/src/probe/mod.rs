//! The probe: file operations as data, one answer per operation.
//!
//! A script is a sequence of [`Op`]s, one JSON object a line. The program `vcgroupfs-probe` executes each line as it arrives
//! and answers with one [`Outcome`] a line (or an array of them for an array on one line), so that the same script can be run by any caller (another user, another
//! namespace) on any subject (the kernel's cgroupfs, a view of it), and the answers compared.
//!
//! In every string of an operation `$NAME` is replaced: by what `set`, `spawn` and `thread` defined, or by the built-in
//! `$PID` and `$TID` of the probe.

mod exec;
mod files;
mod map;
pub mod names;
mod op;
mod passing;
mod people;
mod ring;
mod state;
mod trees;
mod waiting;
mod watching;

pub use exec::run;
pub use op::{Op, Outcome};
