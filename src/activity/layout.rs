//! Where everything is in the memory, in words of eight bytes.

use super::counters::Counters;
use super::ring::Ring;

/// The format of the memory, with the order of [`super::RequestKind`] and of [`crate::policy::Rule`]. A reader understands
/// no other one, and a server that finds another one begins anew.
pub const FORMAT: u64 = 1;

/// How many rejections are kept.
pub const REJECTIONS: usize = 256;

/// How many requests wait for those who watch. A watcher that is slower misses some.
pub(super) const REQUESTS: usize = 8192;

/// The longest path of a rejection and of a request, in words. A longer one loses its beginning.
const REJECTION_PATH: usize = 128;
const REQUEST_PATH: usize = 32;

/// How many rules are counted at most.
pub(super) const RULES_MAX: usize = 64;

/// A number in the memory. Those that are written by different threads are on cache lines of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Number {
    /// The [`FORMAT`], written last when the memory is made.
    Format = 0,
    /// Until when somebody watches, in nanoseconds of the monotonic clock; 0 if nobody does.
    WatchedUntil = 8,
    /// How many lines of the log were lost.
    LostLogLines = 16,
    /// How many files are open with a handle.
    OpenFiles = 24,
    /// How many directories of the host are watched.
    Watches = 32,
}

const NUMBERS: usize = 40;
/// How often each rule has rejected a request.
pub(super) const RULES: usize = NUMBERS;
const COUNTERS: usize = RULES + RULES_MAX;
const REJECTIONS_START: usize = COUNTERS + Counters::WORDS;
const REQUESTS_START: usize = REJECTIONS_START + Ring::words(REJECTIONS, REJECTION_PATH);

pub(super) const COUNTED: Counters = Counters::at(COUNTERS);
pub(super) const REJECTED: Ring = Ring::new(REJECTIONS_START, REJECTIONS, REJECTION_PATH);
pub(super) const WATCHED: Ring = Ring::new(REQUESTS_START, REQUESTS, REQUEST_PATH);

/// The words of all.
pub(super) const WORDS: usize = REQUESTS_START + Ring::words(REQUESTS, REQUEST_PATH);

#[cfg(test)]
mod tests {
    use super::super::RequestKind;
    use super::*;
    use crate::policy::Rule;

    /// If this fails, the meaning of a number has changed: raise [`FORMAT`], and write the new lists here.
    #[test]
    fn the_format_has_these_names() {
        let rules: Vec<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        let kinds: Vec<&str> = RequestKind::ALL.iter().map(|kind| kind.name()).collect();
        let known = (
            "hidden outside-subtree boundary-itself boundary-attributes xattr-on-file xattr-budget v1-controllers-read-only \
             v1-controllers-rename v1-boundary-limits limits-not-inherited controller-not-delegated controller-file \
             not-delegatable not-delegatable notify-on-release release-agent event-control unknown-file no-file-creation \
             no-such-operation source-outside-subtree common-ancestor anothers-process caller-invisible \
             container-unknown too-many-containers server-inside",
            "lookup getattr open open-write read write truncate readdir opendir readlink mkdir rmdir rename create \
             mknod unlink link symlink chmod chown utimens setxattr getxattr listxattr removexattr poll lseek fsync \
             statfs release",
        );
        assert_eq!((FORMAT, rules.join(" ").as_str(), kinds.join(" ").as_str()), (1, known.0, known.1));
        assert!(rules.len() <= RULES_MAX);
        // A rejection's path is as long as one in the log.
        assert_eq!((REJECTION_PATH * 8, (WORDS * 8) >> 20), (1024, 2), "or it takes too much memory");
    }
}
