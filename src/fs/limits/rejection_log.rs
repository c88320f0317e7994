//! Rejections in the log, at a bounded rate.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::activity::Subject;
use crate::cgroup::escaped;
use crate::limit::LogLimiter;
use crate::policy::Denial;

/// The maximum length of a logged path, in bytes.
const LOGGED_PATH_BYTES_MAX: usize = 1024;

/// The log of a view's rejections.
#[derive(Debug, Default)]
pub struct RejectionLog(LogLimiter);

impl RejectionLog {
    /// Logs a rejection of a user's request, unless there were too many.
    pub(in crate::fs) fn record(&self, denial: &Denial, operation: &str, uid: u32, subject: &Subject) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let Some(suppressed) = self.0.admit() else {
            return;
        };
        tracing::info!(
            pid = subject.pid,
            uid,
            operation,
            // Even JSON would leave characters in the path that change how a terminal shows the rest.
            path = shortened(OsStr::from_bytes(&subject.path)),
            rule = denial.rule().name(),
            errno = ?denial.errno(),
            suppressed,
            "rejected: {}",
            denial.reason()
        );
    }
}

/// Returns the end of a path that is too long for the log: the container chooses how deep its cgroups are, and how
/// long their names.
fn shortened(path: &OsStr) -> String {
    let bytes = path.as_bytes();
    match bytes.len().checked_sub(LOGGED_PATH_BYTES_MAX) {
        None | Some(0) => escaped(path),
        Some(cut) => format!("...{}", escaped(OsStr::from_bytes(bytes.get(cut..).unwrap_or_default()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_are_cut() {
        assert_eq!(shortened(OsStr::new("/a/b")), "/a/b");
        let long = format!("/{}end", "x".repeat(2 * LOGGED_PATH_BYTES_MAX));
        let cut = shortened(OsStr::new(&long));
        assert!(cut.len() == LOGGED_PATH_BYTES_MAX + 3 && cut.starts_with("...x") && cut.ends_with("xend"), "{cut}");
    }
}
