//! The metrics, by their names. `docs/METRICS.md` has the same list, with how stable each is.

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric: its name, its type, and what it counts.
pub(super) type Family = (&'static str, Kind, &'static str);

pub(super) const INFO: Family =
    ("vcgroupfs_view_info", Kind::Gauge, "A view with its shape, policy, state and version. Always 1.");
pub(super) const UP: Family = ("vcgroupfs_view_up", Kind::Gauge, "Whether the view is served.");
pub(super) const READABLE: Family =
    ("vcgroupfs_view_readable", Kind::Gauge, "Whether the counters of the view can be read.");
pub(super) const CREATED: Family =
    ("vcgroupfs_view_created_timestamp_seconds", Kind::Gauge, "When the view was made, in seconds since 1970.");
pub(super) const RESTARTS: Family = (
    "vcgroupfs_server_restarts_total",
    Kind::Counter,
    "How often the server was started again after it had ended unasked.",
);
pub(super) const MEMORY: Family =
    ("vcgroupfs_resident_memory_bytes", Kind::Gauge, "Resident memory of a process of the view.");
pub(super) const REQUESTS: Family =
    ("vcgroupfs_requests_total", Kind::Counter, "Requests that the server has answered, by operation and result.");
pub(super) const DURATION: Family =
    ("vcgroupfs_request_duration_seconds", Kind::Histogram, "How long the server took for a request, by operation.");
pub(super) const REJECTIONS: Family =
    ("vcgroupfs_rejections_total", Kind::Counter, "Requests that a rule of the view has rejected, by rule.");
pub(super) const LOST_LINES: Family = (
    "vcgroupfs_log_lines_lost_total",
    Kind::Counter,
    "Lines of the log that were lost, because they couldn't be written fast enough.",
);
pub(super) const OPEN_FILES: Family =
    ("vcgroupfs_open_files", Kind::Gauge, "Files that are open in the server. The kernel reads others by itself.");
pub(super) const WATCHES: Family =
    ("vcgroupfs_watched_directories", Kind::Gauge, "Directories of the host that the server watches.");

/// All metrics, in the order in which they are printed.
pub(super) const ALL: [Family; 12] =
    [INFO, UP, READABLE, CREATED, RESTARTS, MEMORY, REQUESTS, DURATION, REJECTIONS, LOST_LINES, OPEN_FILES, WATCHES];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_all() {
        let manual = include_str!("../../../docs/METRICS.md");
        let rows: Vec<&str> = manual.lines().filter(|line| line.starts_with("| `vcgroupfs_")).collect();
        for (name, kind, _) in ALL {
            let start = format!("| `{name}` | {} |", kind.word());
            assert!(rows.iter().any(|row| row.starts_with(&start)), "no row begins with {start}");
        }
        assert_eq!(rows.len(), ALL.len());
    }
}
