//! A running view is served by another program, and nobody who uses it notices.
//!
//! The other program is a build of the same sources whose state has another version (`testkit::next_version`), and which
//! fails on the way if it's told to.

/// Returns from the test, loudly, where no view can be handed over.
macro_rules! require_upgrade {
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

mod asked;
mod failing;
mod kinds;
mod load;
mod view;
