//! A running view is watched: its last rejections, its counters, its requests.

/// Returns from the test, loudly, where no view can be watched.
macro_rules! require_watched {
    () => {
        testkit::require!(
            testkit::Need::Root,
            testkit::Need::Fuse,
            testkit::Need::Hierarchy("name=systemd"),
            testkit::Need::Hierarchy("unified"),
            testkit::Need::ResentRequests,
        );
    };
}

mod metrics;
mod monitor;
mod rejections;
mod scene;
mod top;
