//! Requests as lines: for people as strace(1) prints system calls, and as JSON.

use std::io::{self, Write};

use serde_json::json;

use crate::activity::Event;
use crate::cgroup::escaped;
use crate::cli::{event, json, utc};
use crate::server::registry::record::Record;

/// Prints a request to a view.
pub(super) fn print(out: &mut impl Write, view: &Record, request: &Event, as_json: bool) -> io::Result<()> {
    if as_json {
        let mut fields = event::as_json(request);
        fields.insert("container".to_owned(), view.target.clone().into());
        fields.insert("directory".to_owned(), view.directory.shown().into());
        return writeln!(out, "{}", json::text(&fields.into()));
    }
    let (time, container) = (utc::time_of_day(request.time), escaped(&view.target));
    let (operation, path) = (event::operation(request), event::path(request));
    let errno = event::errno(request).unwrap_or_else(|| "0".to_owned());
    let rule = request.rule.map(|rule| format!(" {}", rule.name())).unwrap_or_default();
    // The kernel doesn't say who has closed a file.
    let pid = if request.pid == 0 { "-".to_owned() } else { request.pid.to_string() };
    let microseconds = request.took.as_nanos() as f64 / 1000.0;
    writeln!(
        out,
        "{time} {container} {pid}({}) {operation} {path} = {errno} {}{rule} <{microseconds:.1} us>",
        event::command(request),
        event::verdict(request),
    )
}

/// Says that requests came faster than they were read.
pub(super) fn print_missed(out: &mut impl Write, view: &Record, missed: u64, as_json: bool) -> io::Result<()> {
    if as_json {
        return writeln!(out, "{}", json::text(&json!({ "container": view.target, "missed": missed })));
    }
    writeln!(out, "... {missed} requests of {} came too fast, and were missed", escaped(&view.target))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::activity::RequestKind;
    use crate::policy::{Rule, Rules};
    use crate::view::Shape;

    #[test]
    fn lines_have_everything_and_no_control_characters() {
        let view =
            Record::new(Path::new("/x"), "docker:web".to_owned(), Shape::Rooted, &Rules::default(), Vec::new(), 1);
        let event = Event {
            time: UNIX_EPOCH + Duration::from_micros(3_723_000_004),
            took: Duration::from_nanos(12_345),
            kind: Some(RequestKind::Mkdir),
            errno: libc::EACCES,
            rule: Some(Rule::OutsideSubtree),
            pid: 4711,
            uid: 0,
            command: b"a\x1b[2J".to_vec(),
            path: b"/x\n\xff\xe2\x80\xae".to_vec(),
            is_cut: true,
        };
        let printed = |event: &Event, as_json| {
            let mut out = Vec::new();
            print(&mut out, &view, event, as_json).unwrap();
            String::from_utf8(out).unwrap()
        };
        let expected = "01:02:03.000004 docker:web 4711(a\\u{1b}[2J) mkdir .../x\\n\\xff\\u{202e} = EACCES rejected outside-subtree <12.3 us>\n";
        assert_eq!(printed(&event, false), expected);
        let json = printed(&event, true);
        assert!(
            !json.trim_end().chars().any(char::is_control) && json.contains("\"container\":\"docker:web\""),
            "{json}"
        );
        let done =
            Event { errno: 0, rule: None, is_cut: false, path: Vec::new(), command: Vec::new(), kind: None, ..event };
        assert_eq!(printed(&done, false), "01:02:03.000004 docker:web 4711(?) ? - = 0 allowed <12.3 us>\n");
    }
}
