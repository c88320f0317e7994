//! What the program tells its user on standard error.

use std::fmt;
use std::io::{self, Write};

use crate::cgroup::escaped;

/// Tells the user something. Where nobody hears it, that's no failure.
pub fn say(message: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "vcgroupfs: {}", escaped(message.to_string()));
}

/// Tells the user what may not be as they mean it.
pub fn warn(message: &str) {
    say(format_args!("warning: {message}"));
}
