//! Requests to a view, for printing. Whatever a container has put into them, no character can change a terminal's state.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use serde_json::{Map, Value, json};

use super::{json, utc};
use crate::activity::Event;
use crate::cgroup::escaped;

/// What `--json` says of a request.
pub(super) fn as_json(event: &Event) -> Map<String, Value> {
    let value = json!({
        "time": utc::date_and_time(event.time), "pid": event.pid, "command": json::name(OsStr::from_bytes(&event.command)),
        "uid": event.uid, "operation": event.kind.map(|kind| kind.name()), "path": json::name(OsStr::from_bytes(&event.path)),
        "path_is_cut": event.is_cut, "verdict": verdict(event), "errno": errno(event),
        "rule": event.rule.map(|rule| rule.name()), "microseconds": event.took.as_nanos() as f64 / 1000.0,
    });
    if let Value::Object(fields) = value { fields } else { Map::new() }
}

/// The name of the operation.
pub(super) fn operation(event: &Event) -> &'static str {
    event.kind.map_or("?", |kind| kind.name())
}

/// The path, with escapes. `...` stands for a beginning that is lost, and `-` for a path that isn't known.
pub(super) fn path(event: &Event) -> String {
    let path = escaped(OsStr::from_bytes(&event.path));
    match (event.is_cut, path.is_empty()) {
        (true, _) => format!("...{path}"),
        (false, true) => "-".to_owned(),
        (false, false) => path,
    }
}

/// The name of the caller's command, with escapes.
pub(super) fn command(event: &Event) -> String {
    let command = escaped(OsStr::from_bytes(&event.command));
    if command.is_empty() { "?".to_owned() } else { command }
}

/// The name of the errno that the caller got.
pub(super) fn errno(event: &Event) -> Option<String> {
    let errno = Errno::from_raw(event.errno);
    match event.errno {
        0 => None,
        number if errno == Errno::UnknownErrno => Some(number.to_string()),
        _ => Some(format!("{errno:?}")),
    }
}

/// Whether the view let the request pass: `allowed`, `rejected` by a rule, or `failed` in the kernel.
pub(super) fn verdict(event: &Event) -> &'static str {
    match (event.rule, event.errno) {
        (Some(_), _) => "rejected",
        (None, 0) => "allowed",
        (None, _) => "failed",
    }
}
