//! What the machine has, and what a process may use of it.

use std::fs;

use crate::doctor::limits::Machine;

/// Finds out what the machine has. `status` is the `/proc/PID/status` of the process. Without /sys the CPUs on which the
/// process may run are all that is known.
pub(crate) fn machine(status: &str) -> Machine {
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let (memory, swap) =
        nix::sys::sysinfo::sysinfo().map_or((0, 0), |machine| (machine.ram_total(), machine.swap_total()));
    let mut sizes: Vec<u64> = fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    Machine {
        online: online.trim().to_owned(),
        affinity: allowed.trim().to_owned(),
        memory,
        swap,
        huge_page_sizes: sizes.into_iter().map(name_of_size).collect(),
    }
}

/// A size of huge pages, in KiB, as the kernel names its files (`mem_fmt` of mm/hugetlb_cgroup.c).
fn name_of_size(kib: u64) -> String {
    match kib {
        0..1024 => format!("{kib}KB"),
        1024..1_048_576 => format!("{}MB", kib >> 10),
        _ => format!("{}GB", kib >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_names_of_the_files() {
        assert_eq!([64, 2048, 524_288, 1_048_576, 16 << 20].map(name_of_size), ["64KB", "2MB", "512MB", "1GB", "16GB"]);
    }
}
