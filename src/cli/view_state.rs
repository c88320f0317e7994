//! The state of a view in plain words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cgroup::{escaped, shell_word};
use crate::server::registry::record::Record;
use crate::server::registry::status::{ServerState, start_time};

/// Describes what the state's word doesn't say; `None` if there's nothing more to say.
pub(super) fn details(record: &Record) -> Option<String> {
    let status = &record.status;
    let reason = status.reason.as_deref().map(escaped);
    match status.state {
        ServerState::Failed => Some(reason.unwrap_or_else(|| "nobody serves it any more".to_owned())),
        ServerState::Starting => Some(match reason {
            Some(reason) => format!("its server is being started again: {reason}"),
            None => "its server is being started".to_owned(),
        }),
        ServerState::Live => {
            let lost = "its keeper was killed: if its server ends, nothing starts it again".to_owned();
            let other = record.status.version.as_deref().filter(|version| *version != env!("VCGROUPFS_VERSION"));
            let other = other.map(|version| {
                format!("served by vcgroupfs {}, which isn't this program: see 'vcgroupfs upgrade'", escaped(version))
            });
            let said = [restarts(record), has_lost_keeper(record).then_some(lost), other];
            let said: Vec<String> = said.into_iter().flatten().collect();
            (!said.is_empty()).then(|| said.join("; "))
        }
    }
}

/// Says how often the server was started again, when, and why; `None` if it never was.
pub(super) fn restarts(record: &Record) -> Option<String> {
    let status = &record.status;
    let when = status.last_restart.map(|when| ago(when, SystemTime::now()));
    let count = match (status.restarts, when) {
        (0, _) => return None,
        (1, when) => format!("restarted once{}", when.map(|when| format!(", {when}")).unwrap_or_default()),
        (count, when) => format!("restarted {count}x{}", when.map(|when| format!(", last {when}")).unwrap_or_default()),
    };
    Some(match &status.reason {
        Some(reason) => format!("{count}: {}", escaped(reason)),
        None => count,
    })
}

/// Whether a view has lost the process that would start its server again.
pub(super) fn has_lost_keeper(record: &Record) -> bool {
    record.status.keeper.is_some_and(|keeper| start_time(keeper).is_none())
}

/// The command that makes a failed view work again; `None` for one of `run`, which ends with its command.
pub(super) fn remedy(record: &Record) -> Option<String> {
    match (&record.container, is_of_run(record)) {
        (Some(_), _) => Some(format!("vcgroupfs attach {}", target_word(record))),
        (None, false) => Some(format!("vcgroupfs mount {}", shell_word(record.directory.as_ref()))),
        (None, true) => None,
    }
}

/// The TARGET of a container's view, as a word for a shell.
pub(super) fn target_word(record: &Record) -> String {
    shell_word(record.target.strip_prefix("pid ").unwrap_or(&record.target))
}

/// Whether a view belongs to a command of `run`.
pub(super) fn is_of_run(record: &Record) -> bool {
    record.run.is_some() || record.target.starts_with("run ")
}

/// A time in the past, in seconds since 1970, as words: `2 min ago`.
fn ago(when: u64, now: SystemTime) -> String {
    let passed = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(Duration::from_secs(when)).as_secs();
    match passed {
        0..60 => format!("{passed} s ago"),
        60..3600 => format!("{} min ago", passed / 60),
        3600..172_800 => format!("{} h ago", passed / 3600),
        _ => format!("{} days ago", passed / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::Rules;
    use crate::view::Shape;

    fn record(state: ServerState, restarts: u32, ago: u64, reason: Option<&str>) -> Record {
        let mut record =
            Record::new(Path::new("/srv/view"), "pid 7".to_owned(), Shape::Rooted, &Rules::default(), Vec::new(), 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        record.status.state = state;
        record.status.restarts = restarts;
        record.status.last_restart = (restarts > 0).then(|| now - ago);
        record.status.reason = reason.map(str::to_owned);
        record
    }

    #[test]
    fn states_are_plain_words() {
        use ServerState::{Failed, Live, Starting};
        let killed = Some("killed by SIGKILL");
        for (state, restarts, ago, reason, expected) in [
            (Live, 0, 0, None, None),
            (Live, 1, 7300, None, Some("restarted once, 2 h ago")),
            (Live, 3, 130, killed, Some("restarted 3x, last 2 min ago: killed by SIGKILL")),
            (Starting, 0, 0, None, Some("its server is being started")),
            (Starting, 1, 5, killed, Some("its server is being started again: killed by SIGKILL")),
            (Failed, 5, 5, Some("it ended 5 times in a minute"), Some("it ended 5 times in a minute")),
            (Failed, 0, 0, None, Some("nobody serves it any more")),
        ] {
            assert_eq!(details(&record(state, restarts, ago, reason)).as_deref(), expected);
        }
        let days = record(Live, 2, 3 * 86_400 + 5, Some("a\u{1b}b"));
        assert_eq!(details(&days).as_deref(), Some("restarted 2x, last 3 days ago: a\\u{1b}b"));
    }

    #[test]
    fn a_keeper_that_has_ended_is_missed() {
        let mut live = record(ServerState::Live, 0, 0, None);
        live.status.keeper = Some(std::process::id());
        assert_eq!(details(&live), None);
        live.status.keeper = Some(u32::MAX);
        assert!(details(&live).is_some_and(|said| said.contains("keeper was killed")));
    }

    #[test]
    fn remedies() {
        let mut view = record(ServerState::Failed, 0, 0, None);
        assert_eq!(remedy(&view).as_deref(), Some("vcgroupfs mount /srv/view"));
        view.container = Some(crate::server::registry::record::ContainerRef { pid: 7, namespace: 1, start: None });
        assert_eq!(remedy(&view).as_deref(), Some("vcgroupfs attach 7"));
        view.target = "docker:web".to_owned();
        assert_eq!(remedy(&view).as_deref(), Some("vcgroupfs attach docker:web"));
        (view.container, view.target) = (None, "run vcgroupfs-run-7".to_owned());
        assert_eq!(remedy(&view), None);
    }
}
