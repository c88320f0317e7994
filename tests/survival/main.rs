//! A view outlives its server: whatever ends that, at whatever moment, nobody who uses the view notices.
//!
//! ```text
//! cargo test --test survival
//! VCGROUPFS_KILLS=10000 cargo test --release --test survival load -- --nocapture
//! VCGROUPFS_SEED=7 cargo test --test survival load::attached
//! ```
//!
//! `VCGROUPFS_KILLS` is how many servers are killed in all under load, shared out among the configurations. A failure says the seed. The moment at which a
//! server is killed can't be repeated, but what callers do can.

/// Returns from the test, loudly, where no view can outlive its server.
macro_rules! require_survival {
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

mod ends;
mod events;
mod handles;
mod live_view;
mod load;
mod normal;
mod pair;
mod points;
mod scene;
mod single;
mod steps;
mod upgrade;
mod usage;
