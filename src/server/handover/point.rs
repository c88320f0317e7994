//! Points at which the build for tests fails to take a view over, if `VCGROUPFS_TEST_UPGRADE` says so: `abort:server`,
//! `hang:keeper`. In other builds nothing happens there.

/// A point on the way from the check to the first answer: `check`, `keeper` or `server`.
#[cfg(feature = "next-version")]
pub(crate) fn reach(point: &str) {
    let wanted = std::env::var("VCGROUPFS_TEST_UPGRADE").unwrap_or_default();
    match wanted.split_once(':') {
        Some(("abort", wanted)) if wanted == point => std::process::abort(),
        Some(("hang", wanted)) if wanted == point => loop {
            std::thread::park();
        },
        _ => {}
    }
}

/// A point on the way from the check to the first answer.
#[cfg(not(feature = "next-version"))]
pub(crate) fn reach(_point: &str) {}
