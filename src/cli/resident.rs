//! The memory of processes.

use std::fs;

/// The resident memory of a process, in bytes; `None` if it has ended.
pub(super) fn resident_memory(pid: u32) -> Option<u64> {
    let status = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/status")).ok()?).into_owned();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_memory_is_known() {
        assert!(resident_memory(std::process::id()).is_some_and(|bytes| bytes > 100_000));
        assert_eq!(resident_memory(u32::MAX), None);
    }
}
