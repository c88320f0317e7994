//! Messages for the user, on standard error.

use std::fmt;
use std::io::{self, Write};

use crate::cgroup::escaped;

/// Prints a message. A closed standard error isn't an error.
pub fn say(message: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "vcgroupfs: {}", escaped(message.to_string()));
}

/// Prints a warning.
pub fn warn(message: &str) {
    say(format_args!("warning: {message}"));
}
