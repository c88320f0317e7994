//! Points at which the build for tests fails to take a view over, if `VCGROUPFS_TEST_UPGRADE` says so: `abort:server`,
//! `hang:keeper`, `panic:begin`. In other builds nothing happens there.

/// A point on the way from the check to the first answer: `check`, `keeper`, `begin` or `server`.
#[cfg(feature = "next-version")]
#[allow(clippy::panic, reason = "it's what the test wants")]
pub(crate) fn reach(point: &str) {
    let wanted = std::env::var("VCGROUPFS_TEST_UPGRADE").unwrap_or_default();
    match wanted.split_once(':') {
        Some(("abort", wanted)) if wanted == point => std::process::abort(),
        Some(("panic", wanted)) if wanted == point => panic!("at {point}, as the test wants"),
        Some(("hang", wanted)) if wanted == point => loop {
            std::thread::park();
        },
        _ => {}
    }
}

/// A point on the way from the check to the first answer.
#[cfg(not(feature = "next-version"))]
pub(crate) fn reach(_point: &str) {}
